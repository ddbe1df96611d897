"""Read safetensors files strictly: every fault of a header is named before any tensor's memory is asked for.

Source: the format's description in the safetensors library's README, section "Format".
"""

from __future__ import annotations

import json
import math
import os
import reprlib
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import ml_dtypes
import numpy as np

from lmx.core.errors import UserError, one_line
from lmx.core.files import open_file
from lmx.hf.stored import Room, Spec

# {type's name in a header: numpy's}, in the order in which the library lays a file's tensors out.
TYPES: dict[str, np.dtype[Any]] = {
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype("<f2"),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("bool"),
}
# Types of the format that lmx does not read.
OTHERS = frozenset("C64 F8_E4M3 F8_E5M2 F8_E8M0 F8_E4M3FNUZ F8_E5M2FNUZ F6_E2M3 F6_E3M2 F4".split())
KEYS = {"dtype", "shape", "data_offsets"}
METADATA = "__metadata__"
LENGTH = 8  # bytes of the number that says how long the header is
HEADER = 100_000_000  # bytes, the format's own limit
WIDE = 10_000_000  # bytes of JSON with letters outside ASCII, of which each may take four in memory
VALUES = 2_000_000  # JSON values in one file; the largest models have some 100,000 tensors in all their files
LARGEST = 2**63 - 1  # what a size or an offset may be
RANK = 64  # numpy's limit
ALIGNMENT = 64  # bytes; what jax asks for, so as to take a buffer over without a copy
AGAIN = "fetch the file again"

# What a file that is no safetensors file begins with.
STRANGERS = (
    (b"version https://git-lfs", "is a Git LFS pointer: fetch the file itself (git lfs pull)"),
    (b"\x80", "is a pickle, not a safetensors file, whatever its name says; lmx does not run it"),
    (b"PK", "is a zip archive, as torch.save writes them, not a safetensors file; lmx does not unpack it"),
    (b"<", "is a web page, not a safetensors file; fetch the file itself"),
)

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 100
_repr.maxlist = 8


def quoted(value: object) -> str:
    """Return what a file holds as one short line, for a message."""
    return _repr.repr(value)


def parse_object(raw: bytes | bytearray, said: str) -> dict[str, Any]:
    """Return the JSON object of a file, no object in which has a key twice.

    Memory for it is bounded: by VALUES, and by WIDE where a letter is no ASCII. Real files meet neither:
    names of tensors are ASCII, and a config has a few thousand bytes.
    Errors: UserError, beginning with `said`, where it is not one, exceeds those bounds, or has a number that
    is no float.
    """
    if sum(raw.count(mark) for mark in (b",", b"[", b"{")) > VALUES:  # values take far more memory than text
        raise UserError(f"{said} has more than {VALUES:,} values; {AGAIN}, or split it into shards")

    escaped = b"\\u" in raw
    if len(raw) > WIDE and (escaped or not raw.isascii()):
        raise UserError(
            f"{said} has {len(raw):,} bytes with letters outside ASCII, at most {WIDE:,} are allowed; {AGAIN}"
        )

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        once = dict(found)
        if len(once) < len(found):
            key = next(key for key, count in Counter(key for key, _ in found).items() if count > 1)
            raise UserError(f"{said} has the key {quoted(key)} twice; {AGAIN}")
        return once

    def constant(text: str) -> NoReturn:
        raise UserError(f"{said} holds {text}, which is not JSON; {AGAIN}")

    def number(text: str) -> float:
        if math.isinf(value := float(text)):
            raise UserError(f"{said} holds the number {quoted(text)}, too large for any float; correct it")
        return value

    try:
        value = json.loads(raw.decode(), object_pairs_hook=pairs, parse_constant=constant, parse_float=number)
        if escaped:  # half of a surrogate pair, which is no letter and cannot be written anywhere
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{said} is not readable as JSON ({one_line(error)}); {AGAIN}") from error
    if not isinstance(value, dict):
        raise UserError(f"{said} is JSON, but not an object; {AGAIN}")
    return value


