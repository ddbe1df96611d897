"""The state of a run: all that a step changes, and all that resuming needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from lmx.core import mesh as mesh_
from lmx.core import rng
from lmx.core.types import Array, Model, Params


class State(NamedTuple):
    """step: int32 scalar, how many updates were made; params; optimizer: optax's state."""

    step: Array
    params: Params
    optimizer: Any


def start(model: Model, optimizer: optax.GradientTransformation, *, seed: int, mesh: Mesh) -> State:
    """Return the state before the first step, on the mesh; it depends on the seed alone."""
    return _make(model, optimizer, mesh, lambda: model.init(rng.stream_key(seed, 0, "init")))()


def start_from(params: Params, model: Model, optimizer: optax.GradientTransformation, *, mesh: Mesh) -> State:
    """Return the state before the first step, with given parameters."""
    return _make(model, optimizer, mesh, lambda: params)()


def _make(
    model: Model, optimizer: optax.GradientTransformation, mesh: Mesh, params: Callable[[], Params]
) -> Callable[[], State]:
    def make() -> State:
        leaves = params()
        return State(jnp.zeros((), jnp.int32), leaves, optimizer.init(leaves))

    return jax.jit(make, out_shardings=mesh_.replicated(mesh))
