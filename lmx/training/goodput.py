"""Where a run's time went, and the share of it that made steps which count, whatever stopped it in between.

Source: "goodput" as Google's ML Productivity Goodput means it: productive training time over elapsed time.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lmx.core import log

NAME = "goodput.jsonl"
"""The file in a run's folder that the seconds are written to."""

KINDS = (
    *("steps", "again", "starting", "compiling", "data", "evaluating", "sampling", "saving", "profiling"),
    "stopped",
)
"""What time goes into. steps: those that count; again: those that a kill made void, so that they were made
once more; starting: data, model and checkpoint before the first step; data: waiting for a batch; stopped:
between two starts, from the last that was written of the one to the begin of the other."""


class Stopwatch:
    """The seconds of one start of a run, by kind; each moment belongs to one kind, and none is lost.

    began: when the start began, by the clock; now, without it. clock: seconds, monotonic.
    """

    def __init__(self, began: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._seconds = dict.fromkeys(KINDS, 0.0)
        self._kind, self._since = "starting", clock() if began is None else began

    def turn(self, kind: str) -> str:
        """Count time as of this kind from now on; return the kind before."""
        now, before = self.clock(), self._kind
        self._seconds[before] += now - self._since
        self._kind, self._since = kind, now
        return before

    @contextmanager
    def on(self, kind: str) -> Iterator[None]:
        """Count the time of the block as of this kind."""
        before = self.turn(kind)
        try:
            yield
        finally:
            self.turn(before)

    def charge(self, kind: str, seconds: float) -> None:
        """Count seconds that have just passed as of this kind rather than of the present one."""
        self._seconds[kind] += seconds
        self._seconds[self._kind] -= seconds

    def seconds(self) -> dict[str, float]:
        """Return the seconds so far, of each kind."""
        self.turn(self._kind)
        return dict(self._seconds)


class Ledger:
    """The file of a run's seconds: one start after another, never cut, for steps made in vain count as well.

    A line says how far the start had come and what its seconds had gone into by then. There is one where it
    begins, at each record of the log and at each checkpoint, at which alone a later start can go on.
    """

    def __init__(self, workdir: Path, watch: Stopwatch, clock: Callable[[], float] = time.time) -> None:
        """Begin a start. clock: the seconds since 1970, by which the time between two starts is known."""
        self._watch, self._clock = watch, clock
        before = read(workdir)
        self._start = before[-1]["start"] + 1 if before else 1
        self._file = log.Jsonl(workdir / NAME)

    def mark(self, step: int) -> None:
        """Write that so many steps are made."""
        seconds = {kind: round(value, 6) for kind, value in self._watch.seconds().items() if value}
        self._file.write({"start": self._start, "step": step, "time": self._clock(), "seconds": seconds})


def read(workdir: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's ledger; none where there is no such file."""
    path = workdir / NAME
    return log.read_jsonl(path) if path.exists() else []


def total(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return `share`, the goodput; `wall`, the seconds since the run's first start; `starts`, how many; and
    `seconds`, by kind, which add up to `wall`.

    Steps count where no later start begins before them. What a killed start did after its last line is
    part of `stopped`, for nobody knows how long it lived.

    Killed at 9 after 4 s of steps, 2 of them up to the checkpoint at 4, from which the next start goes on:

    >>> lines = [dict(start=1, step=0, time=1, seconds=dict(starting=1)),
    ...          dict(start=1, step=4, time=3, seconds=dict(starting=1, steps=2)),
    ...          dict(start=1, step=9, time=5, seconds=dict(starting=1, steps=4)),
    ...          dict(start=2, step=4, time=8, seconds=dict(starting=1)),
    ...          dict(start=2, step=12, time=12, seconds=dict(starting=1, steps=4))]
    >>> total(lines)
    {'share': 0.5, 'wall': 12, 'starts': 2, 'seconds': {'steps': 6, 'again': 2, 'starting': 2, 'stopped': 2}}
    """
    seconds = dict.fromkeys(KINDS, 0.0)
    counted: list[tuple[int, float]] = []  # (the step at whose end, the seconds) of steps that count
    end, starts = None, 0
    for _, group in itertools.groupby(lines, lambda line: line["start"]):
        own = list(group)
        first, last, starts = own[0], own[-1], starts + 1
        began = first["time"] - sum(first["seconds"].values())
        seconds["stopped"] += 0.0 if end is None else max(0.0, began - end)
        end = last["time"]
        while counted and counted[-1][0] > first["step"]:
            seconds["again"] += counted.pop()[1]
        steps = [one["seconds"].get("steps", 0.0) for one in own]
        counted += [
            (one["step"], after - before)
            for one, before, after in zip(own, [0.0, *steps[:-1]], steps, strict=True)
        ]
        for kind, value in last["seconds"].items():
            seconds[kind] += value
    seconds["steps"] -= seconds["again"]
    wall = sum(seconds.values())
    return {
        "share": round(seconds["steps"] / wall, 4) if wall else 0.0,
        "wall": _plain(wall),
        "starts": starts,
        "seconds": {kind: _plain(value) for kind, value in seconds.items() if value},
    }


def _plain(seconds: float) -> float:
    """Return seconds to the millisecond, whole ones as such."""
    found = round(seconds, 3)
    return int(found) if found.is_integer() else found
