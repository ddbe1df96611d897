"""What an export says of its task beyond Hugging Face's own files: lmx.json, which others leave alone.

A folder of theirs has no place for the stride of windows, whether questions may have no answer, or how long
rows were. Without these, `lmx evaluate` of an export would judge another way than the run did.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lmx.commands import _build
from lmx.core import log
from lmx.core.errors import UserError
from lmx.hf import settings

NAME = "lmx.json"

FUNCTIONS = ("read", "encode", "decode")
"""Functions of a task whose options decide how examples are read and what outputs say."""


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _length(value: Any) -> bool:
    return type(value) is int and 1 <= value < 2**31


def _ends(value: Any) -> bool:
    numbers = isinstance(value, list) and len(value) == 2 and all(type(x) in (int, float) for x in value)
    return numbers and all(map(math.isfinite, value)) and value[0] < value[1]


FACTS: Mapping[str, Callable[[Any], bool]] = {
    "unanswerable": _flag,
    "turns": _flag,
    "paired": _flag,
    "values": _ends,
}
"""What a training split told that is in no other file of the folder; config.json has the labels' names."""

BATCH: Mapping[str, Callable[[Any], bool]] = {"length": _length, "multiple": _length}

PARTS = {"facts": FACTS, "batch": BATCH}


def of(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what an export of a checkpoint with this config is to say; None where there is nothing.

    That of a folder goes on as it came.
    """
    if "facts" not in config:
        came: dict[str, Any] | None = config.get("told")
        return came
    takes = _takes(config)
    return {
        "task": {name: value for name, value in config["task"].items() if name == "name" or name in takes},
        **{
            part: {name: value for name, value in config.get(part, {}).items() if name in known}
            for part, known in PARTS.items()
        },
    }


def write(folder: Path, config: Mapping[str, Any]) -> None:
    """Write into a folder what an export of a checkpoint with this config is to say, if there is anything."""
    told = of(config)
    if told is not None:
        log.write_whole(folder / NAME, (json.dumps(told, indent=2) + "\n").encode())


def read(folder: Path, task: str) -> dict[str, Any]:
    """Return {"told": what a folder says that is read for a task}; {} where it says nothing of that one.

    Errors: UserError where it holds what no export writes; options are checked by whoever takes them.
    """
    if not (folder / NAME).is_file():
        return {}
    found = settings.read(folder, NAME)
    for part in ("task", *PARTS):
        if not isinstance(found.get(part), dict):
            raise UserError(f"{folder / NAME}: no {part!r}; expected the file as lmx writes it; or remove it")
    if found["task"].get("name") != task:
        return {}
    takes = _takes({"task": {"name": task}})
    for name in found["task"]:
        if name != "name" and name not in takes:
            raise UserError(f"{folder / NAME}: task.{name}: {task} has no such option; remove it")
    for part, known in PARTS.items():
        for name, value in found[part].items():
            if name not in known or not known[name](value):
                said = json.dumps(value)[:60]
                raise UserError(f"{folder / NAME}: {part}.{name}={said}; expected what lmx writes; remove it")
    return {"told": {part: found[part] for part in ("task", *PARTS)}}


def _takes(config: Mapping[str, Any]) -> list[str]:
    """Return the options of a task that decide how examples are read and what outputs say; config.json has
    those of the head."""
    task = _build.task(config)
    head = _build.takes(task, "attach")
    found = (name for function in FUNCTIONS for name in _build.takes(task, function))
    return [name for name in dict.fromkeys(found) if name not in head]
