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

    gather: keep the sums of all steps in between for it.
    """

    interval: int
    action: Action
    last: bool = False
    gather: bool = False

    def due(self, step: int, ends: bool) -> bool:
        """Tell whether the hook runs after this step; `ends` says that no step follows."""
        return (self.interval > 0 and step % self.interval == 0) or (ends and self.last)
