"""Examples of a task, wired: source, task and tokenizer make what a model trains on."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
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

_OPTION = re.compile(
    r"(?<=\bwith )(columns\.\w+|train|validation|test|header|format|group)\b"
    r"|(?<=\bset )(train|validation|test|header|format)\b"
    r"|(?<=\bas )columns\.\w+(?==)|(?<=\bor )header(?==)"
)
"""Where a source names one of its options for a user to type."""

SOURCE = ("name", "columns")
"""Fields of the data section that are not the source's own."""


@dataclass(frozen=True)
class Split:
    """The examples of one split, checked, and as the model reads them."""

    records: Records
    examples: list[Example]
    encoded: Encoded


def as_config(option: re.Match[str]) -> str:
    """Return an option of a source as it is typed for a run."""
    return f"--config.data.{option[0]}"


def as_argument(option: re.Match[str]) -> str:
    """Return an option of a source as it is typed for `lmx predict` and `evaluate` of a file."""
    name = option[0]
    if name.startswith("columns."):
        field, after = name.removeprefix("columns."), option.string[option.end() : option.end() + 1]
        return f"--columns {field}" + ("" if after == "=" else "=COLUMN")
    return {"test": "--data", "format": "--format"}.get(name, f"--config.data.{name}")


def records(
    config: Mapping[str, Any],
    split: str,
    task: ModuleType,
    *,
    targets: bool = True,
    typed: Callable[[re.Match[str]], str] = as_config,
) -> Records:
    """Return the rows of a split of the config's data.

    targets: whether what is to be told is read, and must be there. typed: how an option is written, for
    messages.

    Errors: UserError for an unknown source or option, and whatever is wrong with the files.
    """
    data = config["data"]
    module = plugin.find("lmx.sources", data["name"], needs=("source",))
    fields = [one for one in task.FIELDS if targets or not one.target]
    names = [one.name for one in fields]
    options = {name: value for name, value in data.items() if name not in SOURCE}
    given = ("columns", "fields", "required")
    known = _options.known(module.source, options, section="data", owner=data["name"], given=given)
    try:
        found: Records = module.source(
            split,
            columns={name: column for name, column in data["columns"].items() if targets or name in names},
            fields=names,
            required=[one.name for one in fields if one.required],
            **known,
        )
    except UserError as error:
        raise UserError(_OPTION.sub(typed, str(error))) from error
    return found


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


def pairs(examples: Sequence[Example], task: ModuleType) -> dict[str, bool]:
    """Return {"paired": whether the examples are pairs of texts}; {} for a task to which it is all one."""
    reads = any(field.name == "text_pair" and not field.required for field in task.FIELDS)
    return {"paired": "text_pair" in examples[0]} if reads and "logits" in task.OUTPUTS else {}


def alike(found: Records, examples: Sequence[Example], facts: Mapping[str, Any], *, how: str) -> None:
    """Raise UserError where a model learnt from single texts and is to read pairs, or the other way round.

    how: what names the column of the second text, for the message.
    """
    if "paired" not in facts:
        return
    for index, example in enumerate(examples):
        if ("text_pair" in example) != facts["paired"]:
            has, learnt, help_ = (
                ("no", "pairs", f"name its column with {how}COLUMN")
                if facts["paired"]
                else ("a", "single texts", f"leave it out with {how}None")
            )
            raise UserError(
                f"{found.where(index)} has {has} second text, but the model learnt from {learnt}; {help_}"
            )


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
