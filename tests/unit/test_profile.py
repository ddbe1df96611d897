"""Which steps a profile traces: after the first ones, as many as there are, and what it says of them."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jax
import pytest

from lmx.training.profile import Profile


@pytest.mark.parametrize(
    ("steps", "made", "total", "runs", "traced", "said"),
    [
        (5, 0, 100, 100, range(4, 9), "steps 4 to 8, in"),
        (5, 40, 100, 60, range(44, 49), "steps 44 to 48, in"),
        (5, 0, 6, 6, range(2, 7), "steps 2 to 6, in"),
        (5, 0, 3, 3, range(2, 4), "steps 2 to 3, 2 of 5: the run has no more"),
        (1, 0, 1, 1, range(1, 2), "steps 1 to 1, in"),
        (5, 0, 100, 5, range(4, 6), "steps 4 to 5, 2 of 5: the run has no more"),
        (5, 0, 100, 2, range(0), "the run ended before step 4; nothing was traced"),
    ],
)
def test_steps_that_are_traced(
    monkeypatch: pytest.MonkeyPatch, steps: int, made: int, total: int, runs: int, traced: range, said: str
) -> None:
    told: list[str] = []
    seen: list[int] = []
    running: list[str] = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: running.append(str(folder)))
    monkeypatch.setattr(jax.profiler, "stop_trace", running.clear)
    profile = Profile(Path("folder"), steps=steps, made=made, total=total, aside=nullcontext, say=told.append)

    def step(state: Any, batch: Any) -> Any:
        if running:
            seen.append(batch)
        return state + 1, {"loss": state}

    wrapped: Any = profile.step(step)
    state = 0
    for number in range(made + 1, made + runs + 1):
        state, sums = wrapped(state, number)
        assert sums == {"loss": state - 1}
    profile.close()
    assert seen == list(traced)
    assert not running, "the trace was ended"
    assert len(told) == 1
    assert said in told[0]


def test_no_profile_leaves_the_step_alone() -> None:
    def step(state: Any, batch: Any) -> Any:
        return state, {}

    said: list[str] = []
    profile = Profile(Path("folder"), steps=0, made=0, total=9, aside=nullcontext, say=said.append)
    assert profile.step(step) is step
    profile.close()
    assert said == []
