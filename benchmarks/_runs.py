"""Real runs of lmx in the sizes of a case, for benchmarks: prepared rows, and a loop that only trains."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from _cases import Arrays, Case

BYTES = 257
"""Ids of the smallest byte-level vocabulary: what has fewer reads characters."""


def session(case: Case, folder: Path, *, log: int, total: int, layers: str = "unrolled") -> Any:
    """Return a session of `lmx train` on the reference texts of the running Python, ready for its first step.

    The text's rows are kept in the folder. Nothing is evaluated, sampled or saved; every `log` steps are
    recorded.
    """
    from lmx.commands import _session
    from lmx.core import config as config_

    sections, characters = case.sections(), case.V < BYTES
    found = config_.load("quickstart")
    changes: dict[str, Any] = {
        **{f"model.{name}": value for name, value in sections["model"].items()},
        "model.vocab_size": None if characters else case.V,
        "tokenizer.name": "characters" if characters else "bpe",
        "data.boundary": not characters,
        "data.folder": str(folder / f"rows-{case.T}-{case.V}"),
        "execution.layers": layers,
        "batch.size": case.B,
        "batch.length": case.T,
        "total": f"{total} steps",
        "log": f"{log} steps",
        **dict.fromkeys(("evaluate", "save", "sample"), "0 steps"),
        "export": False,
    }
    config_.override(found, changes)
    workdir = folder / f"run-{time.time_ns()}"
    made = _session.make(config_.expanded(config_.plain(found)), workdir, lambda _: None)
    made.open()
    made.kept.save = lambda *_, **__: None  # the end of the loop saves whatever the config says
    return made


class Watched:
    """Stands between a session's loop and its batches, and tells when the loop asked and how long it waited.

    `times`: when each batch was asked for; `waits`: how long the loop stood still for it, seconds; `idle`:
    as much of that as the device had nothing to do meanwhile, at most. With `at_hand` set, a batch that was
    taken before is given again, as if loading were free.
    """

    def __init__(self, session: Any) -> None:
        self._stream, self._step, self._last = session.feed.batches, session.step, None
        session.feed.batches, session.step = self, self.step
        self.times: list[float] = []
        self.waits: list[float] = []
        self.idle: list[float] = []
        self.at_hand: Arrays | None = None

    def step(self, state: Any, batch: Any) -> Any:
        """Make the session's own step, and keep what tells whether it is done."""
        state, sums = self._step(state, batch)
        self._last = sums["grad_norm"]
        return state, sums

    @contextmanager
    def iterate(self, start: int = 0) -> Iterator[Iterator[Arrays]]:
        """Iterate over the session's batches."""
        with self._stream.iterate(start) as stream:
            yield self._given(stream)

    def _given(self, stream: Iterator[Arrays]) -> Iterator[Arrays]:
        while True:
            began = time.perf_counter()
            batch = next(stream) if self.at_hand is None else self.at_hand
            waited = time.perf_counter() - began
            done = self._last is None or self._last.is_ready()
            self.times.append(began)
            self.waits.append(waited)
            self.idle.append(waited if done else 0.0)
            yield batch
