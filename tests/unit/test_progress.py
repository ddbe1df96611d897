"""Progress: a bar on a terminal, rare lines elsewhere, and the rate that they tell."""

from __future__ import annotations

import contextlib
import io
import os
import sys

import pytest

from lmx.core import log
from lmx.core import progress as progress_


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_say_does_not_break_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with progress_.Progress(10, clock=Clock()) as progress:
        progress.update(1, 2.0)
        log.say("saved")
    before, after = screen.getvalue().split("saved\n")
    assert before.endswith("\r"), "the bar was cleared before the line"
    assert "step 1/10" in after, "and drawn again after it"


def test_plain_lines_are_rare_and_the_last_state_is_told() -> None:
    clock, stream = Clock(), io.StringIO()
    with progress_.Progress(1000, per_step=64, stream=stream, clock=clock) as progress:
        for step in range(1, 1001):
            clock.now += 0.03
            progress.update(step, loss=4.0 - step / 1000)
    progress.close()
    lines = stream.getvalue().splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        "step 1/1000",
        "step 335/1000",
        "step 669/1000",
        "step 1000/1000",
    ]
    assert lines[1] == "step 335/1000  loss 3.6650  2,133 tokens/s  0:20 left"
    assert lines[-1].endswith("0:00 left")
    assert "\r" not in stream.getvalue()


def test_plain_lines_say_what_goes_before_the_first_step() -> None:
    stream = io.StringIO()
    progress = progress_.Progress(10, stream=stream, clock=Clock())
    for step in (1, 2):
        with progress.paused("compiling"):
            pass
        progress.update(step, 1.5)
    assert stream.getvalue().splitlines() == ["step 0/10  (compiling)", "step 1/10  loss 1.5000"]


def test_what_is_done_beside_the_steps_is_told_with_the_step_it_follows() -> None:
    stream = io.StringIO()
    progress = progress_.Progress(10, stream=stream, clock=Clock())
    for step in (4, 8):
        progress.reach(step)
        with progress.paused("evaluating"):
            pass
    progress.update(10, 1.5)
    assert stream.getvalue().splitlines()[:2] == ["step 4/10  (evaluating)", "step 8/10  (evaluating)"]
    assert progress.per_second is None, "steps that are on their way make no speed"


def test_the_rate_is_recent_and_leaves_pauses_and_the_first_step_out() -> None:
    clock = Clock()
    progress = progress_.Progress(100, 10, per_step=50, stream=io.StringIO(), clock=clock, window=20.0)
    clock.now += 300.0  # compiling
    progress.update(11)
    assert progress.per_second is None
    assert progress.seconds_left is None
    for step in range(12, 22):
        clock.now += 1.0
        progress.update(step)
    assert progress.per_second == pytest.approx(50.0)
    with progress.paused("evaluating"):
        clock.now += 500.0
        with progress.paused("saving"):
            clock.now += 500.0
    assert "evaluating" not in progress.text()
    progress.update(22)
    assert progress.per_second == pytest.approx(55.0), "the pauses did not count"
    assert progress.seconds_left == pytest.approx(1010 / 11 * 78), "but they will come again"
    for step in range(23, 63):  # twice as slow from here on
        clock.now += 2.0
        progress.update(step)
    assert progress.per_second == pytest.approx(25.0)


def test_an_update_within_a_pause_counts_no_time() -> None:
    clock = Clock()
    progress = progress_.Progress(10, per_step=10, stream=io.StringIO(), clock=clock)
    progress.update(1)
    clock.now += 1.0
    with progress.paused("evaluating"):
        clock.now += 50.0
        progress.update(2)
    assert progress.per_second == pytest.approx(10.0)


def test_the_share_of_the_peak_is_told_where_it_is_known() -> None:
    clock = Clock()
    progress = progress_.Progress(10, per_step=10, stream=io.StringIO(), clock=clock)
    progress.update(1, 2.0)
    assert "MFU" not in progress.text()
    clock.now += 1.0
    progress.update(2, 2.0, mfu=0.4163)
    progress.update(3)  # of no record of its own
    assert progress.text() == "step 3/10  loss 2.0000  20 tokens/s  MFU 41.6%  0:04 left"


def test_a_pause_ends_where_its_block_fails() -> None:
    progress = progress_.Progress(10, stream=io.StringIO(), clock=Clock())

    def fail() -> None:
        with progress.paused("evaluating"):
            assert "(evaluating)" in progress.text()
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        fail()
    assert "(evaluating)" not in progress.text()


def test_the_bar_on_a_terminal() -> None:
    clock, screen = Clock(), Terminal()
    with progress_.Progress(200, 100, per_step=10, stream=screen, clock=clock) as progress:
        for step in range(101, 151):
            clock.now += 0.5
            progress.update(step, loss=1.5)
        with progress.paused("evaluating"):
            assert "(evaluating)" in screen.getvalue()
    last = screen.getvalue().rstrip("\n").split("\r")[-1]
    assert last.startswith("step 150/200  loss 1.5000  20 tokens/s  0:25 left |")
    assert last.rstrip().endswith("75%")


def test_the_bar_on_a_terminal_that_knows_no_size(monkeypatch: pytest.MonkeyPatch) -> None:
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()  # of 0 columns, as in containers
    with open(theirs, "w") as screen, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", screen)  # tqdm looks at the rows of stderr alone
        with progress_.Progress(2, clock=Clock()) as progress:
            progress.update(1, loss=1.5)
    shown = ""
    with contextlib.suppress(OSError):  # at the end; the terminal passes on what it has piece by piece
        while piece := os.read(ours, 10_000):
            shown += piece.decode()
    os.close(ours)
    assert "step 1/2  loss 1.5000 |" in shown


def test_a_bar_of_a_finished_run_tells_nothing_twice() -> None:
    stream = io.StringIO()
    progress_.Progress(10, 10, stream=stream, clock=Clock()).close()
    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (-3, "0:00"), (59.6, "1:00"), (83, "1:23"), (3723, "1:02:03")]
)
def test_durations(seconds: float, text: str) -> None:
    assert progress_.duration(seconds) == text
