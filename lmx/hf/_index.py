"""From names to opened files: which names a folder may use, and what an index may say."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmx.core.errors import UserError
from lmx.hf._safetensors import AGAIN, quoted, read_object
from lmx.hf.stored import Spec

SIZE = 100_000_000  # bytes of an index
NAME = 255  # bytes of a file's name
SHOWN = 3  # names in a message


def read_index(folder: Path, name: str, suffix: str) -> dict[str, str]:
    """Return {tensor: file} of an index; every file is one plain name that ends with `suffix`.

    Errors: UserError naming the index and what is wrong with it.
    """
    path = folder / name
    found = read_object(folder, name, largest=SIZE, what="an index", said=" the index").get("weight_map")
    if not isinstance(found, dict) or not found:
        raise UserError(f"{path}: weight_map is {quoted(found)}, expected {{tensor: file}}; {AGAIN}")
    for tensor, file in found.items():
        if not _plain(file, suffix):
            raise UserError(
                f"{path}: places {quoted(tensor)} in {quoted(file)}, expected the plain name of a "
                f"{suffix} file in the same folder; {AGAIN}"
            )
    if missing := [file for file in sorted(set(found.values())) if not os.path.lexists(folder / file)]:
        raise UserError(f"{path}: names {listed(missing)}, not in the folder; fetch what is missing")
    return found


def listed(names: list[str]) -> str:
    """Return the first few names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(quoted, names[:SHOWN])) + more


def _plain(file: Any, suffix: str) -> bool:
    """Return whether a name is one component of a path on every system, and that of a weight file.

    >>> [_plain(name, ".bin") for name in ("a-1.bin", "../a.bin", "C:a.bin", ".bin", 3)]
    [True, False, False, False, False]
    """
    return (
        isinstance(file, str)
        and file.endswith(suffix)
        and file != suffix
        and file.isprintable()
        and not set(file) & set("/\\:")
        and len(file.encode()) <= NAME
    )


def check_shards(path: Path, places: Mapping[str, str], held: Mapping[str, Mapping[str, Spec]]) -> None:
    """Check that an index and its shards agree: each tensor is where the index says, and nowhere else.

    path: the index, for messages. places: {tensor: file}. held: {file: the tensors in it}. Errors: UserError.
    """
    found: dict[str, str] = {}
    for file, specs in held.items():
        for tensor in specs:
            if tensor in found:
                raise UserError(
                    f"{path}: {quoted(tensor)} is in two shards, {found[tensor]} and {file}; fetch both again"
                )
            found[tensor] = file
    for tensor, file in found.items():
        if tensor not in places:
            raise UserError(f"{path}: does not name {quoted(tensor)}, which is in {file}; {AGAIN}")
    for tensor, file in places.items():
        if tensor not in found:
            raise UserError(f"{path}: places {quoted(tensor)} in {file}, which does not have it; {AGAIN}")
        if found[tensor] != file:
            raise UserError(
                f"{path}: places {quoted(tensor)} in {file}, but it is in {found[tensor]}; {AGAIN}"
            )
