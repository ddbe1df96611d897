"""Two streams of batches, one after the other: short rows for most of a run, long ones for its end."""

from __future__ import annotations

from lmx.batches._stream import Arrays, Batches, Prefetch


class Stages:
    """The batches of `first` up to step `change`, from there on those of `second`, from its own first one.

    Batch k is still a function of (seed, k) alone. `rows` and `steps_per_epoch` are those of `first`.
    """

    def __init__(self, first: Batches, second: Batches, *, change: int) -> None:
        """Take both streams; change: the first step of `second`, at least 0."""
        assert change >= 0, "a stage that begins before the run"
        self._first, self._second, self.change = first, second, change
        self.rows, self.steps_per_epoch = first.rows, first.steps_per_epoch

    def batch(self, k: int) -> Arrays:
        """Return this process's part of global batch k."""
        return self._first.batch(k) if k < self.change else self._second.batch(k - self.change)

    def iterate(self, start: int = 0, *, ahead: int = 2) -> Prefetch:
        """Return an endless iterator over batches start, start + 1, ..., as `Batches.iterate` does."""
        return Prefetch(self.batch, start, ahead)
