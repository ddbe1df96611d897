"""Batches of several tasks, each of one task alone: which task comes when is a function of (seed, step).

Source: sizes raised to a power as in Devlin 2019 (google-research/bert, multilingual.md); the temperature is
that of Arivazhagan et al. 2019, "Massively Multilingual Neural Machine Translation in the Wild"; the draw is
systematic sampling (Madow and Madow 1944).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

import numpy as np

from lmx.batches._bucketed import Bucketed
from lmx.batches._stream import Arrays, Prefetch
from lmx.core import rng
from lmx.core.errors import UserError
from lmx.core.types import TASK

BLOCK = 256
"""Steps that are drawn together."""


def shares(rows: Mapping[str, int], temperature: float) -> dict[str, float]:
    """Return each task's share of the steps, rows^(1 / temperature) over the sum of all; they add up to 1.

    1 is proportional: every example is as likely as any other. The higher the temperature, the nearer the
    shares come to each other.

    >>> {name: round(share, 3) for name, share in shares({"big": 8000, "small": 1000}, 3.0).items()}
    {'big': 0.667, 'small': 0.333}
    """
    if not 0 < temperature < float("inf"):
        raise UserError(f"mix.temperature={temperature!r}; expected a number above 0")
    if empty := [name for name, count in rows.items() if count < 1]:
        raise UserError(f"{empty[0]}: no examples to train on")
    names = sorted(rows)
    logs = np.log(np.array([rows[name] for name in names], np.float64))
    powers = np.exp((logs - logs.max()) / temperature)
    return dict(zip(names, (powers / powers.sum()).tolist(), strict=True))


class Mixed:
    """An endless stream of training batches of several tasks, any of which can be asked for.

    In each block of 256 steps a task comes as often as its share of them says, rounded up or down (by one
    number drawn with (seed, block), so that the expectation is exact), in an order drawn as well. Its first
    batch of all is batch 0 of its own stream, its second batch 1, and so on: batch k needs nothing but k, and
    the counts of the blocks before, which are cheap to make again.

    `rows`: of one epoch, of all tasks together. `size`: B. `steps_per_epoch`: rows / size, not rounded; at
    temperature 1 each task has then come once, on average. `shares`: {task: its share of the steps}.
    """

    def __init__(self, streams: Mapping[str, Bucketed], *, seed: int, temperature: float = 1.0) -> None:
        """Take the streams by task; their order says nothing. Raises UserError as `shares` does."""
        self._names = sorted(streams)
        self._streams = [streams[name] for name in self._names]
        self.shares = shares({name: streams[name].rows for name in self._names}, temperature)
        sizes = {stream.size for stream in self._streams}
        assert len(sizes) == 1, "streams of batches of different sizes"
        self.size, self.rows = sizes.pop(), sum(stream.rows for stream in self._streams)
        self.steps_per_epoch = self.rows / self.size
        self._seed = seed
        self._edges = np.cumsum(list(self.shares.values()))[:-1]
        self._before = [np.zeros(len(self._names), np.int64)]
        self._lock = threading.Lock()

    def place(self, k: int) -> tuple[str, int]:
        """Return (the task of global batch k, which batch of its own stream it is)."""
        block, step = divmod(k, BLOCK)
        tasks = self._drawn(block)
        task = int(tasks[step])
        number = self._counts_before(block)[task] + np.count_nonzero(tasks[:step] == task)
        return self._names[task], int(number)

    def batch(self, k: int) -> Arrays:
        """Return this process's part of global batch k, as the task's own stream makes it, with the key
        `task/NAME` (B / processes,), which holds 0."""
        name, number = self.place(k)
        made = self._streams[self._names.index(name)].batch(number)
        rows = len(made["example_index"])
        return {**made, f"{TASK}{name}": np.zeros(rows, np.int32)}

    def iterate(self, start: int = 0, *, ahead: int = 2) -> Prefetch:
        """Return an endless iterator over batches start, start + 1, ...; a thread makes up to `ahead` of them
        early. Close it, or use it in a `with` block."""
        return Prefetch(self.batch, start, ahead)

    def _drawn(self, block: int) -> np.ndarray:
        """Return the task of each step of a block, (BLOCK,)."""
        draw = np.random.default_rng([self._seed, rng.hashed("tasks"), block])
        points = (np.arange(BLOCK) + draw.random()) / BLOCK
        return draw.permutation(np.searchsorted(self._edges, points, side="right"))

    def _counts_before(self, block: int) -> np.ndarray:
        """Return how many batches of each task the blocks before this one hold, (tasks,)."""
        with self._lock:
            while len(self._before) <= block:
                drawn = self._drawn(len(self._before) - 1)
                self._before.append(self._before[-1] + np.bincount(drawn, minlength=len(self._names)))
            return self._before[block]
