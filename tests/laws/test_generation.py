"""Laws of the decoders' shelf, run over every name on it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmx.core import mesh, plugin
from lmx.core.errors import UserError
from lmx.core.types import Model, Params
from lmx.generation import _decode, greedy, sample
from lmx.models import gpt2
from lmx.tasks import causal_lm

NAMES = plugin.names("lmx.generation")
CONFIG = gpt2.Config(vocab_size=19, positions=24, width=12, layers=2, heads=2, init_range=0.6)
PROMPTS = [[3, 4, 5], [7], [1, 2, 3, 4, 5, 6]]


@pytest.fixture(scope="module")
def built() -> tuple[Model, Params]:
    model = causal_lm.attach(gpt2.build(CONFIG), CONFIG)
    return model, jax.jit(model.init)(jax.random.key(2))


def by_hand(model: Model, params: Params, prompt: list[int], count: int) -> list[int]:
    """Greedy decoding without a cache, one whole forward pass a token."""
    ids = list(prompt)
    for _ in range(count):
        # Filled up on the right, which no token looks at, so that one compilation serves all lengths.
        row = jnp.array([ids + [0] * (CONFIG.positions - len(ids))])
        ids.append(int(jnp.argmax(forward(model)(params, row)[0, len(ids) - 1])))
    return ids[len(prompt) :]


@lru_cache
def forward(model: Model) -> Any:
    return jax.jit(lambda params, ids: model.apply(params, {"input_ids": ids})["logits"])


@pytest.fixture(params=NAMES)
def decoder(request: pytest.FixtureRequest) -> Any:
    return plugin.find("lmx.generation", request.param)


@pytest.fixture(scope="module")
def expected(built: tuple[Model, Params]) -> list[list[int]]:
    return [by_hand(*built, prompt, 8) for prompt in PROMPTS]


def test_temperature_zero_is_greedy(built: tuple[Model, Params], expected: list[list[int]]) -> None:
    key = jax.random.key(0)
    assert greedy.generate(*built, PROMPTS, key, tokens=8) == expected
    assert sample.generate(*built, PROMPTS, key, tokens=8, temperature=0.0) == expected
    assert sample.generate(*built, PROMPTS, key, tokens=8, temperature=1e-6) == expected
    assert sample.generate(*built, PROMPTS, key, tokens=8, top_k=1) == expected


def test_every_decoder_stops_at_the_end_symbol(
    decoder: Any, built: tuple[Model, Params], expected: list[list[int]]
) -> None:
    key = jax.random.key(0)
    free = decoder.generate(*built, PROMPTS, key, tokens=8)
    end = free[0][3]
    cut = decoder.generate(*built, PROMPTS, key, tokens=8, eos_id=end)
    for row, whole in zip(cut, free, strict=True):
        assert row == (whole[: whole.index(end)] if end in whole else whole)


def test_a_prompt_does_not_depend_on_its_neighbours(decoder: Any, built: tuple[Model, Params]) -> None:
    key = jax.random.key(1)
    together = decoder.generate(*built, PROMPTS, key, tokens=6)
    assert decoder.generate(*built, PROMPTS[:1], key, tokens=6) == together[:1]


def test_batches_change_nothing(decoder: Any, built: tuple[Model, Params]) -> None:
    """Three prompts in batches of two, alike with alike: the places, the keys and the rows that fill up."""
    key = jax.random.key(1)
    together = decoder.generate(*built, PROMPTS, key, tokens=6)
    assert decoder.generate(*built, PROMPTS, key, tokens=6, size=2) == together
    shared = decoder.generate(*built, PROMPTS, key, tokens=6, size=2, mesh=mesh.make(2))
    assert shared == together


def test_a_batch_is_as_wide_as_one_of_few_widths() -> None:
    lengths = range(1, 1025)
    widths = [_decode._width(length) for length in lengths]
    assert all(length <= width for length, width in zip(lengths, widths, strict=True))
    assert all(width <= 1.5 * length for length, width in zip(lengths, widths, strict=True) if length >= 16)
    assert sorted(set(widths)) == [16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024]
    made = list(_decode._batches([[1] * length for length in lengths], 8))
    assert sorted(index for chosen, _ in made for index in chosen) == list(range(1024))
    assert {batch["ids"].shape for _, batch in made} == {(8, width) for width in widths}


def test_a_batch_is_no_wider_than_the_longest_prompt(built: tuple[Model, Params]) -> None:
    """20 ids would go into a width of 24, which with 4 new tokens is more than the 24 positions."""
    prompts = [[*range(1, 19), 3, 5], [4]]
    key = jax.random.key(0)
    found = greedy.generate(*built, prompts, key, tokens=4, size=2)
    assert found == [by_hand(*built, prompt, 4) for prompt in prompts]


def test_a_prompt_may_end_with_the_end_symbol(decoder: Any, built: tuple[Model, Params]) -> None:
    """A dialogue's prompt does: the turn before has ended, the reply has not."""
    key = jax.random.key(0)
    free = decoder.generate(*built, PROMPTS, key, tokens=8)[2]
    end = PROMPTS[2][-1]
    wanted = free[: free.index(end)] if end in free else free
    assert wanted
    assert decoder.generate(*built, PROMPTS, key, tokens=8, eos_id=end)[2] == wanted


def test_what_is_banned_is_never_taken(decoder: Any, built: tuple[Model, Params]) -> None:
    key = jax.random.key(0)
    free = {token for row in decoder.generate(*built, PROMPTS, key, tokens=8) for token in row}
    banned = sorted(free)[: len(free) // 2 + 1]
    found = decoder.generate(*built, PROMPTS, key, tokens=8, banned=banned)
    assert all(len(row) == 8 and not set(row) & set(banned) for row in found)


def test_sampling_draws_from_the_distribution(built: tuple[Model, Params]) -> None:
    model, params = built
    logits = model.apply(params, {"input_ids": jnp.array([[3, 4, 5]])})["logits"][0, -1]
    wanted = np.asarray(jax.nn.softmax(logits / 2.0))
    drawn = sample.generate(model, params, [[3, 4, 5]] * 4000, jax.random.key(0), tokens=1, temperature=2.0)
    found = np.bincount([row[0] for row in drawn], minlength=19) / 4000
    # Five standard deviations of a share p over 4,000 draws.
    assert np.all(np.abs(found - wanted) < 5 * np.sqrt(wanted * (1 - wanted) / 4000) + 1e-9)
    few = sample.generate(
        model, params, [[3, 4, 5]] * 500, jax.random.key(0), tokens=1, temperature=2.0, top_k=3
    )
    assert {row[0] for row in few} <= set(np.argsort(-wanted)[:3].tolist())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": 0}, "at least 1"),
        ({"tokens": 30}, "24 positions"),
        ({"temperature": -1.0}, "temperature=-1"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"top_k": 0}, "top_k=0"),
    ],
)
def test_bad_settings(built: tuple[Model, Params], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        sample.generate(*built, PROMPTS, jax.random.key(0), **options)


def test_nothing_to_go_on(decoder: Any, built: tuple[Model, Params]) -> None:
    for prompts in ([], [[]], [[1], []]):
        with pytest.raises(UserError, match="nothing to go on from"):
            decoder.generate(*built, prompts, jax.random.key(0))
