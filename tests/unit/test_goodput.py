"""Where a run's time went: seconds by a clock that tests turn, kills and restarts by hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmx.core.errors import UserError
from lmx.training import goodput, meter


class Clock:
    def __init__(self, now: float = 100.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def line(start: int, step: int, time: float, **seconds: float) -> dict[str, Any]:
    return {"start": start, "step": step, "time": time, "seconds": seconds}


def spent(watch: goodput.Stopwatch) -> dict[str, float]:
    return {kind: value for kind, value in watch.seconds().items() if value}


def test_each_moment_is_of_one_kind() -> None:
    clock = Clock()
    watch = goodput.Stopwatch(began=97.0, clock=clock)
    clock.now += 2
    with watch.on("steps"):
        clock.now += 10
        watch.charge("data", 3)
        with watch.on("saving"):
            clock.now += 1
            with watch.on("evaluating"):
                clock.now += 4
            clock.now += 1
        clock.now += 5
    clock.now += 0.5
    assert spent(watch) == {"starting": 5.5, "steps": 12, "data": 3, "saving": 2, "evaluating": 4}
    assert sum(watch.seconds().values()) == clock.now - 97.0


def test_a_block_that_fails_ends_its_kind() -> None:
    clock = Clock()
    watch = goodput.Stopwatch(clock=clock)

    def fail() -> None:
        with watch.on("saving"):
            clock.now += 1
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        fail()
    clock.now += 2
    assert spent(watch) == {"saving": 1, "starting": 2}


def test_goodput_of_a_run_that_was_never_stopped() -> None:
    found = goodput.total([line(1, 0, 10, starting=3), line(1, 20, 20, starting=3, compiling=2, steps=8)])
    assert found == {
        "share": round(8 / 13, 4),
        "wall": 13,
        "starts": 1,
        "seconds": {"steps": 8, "starting": 3, "compiling": 2},
    }


def test_steps_made_again_after_a_kill_do_not_count() -> None:
    """A checkpoint at 10 after 5 s of steps; killed some time after 8 s of steps, last heard of at second 20;
    the next start begins at 30 and goes on from 10."""
    lines = [
        line(1, 0, 11, starting=1),
        line(1, 10, 16, starting=1, steps=5),
        line(1, 16, 20, starting=1, steps=8, saving=1),
        line(2, 10, 32, starting=2),
        line(2, 20, 38, starting=2, steps=6),
    ]
    found = goodput.total(lines)
    assert found["seconds"] == {"steps": 11, "again": 3, "starting": 3, "saving": 1, "stopped": 10}
    assert (found["wall"], found["starts"], found["share"]) == (28, 2, round(11 / 28, 4))
    assert found["wall"] == 38 - 10, "all of the time since the first start"


def test_a_later_start_may_go_back_behind_an_earlier_one() -> None:
    """Stopped cleanly at 8; the checkpoint of 8 is damaged, so that a third start goes on from 4."""
    lines = [
        line(1, 0, 0),
        line(1, 4, 4, steps=4),
        line(1, 8, 8, steps=8),
        line(2, 8, 8),
        line(2, 9, 10, steps=2),
        line(3, 4, 10),
        line(3, 12, 18, steps=8),
    ]
    found = goodput.total(lines)
    assert found["seconds"] == {"steps": 4 + 8, "again": 4 + 2}
    assert found["starts"] == 3


def test_a_run_of_no_time() -> None:
    assert goodput.total([]) == {"share": 0.0, "wall": 0, "starts": 0, "seconds": {}}


def test_a_clock_that_was_set_back_makes_no_time() -> None:
    assert goodput.total([line(1, 5, 50, steps=5), line(2, 5, 41, starting=1)])["wall"] == 6


def test_the_ledger_goes_on_where_another_start_wrote(tmp_path: Path) -> None:
    clock, wall = Clock(), Clock(1000.0)
    for made in (0, 7):
        watch = goodput.Stopwatch(clock=clock)
        clock.now += 2
        wall.now += 2
        ledger = goodput.Ledger(tmp_path, watch, clock=wall)
        ledger.mark(made)
        with watch.on("steps"):
            clock.now += 3
            wall.now += 3
        ledger.mark(made + 7)
        wall.now += 20
    assert [(one["start"], one["step"], one["time"]) for one in goodput.read(tmp_path)] == [
        (1, 0, 1002.0),
        (1, 7, 1005.0),
        (2, 7, 1027.0),
        (2, 14, 1030.0),
    ]
    found = goodput.total(goodput.read(tmp_path))
    assert found["seconds"] == {"steps": 6, "starting": 4, "stopped": 20}


def test_a_ledger_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / goodput.NAME).write_text("seconds\n{}\n")
    with pytest.raises(UserError, match=r"goodput\.jsonl, line 1"):
        goodput.Ledger(tmp_path, goodput.Stopwatch())


class Sum:
    """What stands for a sum of a step that may not be done."""

    def __init__(self) -> None:
        self.done = False

    def is_ready(self) -> bool:
        return self.done


def metered(clock: Clock, waits: list[float], *, done: bool) -> tuple[meter.Meter, list[Sum]]:
    """Run a step after each wait: 4 s to compile the first, 1 s for each other; 600 operations a batch."""
    watch, programs, sums = goodput.Stopwatch(clock=clock), [0], []

    def stream() -> Iterator[dict[str, np.ndarray]]:
        for wait in waits:
            clock.now += wait
            yield {"input_ids": np.zeros((2, 3), np.int32)}

    def step(state: Any, batch: Any) -> Any:
        clock.now += 1 if programs[0] else 4
        programs[0] = 1
        sums.append(Sum())
        sums[-1].done = done
        return state, {"loss": sums[-1]}

    found = meter.Meter(watch, lambda batch: 100.0 * batch["input_ids"].size, lambda: programs[0])
    watch.turn("steps")
    made: Any = found.step(step)
    for batch in found.batches(stream()):
        made(None, batch)
    return found, sums


def test_compiling_and_waiting_are_told_from_steps() -> None:
    found, _ = metered(Clock(), [0.5, 2.0, 0.25], done=True)
    assert spent(found.watch) == {"data": 2.75, "compiling": 4.0, "steps": 2.0}
    assert (found.steps, found.compiles, found.operations) == (3, 1, 1800.0)


def test_a_pause_is_asked_for_at_each_new_shape() -> None:
    """Rows of 3, 3, 5 and 3 tokens: two programs; what compiles them is said while it does."""
    said: list[str] = []

    @contextmanager
    def paused(what: str) -> Iterator[None]:
        said.append(what)
        yield
        said.append("over")

    def step(state: Any, batch: Any) -> Any:
        said.append(str(batch["input_ids"].shape[1]))
        return state, {}

    found = meter.Meter(goodput.Stopwatch(clock=Clock()), lambda batch: 0.0, lambda: 0)
    made: Any = found.step(step, paused)
    for length in (3, 3, 5, 3):
        made(None, {"input_ids": np.zeros((2, length), np.int32)})
    assert said == ["compiling", "3", "over", "3", "compiling", "5", "over", "3"]


def test_a_wait_while_the_devices_compute_loses_nothing() -> None:
    found, _ = metered(Clock(), [0.5, 2.0, 0.25], done=False)
    assert spent(found.watch) == {"data": 0.5, "compiling": 4.0, "steps": 4.25}


def test_the_rate_of_a_window_by_hand() -> None:
    """1,800 operations in 2 s of steps and 2.75 s of waiting; compiling and evaluating leave no trace."""
    clock = Clock()
    found, _ = metered(clock, [0.5, 2.0, 0.25], done=True)
    assert found.rate() == pytest.approx(1800 / 4.75)
    with found.watch.on("evaluating"):
        clock.now += 100
    assert found.rate() is None
    clock.now += 10
    found.operations += 500
    assert found.rate() == pytest.approx(50.0)


def test_programs_are_counted_while_asked_for() -> None:
    with meter.compilations() as count:
        before = count()
        made = jax.jit(lambda x: x * 3 + 11)
        made(jnp.ones(7)).block_until_ready()
        first = count()
        made(jnp.ones(7)).block_until_ready()
        again = count()
    jax.jit(lambda x: x * 5 + 13)(jnp.ones(9)).block_until_ready()
    assert first > before
    assert count() == again == first
