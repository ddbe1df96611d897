"""Which column of a source is which field of a task, and a row's values under the fields' names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from lmx.core.errors import UserError, did_you_mean, printable
from lmx.sources._records import Row

Column: TypeAlias = "str | int | tuple[str | int, ...]"
"""A column by its name or its position, counted from 0; several make a list of their values."""

_ABSENT = object()


@dataclass(frozen=True)
class Plan:
    """What to read. columns: field -> its column. named: the fields whose column was given. required: the
    fields that every row must have.
    """

    columns: Mapping[str, Column]
    named: frozenset[str]
    required: frozenset[str]

    def plus(self, field: str, column: Column) -> Plan:
        """Return the plan with one more field, which every row must have."""
        return Plan({**self.columns, field: column}, self.named | {field}, self.required | {field})


def make_plan(columns: Mapping[str, Any] | None, fields: Sequence[str], required: Sequence[str]) -> Plan:
    """Return the plan for a task's fields; a field whose column is not given has one of its own name, and one
    whose column is None is not read.

    Errors: UserError for a field that the task does not have, and for a column that is neither a name, nor a
    position, nor several of them.
    """
    given = dict(columns or {})
    for field in given:
        if field not in fields:
            hint = did_you_mean(str(field), fields)
            raise UserError(f"columns.{field}: no such field{hint}; the task has: {', '.join(fields)}")
        if given[field] is None and field in required:
            raise UserError(f"columns.{field}=None, but every row needs {field}; name its column")
    chosen = {field: given.get(field, field) for field in fields}
    read = {field: column_of(field, column) for field, column in chosen.items() if column is not None}
    return Plan(read, frozenset(read) & frozenset(given), frozenset(required))


def column_of(field: str, column: Any) -> Column:
    """Return a column as it was given, checked; field: for the message."""
    if isinstance(column, list | tuple) and column:
        return tuple(_single(field, each) for each in column)
    return _single(field, column)


def _single(field: str, column: Any) -> str | int:
    valid = isinstance(column, str) if not isinstance(column, int) else column >= 0
    if not valid or isinstance(column, bool):
        raise UserError(
            f"columns.{field}={column!r}; expected a column's name, its position counted from 0, "
            "or a list of these"
        )
    return column


# ------------------------------------------------------------------------------------ columns by position


def positions(
    plan: Plan, names: Sequence[str] | None, width: int, where: str
) -> dict[str, int | tuple[int, ...] | None]:
    """Return the position of each field's column in a file of `width` columns; None for one that is missing.

    names: the header's, None where the file has none. Errors: UserError for a required or a given column that
    is not there, listing those that are.
    """

    def find(field: str, column: str | int) -> int | None:
        if isinstance(column, int):
            if column < width:
                return column
            raise UserError(
                f"{where}: columns.{field}={column}, but the columns are 0 to {width - 1}; choose one of them"
            )
        if names is not None and column in names:
            return names.index(column)
        if field not in plan.named and field not in plan.required:
            return None
        if names is None:
            raise UserError(
                f"{where}: no column {column!r}, as the file is read without a header; give its position, "
                f"such as columns.{field}=0, or header=True"
            )
        raise UserError(_no_column(where, field, column, names))

    found: dict[str, int | tuple[int, ...] | None] = {}
    for field, column in plan.columns.items():
        if isinstance(column, tuple):
            each = [find(field, one) for one in column]
            found[field] = tuple(place for place in each if place is not None)
        else:
            found[field] = find(field, column)
    return found


def _no_column(where: str, field: str, column: str, names: Iterable[str]) -> str:
    known = [printable(str(name)) for name in names]
    shown = ", ".join(map(repr, known[:12])) + f" and {len(known) - 12} more" * (len(known) > 12)
    return (
        f"{where}: no column {column!r} for {field}{did_you_mean(column, known)}; there is: "
        f"{shown or 'none'}; name one with {'group' if field.startswith('group ') else f'columns.{field}'}"
    )


# ---------------------------------------------------------------------------------------- columns by name


def pick(
    rows: Sequence[Mapping[str, Any]], plan: Plan, where: Callable[[int], str]
) -> tuple[dict[str, None], list[Row]]:
    """Return the columns that rows of named values have, in order, and their values under the fields.

    A name such as `meta.label` that no row has leads into objects. where: says where row i comes from.
    Errors: UserError for a row without a required value, and for a given column that no row has.
    """
    for field, column in plan.columns.items():
        for each in column if isinstance(column, tuple) else (column,):
            if isinstance(each, int):
                raise UserError(
                    f"columns.{field}={each}: these rows have names, not positions; give a column's name"
                )
    columns: dict[str, None] = {}
    unseen = {field for field in plan.named if field not in plan.required}
    found = []
    for index, row in enumerate(rows):
        columns.update(dict.fromkeys(row))
        values = []
        for field, column in plan.columns.items():
            value = _value(row, column)
            if value is not _ABSENT:
                unseen.discard(field)
            if field in plan.required and _is_missing(value):
                raise _missing(row, field, column, value, where(index))
            values.append(None if _is_missing(value) else _clean(field, value, where, index))
        found.append(tuple(values))
    for field in sorted(unseen) if rows else ():
        name = next(each for each in _names(plan.columns[field]))
        raise UserError(_no_column(where(0), field, name, columns))
    return columns, found


def _names(column: Column) -> list[str]:
    return [str(each) for each in (column if isinstance(column, tuple) else (column,))]


def _value(row: Mapping[str, Any], column: Column) -> Any:
    """Return the value of a column, a list for several, _ABSENT where there is none."""
    if isinstance(column, tuple):
        each = [_value(row, one) for one in column]
        return _ABSENT if any(map(_is_missing, each)) else each
    name = str(column)
    if name in row:
        return row[name]
    found: Any = row
    for part in name.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return _ABSENT
        found = found[part]
    return found


def _is_missing(value: Any) -> bool:
    """Whether there is no value: no column, null, or the NaN that data frames put there."""
    return value is _ABSENT or value is None or (isinstance(value, float) and value != value)


def _missing(row: Mapping[str, Any], field: str, column: Column, value: Any, where: str) -> UserError:
    absent = [name for name in _names(column) if _value(row, name) is _ABSENT]
    if absent:
        return UserError(_no_column(where, field, absent[0], row))
    shown = next(name for name in _names(column) if _is_missing(_value(row, name)))
    return UserError(f"{where}: column {shown!r} is empty (null), but every row needs {field}; fill it in")


def _clean(field: str, value: Any, where: Callable[[int], str], index: int) -> Any:
    """Return a value as plain Python: str, bool, int, float, lists and dicts of them."""
    try:
        value = _plain(value)
        return _answers(value) if field == "answers" else value
    except RecursionError:
        reason = "is nested too deeply"
    except UnicodeEncodeError:
        reason = "holds half of a surrogate pair, which is no text"
    except UnicodeDecodeError:
        reason = "holds bytes that are not UTF-8"
    except (TypeError, ValueError) as error:
        reason = str(error)
    raise UserError(f"{where(index)}: {field} {reason}; mend the row")


def _plain(value: Any) -> Any:
    if type(value) is str:
        if not value.isascii():
            value.encode()
        return value
    if value is None or type(value) in (bool, int, float):
        return value
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, Mapping):
        return {_plain(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, str):  # and such as numpy.str_
        return _plain(str(value))
    if hasattr(value, "tolist"):  # numpy's arrays and numbers
        return _plain(value.tolist())
    raise TypeError(f"is of type {type(value).__name__}, expected text, a number, or a list or dict of these")


def _answers(value: Any) -> list[dict[str, Any]]:
    """Return answers as a list of {"text", "start"}.

    SQuAD's own name `answer_start` is understood, and so is the dict of two lists that Hugging Face and TFDS
    make of it.
    """
    if isinstance(value, dict):
        start = value.get("start", value.get("answer_start"))
        texts = value.get("text")
        if not isinstance(texts, list) or not isinstance(start, list) or len(texts) != len(start):
            raise ValueError("has no two lists of one length, text and answer_start")
        value = [{"text": text, "start": at} for text, at in zip(texts, start, strict=True)]
    if not isinstance(value, list):
        raise ValueError(f"is {type(value).__name__}, expected a list of {{text, start}}")
    found = []
    for answer in value:
        start = answer.get("start", answer.get("answer_start")) if isinstance(answer, dict) else None
        if type(start) is not int or not isinstance(answer.get("text"), str):
            raise ValueError(f"holds {str(answer)[:60]!r}, expected a text and its start in characters")
        found.append({"text": answer["text"], "start": start})
    return found
