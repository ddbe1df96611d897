"""Opening files of a folder that came from elsewhere: regular ones, in the folder, and nothing else."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from lmx.core.errors import UserError

FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe put there since must not hang

SHARED = ".huggingface-shared-blobs"  # the file by which the hub's library knows a cache's shared blobs


def open_file(folder: Path, name: str) -> int:
    """Open a regular file of the folder for reading and return its descriptor, the caller's to close.

    A symbolic link may lead to a file in the folder, or in the `blobs` of the Hugging Face cache of which the
    folder itself is a snapshot.
    Errors: UserError naming the file where it leads elsewhere or cannot be opened.
    """
    path = folder / name
    root, real = Path(os.path.realpath(folder)), Path(os.path.realpath(path))
    if not any(real.is_relative_to(place) for place in (root, *_blobs(root))):
        raise UserError(f"{path}: is a link to {str(real)!r}, outside the folder; put the file itself there")
    try:
        _check_regular(path, os.lstat(real))
        descriptor = os.open(real, FLAGS)
    except OSError as error:
        raise UserError(f"{path}: cannot be opened ({error.strerror or error})") from error
    try:
        _check_regular(path, os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _blobs(root: Path) -> list[Path]:
    """Return where the files of a snapshot in a Hugging Face cache lie; nothing for any other folder.

    In the blobs of its own model, or in those that the models of its cache share, which the hub's library
    marks as such. Only CACHE/models--NAME/snapshots/REVISION is a snapshot; what lies deeper is none.

    >>> _blobs(Path("/hub/models--gpt2/snapshots/607a30d"))
    [PosixPath('/hub/models--gpt2/blobs')]
    """
    snapshots = root.parent
    if snapshots.name != "snapshots" or not snapshots.parent.name.startswith("models--"):
        return []
    own, shared = snapshots.parent / "blobs", snapshots.parent.parent / "blobs"
    return [own, shared] if os.path.lexists(shared / SHARED) else [own]


def _check_regular(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path}: is not a regular file; put the file itself there")
