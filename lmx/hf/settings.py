"""config.json to a model's config and a task's options, and back."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmx.core.errors import UserError
from lmx.core.hf_table import HeadTable, Table
from lmx.hf._safetensors import quoted, read_object
from lmx.hf.types import FLOATS

CONFIG = "config.json"
LARGEST = 10_000_000  # bytes; real ones have a few thousand
LARGEST_SIZE = 2**31 - 1
LONGEST = 100  # characters of a name, such as that of an activation

_NUMBER = re.compile("[0-9]{1,9}")
_MULTI, _REGRESSION = "multi_label_classification", "regression"

# Keys that tell who wrote the file, and how to open it with torch; they are written anew, or left out.
_OURS = ("architectures", "dtype", "model_type", "torch_dtype", "transformers_version", "_name_or_path")

_SIZES = ("vocab_size", "positions", "width", "layers", "mlp_width", "types")  # own fields that decide shapes


def read(folder: Path, name: str = CONFIG) -> dict[str, Any]:
    """Return config.json, or another file of settings.

    Errors: UserError where it is missing, too large, or not one JSON object.
    """
    if not os.path.lexists(folder / name):
        inside = sorted(str(path.parent) for path in folder.glob(f"*/{name}"))
        there = f"; there is {', '.join(inside[:4])}{', ...' * (len(inside) > 4)}" if inside else ""
        raise UserError(f"{folder}: no {name}; expected a run of lmx or a Hugging Face folder{there}")
    return read_object(folder, name, largest=LARGEST, what="a config", said="")


def choose(config: Mapping[str, Any], heads: Mapping[str, HeadTable], folder: Path) -> str:
    """Return the task of the class that config.json names; of the bare class where it names none.

    heads: {task: its table} of the model. One class may do two tasks, told apart by `problem_type` or, as
    transformers does, by the number of labels. Errors: UserError for another class, listing those known.
    """
    known = {head.architecture for head in heads.values()}
    named = config.get("architectures")
    if named is None:
        return next(name for name, head in heads.items() if head.bare)
    if not isinstance(named, list) or not named or not isinstance(named[0], str) or named[0] not in known:
        raise UserError(
            f"{folder / CONFIG}: architectures={quoted(named)}; lmx reads: {', '.join(sorted(known))}"
        )
    fitting = {name: head for name, head in heads.items() if head.architecture == named[0]}
    first = next(iter(fitting.values()))
    if all(head == first or (head.bare and first.bare) for head in fitting.values()):
        return next(iter(fitting))  # tasks of one head, or of none, leave no trace in the class
    problem = config.get("problem_type")
    if problem is None:
        problem = _REGRESSION if repr(_count(config)) == "1" else "single_label_classification"
    for name, head in fitting.items():
        if problem in head.problems:
            return name
    every = [known for head in fitting.values() for known in head.problems]
    raise UserError(
        f"{folder / CONFIG}: problem_type={quoted(problem)}; expected null or one of {', '.join(every)}"
    )


def model_fields(config: Mapping[str, Any], table: Table) -> dict[str, Any]:
    """Return the model's config fields; those that are absent keep the model's defaults.

    Errors: UserError, without the file's name, where a field asks for what the model does not do, or holds
    what no field can.
    """
    if config.get("quantization_config") is not None:
        raise UserError("quantization_config is set; lmx reads float weights, convert them first")
    for name in ("dtype", "torch_dtype"):  # what is read is as stored, but a reader of the file takes it
        found = config.get(name)
        if found is not None and str(found).removeprefix("torch.") not in (*FLOATS, "auto"):
            raise UserError(f"{name}={quoted(found)}; expected null or one of {', '.join(FLOATS)}")
    for name, value in table.required.items():
        found = config.get(name, value)
        if found != value or isinstance(found, bool) != isinstance(value, bool):
            raise UserError(
                f"{name}={quoted(found)} is not supported for {table.model_type}; only {value!r} is"
            )
    named = _named(config, table)
    fields = {own: named[theirs] for own, theirs in table.fields if theirs in named}
    for own, theirs in table.fields:
        _check_scalar(theirs, fields.get(own))
    return fields


def _named(config: Mapping[str, Any], table: Table) -> dict[str, Any]:
    """Return the config with each field that goes by another name under its own, too.

    Errors: UserError where both names stand there and disagree; transformers would take the other one.
    """
    found = dict(config)
    for alias, name in table.aliases:
        if alias not in config:
            continue
        value = found.setdefault(name, config[alias])
        if type(value) is not type(config[alias]) or value != config[alias]:
            raise UserError(
                f"{name}={quoted(value)}, but its other name {alias}={quoted(config[alias])}; remove one"
            )
    return found


def assumed(config: Mapping[str, Any], table: Table, fields: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what to say of each size of the model that config.json leaves to its default.

    fields: the model's own, spelled out. To be told where the weights have other shapes.
    """
    named = _named(config, table)
    return tuple(
        f"{theirs} is not in {CONFIG}; {quoted(fields[own])} was assumed"
        for own, theirs in table.fields
        if own in _SIZES and theirs not in named and fields.get(own) is not None
    )


