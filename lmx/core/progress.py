"""How far a run is: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO


def duration(seconds: float) -> str:
    """Return a length of time in seconds as `1:23` or `1:02:03`, minutes first.

    >>> duration(83), duration(3723)
    ('1:23', '1:02:03')
    """
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Progress:
    """A bar with step, loss, speed and time left; plain lines where stderr is not a terminal.

    total: the last step. start: the step that the run resumes from. per_step: what one step reads, in units
    such as tokens. stream: stderr. clock: seconds, monotonic. every: seconds between two plain lines. window:
    the seconds of work over which the speed is taken. The first step, in which XLA compiles, is not counted.
    """

    def __init__(
        self,
        total: int,
        start: int = 0,
        per_step: int = 0,
        *,
        unit: str = "tokens",
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        every: float = 10.0,
        window: float = 20.0,
    ) -> None:
        self.total, self.step, self._per_step, self._unit = total, start, per_step, unit
        self._stream = sys.stderr if stream is None else stream
        self._clock, self._every, self._window = clock, every, window
        self._loss: float | None = None
        self._mfu: float | None = None
        self._recent: deque[tuple[float, int]] = deque()  # (seconds of work so far, step)
        self._first: tuple[float, int] | None = None  # (wall clock, step) of the first update
        self._idle, self._pauses, self._paused_at = 0.0, 0, 0.0
        self._doing = ""
        self._shown_at: float | None = None
        self._shown_step: int | None = None
        self._closed = False
        self._bar = self._open(start) if self._stream.isatty() else None

    def _open(self, start: int) -> Any:
        try:
            from tqdm import tqdm
        except ImportError:
            return None
        try:
            known = os.get_terminal_size(self._stream.fileno()).columns > 0
        except (OSError, ValueError):
            known = False
        bar = tqdm(
            total=self.total,
            initial=start,
            file=self._stream,
            dynamic_ncols=known,
            ncols=None if known else 80,  # a terminal that says 0 columns and rows would show nothing
            nrows=None if known else 20,
            miniters=1,
            bar_format="{desc} |{bar}| {percentage:3.0f}%",
        )
        bar.set_description_str(f"step {start}/{self.total}")
        return bar

    @property
    def per_second(self) -> float | None:
        """Units per second of work in the recent window; None before the second update."""
        if len(self._recent) < 2:
            return None
        (began, first), (now, last) = self._recent[0], self._recent[-1]
        return (last - first) * self._per_step / (now - began) if now > began else None

    @property
    def seconds_left(self) -> float | None:
        """Seconds to the last step, pauses included at the rate they had so far; None before it is known."""
        if self._first is None:
            return None
        began, first = self._first
        done, spent = self.step - first, self._clock() - began
        return spent / done * (self.total - self.step) if done > 0 else None

    def update(self, step: int, loss: float | None = None, mfu: float | None = None) -> None:
        """Tell that `step` steps are done, and, where they are known, the loss of the last one in nats and
        the share of the devices' peak that the last ones reached."""
        now = self._clock()
        self.step = step
        if loss is not None:
            self._loss = float(loss)
        self._mfu = self._mfu if mfu is None else mfu
        if self._first is None:
            self._first = (now, step)
        work = (self._paused_at if self._pauses else now) - self._idle
        self._recent.append((work, step))
        while len(self._recent) > 2 and work - self._recent[1][0] >= self._window:
            self._recent.popleft()
        least = 0.1 if self._bar is not None else self._every
        if self._shown_at is None or now - self._shown_at >= least:
            self._show(now)

    def reach(self, step: int) -> None:
        """Tell that `step` steps are made, or on their way; it is shown with whatever is shown next."""
        self.step = step

    @contextmanager
    def paused(self, what: str) -> Iterator[None]:
        """Leave the time of the block out of the speed; the bar says what is done meanwhile.

        Plain lines say it before the first step alone, which compiles, and may take minutes.
        """
        if self._pauses == 0:
            self._paused_at, self._doing = self._clock(), what
            self._refresh()
            if self._bar is None and self._first is None:
                print(self.text(), file=self._stream, flush=True)
        self._pauses += 1
        try:
            yield
        finally:
            self._pauses -= 1
            if self._pauses == 0:
                self._idle += self._clock() - self._paused_at
                self._doing = ""
                self._refresh()

    def text(self) -> str:
        """Return what is shown, such as `step 120/2000  loss 3.2140  12,345 tokens/s  1:23 left`."""
        parts = [f"step {self.step}/{self.total}"]
        if self._loss is not None:
            parts.append(f"loss {self._loss:.4f}")
        rate, left = self.per_second, self.seconds_left
        if rate is not None and self._per_step:
            parts.append(f"{rate:,.0f} {self._unit}/s")
        if self._mfu is not None:
            parts.append(f"MFU {self._mfu:.1%}")
        if left is not None:
            parts.append(f"{duration(left)} left")
        if self._doing:
            parts.append(f"({self._doing})")
        return "  ".join(parts)

    def _show(self, now: float) -> None:
        self._shown_at, self._shown_step = now, self.step
        if self._bar is None:
            print(self.text(), file=self._stream, flush=True)
        else:
            self._refresh()

    def _refresh(self) -> None:
        if self._bar is not None:
            self._bar.n = self.step
            self._bar.set_description_str(self.text(), refresh=True)

    def close(self) -> None:
        """Show the last state and end the bar; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        if self._bar is not None:
            self._refresh()
            self._bar.close()
        elif self._first is not None and self._shown_step != self.step:
            self._show(self._clock())

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
