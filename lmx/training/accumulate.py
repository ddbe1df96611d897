"""Gradient accumulation: a large batch in parts, the gradient of the whole, the memory of one part.

What adds up are sums (of losses, gradients and weights) and the one division comes at the end. A mean of the
parts' means is another figure wherever the parts have unequal numbers of labels.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from lmx.core import tree
from lmx.core.errors import UserError
from lmx.core.types import Array, Batch, Objective, Params, Sums

Gradients = Callable[[Params, Batch], tuple[Params, Array, Sums]]
"""(trainable leaves, batch) -> (gradient of the loss sum, weight, metric sums): all of them add up."""


def gradients(objective: Objective, fixed: Params, rng: Array | None) -> Gradients:
    """Return the gradients of an objective's loss sum, not divided by its weight.

    The sums are the objective's, with `loss` and `weight`.

    fixed: the leaves that are not trained. rng: dropout's key of the step.
    """

    def total(leaves: Params, batch: Batch) -> tuple[Array, tuple[Array, Sums]]:
        loss, weight, sums = objective(tree.merge(leaves, fixed), batch, rng)
        return loss, (weight, {**sums, "loss": loss, "weight": weight})

    def of(leaves: Params, batch: Batch) -> tuple[Params, Array, Sums]:
        found, (weight, sums) = jax.grad(total, has_aux=True)(leaves, batch)
        return found, weight, sums

    return of


def accumulate(of: Gradients, parts: int) -> Gradients:
    """Return the same function of the batch, computed in `parts` equal parts one after the other.

    Part k has the examples k, k + parts, k + 2 parts, ...: a batch that is spread over devices is spread in
    each part as well. Each example keeps its `example_index` and so its dropout. Gradients add up in f32.

    Errors: UserError where parts is no whole number of at least 1, or does not divide the batch.
    """
    if isinstance(parts, bool) or not isinstance(parts, int) or parts < 1:
        raise UserError(f"batch.parts={parts!r}; expected a whole number of at least 1")
    if parts == 1:
        return of

    def summed(leaves: Params, batch: Batch) -> tuple[Params, Array, Sums]:
        size = jax.tree.leaves(dict(batch))[0].shape[0]
        if size % parts:
            raise UserError(f"batch.parts={parts} does not divide the batch of {size}; choose a divisor")
        whole = {"example_index": jnp.arange(size), **batch}
        cut = {
            name: jnp.moveaxis(x.reshape(size // parts, parts, *x.shape[1:]), 1, 0)
            for name, x in whole.items()
        }

        def wide(part: Batch) -> tuple[Params, Array, Sums]:
            found, weight, sums = of(leaves, part)
            return jax.tree.map(lambda x: x.astype(jnp.float32), found), weight, sums

        def add(so_far: tuple[Params, Array, Sums], part: Batch) -> tuple[tuple[Params, Array, Sums], None]:
            return jax.tree.map(jnp.add, so_far, wide(part)), None

        shapes = jax.eval_shape(wide, {name: x[0] for name, x in cut.items()})
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.lax.scan(add, zeros, cut)[0]

    return summed
