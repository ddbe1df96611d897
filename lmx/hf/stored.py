"""The tensors of a folder's weight files: known by name, type and shape first, read one by one afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias

import numpy as np

Room: TypeAlias = Callable[[Path, np.dtype[Any], tuple[int, ...]], np.ndarray]
"""Gives an empty C-contiguous array of a type and shape; the path, of the file, is for messages."""


@dataclass(frozen=True)
class Spec:
    """What a file's header says of one tensor.

    dtype: numpy's name of the stored type (`float32`, `bfloat16`, `int64`, …). shape: its sizes. file: the
    name, within the folder, of the file that holds it.
    """

    dtype: str
    shape: tuple[int, ...]
    file: str


class Stored(Protocol):
    """The opened weight files of a folder; every header has been checked, no tensor has been read.

    folder: where they lie. files: the names of the weight files, in order. specs: {tensor: Spec}.
    """

    folder: Path
    files: tuple[str, ...]
    specs: Mapping[str, Spec]

    def read(self, name: str, room: Room | None = None) -> np.ndarray:
        """Return one tensor in its stored type (ml_dtypes' for bfloat16), in memory of its own.

        room: where it may be put instead. Errors: UserError naming the file where it cannot be read.
        """
        ...

    def close(self) -> None:
        """Close the files."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
