"""Batches of several tasks: shares, and that batch k is a function of (seed, k)."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from lmx.batches import Bucketed, Mixed
from lmx.batches._mixed import BLOCK, shares
from lmx.core.errors import UserError


def features(count: int) -> list[Any]:
    return [{"input_ids": np.full(3 + i % 9, i, np.int32)} for i in range(count)]


def stream(count: int, seed: int = 0, size: int = 4) -> Bucketed:
    options: dict[str, Any] = {"per_token": ("input_ids",), "filler": 0, "longest": 16, "multiple": 4}
    return Bucketed(features(count), size=size, seed=seed, window=4, **options)


def mixed(seed: int = 0, temperature: float = 1.0, **counts: int) -> Mixed:
    counts = counts or {"big": 900, "mid": 90, "small": 10}
    streams = {name: stream(count, seed) for name, count in counts.items()}
    return Mixed(streams, seed=seed, temperature=temperature)


@pytest.mark.parametrize(
    ("temperature", "wanted"),
    [
        (1.0, (0.9, 0.09, 0.01)),
        (2.0, (30 / 42.649, 9.487 / 42.649, 3.162 / 42.649)),  # roots of 900, 90 and 10
        (1e6, (1 / 3, 1 / 3, 1 / 3)),
        (0.001, (1.0, 0.0, 0.0)),  # 900^1000 is no float
    ],
)
def test_shares_by_hand(temperature: float, wanted: tuple[float, ...]) -> None:
    found = shares({"small": 10, "big": 900, "mid": 90}, temperature)
    assert [found[name] for name in ("big", "mid", "small")] == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_each_block_has_the_shares_to_one_step(temperature: float) -> None:
    """Independent draws would stray by 5 of 230 steps, and miss the small task in one block of 13."""
    made = mixed(temperature=temperature)
    for block in range(4):
        seen = Counter(made.place(BLOCK * block + k)[0] for k in range(BLOCK))
        for name, share in made.shares.items():
            assert abs(seen[name] - share * BLOCK) < 1, (block, name)


def test_shares_below_one_step_of_a_block_are_right_on_average() -> None:
    made = mixed(big=99_900, tiny=100)  # 0.256 steps of a block
    tiny = made._counts_before(400)[1]
    assert tiny == pytest.approx(102.4, abs=3 * 8.8)  # 400 draws at 0.256: a deviation of 8.7


def test_a_large_task_does_not_swamp_a_small_one() -> None:
    seen = {t: Counter(mixed(temperature=t).place(k)[0] for k in range(BLOCK)) for t in (1.0, 4.0)}
    assert seen[1.0]["small"] in (2, 3)
    assert seen[4.0]["small"] == pytest.approx(BLOCK * 10**0.25 / (900**0.25 + 90**0.25 + 10**0.25), abs=1)


def test_a_batch_is_a_function_of_the_seed_and_its_number() -> None:
    one, two = mixed(), mixed()
    later = {k: two.batch(k) for k in (700, 3, 300)}  # asked for in another order, blocks apart
    for k, batch in later.items():
        assert batch.keys() == one.batch(k).keys()
        assert all(np.array_equal(batch[name], value) for name, value in one.batch(k).items())
    with mixed().iterate(300) as batches:  # as a run that goes on
        assert np.array_equal(next(batches)["input_ids"], later[300]["input_ids"])
    assert [one.place(k) for k in range(99)] != [mixed(seed=1).place(k) for k in range(99)]


def test_each_task_goes_through_its_own_stream_without_a_gap() -> None:
    made = mixed()
    places = [made.place(k) for k in range(3 * BLOCK)]
    for name in made.shares:
        numbers = [number for one, number in places if one == name]
        assert numbers == list(range(len(numbers)))
    k = places.index(("mid", 5))
    own = stream(90).batch(5)
    batch = made.batch(k)
    assert batch.pop("task/mid").tolist() == [0] * 4
    assert all(np.array_equal(batch[name], value) for name, value in own.items())


def test_an_epoch_is_one_of_all_tasks_together() -> None:
    assert mixed().steps_per_epoch == (900 + 90 + 10) / 4
    assert (mixed().rows, mixed().size) == (1000, 4)


def test_one_task_alone_is_its_own_stream() -> None:
    made, own = mixed(only=50), stream(50)
    for k in (0, 7, 300):
        assert np.array_equal(made.batch(k)["input_ids"], own.batch(k)["input_ids"])


def test_a_temperature_that_cannot_be() -> None:
    for temperature in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(UserError, match=r"mix\.temperature"):
            mixed(temperature=temperature)
