"""Accumulated parts are the large batch; a mean of means is not."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmx.core import mesh, rng, tree
from lmx.core.errors import UserError
from lmx.models import gpt2
from lmx.tasks import causal_lm
from lmx.training import accumulate

CONFIG = gpt2.Config(
    vocab_size=29, positions=16, width=12, layers=1, heads=2,
    dropout_embed=0.1, dropout_attention=0.2, dropout_residual=0.1,
)  # fmt: skip
MODEL = causal_lm.attach(gpt2.build(CONFIG), CONFIG)


def batch(size: int = 8) -> dict[str, Any]:
    """Rows of very unequal numbers of labels: row i has i + 1 tokens that count."""
    draw = np.random.default_rng(0)
    tokens = draw.integers(0, 29, (size, 13))
    labels = np.where(np.arange(12) <= np.arange(size)[:, None], tokens[:, 1:], -100)
    return {
        "input_ids": jnp.asarray(tokens[:, :-1], jnp.int32),
        "labels": jnp.asarray(labels, jnp.int32),
        "example_index": jnp.arange(size, dtype=jnp.int32),
    }


def parts_of(parts: int, *, dropout: bool = True, given: Any = None) -> tuple[dict[str, Any], Any, Any]:
    """({path: gradient of the mean}, weight, sums); without `given` found once for all tests."""
    return computed(parts, dropout, given) if given is not None else kept(parts, dropout)


@functools.cache
def kept(parts: int, dropout: bool) -> tuple[dict[str, Any], Any, Any]:
    return computed(parts, dropout, batch())


@functools.cache
def started() -> Any:
    return jax.jit(MODEL.init)(jax.random.key(0))


def computed(parts: int, dropout: bool, given: Any) -> tuple[dict[str, Any], Any, Any]:
    params = started()
    chosen, fixed = tree.split(params, tree.mask(params, r"block/.*"))
    key = rng.stream_key(0, 0, "dropout") if dropout else None

    def of(leaves: Any, whole: Any) -> Any:
        sums = accumulate.gradients(causal_lm.objective(MODEL), fixed, key)
        return accumulate.accumulate(sums, parts)(leaves, whole)

    found, weight, sums = jax.jit(of)(chosen, given)
    return {path: np.asarray(x / weight) for path, x in tree.flatten(found).items()}, weight, sums


@pytest.mark.parametrize("parts", [2, 8])
def test_parts_are_the_large_batch(parts: int) -> None:
    """With dropout on: each example keeps its masks, in whichever part it is."""
    whole, weight, sums = parts_of(1)
    found, weight_of_parts, sums_of_parts = parts_of(parts)
    assert weight == weight_of_parts == sum(range(1, 9))
    for path, leaf in whole.items():
        np.testing.assert_allclose(found[path], leaf, atol=1e-6, rtol=0, err_msg=path)
    assert sums.keys() == sums_of_parts.keys()
    for name, value in sums.items():
        np.testing.assert_allclose(sums_of_parts[name], value, rtol=1e-5)
    without = parts_of(1, dropout=False)[0]
    assert max(float(np.abs(leaf - without[path]).max()) for path, leaf in whole.items()) > 1e-3


def test_a_mean_of_means_is_another_gradient() -> None:
    """Parts k = 0, 1 of rows 0, 2, 4, 6 and 1, 3, 5, 7 have 16 and 20 labels; by rows 0-3, 4-7 10 and 26."""
    whole, _, _ = parts_of(1)
    halves = [parts_of(1, given={k: v[rows] for k, v in batch().items()}) for rows in (np.s_[:4], np.s_[4:])]
    assert [int(weight) for _, weight, _ in halves] == [10, 26]
    mean = {path: (halves[0][0][path] + halves[1][0][path]) / 2 for path in whole}
    right = {path: (10 * halves[0][0][path] + 26 * halves[1][0][path]) / 36 for path in whole}
    assert max(float(np.abs(mean[path] - whole[path]).max()) for path in whole) > 1e-3
    assert max(float(np.abs(right[path] - whole[path]).max()) for path in whole) < 1e-6


def test_examples_without_an_index_get_their_place_in_the_whole_batch() -> None:
    """Each part numbered from 0 would give two examples the same dropout."""
    unnumbered = {name: x for name, x in batch().items() if name != "example_index"}
    whole, found = parts_of(1)[0], parts_of(4, given=unnumbered)[0]
    for path, leaf in whole.items():
        np.testing.assert_allclose(found[path], leaf, atol=1e-6, rtol=0)


def test_every_device_has_its_share_of_every_part() -> None:
    """No rows travel: each device cuts its own."""
    devices = mesh.make(4)
    spread = mesh.put({name: np.asarray(x) for name, x in batch().items()}, devices)
    found, _, _ = parts_of(2, given=spread)
    for path, leaf in parts_of(1)[0].items():
        np.testing.assert_allclose(found[path], leaf, atol=1e-6, rtol=0)

    def rows(leaves: Any, part: Any) -> Any:
        return leaves, jnp.float32(1), {"first": part["example_index"]}

    _, _, seen = accumulate.accumulate(rows, 2)({"w": jnp.zeros(())}, batch())
    assert seen["first"].tolist() == [0 + 1, 2 + 3, 4 + 5, 6 + 7]


def test_gradients_of_bf16_leaves_add_up_in_f32() -> None:
    """256 + 1 is 256 in bf16: the sum of 512 parts would stay at 256."""

    def of(leaves: Any, part: Any) -> Any:
        return {"w": jnp.ones((), jnp.bfloat16)}, jnp.float32(1), {}

    found, weight, _ = accumulate.accumulate(of, 512)({"w": jnp.zeros((), jnp.bfloat16)}, batch(512))
    assert found["w"] == weight == 512


@pytest.mark.parametrize(
    ("parts", "pattern"),
    [
        (3, r"batch\.parts=3 does not divide the batch of 8"),
        (0, r"batch\.parts=0; expected a whole number"),
        (True, "batch.parts=True"),
    ],
)
def test_parts_that_make_no_sense_are_refused(parts: Any, pattern: str) -> None:
    with pytest.raises(UserError, match=pattern):
        parts_of(parts, given=batch())
