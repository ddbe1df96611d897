"""One training step: objective, gradient, optimizer, new state; jitted once, buffers donated."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from lmx.core import mesh as mesh_
from lmx.core import rng, tree
from lmx.core.types import Array, Batch, Model, Objective, Params, Sums
from lmx.training.state import State

Step = Callable[[State, Batch], tuple[State, Sums]]


def build(
    model: Model, objective: Objective, optimizer: optax.GradientTransformation, *, seed: int, mesh: Mesh
) -> Step:
    """Return (state, batch) -> (new state, sums); the old state's buffers are given up (donated).

    The gradient is that of the loss sum divided by the weight (the number of real tokens) of the global
    batch, taken for the leaves that are trainable: no other leaf is moved, by decay neither. Dropout's key
    derives from (seed, step, "dropout"). The sums are the objective's, with `loss`, `weight`, and
    `grad_norm` before clipping.
    """

    def step(state: State, batch: Batch) -> tuple[State, Sums]:
        key = rng.stream_key(seed, state.step, "dropout")
        chosen, fixed = tree.split(state.params, model.trainable(state.params))

        def mean(leaves: Params) -> tuple[Array, Sums]:
            total, weight, sums = objective(tree.merge(leaves, fixed), batch, key)
            sums = {**sums, "loss": total, "weight": weight}
            return total / jnp.maximum(weight, jnp.ones_like(weight)), sums

        gradients, sums = jax.grad(mean, has_aux=True)(chosen)
        updates, optimizer_state = optimizer.update(gradients, state.optimizer, chosen)
        params = tree.merge(optax.apply_updates(chosen, updates), fixed)
        return State(state.step + 1, params, optimizer_state), {
            **sums,
            "grad_norm": optax.tree.norm(gradients),
        }

    whole, rows = mesh_.replicated(mesh), mesh_.by_example(mesh)
    return jax.jit(step, donate_argnums=0, in_shardings=(whole, rows), out_shardings=(whole, whole))
