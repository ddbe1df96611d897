"""Prediction: what a model says of each example, and the loss of all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from lmx.core import execution, layout, processes
from lmx.core import mesh as mesh_
from lmx.core.execution import PLAIN, Execution
from lmx.core.types import Array, Batch, Model, Outputs, Params, Sums

Loss = Callable[[Outputs, Batch], tuple[Array, Array, Sums]]
Predict = Callable[[Params, Batch], tuple[dict[str, Array], Sums]]


def build(
    model: Model, outputs: Sequence[str], loss: Loss | None, *, mesh: Mesh, how: Execution = PLAIN
) -> Predict:
    """Return (params, batch) -> ({name: output (B, ...)}, sums), jitted, without dropout.

    outputs: which of the model's to give. loss: its sum and weight are the sums; without one there are none.
    """

    def predict(params: Params, batch: Batch) -> tuple[dict[str, Array], Sums]:
        sums: Sums = {}
        with layout.on(mesh), execution.on(how):
            found = model.apply(params, batch)
            if loss is not None:
                total, weight, _ = loss(found, batch)
                sums = {"loss": total, "weight": weight}
        return {name: found[name] for name in outputs}, sums

    rows, whole = mesh_.by_example(mesh), mesh_.replicated(mesh)
    # The parameters stay as they lie. Several processes each need all of what the model says.
    given = rows if processes.count() == 1 else whole
    return jax.jit(predict, in_shardings=(None, rows), out_shardings=(given, whole))


def over(
    predict: Predict,
    params: Params,
    batches: Iterable[tuple[np.ndarray, Mapping[str, np.ndarray]]],
    *,
    mesh: Mesh,
    before: Callable[[], None] | None = None,
) -> tuple[dict[str, list[np.ndarray]], dict[str, float]]:
    """Return ({output: one row per feature, in the order of the features}, added sums).

    batches: (indices of the features, batch), as `lmx.batches.sorted_batches` yields them; rows beyond the
    indices fill the batch up and are dropped. before: called before each batch; what it raises ends the
    pass.
    """
    rows: dict[str, dict[int, np.ndarray]] = {}
    total: dict[str, float] = {}
    params = mesh_.place(params, mesh)
    for indices, batch in batches:
        if before is not None:
            before()
        found, sums = jax.device_get(predict(params, mesh_.put(mesh_.part(batch, mesh), mesh)))
        for name, values in found.items():
            rows.setdefault(name, {}).update(zip(indices.tolist(), values, strict=False))
        for name, value in sums.items():
            total[name] = total.get(name, 0.0) + float(value)
    return {name: [values[i] for i in sorted(values)] for name, values in rows.items()}, total
