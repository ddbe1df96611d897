"""Causal language modelling: the shift, packed rows, the head, the starting loss."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmx.core.types import IGNORED
from lmx.models import gpt2
from lmx.tasks import causal_lm

CONFIG = gpt2.Config(vocab_size=37, positions=32, width=12, layers=2, heads=2, init_range=0.4)


def packed(documents: list[list[int]], length: int) -> dict[str, np.ndarray]:
    """Pack by hand: one row of `length` + 1 seats."""
    tokens, segments, positions = (np.zeros((1, length + 1), np.int32) for _ in range(3))
    seat = 0
    for number, document in enumerate(documents, start=1):
        for place, token in enumerate(document):
            tokens[0, seat], segments[0, seat], positions[0, seat] = token, number, place
            seat += 1
    return {"tokens": tokens, "segment_ids": segments, "position_ids": positions}


def test_encode_shifts_and_ends_each_document() -> None:
    batch = causal_lm.encode(packed([[7, 8, 9], [4, 5]], 5))
    assert batch["input_ids"].tolist() == [[7, 8, 9, 4, 5]]
    assert batch["labels"].tolist() == [[8, 9, IGNORED, 5, IGNORED]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1]]
    assert all(array.dtype == np.int32 for array in batch.values())


def test_packed_loss_is_the_sum_of_the_separate_losses() -> None:
    rng = np.random.default_rng(0)
    documents = [rng.integers(0, 37, n).tolist() for n in (9, 2, 13, 5)]
    model = causal_lm.attach(gpt2.build(CONFIG), CONFIG)
    params, objective = jax.jit(model.init)(jax.random.key(0)), jax.jit(causal_lm.objective(model))
    row = {k: jnp.asarray(v) for k, v in causal_lm.encode(packed(documents, 31)).items()}
    together, count, _ = objective(params, row, None)
    apart = [objective(params, {"input_ids": jnp.array([d])}, None) for d in documents]
    assert float(count) == sum(len(d) - 1 for d in documents) == sum(float(a[1]) for a in apart)
    np.testing.assert_allclose(together, sum(a[0] for a in apart), rtol=1e-5)


def test_labels_without_any_are_the_next_tokens() -> None:
    ids, mask = jnp.array([[3, 4, 5, 6]]), jnp.array([[0, 1, 1, 0]])
    assert causal_lm.labels({"input_ids": ids}).tolist() == [[4, 5, 6, IGNORED]]
    # Neither is padding predicted, nor is anything predicted from padding.
    masked = causal_lm.labels({"input_ids": ids, "attention_mask": mask})
    assert masked.tolist() == [[IGNORED, 5, IGNORED, IGNORED]]


@pytest.mark.parametrize(
    ("logits", "label", "value"), [([10.0, 1.0, -2.0], 1, 9.00013), ([1.0, 4.0, 0.2], 0, 3.0696733)]
)
def test_cross_entropy_values(logits: list[float], label: int, value: float) -> None:
    batch = {"input_ids": jnp.zeros((1, 1), jnp.int32), "labels": jnp.array([[label]])}
    total, count, _ = causal_lm.loss({"logits": jnp.array([[logits]])}, batch)
    assert float(count) == 1
    assert float(total) == pytest.approx(value, abs=1e-5)


@pytest.mark.parametrize(("vocabulary", "value"), [(50257, 10.8249), (65, 4.1744)])
def test_starting_loss_is_that_of_a_uniform_guess(vocabulary: int, value: float) -> None:
    assert math.log(vocabulary) == pytest.approx(value, abs=5e-5)
    config = gpt2.Config(vocab_size=vocabulary, positions=32, width=64, layers=2, heads=4)
    model = causal_lm.attach(gpt2.build(config), config)
    ids = jnp.asarray(np.random.default_rng(0).integers(0, vocabulary, (4, 32)))
    params = jax.jit(model.init)(jax.random.key(0))
    total, count, _ = jax.jit(causal_lm.objective(model))(params, {"input_ids": ids}, None)
    assert float(total / count) == pytest.approx(value, abs=0.05)


def test_untied_head_has_its_own_matrix() -> None:
    untied = gpt2.Config(**{**CONFIG.__dict__, "tie_embeddings": False})
    model = causal_lm.attach(gpt2.build(untied), untied)
    params, apply = jax.jit(model.init)(jax.random.key(0)), jax.jit(model.apply)
    assert params["head"]["kernel"].shape == (12, 37)
    batch = {"input_ids": jnp.array([[1, 2, 3]])}
    before = apply(params, batch)["logits"]
    params["head"]["kernel"] = params["head"]["kernel"] * 2
    np.testing.assert_allclose(apply(params, batch)["logits"], before * 2, rtol=1e-6)


def test_projections_into_the_residual_stream_start_smaller() -> None:
    config = gpt2.Config(vocab_size=11, positions=8, width=128, layers=8, heads=4)
    params = jax.jit(gpt2.build(config).init)(jax.random.key(0))
    for block in params["block"].values():
        for kernel in (block["attn"]["out"]["kernel"], block["mlp"]["down"]["kernel"]):
            assert float(jnp.std(kernel)) == pytest.approx(0.02 / 4, rel=0.03)  # 0.02 / sqrt(2 x 8)
        for kernel in (block["attn"]["query"]["kernel"], block["mlp"]["up"]["kernel"]):
            assert float(jnp.std(kernel)) == pytest.approx(0.02, rel=0.03)
