"""Arrow tables: Parquet files, and the folders that Hugging Face's `datasets` saves, read with pyarrow."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lmx.core.errors import UserError, one_line
from lmx.sources._columns import Plan, pick
from lmx.sources._records import Held, hold

_END = b"\xff\xff\xff\xff\0\0\0\0"
"""What an Arrow stream ends with; pyarrow takes one without it, cut between two batches, for whole."""


def read_parquet(path: Path, plan: Plan) -> Held:
    """Return the rows of a Parquet file, counted from 1.

    Classes become their names where Hugging Face's `datasets` wrote the file and so left them in it.
    """
    pyarrow = _pyarrow(path)
    try:
        from pyarrow import parquet

        with parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            table = file.read(columns=_wanted(schema.names, plan))
            features = _features(schema.metadata)
            rows = _rows(table, features)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path}: is no readable Parquet file ({one_line(error)}); write it again") from error
    return _held(rows, schema.names, plan, str(path))


def read_streams(paths: Sequence[Path], features: Mapping[str, Any], plan: Plan, where: str) -> Held:
    """Return the rows of Arrow stream files one after another, counted from 1.

    features: as dataset_info.json describes the columns.
    """
    rows: list[dict[str, Any]] = []
    names: dict[str, None] = {}
    for path in paths:
        pyarrow = _pyarrow(path)
        try:
            with pyarrow.memory_map(str(path)) as file:
                file.seek(max(file.size() - len(_END), 0))
                if file.read() != _END:
                    raise ValueError("it ends early")
                file.seek(0)
                with pyarrow.ipc.open_stream(file) as stream:
                    table = stream.read_all()
                names.update(dict.fromkeys(table.column_names))
                rows += _rows(table.select(_wanted(table.column_names, plan)), features)
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise UserError(f"{path}: is no whole Arrow file ({one_line(error)}); save it again") from error
    return _held(rows, list(names), plan, where)


def _pyarrow(path: Path) -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise UserError(f"{path}: reading it needs pyarrow; install it with pip install pyarrow") from error
    return pyarrow


def _wanted(names: Sequence[str], plan: Plan) -> list[str]:
    """Return the columns of a table that a plan asks for, those of its dotted names among them."""
    asked: set[str] = set()
    for column in plan.columns.values():
        for each in map(str, column if isinstance(column, tuple) else (column,)):
            asked |= {each, each.split(".")[0]}
    return [name for name in names if name in asked]


def _held(rows: list[dict[str, Any]], names: Sequence[str], plan: Plan, where: str) -> Held:
    if not rows:
        raise UserError(f"{where}: holds no rows, expected examples; is it the right one?")
    blank = dict.fromkeys(names)  # the columns that were not read are there all the same, for the messages
    _, found = pick([{**blank, **row} for row in rows], plan, lambda index: f"{where}, row {index + 1}")
    return hold(names, plan.columns, found, range(1, len(rows) + 1), (f"{where}, row ", ""))


def _rows(table: Any, features: Mapping[str, Any]) -> list[dict[str, Any]]:
    if len(set(table.column_names)) != len(table.column_names):
        raise ValueError("two columns have one name")
    table.validate(full=True)  # damaged offsets would have pyarrow read outside its memory, and crash
    columns = {}
    for name in table.column_names:
        to_names = _naming(features.get(name))
        values = table.column(name).to_pylist()
        columns[name] = [to_names(value) for value in values] if to_names else values
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _features(metadata: Mapping[bytes, bytes] | None) -> Mapping[str, Any]:
    """Return the description that `datasets` leaves in a file; nothing where there is none."""
    try:
        found = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _naming(feature: Any) -> Callable[[Any], Any] | None:
    """Return what turns the numbers of classes into their names, None where a feature holds no classes.

    -1 is `datasets`' sign for no label and becomes None.
    """
    if isinstance(feature, list) and len(feature) == 1:  # an older way to write a list
        feature = {"feature": feature[0], "_type": "List"}
    if not isinstance(feature, dict):
        return None
    kind = feature.get("_type")
    if kind == "ClassLabel" and isinstance(feature.get("names"), list):
        return lambda value: class_name(feature["names"], value)
    if kind in ("Sequence", "List", "LargeList"):
        inner = _naming(feature.get("feature"))
        return inner and (lambda value: _through(value, inner))
    if kind is None:
        parts = {name: to_names for name, each in feature.items() if (to_names := _naming(each))}
        if parts:
            return lambda value: _inside(value, parts)
    return None


def _inside(value: Any, parts: Mapping[str, Callable[[Any], Any]]) -> Any:
    if not isinstance(value, dict):
        return value
    return {name: parts[name](each) if name in parts else each for name, each in value.items()}


def _through(value: Any, inner: Callable[[Any], Any]) -> Any:
    """Apply to each of a list; a list of dicts may be kept as a dict of lists, which is one value."""
    return [inner(each) for each in value] if isinstance(value, list) else value and inner(value)


def class_name(names: Sequence[str], value: Any) -> Any:
    """Return the name of a class by its number, None for -1 and None; of a list's numbers where it is one.

    Errors: ValueError for what is no number of a class.
    """
    if isinstance(value, list):
        return [class_name(names, each) for each in value]
    if value is None or value == -1:
        return None
    if not isinstance(value, int) or not 0 <= value < len(names):
        raise ValueError(f"class {value!r}, but there are {len(names)} names")
    return names[value]
