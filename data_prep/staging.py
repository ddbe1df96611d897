"""A folder that is either whole or not there: written beside its place, renamed into it at the end."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lmx.core.errors import UserError

_TAG = "lmx-prepare.lock"
"""Marks a temporary folder as ours; whoever writes into it holds a lock on this file until it dies."""


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `folder` when the block ends, and vanishes when it raises.

    A kill leaves a tagged temporary folder, which `sweep` removes. Raises UserError where it cannot be
    written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=_prefix(folder), dir=folder.parent))
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror})") from error
    try:
        unnamed = temporary / f"{_TAG}.new"
        with open(unnamed, "w") as tag:
            fcntl.flock(tag, fcntl.LOCK_EX)
            os.replace(unnamed, temporary / _TAG)  # never there without its lock, so no sweep takes it
            out = temporary / "out"
            out.mkdir()
            yield out
            _to_disk(out)
            # Onto nothing or an empty folder; the system refuses where somebody else was faster.
            os.rename(out, folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sweep(folder: Path) -> list[Path]:
    """Remove what killed runs left beside `folder`, and return it: tagged folders whose writer is dead."""
    removed = []
    siblings = sorted(folder.parent.iterdir()) if folder.parent.is_dir() else []
    for sibling in siblings:
        if not sibling.name.startswith(_prefix(folder)):
            continue
        try:
            with open(sibling / _TAG) as held:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(sibling, ignore_errors=True)
                removed.append(sibling)
        except OSError:
            continue  # not ours, gone by now, or another process is at work there
    return removed


def _prefix(folder: Path) -> str:
    return f".{folder.name}.preparing-"


def _to_disk(folder: Path) -> None:
    """Wait until every file has reached the disk, so that a rename never outlives what it names."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
