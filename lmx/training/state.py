"""The state of a run: all that a step changes, and all that resuming needs."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from lmx.core import layout, rng, tree
from lmx.core import mesh as mesh_
from lmx.core.types import Array, Model, Params


class State(NamedTuple):
    """step: int32, how many updates were made; params; optimizer: optax's state of the trainable part."""

    step: Array
    params: Params
    optimizer: Any


@jax.jit
def finite(tree: Any) -> Array:
    """Tell whether every number of a tree of floats is finite."""
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def start(
    model: Model,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    mesh: Mesh,
    axes: layout.Axes = (),
    params: Params | None = None,
) -> State:
    """Return the state before the first step, born on the mesh, each device with its own parts alone.

    params: those to start from; without them the model's own start, which depends on the seed alone. axes:
    the names of the leaves' axes; leaves without are whole on every device.
    """
    places = placed(model, optimizer, mesh=mesh, axes=axes)
    given = None if params is None else jax.tree.map(mesh_.laid, params, places.params)
    made = jax.jit(lambda number, p: _fresh(model, optimizer, number, p), out_shardings=places)
    return made(np.uint32(seed), given)  # no constant, so that every seed shares what is compiled


def placed(
    model: Model, optimizer: optax.GradientTransformation, *, mesh: Mesh, axes: layout.Axes = ()
) -> Any:
    """Return the state as shardings, one of each leaf; nothing is computed."""
    shapes = jax.eval_shape(lambda: _fresh(model, optimizer, 0, None))
    params = layout.shardings(shapes.params, axes, mesh)
    own = layout.like(shapes.optimizer, shapes.params, params, mesh)
    return shapes._replace(step=mesh_.replicated(mesh), params=params, optimizer=own)


def abstract(
    model: Model, optimizer: optax.GradientTransformation, *, mesh: Mesh, axes: layout.Axes = ()
) -> State:
    """Return shapes, types and shardings of the state that `start` gives; nothing is computed."""
    shapes = jax.eval_shape(lambda: _fresh(model, optimizer, 0, None))
    places = placed(model, optimizer, mesh=mesh, axes=axes)
    return jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes, places
    )


def _fresh(
    model: Model, optimizer: optax.GradientTransformation, seed: Array | int, params: Params | None
) -> State:
    leaves = model.init(rng.stream_key(seed, 0, "init")) if params is None else params
    chosen, _ = tree.split(leaves, model.trainable(leaves))
    return State(jnp.zeros((), jnp.int32), leaves, optimizer.init(chosen))
