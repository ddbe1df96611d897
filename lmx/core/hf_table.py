"""The table that maps a model to its Hugging Face checkpoint: one table, read both ways."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["copy", "transpose", "join"]


@dataclass(frozen=True)
class Entry:
    """One stored tensor and the leaves it holds.

    tensor: its name, `{}` for the layer. leaves: paths, `{}` for the layer. kind: `copy` as it lies,
    `transpose` (a torch Linear holds (out, in)), or `join`: the leaves side by side along the last axis.
    """

    tensor: str
    leaves: tuple[str, ...]
    kind: Kind = "copy"


@dataclass(frozen=True)
class Table:
    """How a model's body lies in a Hugging Face folder.

    model_type: as in config.json. architecture: the class name of the bare body. prefix: what a class with a
    head puts before the body's tensor names. fields: (own config field, theirs), one to one. entries: the
    tensors. ignored: patterns of stored buffers that hold no parameters. required: fields of theirs that must
    have this value where they are present, because the model does nothing else.
    """

    model_type: str
    architecture: str
    prefix: str
    fields: tuple[tuple[str, str], ...]
    entries: tuple[Entry, ...]
    ignored: tuple[str, ...] = ()
    required: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class HeadTable:
    """How a task's head lies beside a body: the class name and its own tensors (without a prefix)."""

    architecture: str
    entries: tuple[Entry, ...] = ()
