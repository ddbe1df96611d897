"""From a config's sections to a model: names found on the shelves, options checked, heads attached."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from types import ModuleType
from typing import Any

import jax
from jax.sharding import Mesh

from lmx import optim
from lmx.core import execution as execution_
from lmx.core import layers, layout, plugin, rows, tree
from lmx.core import mesh as mesh_
from lmx.core.errors import UserError, did_you_mean
from lmx.core.execution import Execution
from lmx.core.hf_table import HeadTable, Table
from lmx.core.types import Model, Objective
from lmx.core.vocabulary import Vocabulary
from lmx.training import objectives
from lmx.training.members import Members

BODY = ("embed", "block", "final", "pooler")
"""Parts of a model that belong to no task."""


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
    """Return the model of a config's `model` and `task` sections; what its class fixes need not be named.

    Of a run on several tasks, all of them on one body.
    """
    if "tasks" in config:
        return members(config).model
    return _model(rows.canonical({"model": config["model"], "task": config["task"]}))


def mesh(config: Mapping[str, Any], devices: Sequence[Any] | None = None) -> Mesh:
    """Return the mesh of a config, over all devices or over these.

    Errors: UserError where it does not fit them, or does not divide the batch, or, where they are known, the
    heads and the inner width of the layers.
    """
    made, model = mesh_.make(**config["mesh"], devices=devices), config["model"]
    mesh_.check_batch(config["batch"]["size"], made, config["batch"].get("parts", 1))
    if model.get("heads") and model.get("width"):
        layout.check({"heads": model["heads"], "mlp": model.get("mlp_width") or 4 * model["width"]}, made)
    return made


def cutting_mesh(config: Mapping[str, Any]) -> Mesh | None:
    """Return the mesh over all devices that cuts parameters as a config's does.

    None where that cuts none, or does not fit the devices that are there.
    """
    sizes = dict(config.get("mesh", {}))
    if -1 not in sizes.values():
        sizes[mesh_.DATA] = -1
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if jax.device_count() % fixed:
        return None
    made = mesh_.make(**sizes)
    return made if made.size > made.shape[mesh_.DATA] else None


def execution(config: Mapping[str, Any], backend: str | None = None) -> Execution:
    """Return how a config's model is executed; the plain way where it does not say.

    backend: JAX's name of the devices, None for those that are there.
    """
    given = dict(config.get("execution", {}))
    if given.get("compute") == "auto":
        given["compute"] = execution_.suits(backend)
    return Execution(**given)


def held(config: Mapping[str, Any], built: Model) -> Model:
    """Return the model of a run as its steps hold it: with the layers as one where a step loops over them and
    nothing tells them apart (one task, an optimizer of single numbers, no rule for some layers alone)."""
    if "tasks" in config or execution(config).layers != "scanned":
        return built
    if not getattr(plugin.find("lmx.models", config["model"]["name"]), "STACKS", False):
        return built
    there, own = shapes(built), config["optim"]
    alike = layers.alike(tree.flatten(built.trainable(there)))
    alike = alike and optim.stacks(there, own["name"], own.get("scales") or ())
    return layers.together(built) if alike and config["model"]["layers"] > 1 else built


def axes(config: Mapping[str, Any]) -> layout.Axes:
    """Return the names of the axes of all leaves of a config's model, heads included."""
    body = plugin.find("lmx.models", config["model"]["name"]).AXES
    if "tasks" not in config:
        return (*body, *getattr(task(config), "AXES", ()))
    heads = [
        rule for one in config["tasks"].values() for rule in getattr(task({"task": one["task"]}), "AXES", ())
    ]
    return (*body, *(("heads/[^/]+/" + pattern, names) for pattern, names in heads))


def members(config: Mapping[str, Any]) -> Members:
    """Return the models of a config's `tasks`, on one body."""
    own = {
        name: {"model": one.get("model", config["model"]), "task": one["task"]}
        for name, one in config["tasks"].items()
    }
    return _members(rows.canonical(own))


