"""Write a Hugging Face folder: whole, by a rename, or not at all."""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from lmx.core import tree
from lmx.core.errors import UserError
from lmx.hf import convert, settings
from lmx.hf._write import write_tensors
from lmx.hf.certificate import NAME
from lmx.hf.convert import Layout
from lmx.hf.stored import Spec
from lmx.hf.types import cast

TEMPORARY = ".lmx-writing"
LOCK = "writing.lock"
SHARD_BYTES = 5 * 10**9
"""A file of tensors is cut where it would exceed this, as transformers does at 50 GB and did at 5."""


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """Yield a folder; it becomes `folder`, by a rename, when the block ends, and goes away when it fails,
    with those of the folders above that were made for it.

    It lies beside `folder` in one of a name that nobody has, with a file that is locked for as long as this
    process lives; what one that died has left there is removed.
    Errors: UserError where the folder exists already, cannot be written, or would lie in one that has a
    certificate.
    """
    if os.path.lexists(folder):
        raise UserError(f"{folder} exists already; name another folder, or remove it first")
    _check_above(folder)
    made = [place for place in folder.absolute().parents if not os.path.lexists(place)]
    with ExitStack() as undone:
        undone.callback(_remove_empty, made)
        try:
            if os.path.lexists(folder.parent) and not folder.parent.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            folder.parent.mkdir(parents=True, exist_ok=True)
            _sweep(folder)
            room, lock = _room(folder)
            undone.callback(os.close, lock)
            undone.callback(shutil.rmtree, room, ignore_errors=True)
            work = room / "folder"
            work.mkdir()
            yield work
            _to_disk(work)
            os.replace(work, folder)
            made.clear()
        except OSError as error:
            raise UserError(f"{folder}: cannot be written ({error.strerror or error})") from error


def _check_above(folder: Path) -> None:
    """Refuse a place in a folder whose certificate would be wrong from then on."""
    above = folder.parent.resolve()
    for place in (above, *above.parents):
        if os.path.lexists(place / NAME):
            raise UserError(
                f"{folder} would lie in {place}, whose {NAME} lists all that it holds; name a folder "
                "elsewhere"
            )


def _room(folder: Path) -> tuple[Path, int]:
    """Make a new folder beside `folder`, its file LOCK locked; return it and the lock's descriptor."""
    while True:
        room = Path(tempfile.mkdtemp(prefix=f"{folder.name}{TEMPORARY}-", dir=folder.parent))
        try:
            lock = os.open(room / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            _remove_empty([room])
            raise
        if _locked(lock) is not False and os.path.lexists(room / LOCK):
            return room, lock
        os.close(lock)  # swept by another before it was locked


def _locked(lock: int) -> bool | None:
    """Lock an open file; return False where another holds it, None where the file system has no locks."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _sweep(folder: Path) -> None:
    """Remove what processes that died left beside a folder: that of which the lock can be taken."""
    for room in folder.parent.glob(f"{glob.escape(folder.name)}{TEMPORARY}-*"):
        try:
            lock = os.open(room / LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:  # somebody's own folder, or one that is just being made
            continue
        try:
            if _locked(lock):
                shutil.rmtree(room, ignore_errors=True)
        finally:
            os.close(lock)


def _remove_empty(folders: Iterable[Path]) -> None:
    """Remove folders, the innermost first, as far as nothing is in them."""
    for place in folders:
        with suppress(OSError):
            place.rmdir()


def write(
    work: Path,
    params: Mapping[str, Any],
    config: Mapping[str, Any],
    layout: Layout,
    *,
    types: Mapping[str, str],
    special: Mapping[str, Any],
    card: str,
    shard_bytes: int = SHARD_BYTES,
) -> dict[str, str]:
    """Write config.json, generation_config.json, the tensors and a README.md; return {tensor: its SHA-256}.

    types: {tensor: the type to store}, `config["dtype"]` for those not in it. special: what
    generation_config.json holds, ids such as `eos_token_id`; none is written where it is empty. One tensor at
    a time is in memory besides the parameters.
    Errors: UserError where a leaf has no place in the class, or a value does not fit its type.
    """
    leaves = tree.flatten(params)
    planned = convert.written({path: leaf.shape for path, leaf in leaves.items()}, layout)
    specs = {name: Spec(types.get(name, config["dtype"]), shape, "") for name, (_, shape) in planned.items()}

    def make(name: str) -> np.ndarray:
        tensor = convert.join(planned[name][0], leaves)
        return cast(tensor, specs[name].dtype, name)

    (work / settings.CONFIG).write_text(settings.text(config), encoding="utf-8")
    if special:
        (work / "generation_config.json").write_text(settings.text(special), encoding="utf-8")
    (work / "README.md").write_text(card, encoding="utf-8")
    return write_tensors(work, list(specs.items()), make, shard_bytes=shard_bytes)


def _to_disk(work: Path) -> None:
    """Wait until every file has reached the disk, so that a rename never outlives what it names."""
    for path in sorted(work.rglob("*")):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
