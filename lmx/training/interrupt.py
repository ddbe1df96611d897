"""Stopping on request: the first Ctrl-C or SIGTERM lets the loop finish its step and save; one more quits."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def watch(notice: Callable[[str], None]) -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether a stop was asked for; handlers are put back afterwards.

    Outside the main thread no handler can be set, and the answer is always no.
    """
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return

    before = {number: signal.getsignal(number) for number in SIGNALS}

    def handle(number: int, frame: FrameType | None) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        asked.append(number)

    told: list[int] = []

    def stopping() -> bool:
        # Said here and not in the handler, which may interrupt another write to the same stream.
        if asked and not told:
            told.append(asked[0])
            name = signal.Signals(asked[0]).name
            notice(f"{name}: stopping after this step and saving; once more to quit at once")
        return bool(asked)

    for number in SIGNALS:
        signal.signal(number, handle)
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
