"""What a run starts from, where that is not scratch: held against the config before any work, then read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any, NoReturn

import jax

from lmx.commands import _build, _wire
from lmx.core import plugin, tree
from lmx.core.errors import UserError
from lmx.core.types import Model
from lmx.hf import settings
from lmx.runs.checkpoints import Checkpoints

SHOWN = 3
"""Leaves that a message names."""

Shapes = dict[str, tuple[int, ...]]


def check(config: Mapping[str, Any]) -> None:
    """Raise UserError where `start` names no checkpoint, or one of another model than the config's.

    Reads configs only; the vocabulary, which may be for the data to tell, is compared when weights are read.
    """
    if config["start"] == "scratch":
        return
    theirs = fields(config["start"])
    ours = {**config["model"], "vocab_size": theirs["vocab_size"]}
    if ours["name"] != theirs["name"]:
        _refuse(config["start"], [("name", ours["name"], theirs["name"])])
    expected, found = (_shapes(_build.model({**config, "model": model})) for model in (ours, theirs))
    _compare(config["start"], expected, found, ours, theirs)


def params(config: Mapping[str, Any], built: Model) -> Any:
    """Return the parameters that `start` names, checked against the model's shapes."""
    found = _wire.checkpoint(config["start"])
    shapes = {path: tuple(leaf.shape) for path, leaf in tree.flatten(found.params).items()}
    _compare(config["start"], _shapes(built), shapes, config["model"], found.config["model"])
    # An import may be in half precision; what trains is of the model's own types.
    return jax.tree.map(lambda leaf, own: leaf.astype(own.dtype), found.params, _build.shapes(built))


def fields(reference: str) -> dict[str, Any]:
    """Return the `model` section of a checkpoint, every field of it; the weights are not read."""
    folder, which = _wire.located(reference)
    if which is None:
        stored = settings.read(folder)
        known = plugin.names("lmx.models")
        if stored.get("model_type") not in known:
            raise UserError(
                f"{folder}: model_type={stored.get('model_type')!r}; lmx reads: {', '.join(known)}"
            )
        table, _ = _build.tables(str(stored["model_type"]))
        found = {"name": table.model_type, **settings.model_fields(stored, table)}
    else:
        with closing(Checkpoints(folder / "checkpoints")) as kept:
            found = kept.facts(_wire.chosen(kept, folder, which))["config"]["model"]
    return {"name": found["name"], **dataclasses.asdict(_build.model_config(found))}


def _shapes(built: Model) -> Shapes:
    return {path: tuple(leaf.shape) for path, leaf in tree.flatten(_build.shapes(built)).items()}


def _compare(
    start: str, expected: Shapes, found: Shapes, ours: Mapping[str, Any], theirs: Mapping[str, Any]
) -> None:
    """Raise UserError where the leaves differ, naming the fields that do, or else some of the leaves."""
    lines = tree.diff(expected, found)
    if not lines:
        return
    fields = [  # those that may change a shape: whole numbers and switches
        (name, own, theirs[name])
        for name, own in ours.items()
        if name in theirs and own != theirs[name] and isinstance(theirs[name], int)
    ]
    if fields:
        _refuse(start, fields)
    more = f" and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    raise UserError(
        f"start={start}: not the model of the config (- missing, + surplus, ! shape): "
        f"{', '.join(lines[:SHOWN])}{more}; set the model's fields and the task as they are there"
    )


def _refuse(start: str, fields: Sequence[tuple[str, Any, Any]]) -> NoReturn:
    differing = ", ".join(f"model.{name}={own!r} but {start} has {other!r}" for name, own, other in fields)
    mended = " ".join(f"--config.model.{name}={other}" for name, _, other in fields)
    hint = "" if any(name == "name" for name, _, _ in fields) else f"; go on with {mended}"
    raise UserError(f"start={start}: not the model of the config: {differing}{hint}")
