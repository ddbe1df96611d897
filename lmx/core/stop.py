"""Ctrl-C on the command line: never lost, and never an error inside an import or one of XLA's callbacks."""

from __future__ import annotations

import _thread
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

AGAIN = 0.05
"""Seconds after which a KeyboardInterrupt that something swallowed is raised once more."""

_leave: Callable[[], None] | None = None  # what Ctrl-C does while nothing has begun
_asked = False


def begun() -> None:
    """Tell that the imports are done: from now on Ctrl-C raises KeyboardInterrupt, so that what was begun is
    put away. Does nothing outside `guarded`."""
    global _leave
    _leave = None


def asked() -> bool:
    """Tell whether Ctrl-C came in this block of `guarded`, whatever became of its KeyboardInterrupt."""
    return _asked


@contextmanager
def guarded(leave: Callable[[], None]) -> Iterator[None]:
    """Mind Ctrl-C in the block; Python's own handler is put back afterwards.

    leave: called on Ctrl-C until `begun`: it ends the process at once. A KeyboardInterrupt within an import
    or the start of a backend may crash it, or be taken for something else. After `begun` Ctrl-C raises
    KeyboardInterrupt; where that could not be passed on (a callback of the garbage collector, a destructor),
    it is raised again a moment later. Where Ctrl-C is ignored or has a handler already, it stays as it is.
    """
    global _leave, _asked
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    before, timers = sys.unraisablehook, list[threading.Timer]()

    def handle(number: int, frame: FrameType | None) -> None:
        global _asked
        _asked = True
        if _leave is not None:
            _leave()
        raise KeyboardInterrupt

    def lost(what: Any) -> None:
        if what.exc_type is not KeyboardInterrupt:
            before(what)
            return
        timer = threading.Timer(AGAIN, _thread.interrupt_main)
        timer.daemon = True
        timers.append(timer)
        timer.start()

    _leave, _asked = leave, False
    signal.signal(signal.SIGINT, handle)
    sys.unraisablehook = lost
    try:
        yield
    finally:
        _leave = None
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.unraisablehook = before
        for timer in timers:
            timer.cancel()
