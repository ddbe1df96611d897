"""One writer per run folder."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lmx.core.errors import UserError

NAME = ".lock"


@contextmanager
def hold(workdir: Path) -> Iterator[None]:
    """Hold the folder's lock while the block runs; the system frees it however the process ends.

    A folder that is made here, and where nothing but the lock is when the block fails, goes away again.
    Errors: UserError where the folder cannot be made or written to, or another live process holds it (named).
    """
    new = not workdir.exists()
    handle = _open(workdir)
    try:
        _claim(handle, workdir)
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"pid {os.getpid()} on {socket.gethostname()}".encode(), 0)
        try:
            yield
        except BaseException:
            if new:
                _remove(workdir)
            raise
    finally:
        os.close(handle)


def _open(workdir: Path) -> int:
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        return os.open(workdir / NAME, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(
            f"workdir {workdir} cannot be written to: {error.strerror}; name another one"
        ) from error


def _remove(workdir: Path) -> None:
    """Remove a folder that holds the lock alone."""
    with suppress(OSError):
        if os.listdir(workdir) == [NAME]:
            (workdir / NAME).unlink()
            workdir.rmdir()


def _claim(handle: int, workdir: Path) -> None:
    try:
        import fcntl
    except ImportError:  # pragma: no cover - Windows has no flock; two writers are then the user's care.
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = os.pread(handle, 200, 0).decode(errors="replace") or "another process"
        raise UserError(
            f"workdir {workdir} is in use by {owner}; wait for it, or name another one"
        ) from error
    with suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(handle), os.stat(workdir / NAME)):
            return
    raise UserError(f"workdir {workdir} was being removed by another process; run again")