def read_object(folder: Path, name: str, *, largest: int, what: str, said: str) -> dict[str, Any]:
    """Return the JSON object in a small file of the folder.

    largest: bytes it may have. what: what it is, with an article. said: stands before the faults of its JSON.
    Errors: UserError naming the file.
    """
    path = folder / name
    descriptor = open_file(folder, name)
    try:
        size = os.fstat(descriptor).st_size
        if size > largest:
            raise UserError(f"{path}: {size:,} bytes; expected {what} of at most {largest:,}; {AGAIN}")
        raw = bytearray(size)
        read_at(path, descriptor, memoryview(raw), 0)
    finally:
        os.close(descriptor)
    return parse_object(raw, f"{path}:{said}")


def read_at(path: Path, descriptor: int, buffer: memoryview, offset: int) -> None:
    """Fill the buffer with the file's bytes from `offset` on.

    Errors: UserError naming the file where the disk fails, or the file has become shorter than it was.
    """
    done = 0
    while done < len(buffer):
        try:
            count = os.preadv(descriptor, [buffer[done:]], offset + done)  # at most 2 GiB a call on Linux
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
        if not count:
            raise UserError(
                f"{path}: ends at byte {offset + done:,}, expected {len(buffer) - done:,} bytes more; "
                f"it has changed since it was opened: {AGAIN}"
            )
        done += count


