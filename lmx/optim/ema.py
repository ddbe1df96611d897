"""Exponential moving averages of parameters, often better than the last ones at evaluation.

Source: Polyak and Juditsky 1992, "Acceleration of Stochastic Approximation by Averaging"; the warm-up of the
decay is that of TensorFlow's ExponentialMovingAverage (num_updates).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lmx.core.types import Array, Params


class Average(NamedTuple):
    """made: int32, updates so far; params: the average, f32 leaves of the shapes of the parameters."""

    made: Array
    params: Params


def start(params: Params) -> Average:
    """Return the average that begins at the parameters, in buffers of its own."""
    return Average(jnp.zeros((), jnp.int32), jax.tree.map(lambda x: jnp.array(x, jnp.float32), params))


def update(average: Average, params: Params, *, decay: float) -> Average:
    """Return the average moved towards the new parameters: d x average + (1 - d) x params.

    d of update n = 1, 2, ... is min(decay, (1 + n) / (10 + n)): the start is forgotten soon, whatever the
    decay.
    """
    n = average.made + 1
    rising = (1 + n).astype(jnp.float32) / (10 + n).astype(jnp.float32)
    left = 1 - jnp.minimum(jnp.float32(decay), rising)
    moved = jax.tree.map(lambda a, p: a - left * (a - p.astype(jnp.float32)), average.params, params)
    return Average(n, moved)
