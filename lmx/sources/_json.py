"""JSON lines, a list of JSON objects, and SQuAD's layout.

Source: Rajpurkar et al. 2016 and 2018 (SQuAD 1.1 and 2.0), the files' own layout.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lmx.core.errors import UserError
from lmx.sources._columns import Plan, pick
from lmx.sources._files import parse_json, read_json, read_text
from lmx.sources._records import Held, hold


def read_lines(path: Path, plan: Plan) -> Held:
    """Return the rows of a file of one JSON object a line; blank lines are left out."""
    rows, numbers = [], []
    # Only \n ends a row: splitlines would also cut at U+2028, which JSON allows inside a string.
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line and not line.isspace():
            rows.append(_object(parse_json(line, f"{path}, line {number}"), f"{path}, line {number}"))
            numbers.append(number)
    columns, found = pick(rows, plan, lambda index: f"{path}, line {numbers[index]}")
    return hold(columns, plan.columns, found, numbers, (f"{path}, line ", ""))


def read_list(path: Path, plan: Plan) -> Held:
    """Return the rows of a file that is one list of JSON objects; they count from 1."""
    whole = read_json(path)
    if not isinstance(whole, list):
        squad = isinstance(whole, dict) and isinstance(whole.get("data"), list)
        hint = "; read SQuAD's layout with format='squad'" if squad else "; read one object a line as jsonl"
        raise UserError(f"{path}: expected a list of objects, found {_kind(whole)}{hint}")
    if not whole:
        raise UserError(f"{path}: the list is empty, expected examples; is it the right file?")
    rows = [_object(row, f"{path}, row {number}") for number, row in enumerate(whole, 1)]
    columns, found = pick(rows, plan, lambda index: f"{path}, row {index + 1}")
    return hold(columns, plan.columns, found, range(1, len(rows) + 1), (f"{path}, row ", ""))


def read_squad(path: Path, plan: Plan) -> Held:
    """Return the questions of a file in SQuAD's layout, counted from 1 in its order.

    Columns: id, question, context, answers, and the title of the article. A question that SQuAD 2.0 marks as
    impossible has no answers.
    """
    rows = list(_questions(read_json(path), str(path)))
    if not rows:
        raise UserError(f"{path}: holds no question, expected some; is it the right file?")
    columns, found = pick(rows, plan, lambda index: f"{path}, question {index + 1}")
    return hold(columns, plan.columns, found, range(1, len(rows) + 1), (f"{path}, question ", ""))


def _questions(whole: Any, path: str) -> Iterator[Mapping[str, Any]]:
    number = 0
    for a, article in enumerate(_list(whole, "data", path)):
        where = f"{path}: data[{a}]"
        for p, paragraph in enumerate(_list(article, "paragraphs", where)):
            for qa in _list(paragraph, "qas", f"{where}.paragraphs[{p}]"):
                number += 1
                row = _object(qa, f"{path}, question {number}")
                found = {name: row[name] for name in ("id", "question", "answers") if name in row}
                if row.get("is_impossible") is True:
                    found["answers"] = []
                if "title" in article:
                    found["title"] = article["title"]
                if "context" in paragraph:
                    found["context"] = paragraph["context"]
                yield found


def _list(value: Any, name: str, where: str) -> list[Any]:
    found = value.get(name) if isinstance(value, dict) else None
    if not isinstance(found, list):
        raise UserError(
            f"{where}: expected an object with a list {name!r}, found {_kind(value)}; SQuAD's layout is "
            "data > paragraphs > context and qas > id, question, answers"
        )
    return found


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if isinstance(value, dict):
        return value
    raise UserError(f"{where}: expected an object of named values, found {_kind(value)}")


def _kind(value: Any) -> str:
    if isinstance(value, dict):
        shown = ", ".join(sorted(map(repr, value))[:8])
        return f"an object with {shown}" if value else "an empty object"
    names = {list: "a list", str: "a string", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "null")