@lru_cache(maxsize=16)
def _members(config: bytes) -> Members:
    return Members({name: model(one) for name, one in json.loads(config).items()}, body=BODY)


TRAINED = ("attach", "loss", "HF", "encode", "METRICS")
"""What a task must define to be trained by `lmx train`; one of prepared rows has a LAYOUT besides."""


@lru_cache(maxsize=16)
def _model(config: bytes) -> Model:
    """Build once per config: the same functions again mean that nothing compiles twice."""
    sections = json.loads(config)
    name = sections["model"]["name"]
    module, head = task(sections), head_table(sections)
    fields = model_config({**(head.model if head else {}), **sections["model"]})
    fixed = {**(head.task if head else {}), **sections["task"]}
    options = options_of({**sections, "task": fixed}, "attach")
    return module.attach(plugin.find("lmx.models", name).build(fields), fields, **options)


ROUTED = ("attach", "read", "learn", "encode", "decode", "loss", "prompts", "writing", "text_metrics")
"""Functions of a task that take options of the config's task section; the last three are of tasks that write
texts."""

PLAIN = ("facts", "length", "vocabulary", "seed", "counts")
"""Their keyword arguments that come from elsewhere."""


def options_of(config: Mapping[str, Any], function: str) -> dict[str, Any]:
    """Return the options in the config's task section that one of the task's functions takes.

    An option of several functions goes to each of them. Errors: UserError for one that none takes, with
    did-you-mean and all that the task has, and for a task without the function.
    """
    module = task(config, needs=(function,))
    check_options(config)
    own = takes(module, function)
    return {name: value for name, value in config["task"].items() if name in own}


def check_options(config: Mapping[str, Any]) -> None:
    """Raise UserError for a field of the config's task section that none of the task's functions takes."""
    module, name = task(config), config["task"]["name"]
    known = list(dict.fromkeys(option for each in ROUTED for option in takes(module, each)))
    for option in config["task"]:
        if option != "name" and option not in known:
            raise UserError(
                f"task.{option}: {name} has no such option{did_you_mean(option, known)}; "
                f"it has: {', '.join(known) or 'none'}"
            )


def takes(module: ModuleType, function: str) -> list[str]:
    """Return the keyword-only arguments of a task's function that are options; [] where it has none such.

    The loss of a task that makes its own objective is that objective: what it does not take would be dead.
    """
    found = getattr(
        module, "objective" if function == "loss" and hasattr(module, "objective") else function, None
    )
    parameters = inspect.signature(found).parameters.values() if found is not None else ()
    return [one.name for one in parameters if one.kind is one.KEYWORD_ONLY and one.name not in PLAIN]


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
    """Return the objective of a config's task, its options bound: its own, or its loss of the outputs."""
    module = task(config, needs=("loss",))
    if hasattr(module, "objective"):
        return module.objective(built, **options_of(config, "loss"))
    return objectives.plain(built, loss(config))


def loss(config: Mapping[str, Any], **fixed: Any) -> objectives.Loss:
    """Return a task's loss, (outputs, batch) -> (sum, weight, metric sums), with the config's options.

    fixed: options that go before the config's, where the loss has them.
    """
    module = task(config, needs=("loss",))
    known = inspect.signature(module.loss).parameters
    own = {name: value for name, value in fixed.items() if name in known}
    return partial(module.loss, **{**options_of(config, "loss"), **own})


def encoder(config: Mapping[str, Any], vocabulary: Vocabulary) -> Callable[..., Any]:
    """Return a task's function of stacked rows, (rows) -> batch, with all that it takes besides."""
    module = task(config, needs=("encode",))
    given = {"vocabulary": vocabulary, "seed": config["seed"]}
    own = {
        name: value for name, value in given.items() if name in inspect.signature(module.encode).parameters
    }
    return partial(module.encode, **own, **options_of(config, "encode"))


def shapes(built: Model) -> dict[str, Any]:
    """Return the parameters' tree as shapes; no memory is taken."""
    return jax.eval_shape(built.init, jax.random.key(0))
