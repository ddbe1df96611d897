"""Tensors between files and devices, a few at a time, so that neither side is ever held twice."""

from __future__ import annotations

import hashlib
import math
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from lmx.core import tree
from lmx.core.errors import UserError, printable
from lmx.core.hf_table import Entry
from lmx.hf._safetensors import ALIGNMENT, aligned
from lmx.hf.convert import Plan, split
from lmx.hf.stored import Stored
from lmx.hf.types import cast, named_type

Place = Callable[[str, np.ndarray], Any]

AHEAD = max(2, min(8, os.cpu_count() or 1))
"""Tensors that are read at the same time."""

ROOM = 2**26
"""Bytes that a thread keeps from one tensor to the next; larger tensors get memory that is freed at once."""


def read(
    stored: Stored,
    plan: Plan,
    *,
    dtype: str,
    place: Place,
    allow_nonfinite: bool = False,
    digests: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Return the leaves of the plan's entries as a nested dict; those to be started anew are not in it.

    dtype: the name of the leaves' type. place: puts a leaf (path, array) where it shall stay, and may keep
    the array's memory. digests: takes the SHA-256 of each tensor as it was read.
    Besides the leaves, memory holds at most AHEAD times the largest tensor as stored and as read, and ROOM;
    all of that is free when this returns or raises.
    Errors: UserError naming the tensor where values are NaN or infinite, unless allowed, or do not fit the
    type; where two copies differ.
    """
    for copy, source in plan.equal:
        if not np.array_equal(_bits(stored.read(copy)), _bits(stored.read(source))):
            raise UserError(
                f"{stored.folder}: {printable(copy)} is tied to {printable(source)} by the config, but the "
                "stored tensors differ; set tie_word_embeddings to false in config.json to read them as two"
            )

    room, wanted = _Room(), named_type(dtype)

    def one(entry: Entry) -> dict[str, Any]:
        name = plan.names[entry.tensor]
        moved = entry.kind != "copy" or stored.specs[name].dtype != wanted.name  # its leaves are copies
        tensor = stored.read(name, room if moved else None)
        if digests is not None:
            digests[name] = digest(tensor)
        said = f"{stored.folder}: {printable(name)}"
        wide = cast(tensor, dtype, said)
        if not allow_nonfinite:
            _check_finite(wide, f"{said} ({stored.specs[name].file})")
        lent = moved and wide is tensor
        return {path: _own(leaf, lent, stored.folder) for path, leaf in split(entry, wide).items()}

    leaves: dict[str, Any] = {}
    with closing(_in_order(one, plan.entries)) as every:  # an error must not keep the threads and their rooms
        for found in every:
            leaves |= {path: place(path, leaf) for path, leaf in found.items()}
    return tree.unflatten(leaves)


class _Room(threading.local):
    """Memory of a thread for one tensor at a time: fresh memory costs more than to copy what was read.

    It grows to the largest tensor of at most ROOM bytes, and goes with its thread.
    """

    def __init__(self) -> None:
        self._block = np.empty(0, np.uint8)

    def __call__(self, path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
        size = math.prod(shape) * dtype.itemsize
        if size > ROOM:
            return aligned(path, dtype, shape)
        if size > self._block.size:
            self._block = aligned(path, np.dtype(np.uint8), (size,))
        return self._block[:size].view(dtype).reshape(shape)


def _own(leaf: np.ndarray, lent: bool, folder: Path) -> np.ndarray:
    """Return the leaf in memory of its own, laid out and aligned as a device takes it without a copy.

    lent: its memory is a room that the next tensor takes.
    """
    if not lent and leaf.flags.c_contiguous and leaf.ctypes.data % ALIGNMENT == 0:
        return leaf
    found = aligned(folder, leaf.dtype, leaf.shape)
    found[...] = leaf
    return found


def _bits(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1).view(np.uint8)


def _check_finite(tensor: np.ndarray, name: str) -> None:
    # A sum is not finite where any of its terms is not; it takes no memory, and the scan follows only then.
    with np.errstate(over="ignore", invalid="ignore"):
        total = np.sum(tensor, dtype=np.promote_types(tensor.dtype, np.float32))
    if np.isfinite(total):
        return
    wrong = int(tensor.size - np.count_nonzero(np.isfinite(tensor)))
    if wrong:
        raise UserError(
            f"{name} holds {wrong:,} values that are NaN or infinite; expected finite weights "
            "(--allow-nonfinite, or allow_nonfinite=True, reads them all the same)"
        )


def _in_order(function: Callable[[Any], Any], items: Iterable[Any]) -> Generator[Any]:
    """Yield `function(item)` of each item, in order, from a few threads; at most AHEAD wait or run."""
    pending: deque[Future[Any]] = deque()
    with ThreadPoolExecutor(AHEAD) as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) >= AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def leaf_digests(leaves: Mapping[str, Any]) -> dict[str, str]:
    """Return {path: SHA-256 of a leaf's bytes, in hexadecimal}."""

    found = _in_order(lambda leaf: digest(np.asarray(leaf)), leaves.values())
    return dict(zip(leaves, found, strict=True))


def digest(array: np.ndarray) -> str:
    """Return the SHA-256 of an array's bytes, in hexadecimal."""
    return hashlib.sha256(_bits(np.ascontiguousarray(array)).data).hexdigest()
