"""The tables that map a model and its heads to Hugging Face checkpoints: each is read both ways."""

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
    twin: a second name for the same values. Where the head is tied to the embeddings, files hold one of the
    two or both alike, and the first name is written. Where it is not, transformers computes with the twin
    and keeps the other beside it: the twin is read, and both are written.
    """

    tensor: str
    leaves: tuple[str, ...]
    kind: Kind = "copy"
    twin: str | None = None


@dataclass(frozen=True)
class Table:
    """How a model's body lies in a Hugging Face folder.

    model_type: as in config.json. prefix: what a class with a head puts before the body's tensor names.
    fields: (own config field, theirs), one to one. entries: the tensors; the first holds the token
    embeddings. ignored: patterns of stored buffers that hold no parameters. renamed: (pattern, replacement)
    of names that old files use. required: fields of theirs that must have this value where they are present,
    because the model does nothing else. aliases: (another name, theirs) by which a file may give a field: as
    `attribute_map` of the class in transformers.
    """

    model_type: str
    prefix: str
    fields: tuple[tuple[str, str], ...]
    entries: tuple[Entry, ...]
    ignored: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    required: Mapping[str, Any] = field(default_factory=dict)
    aliases: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class HeadTable:
    """How a task's head lies beside a body.

    architecture: the class of transformers. entries: the head's own tensors, in full. bare: the body's
    tensors have no prefix in this class. model: fields of the model's config that the class fixes. task:
    options of the task that the class fixes. options: (own option of the task, theirs in config.json).
    problems: values of `problem_type` with which the class does this task; empty where it reads none.
    optional: model fields that are True only where the file holds this tensor. labels: how many the config
    must name, where the class takes that for something else. shared: tensors of the same names in files of
    other classes mean the same. fallback: the field of config.json that says the head's dropout where
    `classifier_dropout` is absent or null; without it, too, the task's own default holds.
    """

    architecture: str
    entries: tuple[Entry, ...] = ()
    bare: bool = False
    model: Mapping[str, Any] = field(default_factory=dict)
    task: Mapping[str, Any] = field(default_factory=dict)
    options: tuple[tuple[str, str], ...] = ()
    problems: tuple[str, ...] = ()
    optional: Mapping[str, str] = field(default_factory=dict)
    labels: int | None = None
    shared: bool = False
    fallback: str = "hidden_dropout_prob"
