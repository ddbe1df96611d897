"""Open the weight files of a Hugging Face folder, whichever of the known kinds they are."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import numpy as np

from lmx.core.errors import UserError
from lmx.core.files import open_file
from lmx.hf import _safetensors
from lmx.hf._index import check_shards, listed, read_index
from lmx.hf.stored import Room, Spec, Stored

# What is looked for, in this order; each may be replaced by its index and shards.
NAMES = ("model.safetensors", "pytorch_model.bin")
INDEX = ".index.json"
UNREAD = (".h5", ".msgpack", ".gguf", ".onnx", ".pt", ".pth", ".ckpt")


class Reader(Protocol):
    """One opened weight file, made by `(path, name, descriptor)`; once made, it owns the descriptor."""

    specs: dict[str, Spec]

    def read(self, name: str, room: Room | None = None) -> np.ndarray:
        """Return one tensor in its stored type, in the room given or in memory of its own."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


class Folder:
    """The opened weight files of a folder, as `lmx.hf.stored.Stored` describes them."""

    folder: Path
    files: tuple[str, ...]
    specs: Mapping[str, Spec]

    def __init__(self, folder: Path, readers: Mapping[str, Reader]) -> None:
        self.folder = folder
        self.files = tuple(readers)
        self.specs = {name: spec for reader in readers.values() for name, spec in reader.specs.items()}
        self._readers = readers

    def read(self, name: str, room: Room | None = None) -> np.ndarray:
        """Return one tensor in its stored type. Errors: UserError naming the file."""
        return self._readers[self.specs[name].file].read(name, room)

    def close(self) -> None:
        """Close the files."""
        for reader in self._readers.values():
            reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_folder(folder: Path) -> Stored:
    """Open the folder's weights, and check every header: safetensors where there are any, else torch's files.

    Each file is opened once. Errors: UserError naming the file and the fault, or what was looked for.
    """
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: no such folder; name one that holds {NAMES[0]}")
    for name in NAMES:
        if os.path.lexists(folder / name):
            return Folder(folder, _readers(folder, [name]))
        if os.path.lexists(folder / (name + INDEX)):
            places = read_index(folder, name + INDEX, Path(name).suffix)
            return Folder(folder, _readers(folder, sorted(set(places.values())), name + INDEX, places))
    raise UserError(f"{folder}: {_nothing(folder)}")


def _readers(
    folder: Path, names: list[str], index: str = "", places: Mapping[str, str] | None = None
) -> dict[str, Reader]:
    """Open the files and, if there is an index, hold them against it; after an error none stays open."""
    make = _kind(names[0])
    readers: dict[str, Reader] = {}
    with ExitStack() as opened:
        for name in names:
            descriptor = open_file(folder, name)
            try:
                readers[name] = make(folder / name, name, descriptor)
            except BaseException:
                os.close(descriptor)
                raise
            opened.callback(readers[name].close)
        if places is not None:
            check_shards(folder / index, places, {file: reader.specs for file, reader in readers.items()})
        opened.pop_all()
    return readers


def _kind(name: str) -> Callable[[Path, str, int], Reader]:
    if name.endswith(".safetensors"):
        return _safetensors.File
    from lmx.hf import _pickled  # the rarer kind, and the more code

    return _pickled.File


def _nothing(folder: Path) -> str:
    """Return what to say of a folder without weights that lmx reads."""
    looked = ", ".join(f"{name} or {name}{INDEX}" for name in NAMES)
    try:
        present = sorted(os.listdir(folder))
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    if shards := [name for name in present if name.endswith(".safetensors")]:
        return f"has {listed(shards)}, but none of {looked}; fetch the index, or rename the one file"
    if unread := [name for name in present if name.endswith(UNREAD)]:
        return f"has {listed(unread)}, which lmx does not read, and none of {looked}; convert it first"
    return f"no weights in it; expected {looked}"
