"""Write a Hugging Face folder: whole, by a rename, or not at all."""

from __future__ import annotations

import errno
import glob
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lmx.core import tree
from lmx.core.errors import UserError
from lmx.hf import convert, settings
from lmx.hf._write import write_tensors
from lmx.hf.convert import Layout
from lmx.hf.stored import Spec
from lmx.hf.types import cast

TEMPORARY = ".lmx-writing"
SHARD_BYTES = 5 * 10**9
"""A file of tensors is cut where it would exceed this, as transformers does at 50 GB and did at 5."""


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """Yield a folder beside `folder`; it gets that name when the block ends, and goes away when it fails.

    Errors: UserError where the folder exists already or cannot be written.
    """
    if os.path.lexists(folder):
        raise UserError(f"{folder} exists already; name another folder, or remove it first")
    work = folder.with_name(f"{folder.name}{TEMPORARY}-{os.getpid()}")
    made = False
    try:
        if os.path.lexists(folder.parent) and not folder.parent.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        work.mkdir()
        made = True
        yield work
        _to_disk(work)
        os.replace(work, folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error})") from error
    finally:
        if made:
            shutil.rmtree(work, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Remove what a process that died left beside a folder."""
    for left in folder.parent.glob(f"{glob.escape(folder.name)}{TEMPORARY}-*"):
        owner = left.name.rpartition("-")[2]
        if owner.isdigit() and not _alive(int(owner)):
            shutil.rmtree(left, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


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
