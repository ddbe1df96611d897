"""Attention by kernels that others wrote, held to the plain way: here interpreted, on CPUs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmx.models import _attention, _kernels

B, T, H, K = 2, 256, 2, 64


@pytest.mark.parametrize("causal", [True, False])
def test_splash_is_attention_with_its_gradients(causal: bool) -> None:
    """Rows of several documents, padding (0) at the front of some; what padding says is nobody's matter."""
    draw = np.random.default_rng(0)
    q, k, v, weights = (jnp.asarray(draw.normal(size=(B, T, H, K)), jnp.float32) for _ in range(4))
    segments = jnp.asarray(np.sort(draw.integers(0, 3, (B, T)), axis=1), jnp.int32)
    mask = segments[:, None, :, None] == segments[:, None, None, :]
    if causal:
        mask = mask & jnp.tril(jnp.ones((1, 1, T, T), bool))

    def total(attend: object, *rest: object) -> object:
        def of(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
            return jnp.sum(weights * attend(q, k, v, *rest, K**-0.5, causal=causal))  # type: ignore[operator]

        return jax.value_and_grad(of, (0, 1, 2))(q, k, v)

    splash, plain = total(_kernels.splash, segments), total(_attention.attend, mask)
    for one, two in zip(jax.tree.leaves(splash), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-4 if one.ndim == 0 else 1e-5, rtol=0)
