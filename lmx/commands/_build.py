"""From a config's sections to a model: names found on the shelves, options checked, heads attached."""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Mapping
from functools import lru_cache
from types import ModuleType
from typing import Any

import jax

from lmx.core import plugin, rows
from lmx.core.errors import UserError, did_you_mean
from lmx.core.hf_table import HeadTable, Table
from lmx.core.types import Model, Objective
from lmx.training import objectives


def model_config(fields: Mapping[str, Any]) -> Any:
    """Return the model's own Config of the `model` section. Errors: UserError for unknown fields."""
    shelf = plugin.find("lmx.models", fields["name"], needs=("Config", "build", "HF"))
    known = [field.name for field in dataclasses.fields(shelf.Config)]
    given = {name: value for name, value in fields.items() if name != "name"}
    for name in given:
        if name not in known:
            raise UserError(f"model.{name}: {fields['name']} has no such field; it has: {', '.join(known)}")
    return shelf.Config(**given)


def model(config: Mapping[str, Any]) -> Model:
    """Return the model of a config's `model` and `task` sections; what its class fixes need not be named."""
    return _model(rows.canonical({"model": config["model"], "task": config["task"]}))


TRAINED = ("attach", "loss", "HF", "encode", "METRICS")
"""What a task must define to be trained by `lmx train`."""


@lru_cache(maxsize=16)
def _model(config: bytes) -> Model:
    """Build once per config: the same functions again mean that nothing compiles twice."""
    sections = json.loads(config)
    name = sections["model"]["name"]
    module, head = task(sections), head_table(sections)
    fields = model_config({**(head.model if head else {}), **sections["model"]})
    options = {**(head.task if head else {}), **sections["task"]}
    del options["name"]
    known = list(inspect.signature(module.attach).parameters)[2:]
    for option in options:
        if option not in known:
            raise UserError(
                f"task.{option}: {sections['task']['name']} has no such option{did_you_mean(option, known)}; "
                f"it has: {', '.join(known) or 'none'}"
            )
    return module.attach(plugin.find("lmx.models", name).build(fields), fields, **options)


def task(config: Mapping[str, Any], needs: tuple[str, ...] = ("attach", "HF")) -> ModuleType:
    """Return the task's module. Errors: UserError where it lacks one of `needs`, those of training say."""
    name = config["task"]["name"]
    found = plugin.find("lmx.tasks", name, needs=needs)
    missing = [need for need in needs if not hasattr(found, need)]
    if missing:
        raise UserError(f"task.name={name!r} cannot do this yet: it has no {', '.join(missing)}")
    return found


def head_table(config: Mapping[str, Any]) -> HeadTable | None:
    """Return the table of the config's task for its model; None for a task of the user's own without one.

    Errors: UserError where a task of lmx has no head for the model.
    """
    name, task_name = config["model"]["name"], config["task"]["name"]
    tables_ = task(config).HF
    if name not in tables_ and "." not in task_name:
        fitting = ", ".join(tables_) or "none"
        raise UserError(f"task.name={task_name!r} has no head for model.name={name!r}; it has: {fitting}")
    return tables_.get(name)


def tables(model_type: str) -> tuple[Table, dict[str, HeadTable]]:
    """Return a model's table and {task: its table}, for all tasks that have a head for it."""
    shelf = {name: plugin.find("lmx.tasks", name) for name in plugin.names("lmx.tasks")}
    heads = {name: module.HF[model_type] for name, module in shelf.items() if model_type in module.HF}
    return plugin.find("lmx.models", model_type).HF, heads


def objective(config: Mapping[str, Any], built: Model) -> Objective:
    """Return the objective of a config's task: its own, or its loss of the model's outputs."""
    module = task(config, needs=("loss",))
    if hasattr(module, "objective"):
        return module.objective(built)
    return objectives.plain(built, module.loss)


def shapes(built: Model) -> dict[str, Any]:
    """Return the parameters' tree as shapes; no memory is taken."""
    return jax.eval_shape(built.init, jax.random.key(0))
