"""Evaluation: a pass over held-out batches, as sums that are added in f64 on the host."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import jax
import numpy as np
from jax.sharding import Mesh

from lmx.core import mesh as mesh_
from lmx.core.types import Batch, Objective, Params, Sums

Evaluate = Callable[[Params, Batch], Sums]


def build(objective: Objective, *, mesh: Mesh) -> Evaluate:
    """Return (params, batch) -> metric sums, jitted, without dropout."""

    def evaluate(params: Params, batch: Batch) -> Sums:
        return objective(params, batch, None)[2]

    whole, rows = mesh_.replicated(mesh), mesh_.by_example(mesh)
    return jax.jit(evaluate, in_shardings=(whole, rows), out_shardings=whole)


def over(
    evaluate: Evaluate, params: Params, batches: Iterable[Mapping[str, np.ndarray]], *, mesh: Mesh
) -> dict[str, float]:
    """Return the sums over all batches."""
    total: dict[str, float] = {}
    for batch in batches:
        for name, value in jax.device_get(evaluate(params, mesh_.put(batch, mesh))).items():
            total[name] = total.get(name, 0.0) + float(value)
    return total
