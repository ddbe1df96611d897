"""The tensors of a `pytorch_model.bin`, read without torch and without running what its pickle asks for.

Source: torch.save of torch 2.13 (torch/serialization.py, torch/_utils.py): a zip archive of `data.pkl`, which
describes the tensors, and one member `data/KEY` for each storage, in the byte order that `byteorder` says.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import ml_dtypes
import numpy as np

from lmx.core.errors import UserError, one_line
from lmx.hf import _opcodes, _zip
from lmx.hf._opcodes import ADVICE, Dict, Made, Name, Tuple, Value, kind_of, said
from lmx.hf.stored import Room, Spec

PICKLE = 100_000_000  # bytes of data.pkl
RANK = 16
COPIES = 4  # tensors may take so many times what their storage holds: a tied one has two names
SIZE = 2**40  # elements; of an empty tensor the product of its other sizes, so that numpy can hold them

_DTYPES = {
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "DoubleStorage": np.dtype(np.float64),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}


@dataclass(frozen=True)
class _Storage(Made):
    """The bytes behind tensors. key: its member is `data/KEY`. count: elements."""

    kind: ClassVar[str] = "a bare storage"
    key: str
    dtype: np.dtype
    count: int


@dataclass(frozen=True)
class _Tensor(Made):
    """A view of a storage, within its bounds. first, end: the elements it spans; strides in elements."""

    kind: ClassVar[str] = "a tensor"
    storage: _Storage
    first: int
    end: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class File:
    """One opened `pytorch_model.bin`: its pickle has been checked, no tensor has been read.

    path: what messages call it. name: the file's name within its folder. descriptor: where it is open; it
    becomes this object's to close, unless making the object fails. specs: {tensor: Spec}.
    Errors: UserError where it is anything but a state dict of torch's zip format (torch >= 1.6).
    """

    specs: dict[str, Spec]

    def __init__(self, path: Path, name: str, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self._open = True
        self._sound: set[str] = set()
        with self._told():
            self._members = _members(descriptor)
            self._tensors = _tensors(_data(descriptor, self._members, "data.pkl", PICKLE), self._members)
        self.specs = {
            key: Spec(found.storage.dtype.name, found.shape, name) for key, found in self._tensors.items()
        }

    def read(self, name: str, room: Room | None = None) -> np.ndarray:
        """Return one tensor in its stored type, C-contiguous, in memory of its own: no room is needed.

        Its storage's CRC-32 is compared before the first tensor of it is returned. Errors: UserError where it
        differs or the file cannot be read.
        """
        assert self._open, "read after close"
        found = self._tensors[name]
        storage, width = found.storage, found.storage.dtype.itemsize
        member = self._members[f"data/{storage.key}"]
        with self._told():
            count = (found.end - found.first) * width
            data = _zip.read(self._descriptor, member, found.first * width, count)
            if storage.key not in self._sound:
                if count == member.size:
                    _zip.check(member, data)
                else:
                    _zip.check_on_disk(self._descriptor, member)
                self._sound.add(storage.key)
            if storage.dtype == np.bool_ and data.max(initial=0) > 1:
                raise UserError(f"{said(name)} holds truth values other than 0 and 1; {_zip.DAMAGED}")
        if not count:
            return np.empty(found.shape, storage.dtype)
        strides = tuple(stride * width for stride in found.strides)
        array: np.ndarray = np.ndarray(found.shape, storage.dtype, data, strides=strides)
        return array if array.flags.c_contiguous else array.copy(order="C")

    def close(self) -> None:
        """Close the descriptor, once."""
        if self._open:
            self._open = False
            os.close(self._descriptor)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Let errors name the file."""
        try:
            yield
        except UserError as error:
            raise UserError(f"{self._path}: {error}") from error
        except OSError as error:
            raise UserError(f"{self._path}: cannot be read ({error.strerror or one_line(error)})") from error


def _members(descriptor: int) -> dict[str, _zip.Member]:
    """Return the archive's members by their names beneath its one folder, the byte order checked."""
    found: dict[str, _zip.Member] = {}
    folders = set()
    for path, member in _zip.members(descriptor).items():
        folder, _, name = path.partition("/")
        folders.add(folder)
        found[name] = member
    if "constants.pkl" in found:
        raise UserError(f"a TorchScript program, expected a state dict; {ADVICE}")
    if len(folders) != 1 or "data.pkl" not in found:
        raise UserError(
            f"a zip archive without one FOLDER/data.pkl, expected one of torch.save; {_zip.ADVICE}"
        )
    if "byteorder" in found and (order := _data(descriptor, found, "byteorder", 100)) != b"little":
        raise UserError(
            f"its byte order is {said(order.decode(errors='replace'))}, expected 'little'; {_zip.ADVICE}"
        )
    return found


def _data(descriptor: int, members: dict[str, _zip.Member], name: str, limit: int) -> bytes:
    """Return the checked bytes of a small member."""
    member = members[name]
    if member.size > limit:
        raise UserError(f"{name} has {member.size} bytes, expected at most {limit}; {_zip.ADVICE}")
    data = _zip.read(descriptor, member)
    _zip.check(member, data)
    return data.tobytes()


