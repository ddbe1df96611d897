"""Evaluation: a pass over held-out batches, as sums that are added in f64 on the host."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import jax
import numpy as np
from jax.sharding import Mesh

from lmx.core import execution, layout
from lmx.core import mesh as mesh_
from lmx.core.execution import PLAIN, Execution
from lmx.core.types import Batch, Objective, Params, Sums

Evaluate = Callable[[Params, Batch], Sums]


def build(objective: Objective, *, mesh: Mesh, how: Execution = PLAIN) -> Evaluate:
    """Return (params, batch) -> metric sums, jitted, without dropout."""

    def evaluate(params: Params, batch: Batch) -> Sums:
        with layout.on(mesh), execution.on(how):
            return objective(params, batch, None)[2]

    return jax.jit(  # the parameters stay as they lie
        evaluate, in_shardings=(None, mesh_.by_example(mesh)), out_shardings=mesh_.replicated(mesh)
    )


def over(
    evaluate: Evaluate,
    params: Params,
    batches: Iterable[Mapping[str, np.ndarray]],
    *,
    mesh: Mesh,
    before: Callable[[], None] | None = None,
) -> dict[str, float]:
    """Return the sums over all batches. before: called before each; what it raises ends the pass."""
    total: dict[str, float] = {}
    params = mesh_.place(params, mesh)
    for batch in batches:
        if before is not None:
            before()
        for name, value in jax.device_get(evaluate(params, mesh_.put(batch, mesh))).items():
            total[name] = total.get(name, 0.0) + float(value)
    return total
