"""Cross-entropy from hidden states, in chunks: against the logits, which it never makes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmx.core import layout
from lmx.core import mesh as mesh_
from lmx.core.types import IGNORED
from lmx.models import gpt2
from lmx.tasks import causal_lm
from lmx.tasks._cross_entropy import cross_entropy
from tests.unit.test_layers import B, T, agree, draw


def plain_loss(hidden: jax.Array, head: jax.Array, labels: jax.Array, vocab_axis: int) -> jax.Array:
    logits = jnp.matmul(hidden, head if vocab_axis else head.T, precision="highest")
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.maximum(labels, 0)[..., None], -1)[..., 0]
    return -jnp.sum(jnp.where(labels == IGNORED, 0, picked))


def test_cross_entropy_of_a_known_row() -> None:
    # The logits [10, 1, -2], as the product of 1 and a head of width 1.
    head = jnp.array([[10.0, 1.0, -2.0]])
    one, label = jnp.ones((1, 1, 1)), jnp.array([[1]])
    assert float(cross_entropy(one, head, label, 1)) == pytest.approx(9.00013, abs=1e-5)
    assert float(cross_entropy(one, head.T, label, 0)) == pytest.approx(9.00013, abs=1e-5)


@pytest.mark.parametrize("vocab_axis", [0, 1])
@pytest.mark.parametrize("limit", [10**9, 200, 1])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-9), (np.float32, 1e-5)])
def test_cross_entropy_in_chunks(
    monkeypatch: pytest.MonkeyPatch, vocab_axis: int, limit: int, dtype: Any, tolerance: float
) -> None:
    monkeypatch.setattr("lmx.tasks._cross_entropy.CHUNK", limit)
    labels = np.random.default_rng(3).integers(0, 13, (B, T)).astype(np.int32)
    labels[0, :4] = labels[2] = IGNORED
    with jax.enable_x64(dtype is np.float64):
        args = [jnp.asarray(draw(i, *s, dtype=dtype)) for i, s in enumerate([(B, T, 6), (13, 6)])]
        args[1] = args[1].T if vocab_axis else args[1]
        agree(
            lambda hidden, head: cross_entropy(hidden, head, jnp.asarray(labels), vocab_axis),
            lambda hidden, head: plain_loss(hidden, head, jnp.asarray(labels), vocab_axis),
            args,
            tolerance,
        )


def test_ignored_rows_count_nothing() -> None:
    hidden, head = jnp.asarray(draw(0, 1, 4, 3)), jnp.asarray(draw(1, 5, 3))
    nothing = jnp.full((1, 4), IGNORED)
    total, gradients = jax.value_and_grad(cross_entropy, argnums=(0, 1))(hidden, head, nothing, 0)
    assert float(total) == 0
    assert all(float(jnp.abs(g).max()) == 0 for g in gradients)


@pytest.mark.parametrize("tied", [True, False])
def test_loss_from_hidden_states_is_the_loss_from_logits(tied: bool) -> None:
    config = gpt2.Config(
        vocab_size=29, positions=9, width=12, layers=1, heads=3, init_range=0.4, tie_embeddings=tied
    )
    model = causal_lm.attach(gpt2.build(config), config)
    params = jax.jit(model.init)(jax.random.key(0))
    batch = {"input_ids": jnp.asarray(np.random.default_rng(0).integers(0, 29, (2, 9)), jnp.int32)}

    def both(params: Any, fused: bool) -> jax.Array:
        outputs = model.apply(params, batch)
        return causal_lm.loss(outputs if fused else {"logits": outputs["logits"]}, batch)[0]

    one, other = (
        jax.jit(jax.value_and_grad(both), static_argnums=1)(params, fused) for fused in (True, False)
    )
    for mine, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("vocab_axis", [0, 1])
def test_a_cut_head_is_put_together_in_the_type_computed_in(vocab_axis: int) -> None:
    """Half the bytes go round; its gradient is summed in f32 and cut as it is made."""
    mesh = mesh_.make(data=1, fsdp=8)
    hidden, shape = jnp.zeros((8, 4, 16), jnp.bfloat16), (24, 16) if vocab_axis == 0 else (16, 24)
    both = jax.value_and_grad(cross_entropy, argnums=(0, 1))
    with layout.on(mesh):
        made = jax.make_jaxpr(both, static_argnums=3)(
            hidden, jnp.zeros(shape), jnp.zeros((8, 4), jnp.int32), vocab_axis
        )
    found = [
        (one.outvars[0].aval.dtype.name, any(one.params["sharding"].spec))
        for one in made.eqns
        if one.primitive.name == "sharding_constraint" and one.outvars[0].aval.shape == shape
    ]
    assert found == [("bfloat16", False), ("float32", True)]
