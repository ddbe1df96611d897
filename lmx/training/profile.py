"""A trace of a few steps by JAX's profiler, taken after the first ones, in which XLA compiles."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import jax

from lmx.core.types import Batch, Sums
from lmx.training.state import State
from lmx.training.step import Step

SKIPPED = 3
"""Steps before the first one that is traced, where the run makes so many."""


class Profile:
    """A trace of steps, in `folder`, as TensorBoard's and XProf's profiler and Perfetto read them.

    steps: how many; 0 traces nothing. made: the steps before this start. total: the last step. aside: the
    context in which the trace is begun and written. It changes nothing that is computed.
    """

    def __init__(
        self,
        folder: Path,
        *,
        steps: int,
        made: int,
        total: int,
        aside: Callable[[], AbstractContextManager[None]],
        say: Callable[[str], None],
    ) -> None:
        left = total - made
        self._folder, self._steps, self._aside, self._say = folder, steps, aside, say
        self._made, self._first = made, made + max(min(SKIPPED, left - steps), min(1, left - 1))
        self._traced, self._running = 0, False
        self._sums: Sums | None = None

    def step(self, step: Step) -> Step:
        """Return the step, traced where its turn is."""
        if not self._steps:
            return step

        def traced(state: State, batch: Batch) -> tuple[State, Sums]:
            if self._made == self._first:
                with self._aside():
                    jax.block_until_ready(self._sums)
                    jax.profiler.start_trace(self._folder)
                    self._running = True
            if self._running:
                with jax.profiler.StepTraceAnnotation("train", step_num=self._made + 1):
                    state, self._sums = step(state, batch)
                self._traced += 1
            else:
                state, self._sums = step(state, batch)
            self._made += 1
            if self._traced == self._steps:
                self._stop()
            return state, self._sums

        return traced

    def close(self) -> None:
        """Write what there is, where the run ended before all steps were traced."""
        if self._steps and not self._traced:
            self._say(f"profile: the run ended before step {self._first + 1}; nothing was traced")
        self._stop()

    def _stop(self) -> None:
        if not self._running:
            return
        self._running = False
        with self._aside():
            jax.block_until_ready(self._sums)
            jax.profiler.stop_trace()
        steps = f"steps {self._first + 1} to {self._made}"
        short = f", {self._traced} of {self._steps}: the run has no more" * (self._traced < self._steps)
        self._say(
            f"profile: {steps}{short}, in {self._folder}; to look at it: pip install xprof; "
            f"xprof --logdir {self._folder}, or open its trace.json.gz in https://ui.perfetto.dev"
        )
