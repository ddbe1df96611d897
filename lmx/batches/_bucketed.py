"""Batches of features of many lengths: those of like length together, padded to one of a few widths.

Source: the bucketing of Khomenko et al. 2016, "Accelerating recurrent neural network training using sequence
bucketing and multi-GPU data parallelization", section 3, here within windows of a shuffled stream.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from lmx.batches._stream import Arrays, Places, Prefetch, placed
from lmx.core import rng
from lmx.core.errors import UserError
from lmx.core.examples import Feature
from lmx.core.types import IGNORED

MASK = "attention_mask"
IDS = "input_ids"


def padded(
    features: Sequence[Feature], *, per_token: Sequence[str], filler: int, multiple: int, longest: int
) -> Arrays:
    """Return the features as one batch, filled up on the right.

    per_token: the arrays whose last axis is that of the tokens; all others are stacked as they are. T is the
    longest feature's, rounded up to a multiple, at most `longest`. `input_ids` is filled up with `filler`,
    `labels` with -100, the rest with 0; `attention_mask` is added where the features have none.

    Worked example, multiple=4: ids [5, 6] and [7, 8, 9] with filler 0 become

        input_ids       [[5, 6, 0, 0], [7, 8, 9, 0]]
        attention_mask  [[1, 1, 0, 0], [1, 1, 1, 0]]
    """
    most = max(feature[IDS].shape[-1] for feature in features)
    width = min(longest, math.ceil(most / multiple) * multiple)
    assert most <= width, "a feature longer than the task was told"
    names = [*features[0], *(() if MASK in features[0] else (MASK,))]
    batch = {}
    for name in names:
        rows = [
            np.ones(feature[IDS].shape, np.int32) if name not in feature else feature[name]
            for feature in features
        ]
        if name in per_token or name == MASK:
            fill = {IDS: filler, "labels": IGNORED}.get(name, 0)
            rows = [_widened(row, width, fill) for row in rows]
        batch[name] = np.stack(rows)
    return batch


def _widened(row: np.ndarray, width: int, fill: int) -> np.ndarray:
    made = np.full((*row.shape[:-1], width), fill, row.dtype)
    made[..., : row.shape[-1]] = row
    return made


class Bucketed:
    """An endless stream of training batches, any of which can be asked for.

    The stream of features is the data set, shuffled anew with (seed, epoch) for every epoch, one epoch after
    another; global batch k has places k * size .. (k + 1) * size - 1 of it. The batches that lie within one
    epoch are taken `window` at a time (of an epoch's last ones, fewer); in a window features are sorted by
    length and cut into batches, which come in an order drawn with (seed, window). A batch that spans two
    epochs is as it falls. So each feature comes once an epoch, most batches hold features of like length, and
    batch k needs nothing but k.

    `rows`: of one epoch. `size`: B, of the global batch. `steps_per_epoch`: rows / size, not rounded.
    """

    def __init__(
        self,
        features: Sequence[Feature],
        *,
        size: int,
        seed: int,
        per_token: Sequence[str],
        filler: int,
        longest: int,
        multiple: int = 16,
        window: int = 32,
        places: Places = None,
    ) -> None:
        """Take the features; `per_token`, `filler`, `multiple` and `longest` are those of `padded`.

        window: batches sorted by length together; 1 keeps the shuffled order. places: the rows of a
        batch that this process makes. Raises UserError where there is no feature.
        """
        if not features:
            raise UserError("no examples to train on")
        self._places = placed(size, places)
        self.rows, self.size, self.steps_per_epoch = len(features), size, len(features) / size
        self._features, self._seed, self._window = features, seed, window
        self._lengths = np.array([feature[IDS].shape[-1] for feature in features])
        self._pad = partial(padded, per_token=per_token, filler=filler, multiple=multiple, longest=longest)
        self._orders: dict[int, np.ndarray] = {}
        self._sorted: tuple[int, np.ndarray] = (-1, np.zeros((0, size), int))
        self._lock = threading.Lock()

    def indices(self, k: int) -> np.ndarray:
        """Return which features global batch k holds, (B,), in order."""
        first, epoch = k * self.size, k * self.size // self.rows
        if first + self.size > (epoch + 1) * self.rows:
            with self._lock:
                return np.array([self._at(first + i) for i in range(self.size)])
        begin = -(-epoch * self.rows // self.size)  # the epoch's first whole batch
        start = begin + (k - begin) // self._window * self._window
        with self._lock:
            if self._sorted[0] != start:
                end = min(start + self._window, (epoch + 1) * self.rows // self.size)
                self._sorted = (start, self._arranged(start, end))
            return self._sorted[1][k - start]

    def _arranged(self, start: int, end: int) -> np.ndarray:
        """Return batches start .. end - 1, (count, B), each of like lengths, in the order in which they
        come."""
        chosen = np.array([self._at(place) for place in range(start * self.size, end * self.size)])
        chosen = chosen[np.argsort(self._lengths[chosen], kind="stable")].reshape(-1, self.size)
        return chosen[_draw(self._seed, "window", start, end - start)]

    def batch(self, k: int) -> Arrays:
        """Return this process's part of global batch k, with `example_index` (places,) int32, each
        example's place in the global batch; T is that of the whole batch."""
        chosen = self.indices(k)
        whole = self._pad([self._features[i] for i in chosen])
        index = np.arange(self.size, dtype=np.int32)
        return {name: value[self._places] for name, value in {**whole, "example_index": index}.items()}

    def iterate(self, start: int = 0, *, ahead: int = 2) -> Prefetch:
        """Return an endless iterator over batches start, start + 1, ...; a thread makes up to `ahead` of them
        early. Close it, or use it in a `with` block."""
        return Prefetch(self.batch, start, ahead)

    def _at(self, position: int) -> int:
        epoch, place = divmod(position, self.rows)
        if epoch not in self._orders:
            self._orders = {k: v for k, v in self._orders.items() if k >= epoch - 1}
            self._orders[epoch] = _draw(self._seed, "epoch", epoch, self.rows)
        return int(self._orders[epoch][place])


def _draw(seed: int, stream: str, number: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, rng.hashed(stream), number]).permutation(count)


def sorted_batches(
    features: Sequence[Feature],
    *,
    size: int,
    per_token: Sequence[str],
    filler: int,
    longest: int,
    multiple: int = 16,
) -> Iterator[tuple[np.ndarray, Arrays]]:
    """Yield (indices, batch) until every feature has come once, the longest first.

    Each batch has `size` rows. The last is filled up with copies of a feature that have no label (-100, or
    NaN for fractions): `indices` is as long as there are real rows.
    """
    if not features:
        raise UserError("no examples to evaluate on")
    lengths = np.array([feature[IDS].shape[-1] for feature in features])
    order = np.argsort(-lengths, kind="stable")
    for first in range(0, len(order), size):
        chosen = order[first : first + size]
        rows = [features[i] for i in chosen]
        rows += [_without_labels(rows[-1])] * (size - len(rows))
        yield (
            chosen,
            padded(rows, per_token=per_token, filler=filler, multiple=multiple, longest=longest),
        )


def _without_labels(feature: Feature) -> Mapping[str, np.ndarray]:
    blank = {
        name: np.full_like(value, np.nan if value.dtype.kind == "f" else IGNORED)
        for name, value in feature.items()
        if name == "labels" or name.endswith(("_labels", "_label", "_positions"))
    }
    return {**feature, **blank}
