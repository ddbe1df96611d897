"""Muon's direction: momentum, orthogonalised by a Newton-Schulz iteration.

Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; the factor "rms" is
from Liu et al. 2025, "Muon is Scalable for LLM Training", section 2.2.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lmx.core.types import Array, Params

QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients whose slope at 0 is steep; singular values end near 1, between about 0.7 and 1.2."""


def orthogonal(x: Array, iterations: int) -> Array:
    """Return a matrix with the singular vectors of x (rows, columns) and singular values near 1, in f32."""
    wide = x.T if x.shape[0] > x.shape[1] else x
    wide = wide / jnp.maximum(jnp.linalg.norm(wide), 1e-7)
    a, b, c = QUINTIC
    for _ in range(iterations):
        gram = wide @ wide.T
        wide = a * wide + (b * gram + c * (gram @ gram)) @ wide
    return wide.T if x.shape[0] > x.shape[1] else wide


def direction(momentum: float, nesterov: bool, iterations: int, adjust: str) -> optax.GradientTransformation:
    """Return the transformation of gradients of kernels (in, out) to Muon's directions, without a rate.

    adjust: "rms" multiplies by 0.2 x sqrt(the longer side), so that an update is as large as one of AdamW and
    the same rate serves both; "shape", as in the first version, by sqrt(max(1, out / in)).
    """

    def factor(shape: tuple[int, ...]) -> float:
        inner, outer = shape
        return 0.2 * math.sqrt(max(shape)) if adjust == "rms" else math.sqrt(max(1.0, outer / inner))

    def init(params: Params) -> optax.TraceState:
        return optax.TraceState(optax.tree.zeros_like(params))

    def update(updates: Params, state: Any, params: Params | None = None) -> Any:
        trace = jax.tree.map(lambda m, g: m + (1 - momentum) * (g - m), state.trace, updates)
        ahead = jax.tree.map(lambda m, g: g + momentum * (m - g), trace, updates) if nesterov else trace
        turned = jax.tree.map(lambda x: factor(x.shape) * orthogonal(x, iterations), ahead)
        return turned, optax.TraceState(trace)

    return optax.GradientTransformation(init, update)
