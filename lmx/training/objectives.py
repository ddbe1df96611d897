"""The objective of a task that has no shorter way than through its model's outputs."""

from __future__ import annotations

from collections.abc import Callable

from lmx.core.types import Array, Batch, Model, Objective, Outputs, Params, Sums

Loss = Callable[[Outputs, Batch], tuple[Array, Array, Sums]]


def plain(model: Model, loss: Loss) -> Objective:
    """Return (params, batch, rng) -> (loss sum, weight, metric sums); with a key, dropout is on."""

    def evaluate(params: Params, batch: Batch, rng: Array | None) -> tuple[Array, Array, Sums]:
        return loss(model.apply(params, batch, rng=rng, train=rng is not None), batch)

    return evaluate