def _check_scalar(name: str, value: Any) -> None:
    """Raise UserError where no field has such a value, so that a message can show whatever passes."""
    if isinstance(value, int) and abs(value) > LARGEST_SIZE:
        raise UserError(f"{name}={quoted(value)}; expected at most {LARGEST_SIZE:,}")
    if isinstance(value, (list, dict)) or (isinstance(value, str) and len(value) > LONGEST):
        raise UserError(f"{name}={quoted(value)}; expected a number, true, false or a short name")


def task_options(config: Mapping[str, Any], head: HeadTable) -> dict[str, Any]:
    """Return the options of the task that config.json sets, and those that the class fixes.

    Errors: UserError, without the file's name, where one holds what no option can.
    """
    options = dict(head.task)
    if any(theirs == "num_labels" for _, theirs in head.options):
        _check_names(config.get("id2label"))
        _check_scalar("num_labels", config.get("num_labels"))
    for own, theirs in head.options:
        if theirs == "num_labels":
            options[own] = _count(config)
        elif theirs == "problem_type":
            options[own] = config.get(theirs) == _MULTI
        elif theirs == "classifier_dropout":
            used = theirs if config.get(theirs) is not None else head.fallback
            found = config.get(used)
            _check_scalar(used, found)
            options |= {} if found is None else {own: found}
        else:
            raise AssertionError(f"an option without a rule: {theirs}")
    return options


def _check_names(names: Any) -> None:
    """Raise UserError where `id2label` is not {number: name}, each number once."""
    if names is None:
        return
    if not isinstance(names, dict):
        raise UserError(f"id2label={quoted(names)}; expected an object of names")
    if wrong := [key for key in names if not _NUMBER.fullmatch(key)]:
        raise UserError(f'id2label has the key {quoted(wrong[0])}; expected numbers from "0" on')
    if len({int(key) for key in names}) < len(names):
        raise UserError(f'id2label={quoted(names)} has a number twice; expected numbers from "0" on')


def _count(config: Mapping[str, Any]) -> Any:
    """Return the number of labels, as transformers counts them: `num_labels`, or the names', or 2."""
    if (count := config.get("num_labels")) is not None:
        return count
    names = config.get("id2label")
    return len(names) if isinstance(names, dict) else 2


def kept(config: Mapping[str, Any], table: Table) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return (what an export gives back as it was: ids of special tokens, names of labels, …; ignored keys).

    Ignored is what would run code or choose an implementation: `auto_map`, `custom_*`, names that begin with
    an underscore.
    """
    known = {theirs for _, theirs in table.fields} | {alias for alias, _ in table.aliases} | set(_OURS)
    others = {name: value for name, value in config.items() if name not in known}
    ignored = tuple(
        name
        for name in others
        if name.startswith(("_", "custom_")) or name in ("auto_map", "trust_remote_code")
    )
    return {name: value for name, value in others.items() if name not in ignored}, ignored


def written(
    fields: Mapping[str, Any],
    options: Mapping[str, Any],
    table: Table,
    head: HeadTable,
    *,
    others: Mapping[str, Any],
    dtype: str,
) -> dict[str, Any]:
    """Return config.json of a model: its fields, the task's options, and `others` as they are.

    Errors: UserError where an option has a value that the class does not do.
    """
    for name, value in head.task.items():
        if name != "dropout" and options.get(name, value) != value:
            raise UserError(f"{head.architecture} has task.{name}={value}, not {options[name]}")
    theirs = {name: fields[own] for own, name in table.fields}
    config = {**others, **theirs, "architectures": [head.architecture], "model_type": table.model_type}
    config["dtype"] = dtype
    if head.labels is not None and _count(config) != head.labels:  # names of labels that another class had
        for name in ("id2label", "label2id", "num_labels"):
            config.pop(name, None)
    for own, name in head.options:
        if own not in options:
            continue
        value = options[own]
        if name == "num_labels" and (value != _count(config) or "id2label" not in config):
            config.pop("num_labels", None)
            config["id2label"] = {str(i): f"LABEL_{i}" for i in range(value)}
            config["label2id"] = {f"LABEL_{i}": i for i in range(value)}
        elif name == "classifier_dropout" and value != task_options(config, head).get(own):
            config[name] = value
        elif name == "problem_type" and value != (config.get(name) == _MULTI):
            config[name] = _MULTI if value else "single_label_classification"
    if _REGRESSION in head.problems and config.get("problem_type") != _REGRESSION:
        config["problem_type"] = _REGRESSION
    elif head.problems and _REGRESSION not in head.problems and config.get("problem_type") == _REGRESSION:
        config["problem_type"] = "single_label_classification"
    return config


def text(value: Mapping[str, Any]) -> str:
    """Return JSON as lmx writes it: sorted and indented, with a line feed at its end."""
    return json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"
