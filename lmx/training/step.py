"""One training step: objective, gradient, optimizer, new state; jitted once, buffers donated."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from lmx.core import mesh as mesh_
from lmx.core import rng
from lmx.core.types import Array, Batch, Objective, Params, Sums
from lmx.training.state import State

Step = Callable[[State, Batch], tuple[State, Sums]]


def build(
    objective: Objective, optimizer: optax.GradientTransformation, *, seed: int, mesh: Mesh, trainable: Params | None = None
) -> Step:
    """Return (state, batch) -> (new state, sums); the old state's buffers are given up (donated).

    The gradient is that of the loss sum divided by the weight (the number of real tokens) of the global batch.
    Dropout's key derives from (seed, step, "dropout"). The sums hold the objective's own, and `grad_norm`
    before clipping. trainable: a mask; where it is False, neither gradient nor decay moves the leaf.
    """

    def step(state: State, batch: Batch) -> tuple[State, Sums]:
        key = rng.stream_key(seed, state.step, "dropout")

        def mean(params: Params) -> tuple[Array, Sums]:
            total, weight, sums = objective(params, batch, key)
            return total / jnp.maximum(weight, jnp.ones_like(weight)), sums

        gradients, sums = jax.grad(mean, has_aux=True)(state.params)
        updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.params)
        if trainable is not None:
            updates = jax.tree.map(lambda u, on: u if on else jnp.zeros_like(u), updates, trainable)
        params = optax.apply_updates(state.params, updates)
        new = State(state.step + 1, params, optimizer_state)
        return new, {**sums, "grad_norm": optax.global_norm(gradients)}

    whole, rows = mesh_.replicated(mesh), mesh_.by_example(mesh)
    return jax.jit(step, donate_argnums=0, in_shardings=(whole, rows), out_shardings=(whole, whole))
