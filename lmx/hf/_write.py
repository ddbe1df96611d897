"""Write safetensors files tensor by tensor, so that one tensor at a time is in memory."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from lmx.hf._safetensors import LENGTH, METADATA, TYPES

FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PADDING = 8  # bytes; the length of a header is a multiple of it

_CODES = {dtype.name: code for code, dtype in TYPES.items()}
_PLACES = {dtype.name: place for place, dtype in enumerate(TYPES.values())}


class Announced(Protocol):
    """What is known of a tensor before it is made, by a `Spec` say; dtype: numpy's name, shape: its sizes."""

    @property
    def dtype(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...


def write_tensors(
    folder: Path,
    plan: Sequence[tuple[str, Announced]],
    get: Callable[[str], np.ndarray],
    *,
    shard_bytes: int,
) -> dict[str, str]:
    """Write model.safetensors, or shards and their index where the tensors exceed `shard_bytes`.

    plan: (tensor, its type and shape), in the order in which shards are filled; a tensor of more than
    `shard_bytes` has a shard to itself. get: makes one tensor, as announced; it is called once for each, when
    the tensor's bytes are due. The bytes of each file are those that the safetensors library writes, and they
    have reached the disk when this returns. Returns {tensor: SHA-256 of its bytes, in hexadecimal}.
    Errors: OSError, with files left behind, so that the caller writes to a temporary folder; AssertionError
    where `get` gives something other than announced, or a name comes twice.
    """
    announced = dict(plan)
    assert len(announced) == len(plan), "each tensor once"
    assert METADATA not in announced
    shards = _shards(announced, shard_bytes)
    digests: dict[str, str] = {}
    places: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = FILE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        digests |= _write_file(folder / file, {name: announced[name] for name in names}, get)
        places |= dict.fromkeys(names, file)
    if len(shards) > 1:
        total = sum(_size(spec) for spec in announced.values())
        index = {"metadata": {"total_size": total}, "weight_map": places}
        with open(folder / INDEX, "xb") as stream:
            stream.write((json.dumps(index, indent=2, sort_keys=True) + "\n").encode())
            _to_disk(stream)
    return {name: digests[name] for name in announced}


def _size(spec: Announced) -> int:
    """Return a tensor's bytes."""
    return math.prod(spec.shape) * TYPES[_CODES[spec.dtype]].itemsize


def _shards(announced: Mapping[str, Announced], shard_bytes: int) -> list[list[str]]:
    """Return the names in each file; one file, maybe without a tensor, where `shard_bytes` is enough.

    A shard is filled until the next tensor would exceed `shard_bytes`. One that exceeds it by itself goes to
    a shard of its own, and the shard being filled goes on behind it, as transformers does it.
    """
    if sum(_size(spec) for spec in announced.values()) <= shard_bytes:
        return [list(announced)]
    shards: list[list[str]] = []
    filling: list[str] = []
    room = shard_bytes
    for name, spec in announced.items():
        size = _size(spec)
        if size > shard_bytes:
            shards.append([name])
            continue
        if size > room:
            shards.append(filling)
            filling, room = [], shard_bytes
        filling.append(name)
        room -= size
    return [*shards, filling] if filling else shards


def _write_file(
    path: Path, announced: Mapping[str, Announced], get: Callable[[str], np.ndarray]
) -> dict[str, str]:
    """Write one file and return the digests of its tensors."""
    order = sorted(announced, key=lambda name: (_PLACES[announced[name].dtype], name))
    with open(path, "xb") as stream:
        stream.write(_header({name: announced[name] for name in order}))
        digests = {name: _append(stream, announced[name], get(name)) for name in order}
        _to_disk(stream)
    return digests


def _header(announced: Mapping[str, Announced]) -> bytes:
    """Return a file's first bytes, up to the data: the header and, before it, its length."""
    entries: dict[str, object] = {METADATA: {"format": "pt"}}  # transformers refuses files without it
    end = 0
    for name, spec in announced.items():
        begin, end = end, end + _size(spec)
        entries[name] = {
            "dtype": _CODES[spec.dtype],
            "shape": [int(size) for size in spec.shape],
            "data_offsets": [begin, end],
        }
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % PADDING)
    return len(text).to_bytes(LENGTH, "little") + text


def _append(stream: BinaryIO, spec: Announced, tensor: np.ndarray) -> str:
    """Write one tensor and return its digest; the tensor is let go before the next is made."""
    dtype = TYPES[_CODES[spec.dtype]]
    assert tensor.dtype == dtype, f"announced as {dtype}, made as {tensor.dtype}"
    assert tensor.shape == tuple(spec.shape), f"announced as {spec.shape}, made as {tensor.shape}"
    raw = np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data
    stream.write(raw)
    return hashlib.sha256(raw).hexdigest()


def _to_disk(stream: BinaryIO) -> None:
    stream.flush()
    os.fsync(stream.fileno())
