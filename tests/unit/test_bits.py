"""Random bits of dropout: plain integer arithmetic, independent of one another, a part as of the whole."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmx.core import rng


def drawn(seed: int, step: int, site: int, shape: tuple[int, ...], examples: int = 8) -> np.ndarray:
    keys = rng.example_keys(rng.stream_key(seed, step, "dropout"), jnp.arange(examples))
    return np.asarray(rng.bits(rng.words(keys, site), shape, of=shape, start=(0,) * len(shape)))


def unit(bits: np.ndarray) -> np.ndarray:
    """Return numbers of mean 0 and variance 1."""
    return (bits / 2**32 - 0.5) * math.sqrt(12)


def together(a: np.ndarray, b: np.ndarray) -> float:
    """Return the correlation in standard errors."""
    return float(abs((a * b).mean() * math.sqrt(a.size)))


def test_bits_against_integers() -> None:
    def mixed(x: int) -> int:
        x = (x ^ x >> 16) * 0x21F0AAAD % 2**32
        x = (x ^ x >> 15) * 0x735A2D97 % 2**32
        return x ^ x >> 15

    words, site = [(7, 2**32 - 1), (123456789, 5)], 9
    keys = jax.random.wrap_key_data(jnp.array(words, jnp.uint32))
    got = rng.bits(rng.words(keys, site), (2, 3), of=(4, 5), start=(1, 2))
    for example, (one, two) in enumerate(words):
        first = mixed(one ^ mixed(site))
        second = mixed((two + first) % 2**32)
        for i in range(2):
            for j in range(3):
                place = 5 * (i + 1) + j + 2
                assert int(got[example, i, j]) == mixed((mixed(place ^ first) + second) % 2**32)


def test_a_part_has_the_bits_of_the_whole() -> None:
    words = jnp.array([[1, 2], [3, 4]], jnp.uint32)
    whole = rng.bits(words, (3, 5, 7), of=(3, 5, 7), start=(0, 0, 0))
    part = rng.bits(words, (3, 2, 4), of=(3, 5, 7), start=(0, 3, 1))
    np.testing.assert_array_equal(part, whole[:, :, 3:5, 1:5])


def test_bits_are_even() -> None:
    bits = drawn(0, 0, 1, (1 << 17,))
    for shift in (0, 8, 16, 24):
        count = np.bincount(((bits >> shift) & 255).ravel(), minlength=256)
        chi = ((count - bits.size / 256) ** 2 / (bits.size / 256)).sum()
        assert abs(chi - 255) < 4 * math.sqrt(2 * 255)


@pytest.mark.parametrize("lag", [1, 2, 3, 64, 384, 768, 1024])
def test_neighbours_are_independent(lag: int) -> None:
    bits = drawn(0, 0, 1, (1 << 17,))
    assert together(unit(bits)[:, :-lag], unit(bits)[:, lag:]) < 4
    out = (bits < 0.1 * 2**32) - 0.1
    assert together(out[:, :-lag] / 0.3, out[:, lag:] / 0.3) < 4


def test_examples_sites_steps_and_seeds_are_independent() -> None:
    plain = unit(drawn(0, 0, 1, (1 << 17,)))
    assert together(plain[:-1], plain[1:]) < 4
    for other in ((1, 0, 1), (0, 1, 1), (0, 0, 2), (0, 0, 5)):
        assert together(plain, unit(drawn(*other, (1 << 17,)))) < 4
