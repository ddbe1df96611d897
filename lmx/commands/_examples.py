"""Examples of a task, wired: source, task and tokenizer make what a model trains on."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from lmx import tokenizer as tokenizers_
from lmx.commands import _build, _options
from lmx.core import plugin
from lmx.core.errors import UserError
from lmx.core.examples import Encoded, Example, Records

_EXAMPLE = re.compile(r"example (\d+)(?: \(id [^)]*\))?(?=:| has )")
"""How a task calls an example: by its number in the split, from 1."""

SOURCE = ("name", "columns")
"""Fields of the data section that are not the source's own."""


@dataclass(frozen=True)
class Split:
    """The examples of one split, checked, and as the model reads them."""

    records: Records
    examples: list[Example]
    encoded: Encoded


def records(config: Mapping[str, Any], split: str, task: ModuleType, *, targets: bool = True) -> Records:
    """Return the rows of a split of the config's data. targets: whether what is to be told is read, and
    must be there.

    Errors: UserError for an unknown source or option, and whatever is wrong with the files.
    """
    data = config["data"]
    module = plugin.find("lmx.sources", data["name"], needs=("source",))
    fields = [one for one in task.FIELDS if targets or not one.target]
    names = [one.name for one in fields]
    options = {name: value for name, value in data.items() if name not in SOURCE}
    given = ("columns", "fields", "required")
    return module.source(
        split,
        columns={name: column for name, column in data["columns"].items() if targets or name in names},
        fields=names,
        required=[one.name for one in fields if one.required],
        **_options.known(module.source, options, section="data", owner=data["name"], given=given),
    )


def unread(config: Mapping[str, Any], found: Records, task: ModuleType) -> list[str]:
    """Return the columns of a source, by name, that no field of the task is read from."""
    data = config["data"]
    given = {**{field.name: field.name for field in task.FIELDS}, **data["columns"], "": data.get("group")}
    read: set[str] = set()
    for column in given.values():
        for one in column if isinstance(column, list | tuple) else (column,):
            read |= {str(one), str(one).split(".")[0]}
    return [name for name in found.columns if name not in read and not name.isdecimal()]


def read(found: Records, task: ModuleType, options: Mapping[str, Any]) -> list[Example]:
    """Return the rows as checked examples. Errors: UserError naming the file and the line."""
    examples = []
    for index in range(len(found)):
        with _placed(found, index):
            examples.append(task.read(found[index], **options))
    return examples


@contextmanager
def located(found: Records) -> Iterator[None]:
    """Make a UserError about an example of these rows, as a task calls it, name its file and line."""
    try:
        yield
    except UserError as error:
        match = _EXAMPLE.match(str(error))
        if match is None:
            raise
        said = f"{found.where(int(match[1]) - 1)}{str(error)[match.end() :]}"
        if "name its column" in said:
            said += f"; there is: {', '.join(found.columns)}"
        raise UserError(said) from error


@contextmanager
def _placed(found: Records, index: int) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"{found.where(index)}: {error}") from error


def encode(
    examples: Sequence[Example],
    task: ModuleType,
    text: tokenizers_.Tokenizer,
    config: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> Encoded:
    """Return the examples as the model reads them."""
    options = _build.options_of(config, "encode")
    return task.encode(examples, text, facts=facts, length=config["batch"]["length"], **options)


def fingerprint(config: Mapping[str, Any], parts: Mapping[str, str]) -> str:
    """Return the SHA-256 of what decides the features: the examples, the tokenizer, task and length."""
    whole = {"task": config["task"], "length": config["batch"]["length"], **parts}
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()