def _tensors(data: bytes, members: dict[str, _zip.Member]) -> dict[str, _Tensor]:
    """Return the tensors of a pickled state dict, by name and in order.

    Errors: UserError naming what is not a flat dict of tensors, or the call, opcode or size that is refused.
    """
    storages: dict[str, _Storage] = {}

    def persistent(value: Value) -> _Storage:
        storage = _storage(value)
        if storages.setdefault(storage.key, storage) != storage:
            raise UserError(f"storage {said(storage.key)} is described in two ways; {ADVICE}")
        member, size = members.get(f"data/{storage.key}"), storage.count * storage.dtype.itemsize
        if member is None or member.size != size:
            there = f"of {member.size} bytes" if member else "not there"
            raise UserError(f"storage {said(storage.key)} is {there}, expected {size} bytes; {_zip.DAMAGED}")
        return storage

    found = _opcodes.run(data, _CALLS, persistent)
    if not isinstance(found, Dict):
        raise UserError(
            f"holds {kind_of(found)}, expected a flat dict of tensors; save model.state_dict() alone"
        )
    checked = {}
    for name, value in found.items.items():
        if not isinstance(value, _Tensor):
            raise UserError(
                f"{said(name)} holds {kind_of(value)}, expected a tensor (a flat dict of them); "
                "save model.state_dict() alone"
            )
        checked[name] = value
    _check_copies(checked)
    return checked


def _check_copies(tensors: dict[str, _Tensor]) -> None:
    """Raise UserError where many tensors view one storage, so that a small file would fill the memory.

    Each tensor is read into memory of its own; views may overlap, as those of tied weights do, but together
    they take at most COPIES times their storage.
    """
    taken: dict[str, int] = {}
    for name, found in tensors.items():
        key = found.storage.key
        taken[key] = taken.get(key, 0) + math.prod(found.shape)
        if taken[key] > COPIES * found.storage.count:
            raise UserError(
                f"{said(name)} and those before it take {taken[key]:,} elements of storage {said(key)}, "
                f"which has {found.storage.count:,}; expected at most {COPIES} times as many; {ADVICE}"
            )


def _storage(value: Value) -> _Storage:
    """Return what a persistent id describes: ('storage', its type, key, device, elements)."""
    match value.items if isinstance(value, Tuple) else ():
        case ("storage", Name("torch", kind), str(key), str(), int(count)) if (
            kind in _DTYPES and type(count) is int and 0 <= count < SIZE
        ):
            return _Storage(key, _DTYPES[kind], count)
    raise UserError(f"wants a persistent id that is no tensor's storage; {ADVICE}")


def _ordered_dict(arguments: tuple[Value, ...]) -> Dict:
    if arguments:
        raise UserError(f"wants an OrderedDict of {kind_of(arguments[0])}: not a tensor; {ADVICE}")
    return Dict(ordered=True)


def _parameter(arguments: tuple[Value, ...]) -> _Tensor:
    """Return the tensor of (tensor, requires_grad, hooks), of which a parameter is made."""
    match arguments:
        case (_Tensor() as tensor, bool(), Dict() as hooks) if not hooks.items:
            return tensor
    raise UserError(f"wants a parameter of unknown arguments: not a tensor that lmx reads; {ADVICE}")


def _tensor(arguments: tuple[Value, ...]) -> _Tensor:
    """Return the view of (storage, offset, sizes, strides, requires_grad, hooks[, metadata]).

    Every number is checked against the storage, in Python's integers, before anything is allocated.
    """
    match arguments:
        case (_Storage() as storage, start, Tuple(sizes), Tuple(strides), bool(), Dict(items=hooks), *rest):
            extra = rest[0] if rest else None  # conjugate or negative views are marked here
            plain = (
                not hooks
                and len(rest) < 2
                and (extra is None or (isinstance(extra, Dict) and not extra.items))
            )
        case _:
            plain = False
    if not plain:
        raise UserError(f"wants a tensor of unknown arguments (hooks, conjugates); {ADVICE}")
    shape, steps, (first,) = _numbers(sizes), _numbers(strides), _numbers((start,)) or (-1,)
    if first < 0 or shape is None or steps is None or not len(shape) == len(steps) <= RANK:
        raise UserError(
            f"wants a tensor whose sizes, strides and offset are not up to {RANK} numbers from 0 on; {ADVICE}"
        )
    if math.prod(size or 1 for size in shape) >= SIZE:
        raise UserError(f"wants a tensor of {SIZE} elements or more; {ADVICE}")
    count = math.prod(shape)
    steps = tuple(0 if size == 1 else step for size, step in zip(shape, steps, strict=True))
    reach = sum((size - 1) * step for size, step in zip(shape, steps, strict=True))
    end = first + reach + 1 if count else first
    if max(count, end) > storage.count:
        raise UserError(
            f"wants {count} elements that end at {end} of storage {said(storage.key)}, "
            f"which has {storage.count}; {ADVICE}"
        )
    return _Tensor(storage, first, end, shape, steps)


def _numbers(items: tuple[Value, ...]) -> tuple[int, ...] | None:
    """Return whole numbers from 0 on, or None where something else is among them."""
    numbers = tuple(item for item in items if type(item) is int and item >= 0)
    return numbers if len(numbers) == len(items) else None


_CALLS: _opcodes.Calls = {
    ("collections", "OrderedDict"): _ordered_dict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    **{("torch", storage): None for storage in _DTYPES},
}
