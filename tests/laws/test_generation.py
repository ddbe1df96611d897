"""Laws of the decoders' shelf, run over every name on it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmx.core import plugin
from lmx.core.errors import UserError
from lmx.core.types import Model, Params
from lmx.generation import greedy, sample
from lmx.models import gpt2
from lmx.tasks import causal_lm

pytestmark = pytest.mark.smoke
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
