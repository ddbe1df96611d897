"""What steps cost, told from outside of them: operations, compiling, waiting for data; no device is asked to
finish for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

import jax
import numpy as np

from lmx.core.memory import COMPILED
from lmx.core.types import Batch, Sums
from lmx.training.goodput import Stopwatch
from lmx.training.state import State
from lmx.training.step import Step


@contextmanager
def compilations() -> Iterator[Callable[[], int]]:
    """Yield a function that returns how many programs were compiled, or read from the cache, in the block."""
    heard: list[float] = []

    def hear(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event == COMPILED:
            heard.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(hear)
    try:
        yield lambda: len(heard)
    finally:
        jax.monitoring.unregister_event_duration_listener(hear)


class Meter:
    """Counts around the steps of a loop, into a stopwatch whose kind is then "steps".

    operations: a batch, as this process holds it -> those that training on the global batch needs.
    compiled: how many programs were compiled so far.
    """

    def __init__(
        self,
        watch: Stopwatch,
        operations: Callable[[Mapping[str, np.ndarray]], float],
        compiled: Callable[[], int],
    ) -> None:
        self.watch, self._operations, self._compiled = watch, operations, compiled
        self.operations, self.steps, self.compiles = 0.0, 0, 0
        self._last: Sums | None = None
        self._before = (0.0, 0.0)  # operations and seconds of work at the last call of `rate`

    def batches(self, stream: Iterable[Mapping[str, np.ndarray]]) -> Iterator[Mapping[str, np.ndarray]]:
        """Yield those of the stream.

        Time to wait for one is of the kind "data" where by its end the devices had nothing to do; while they
        still compute, nothing is lost.
        """
        clock, own = self.watch.clock, iter(stream)
        while True:
            before = clock()
            batch = next(own, None)
            if batch is None:
                return
            if self._last is None or all(leaf.is_ready() for leaf in jax.tree.leaves(self._last)):
                self.watch.charge("data", clock() - before)
            self.operations += self._operations(batch)
            yield batch

    def step(self, step: Step, paused: Callable[[str], AbstractContextManager[object]] = nullcontext) -> Step:
        """Return the step, whose time is of the kind "compiling" where a program was compiled in it.

        paused: entered with that word around each step whose batch has shapes that none before it had.
        """
        shapes: set[frozenset[tuple[str, tuple[int, ...]]]] = set()

        def metered(state: State, batch: Batch) -> tuple[State, Sums]:
            programs, before = self._compiled(), self.watch.clock()
            shape = frozenset((name, leaf.shape) for name, leaf in batch.items())
            with nullcontext() if shape in shapes else paused("compiling"):
                state, self._last = step(state, batch)
            shapes.add(shape)
            self.steps += 1
            if self._compiled() != programs:
                self.compiles += 1
                self.watch.charge("compiling", self.watch.clock() - before)
            return state, self._last

        return metered

    def rate(self) -> float | None:
        """Return the model's operations a second since the last call, of time that went into steps and into
        waiting for data; None where there was none. To be asked when all steps are made."""
        seconds = self.watch.seconds()
        now = (self.operations, seconds["steps"] + seconds["data"])
        (done, spent), self._before = self._before, now
        return (now[0] - done) / (now[1] - spent) if now[1] > spent and now[0] > done else None
