"""Rows that a Python program has at hand: texts, dicts, or a data frame."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lmx.core.errors import UserError
from lmx.core.examples import Records
from lmx.sources._columns import Plan, make_plan, pick
from lmx.sources._records import Held, hold
from lmx.sources._split import choose

_METHODS = ("to_pylist", "to_dicts", "to_list")
"""How pyarrow, polars, and datasets or a pandas series give their rows as a list."""


def source(
    split: str,
    *,
    fields: Sequence[str],
    required: Sequence[str],
    columns: Mapping[str, Any] | None = None,
    train: Any = None,
    validation: Any = None,
    test: Any = None,
    group: str | None = None,
) -> Records:
    """Return the rows of a split ("train", "validation", "test") under the names of a task's fields.

    train, validation, test: texts, which make one column, `text`; or dicts; or a frame of pandas, polars,
    pyarrow or datasets; or None; for validation and test also a share of train, such as "10%". Rows are
    copied, and may change afterwards. fields, required, columns, group: as in `lmx.sources.table`.
    Errors: UserError in one line, naming the row by its index, for what is none of these.
    """
    plan = make_plan(columns, fields, required)

    def load(name: str, place: Any, plan: Plan) -> Held:
        given = rows(name, place)
        names, found = pick(given, plan, lambda index: f"{name}[{index}]")
        return hold(names, plan.columns, found, range(len(given)), (f"{name}[", "]"))

    return choose(split, {"train": train, "validation": validation, "test": test}, plan, group, load)


def rows(name: str, given: Any) -> list[Mapping[str, Any]]:
    """Return texts, dicts or the rows of a frame as dicts; name: what they are called in messages.

    Errors: UserError for what is none of these, and for none at all.
    """
    if isinstance(given, str | bytes | Mapping):
        raise UserError(f"{name} is one {type(given).__name__}; expected a list of texts or of dicts")
    method = next((method for method in _METHODS if hasattr(given, method)), None)
    if method is not None:
        given = getattr(given, method)()
    elif hasattr(given, "to_dict"):
        given = given.to_dict("records")
    if not isinstance(given, Iterable):
        raise UserError(
            f"{name} is of type {type(given).__name__}; expected a list of texts, a list of dicts, "
            "or a data frame"
        )
    found: list[Mapping[str, Any]] = []
    for index, row in enumerate(given):
        if not isinstance(row, str | Mapping):
            raise UserError(f"{name}[{index}] is of type {type(row).__name__}; expected a text or a dict")
        odd = [key for key in row if not isinstance(key, str)] if isinstance(row, Mapping) else []
        if odd:
            raise UserError(f"{name}[{index}]: a column is called {odd[0]!r}; expected names that are text")
        found.append({"text": row} if isinstance(row, str) else row)
    if not found:
        raise UserError(f"{name} holds no rows; give at least one")
    return found