def aligned(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
    """Return an empty array whose memory begins at a multiple of ALIGNMENT bytes.

    Errors: UserError naming the file whose tensor it is for where memory is short.
    """
    size = math.prod(shape) * dtype.itemsize
    try:
        block = np.empty(size + ALIGNMENT, np.uint8)
    except MemoryError as error:
        raise UserError(f"{path}: a tensor of {size:,} bytes is more than memory holds") from error
    start = -block.ctypes.data % ALIGNMENT
    return block[start : start + size].view(dtype).reshape(shape)


class _Entry(NamedTuple):
    """One tensor of a header; begin and end: bytes from the first of the data."""

    begin: int
    end: int
    name: str
    code: str
    shape: tuple[int, ...]


class File:
    """One safetensors file: opened once, its header checked, its tensors read one by one.

    path: for messages. name: the file's, within its folder. descriptor: open for reading; once this object
    has been made, its `close` closes it. Errors: UserError naming the file, the tensor and the fault.
    """

    specs: dict[str, Spec]

    def __init__(self, path: Path, name: str, descriptor: int) -> None:
        size = os.fstat(descriptor).st_size
        header, data = _header(path, descriptor, size)
        _check_metadata(path, header.pop(METADATA, {}))
        entries = sorted(_entry(path, tensor, found) for tensor, found in header.items())
        _check_layout(path, entries, size - data)
        self.path = path
        self.specs = {entry.name: Spec(TYPES[entry.code].name, entry.shape, name) for entry in entries}
        self._entries = {entry.name: entry for entry in entries}
        self._data = data
        self._descriptor = descriptor

    def read(self, name: str, room: Room | None = None) -> np.ndarray:
        """Return one tensor in its stored type, in the room given or in aligned memory of its own.

        Errors: UserError naming the file where it cannot be read.
        """
        assert self._descriptor >= 0, "read after close"
        entry = self._entries[name]
        dtype = TYPES[entry.code]
        array = (room or aligned)(self.path, dtype, entry.shape)
        raw = array.reshape(-1).view(np.uint8)
        if raw.size:
            read_at(self.path, self._descriptor, raw.data, self._data + entry.begin)
        if dtype == np.bool_ and raw.size and raw.max() > 1:
            raise UserError(
                f"{self.path}: tensor {quoted(name)} is BOOL and holds a byte of {raw.max()}, "
                f"expected 0 or 1 alone; {AGAIN}"
            )
        return array

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def _header(path: Path, descriptor: int, size: int) -> tuple[dict[str, Any], int]:
    """Return the header and the byte at which the data begins."""
    first = bytearray(min(size, 32))
    read_at(path, descriptor, memoryview(first), 0)
    if size < LENGTH:
        _refuse(path, first, f"holds {size} bytes, and a safetensors file at least {LENGTH}; {AGAIN}")
    length = int.from_bytes(first[:LENGTH], "little")
    if length > HEADER:
        _refuse(
            path, first, f"announces a header of {length:,} bytes, at most {HEADER:,} are allowed; {AGAIN}"
        )
    if LENGTH + length > size:
        _refuse(
            path, first, f"is truncated: its header alone takes {length:,} bytes, it has {size:,}; {AGAIN}"
        )
    if first[LENGTH : LENGTH + 1] != b"{" or not length:
        _refuse(path, first, f"is not a safetensors file: its header does not begin with '{{'; {AGAIN}")
    raw = bytearray(length)
    read_at(path, descriptor, memoryview(raw), LENGTH)
    return parse_object(raw, f"{path}: the header"), LENGTH + length


def _refuse(path: Path, first: bytearray, fault: str) -> NoReturn:
    """Raise a UserError that says what the file is, if its first bytes tell, or else the fault."""
    known = next((kind for magic, kind in STRANGERS if first.startswith(magic)), fault)
    raise UserError(f"{path}: {known}")


def _check_metadata(path: Path, found: Any) -> None:
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise UserError(f"{path}: {METADATA} is {quoted(found)}, expected an object of strings; {AGAIN}")


def _entry(path: Path, name: str, found: Any) -> _Entry:
    """Return what a header says of one tensor, checked by itself."""
    said = f"{path}: tensor {quoted(name)}"
    if not isinstance(found, dict) or found.keys() != KEYS:
        raise UserError(f"{said} is {quoted(found)}, expected exactly dtype, shape and data_offsets; {AGAIN}")
    code, shape, offsets = found["dtype"], found["shape"], found["data_offsets"]
    if isinstance(code, str) and code in OTHERS:
        raise UserError(
            f"{said} is stored as {code}, which lmx does not read; convert it to BF16, F16 or F32 first"
        )
    if not isinstance(code, str) or code not in TYPES:
        raise UserError(f"{said} has dtype {quoted(code)}, expected one of {', '.join(TYPES)}; {AGAIN}")
    if not isinstance(shape, list) or not all(map(_whole, shape)):
        raise UserError(f"{said} has shape {quoted(shape)}, expected whole numbers from 0 on; {AGAIN}")
    if len(shape) > RANK:
        raise UserError(f"{said} has {len(shape)} dimensions, at most {RANK} are possible; {AGAIN}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_whole, offsets)):
        raise UserError(f"{said} has data_offsets {quoted(offsets)}, expected two whole numbers; {AGAIN}")
    begin, end = offsets
    if begin > end:
        raise UserError(f"{said} has data_offsets {quoted(offsets)}, its end before its beginning; {AGAIN}")
    itemsize = TYPES[code].itemsize
    if math.prod(max(size, 1) for size in shape) * itemsize > LARGEST:  # zeros too: numpy multiplies the rest
        raise UserError(f"{said} has shape {quoted(shape)}, larger than any memory; {AGAIN}")
    if (needed := math.prod(shape) * itemsize) != end - begin:
        raise UserError(
            f"{said} is {code} of shape {quoted(shape)}, which is {needed:,} bytes, but its data_offsets "
            f"{quoted(offsets)} span {end - begin:,}; {AGAIN}"
        )
    return _Entry(begin, end, name, code, tuple(shape))


def _whole(value: Any) -> bool:
    """Return whether a JSON value is a size or an offset: a number, and `true` is none."""
    return type(value) is int and 0 <= value <= LARGEST


def _check_layout(path: Path, entries: list[_Entry], held: int) -> None:
    """Check that the tensors, sorted by where they begin, follow one another and fill the file's data."""
    at, before = 0, "the header"
    for entry in entries:
        if entry.begin != at:
            fault = "overlaps" if entry.begin < at else f"leaves {entry.begin - at:,} bytes unused after"
            raise UserError(f"{path}: tensor {quoted(entry.name)} {fault} {before}; {AGAIN}")
        at, before = entry.end, f"tensor {quoted(entry.name)}"
    if held < at:
        raise UserError(
            f"{path}: is truncated: its header announces {at:,} bytes of tensors, it has {held:,}; {AGAIN}"
        )
    if held > at:
        raise UserError(f"{path}: has {held - at:,} bytes too many after {before}; {AGAIN}")
