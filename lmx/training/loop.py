"""The loop: batches through the step, hooks beside it, until the end or a request to stop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from jax.sharding import Mesh

from lmx.core import mesh as mesh_
from lmx.core.types import Sums
from lmx.training.hooks import Hook
from lmx.training.state import State
from lmx.training.step import Step


def run(
    state: State,
    step: Step,
    batches: Iterable[Mapping[str, np.ndarray]],
    *,
    start: int,
    total: int,
    mesh: Mesh,
    hooks: Sequence[Hook],
    stopping: Callable[[bool], bool],
    satisfied: Callable[[], bool] = lambda: False,
) -> tuple[State, int]:
    """Make the steps `start` … `total` - 1 and return the state with the number of steps made.

    batches: those of step `start` and after. stopping: asked after each step, before its hooks, and told
    whether one of them is long; satisfied: after them, for an evaluation may ask for the end, or be put off.
    True ends the loop early, and the hooks that run last run then. Steps are sent off without waiting for
    their results; a hook that reads a sum waits for it.
    """
    made = start
    pending: list[list[Sums]] = [[] for _ in hooks]
    stream = iter(batches)
    while made < total:
        state, sums = step(state, mesh_.put(next(stream), mesh))
        made += 1
        asked = stopping(any(hook.long and hook.due(made, made == total) for hook in hooks))
        ends = made == total or asked
        for hook, seen in zip(hooks, pending, strict=True):
            seen[len(seen) if hook.gather else 0 :] = [sums]
            if hook.due(made, ends):
                state = hook.action(made, state, seen.copy()) or state
                seen.clear()
        if not ends and satisfied():
            ends = True
            for hook, seen in zip(hooks, pending, strict=True):
                if hook.last and seen:
                    state = hook.action(made, state, seen.copy()) or state
                    seen.clear()
        if ends:
            break
    return state, made
