"""A run on several tasks as a config for each: its own task and data, and all that they share."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lmx.commands import _build
from lmx.core import config as config_
from lmx.core.errors import UserError, did_you_mean
from lmx.core.types import Checkpoint

FIELDS = ("task", "data", "metrics", "score", "weight")
"""What a task of the config may have; a run adds its `model` and `facts`."""


def check(config: Mapping[str, Any]) -> None:
    """Raise UserError where the sections `tasks` and `mix` cannot be, whatever the tasks and the data are."""
    tasks = config["tasks"]
    if not isinstance(tasks, Mapping) or not tasks:
        raise UserError("config.tasks is empty; expected such as --config.tasks.NAME.task.name=TASK")
    seen: dict[str, str] = {}
    for name, one in tasks.items():
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", str(name)):
            raise UserError(f"tasks.{name}: files are called so; expected letters, digits, - and _")
        if seen.setdefault(name.lower(), name) != name:
            raise UserError(f"tasks.{name} repeats tasks.{seen[name.lower()]}; give each a name of its own")
        if not isinstance(one, Mapping):
            raise UserError(f"tasks.{name}={one!r}; expected the keys {', '.join(FIELDS)}")
        for key in one:
            if key not in FIELDS:
                raise UserError(
                    f"tasks.{name}.{key}: no such key{did_you_mean(str(key), FIELDS)}; there is: "
                    f"{', '.join(FIELDS)}"
                )
        _check_task(str(name), one, tasks)
    temperature = config["mix"]["temperature"]
    if not 0 < temperature < math.inf:
        raise UserError(f"mix.temperature={temperature!r}; expected a number above 0")


def _check_task(name: str, one: Mapping[str, Any], tasks: Mapping[str, Any]) -> None:
    for section in ("task", "data"):
        if not isinstance(one.get(section, {}), Mapping):
            raise UserError(f"tasks.{name}.{section}={one[section]!r}; expected keys, such as `name`")
    if "name" not in one.get("task", {}):
        hint = did_you_mean(name, [other for other in tasks if "name" in tasks[other].get("task", {})])
        raise UserError(f"tasks.{name} has no task.name{hint}; set --config.tasks.{name}.task.name=TASK")
    weight = one.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight < math.inf:
        raise UserError(f"tasks.{name}.weight={weight!r}; expected a number above 0")


def configs(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return {task: the config of a run on it alone}, by name, paths expanded, defaults of the data set."""
    shared = {key: value for key, value in config.items() if key not in ("tasks", "mix")}
    data = config_.plain(config_.load("finetune/base"))["data"]
    found = {}
    for name, one in sorted(config["tasks"].items()):
        own = {key: value for key, value in one.items() if key != "weight"}
        own["data"] = {**data, **one.get("data", {})}
        own = {"metrics": (), "score": None, **own}
        found[name] = config_.expanded({**shared, **own})
    return found


def weights(config: Mapping[str, Any]) -> dict[str, float]:
    """Return {task: the factor of its loss}."""
    return {name: float(one.get("weight", 1.0)) for name, one in config["tasks"].items()}


@contextmanager
def named(name: str) -> Iterator[None]:
    """Make a UserError name the task that it is about, also in the options that it names to type."""
    try:
        yield
    except UserError as error:
        said = re.sub(r"(--config\.)(?=(?:task|data|metrics|score)\b)", rf"\g<1>tasks.{name}.", str(error))
        raise UserError(f"tasks.{name}: {said}") from error


def several(found: Checkpoint) -> dict[str, Checkpoint]:
    """Return {task: its checkpoint, as that of a run on it alone} of a run on several; {} of another."""
    if not isinstance(found.config, Mapping) or "tasks" not in found.config:
        return {}
    members = _build.members(found.config)
    return {
        name: dataclasses.replace(found, params=members.take(found.params, name), config=config)
        for name, config in configs(found.config).items()
    }


HOW = "--task NAME, or lmx.load(RUN, task=NAME)"


def one(found: Checkpoint, name: str | None = None, where: str = "the checkpoint") -> Checkpoint:
    """Return the checkpoint of one task: the named one, or, without a name, the only one.

    where: what holds it, for messages. Errors: UserError where there is no such task, and where several are
    there and none is named.
    """
    tasks = several(found)
    if not tasks:
        if name is not None:
            raise UserError(
                f"{where} has one task, {found.config['task']['name']}; leave out the name of a task"
            )
        return found
    if name is None and len(tasks) == 1:
        (name,) = tasks
    if name is None:
        raise UserError(f"{where} has several tasks: {', '.join(tasks)}; name one: {HOW}")
    if name not in tasks:
        raise UserError(
            f"{where} has no task {name!r}{did_you_mean(name, tasks)}; it has: {', '.join(tasks)}"
        )
    return tasks[name]


def exports(found: Checkpoint, folder: Path) -> dict[Path, Checkpoint]:
    """Return {where to write: checkpoint} of what a run exports: folder/NAME for each of several tasks."""
    return {folder / name: one for name, one in several(found).items()} or {folder: found}
