"""Hooks: what happens beside the steps, each at its own interval."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lmx.core.types import Sums
from lmx.training.state import State

Action = Callable[[int, State, list[Sums]], State | None]
"""(steps made, state, sums) -> a state to go on with, or None for this one, which may be read, not kept. The
sums are those of the last step, or, where the hook gathers, of each step since its last call."""


@dataclass
class Hook:
    """An action every `interval` steps, and, where `last` is set, after the last step made; 0 is never.

    An interval that is no whole number, such as an epoch's, falls on the step that is nearest each time.
    gather: keep the sums of all steps in between for it. long: it may take far longer than a step, so that a
    stop is asked for before and after it.
    """

    interval: float
    action: Action
    last: bool = False
    gather: bool = False
    long: bool = False

    def due(self, step: int, ends: bool) -> bool:
        """Tell whether the hook runs after this step; `ends` says that no step follows."""
        return falls(step, self.interval) or (ends and self.last)


def falls(step: int, interval: float) -> bool:
    """Tell whether a multiple of the interval, rounded, is this step; 0 is never.

    >>> [step for step in range(1, 12) if falls(step, 3.6)]
    [4, 7, 11]
    """
    if interval <= 0 or step < 1:
        return False
    times = int(step / interval)
    return any(k > 0 and round(k * interval) == step for k in (times, times + 1))
