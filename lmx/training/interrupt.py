"""Stopping on request: the first Ctrl-C, SIGTERM or SIGHUP lets the loop finish its step and save; one more
quits."""

from __future__ import annotations

import os
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)  # Windows has no SIGHUP


class Stopping:
    """Whether a stop was asked for: call it to know; `signal` is the one that asked, or None."""

    def __init__(self, notice: Callable[[str], None]) -> None:
        self.signal: signal.Signals | None = None
        self._notice = notice

    def __call__(self) -> bool:
        """Tell whether a stop was asked for."""
        return self.signal is not None

    def ask(self, number: int) -> None:
        """Ask for a stop, and say at once that it was heard, whatever is under way."""
        self.signal = signal.Signals(number)
        # By a thread, for a handler may interrupt another write to the same stream.
        with suppress(RuntimeError):  # no thread can be started: saving matters more
            threading.Thread(target=self._say, args=(self.signal.name,), daemon=True).start()

    def _say(self, name: str) -> None:
        with suppress(OSError):  # nobody may be there to read it, and saving matters more
            self._notice(f"{name}: stopping after this step and saving; once more to quit at once")


class PutOffError(Exception):
    """Ends an evaluation that a stop puts off until the run goes on."""


class Question:
    """Whether to stop: once the answer was yes it stays so.

    asked: whether any process is asked to, told whether something long is about to follow.
    """

    def __init__(self, asked: Callable[[bool], bool]) -> None:
        self.yes, self._asked = False, asked

    def __call__(self, long: bool) -> bool:
        """Put the question; in several processes all must, and have one answer."""
        self.yes = self.yes or self._asked(long)
        return self.yes

    def put_off(self) -> None:
        """Raise PutOffError where the answer is yes: what is under way would keep a stop waiting."""
        if self(False):
            raise PutOffError


@contextmanager
def watch(notice: Callable[[str], None]) -> Iterator[Stopping]:
    """Yield a function that tells whether a stop was asked for; handlers are put back afterwards.

    A SIGHUP that is ignored, as under nohup, stays so. Outside the main thread no handler can be set, and the
    answer is always no.
    """
    stopping = Stopping(notice)
    if threading.current_thread() is not threading.main_thread():
        yield stopping
        return

    before = {number: signal.getsignal(number) for number in SIGNALS}
    if hasattr(signal, "SIGHUP") and before[signal.SIGHUP] == signal.SIG_IGN:
        del before[signal.SIGHUP]

    def handle(number: int, frame: FrameType | None) -> None:
        for each in before:
            signal.signal(each, signal.SIG_DFL)
        if signal.Signals(number).name == "SIGHUP":
            _let_go()
        stopping.ask(number)

    for number in before:
        signal.signal(number, handle)
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _let_go() -> None:
    """Send what goes to a terminal that has hung up nowhere: to write to it is an error, which would end the
    run before it has saved."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for out in (1, 2):
        with suppress(OSError):
            if stat.S_ISCHR(os.fstat(out).st_mode):
                os.dup2(nowhere, out)
    os.close(nowhere)
