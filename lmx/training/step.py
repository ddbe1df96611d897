"""One training step: objective, gradient, optimizer, new state; jitted once, buffers donated."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from lmx.core import execution, layout, rng, tree
from lmx.core import mesh as mesh_
from lmx.core.execution import PLAIN, Execution
from lmx.core.types import Array, Batch, Model, Objective, Params, Sums
from lmx.training import accumulate
from lmx.training import state as state_
from lmx.training.state import State

Step = Callable[[State, Batch], tuple[State, Sums]]


def build(
    model: Model,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    mesh: Mesh,
    axes: layout.Axes = (),
    how: Execution = PLAIN,
    parts: int = 1,
    whole: Callable[[Batch], Batch] = dict,
    moves: Callable[[Batch, str], bool] | None = None,
) -> Step:
    """Return (state, batch) -> (new state, sums); the old state's buffers are given up (donated).

    The gradient is that of the loss sum divided by the weight (the number of real tokens) of the global
    batch, taken for the leaves that are trainable: no other leaf is moved, by decay neither. Dropout's key
    derives from (seed, step, "dropout"). mesh, axes: as in `state.start`. how: the model is executed. parts:
    the batch is taken in so many parts, one after the other, in the memory of one. whole: adds to a batch
    what the objective needs of all of it, before it is cut. moves: (batch, path) -> whether the leaf may move
    with this batch, told by the batch's structure alone; the optimizer does not see the others, so that they
    stay as they are, and so does what it remembers of them, bit for bit. The sums are the objective's, with
    `loss`, `weight`, and `grad_norm` before clipping.
    """

    def moving(params: Params, batch: Batch) -> Params:
        on: Params = model.trainable(params)
        return on if moves is None else tree.map_named(lambda path, yes: yes and moves(batch, path), on)

    def step(seed: Array, state: State, batch: Batch) -> tuple[State, Sums]:
        key = rng.stream_key(seed, state.step, "dropout")
        chosen, fixed = tree.split(state.params, moving(state.params, batch))
        of = accumulate.accumulate(accumulate.gradients(objective, fixed, key), parts)
        with layout.on(mesh), execution.on(how, mesh.devices.flat[0].platform):
            summed, weight, sums = of(chosen, whole(batch))
        share = 1 / jnp.where(weight > 0, weight, jnp.ones_like(weight))
        gradients = jax.tree.map(lambda leaf: leaf * share.astype(leaf.dtype), summed)
        updates, optimizer_state = optimizer.update(gradients, state.optimizer, chosen)
        params = tree.merge(optax.apply_updates(chosen, updates), fixed)
        return State(state.step + 1, params, optimizer_state), {
            **sums,
            "grad_norm": optax.tree.norm(gradients),
        }

    same, rows = mesh_.replicated(mesh), mesh_.by_example(mesh)
    places = state_.placed(model, optimizer, mesh=mesh, axes=axes)
    made = jax.jit(step, donate_argnums=1, in_shardings=(same, places, rows), out_shardings=(places, same))
    return partial(made, np.uint32(seed))  # no constant, so that every seed shares what is compiled
