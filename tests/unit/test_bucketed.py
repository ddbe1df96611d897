"""Batches of features of many lengths."""

from __future__ import annotations

import numpy as np
import pytest

from lmx.batches import Bucketed, padded, sorted_batches
from lmx.core.errors import UserError
from lmx.core.examples import Feature

TOKENS = ("input_ids", "labels")


def features(count: int, seed: int = 0) -> list[Feature]:
    draw = np.random.default_rng(seed)
    return [
        {"input_ids": np.full(length, i + 1, np.int32), "label": np.int32(i)}
        for i, length in enumerate(draw.integers(3, 60, count))
    ]


def stream(rows: int = 103, size: int = 8, **changes: int) -> Bucketed:
    options = {"seed": 1, "longest": 64, "multiple": 16, "window": 4, "filler": 0, **changes}
    return Bucketed(features(rows), size=size, per_token=TOKENS, **options)


def test_padding_by_hand() -> None:
    rows = [
        {"input_ids": np.array([5, 6], np.int32), "labels": np.array([1, 2], np.int32)},
        {"input_ids": np.array([7, 8, 9], np.int32), "labels": np.array([3, 4, 5], np.int32)},
    ]
    made = padded(rows, per_token=TOKENS, filler=9, multiple=4, longest=8)
    assert made["input_ids"].tolist() == [[5, 6, 9, 9], [7, 8, 9, 9]]
    assert made["labels"].tolist() == [[1, 2, -100, -100], [3, 4, 5, -100]]
    assert made["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 0]]


def test_a_vector_as_long_as_the_row_is_not_padded() -> None:
    rows = [{"input_ids": np.array([5, 6, 7], np.int32), "labels": np.array([0.0, 1.0, 0.0], np.float32)}]
    made = padded(rows, per_token=("input_ids",), filler=0, multiple=4, longest=8)
    assert made["labels"].tolist() == [[0, 1, 0]]


def test_choices_are_padded_along_the_tokens() -> None:
    rows = [{"input_ids": np.ones((2, 3), np.int32)}, {"input_ids": np.ones((2, 1), np.int32)}]
    made = padded(rows, per_token=TOKENS, filler=0, multiple=2, longest=8)
    assert made["input_ids"].shape == (2, 2, 4)
    assert made["attention_mask"][1].tolist() == [[1, 0, 0, 0], [1, 0, 0, 0]]


@pytest.mark.parametrize(
    ("rows", "size", "window"), [(96, 8, 4), (100, 32, 32), (217, 16, 5), (10, 4, 5), (5, 8, 3)]
)
def test_every_feature_comes_once_an_epoch(rows: int, size: int, window: int) -> None:
    """After any number of whole epochs each was seen as often, whatever the sizes of window and epoch."""
    made = stream(rows=rows, size=size, window=window)
    seen = np.zeros(rows, int)
    for k in range(-(-6 * rows // size)):
        for place, feature in enumerate(made.indices(k), k * size):
            if place < 6 * rows:
                seen[feature] += 1
        done = (k + 1) * size / rows  # epochs begun so far, and no feature further
        assert seen.max() <= np.ceil(done) and seen.min() >= np.floor(done) - (window > 1)
    assert (seen == 6).all()


def test_epochs_differ() -> None:
    plain = stream(rows=96, size=8, window=1)
    assert [plain.indices(k).tolist() for k in range(12)] != [
        plain.indices(12 + k).tolist() for k in range(12)
    ]


def test_a_batch_is_a_function_of_the_seed_and_its_number() -> None:
    one, two = stream(), stream()
    later = [two.batch(k) for k in (40, 3, 17)]  # asked for in another order
    for k, batch in zip((40, 3, 17), later, strict=True):
        assert all(np.array_equal(batch[name], value) for name, value in one.batch(k).items())
    assert not np.array_equal(one.indices(0), stream(seed=2).indices(0))
    with one.iterate(17) as batches:
        assert np.array_equal(next(batches)["input_ids"], later[2]["input_ids"])


def test_like_lengths_come_together() -> None:
    def filled(window: int) -> float:
        made = stream(rows=512, size=8, window=window, multiple=1)
        masks = [made.batch(k)["attention_mask"] for k in range(64)]
        return sum(mask.sum() for mask in masks) / sum(mask.size for mask in masks)

    assert filled(64) > 0.95
    assert filled(1) < 0.65


def test_widths_are_few() -> None:
    assert {stream().batch(k)["input_ids"].shape[1] for k in range(50)} <= {16, 32, 48, 64}


def test_short_and_long_batches_are_mixed() -> None:
    made = stream(rows=512, size=8, window=64)
    widths = [made.batch(k)["input_ids"].shape[1] for k in range(64)]
    assert widths != sorted(widths)


def test_processes_make_parts_of_one_batch() -> None:
    whole = stream().batch(7)
    parts = [stream(places=places).batch(7) for places in np.split(np.arange(8), 2)]
    for name, value in whole.items():
        assert np.array_equal(np.concatenate([part[name] for part in parts]), value)
    assert whole["example_index"].tolist() == list(range(8))


def test_evaluation_sees_each_feature_once_the_longest_first() -> None:
    rows = [{**one, "labels": np.int32(1), "start_positions": np.int32(2)} for one in features(10)]
    rows = [{**one, "values": np.float32(1)} for one in rows]
    found = list(sorted_batches(rows, size=4, per_token=("input_ids",), filler=0, longest=64))
    assert [len(indices) for indices, _ in found] == [4, 4, 2]
    assert sorted(np.concatenate([indices for indices, _ in found])) == list(range(10))
    lengths = [len(rows[i]["input_ids"]) for indices, _ in found for i in indices]
    assert lengths == sorted(lengths, reverse=True)
    last = found[-1][1]
    assert last["labels"].tolist() == [1, 1, -100, -100]
    assert last["start_positions"].tolist() == [2, 2, -100, -100]
    assert last["attention_mask"].any(1).all()  # a row without one real token would make a softmax of nothing


def test_labels_that_are_fractions_become_unknown() -> None:
    rows = [{"input_ids": np.ones(3, np.int32), "labels": np.array(2.5, np.float32)}]
    _, batch = next(sorted_batches(rows, size=2, per_token=("input_ids",), filler=0, longest=64))
    assert batch["labels"][0] == 2.5
    assert np.isnan(batch["labels"][1])


def test_nothing_to_do() -> None:
    with pytest.raises(UserError, match="no examples to train on"):
        stream(rows=0)
    with pytest.raises(UserError, match="no examples to evaluate on"):
        next(sorted_batches([], size=2, per_token=(), filler=0, longest=64))
