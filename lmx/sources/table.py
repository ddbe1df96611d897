"""Tables and texts in files: csv, tsv, jsonl, json, parquet, SQuAD's, tagged tokens, parallel lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lmx.core.errors import UserError, did_you_mean
from lmx.core.examples import Records
from lmx.sources import _arrow, _delimited, _json, _lines
from lmx.sources._columns import Plan, make_plan
from lmx.sources._files import regular
from lmx.sources._records import Held, joined
from lmx.sources._split import choose

FORMATS = ("csv", "tsv", "jsonl", "json", "parquet", "squad", "conll", "lines")

_SUFFIXES = {f".{name}": name for name in FORMATS[:5]} | {".conll": "conll"}

_OPTIONS = {
    "header": ("csv", "tsv"),
    "quoting": ("csv", "tsv"),
    "delimiter": ("csv", "tsv", "conll"),
}
"""Which formats each option is for; with any other it would do nothing, and is refused."""


def source(
    split: str,
    *,
    fields: Sequence[str],
    required: Sequence[str],
    columns: Mapping[str, Any] | None = None,
    train: Any = None,
    validation: Any = None,
    test: Any = None,
    format: str | None = None,
    header: bool | None = None,
    quoting: bool | None = None,
    delimiter: str | None = None,
    group: str | int | None = None,
) -> Records:
    """Return the rows of a split ("train", "validation", "test") under the names of a task's fields.

    fields: of the task; required: those that every row must have. columns: field -> the name of its column
    (`meta.label` leads into JSON objects), or its position counted from 0, or a list of these for a list of
    their values; a field that is left out has a column of its own name, and one whose column is
    None is not read.

    train, validation, test: a file, or a list of files, or None; parallel lines are a mapping of files by
    column. validation and test may be a share of train, "10%": see `_split.choose` for how it is cut.
    group: a column whose equal rows such a share never parts, as the title of the article asked about.

    format: one of FORMATS; None goes by the file's ending, `.gz` left out, and a mapping is "lines".
    header: whether the first row of csv and tsv names the columns; None is yes, unless a column is given by
    position. quoting: whether double quotes around a cell of them are marks; None is yes for csv, no for tsv.
    delimiter: what parts the columns, one character.

    Values are strings in csv and tsv and typed in jsonl, json and parquet; "squad" has id, question, context,
    answers and title; "conll" has words and tags, as lists; "lines" from a single file has one column, text.

    Errors: UserError in one line, naming file and line, for whatever is not as said here.
    """
    plan = make_plan(columns, fields, required)
    if format is not None and format not in FORMATS:
        hint = did_you_mean(format, FORMATS)
        raise UserError(f"format={format!r}{hint}; expected one of: {', '.join(FORMATS)}")
    if delimiter is not None and (
        not isinstance(delimiter, str) or len(delimiter) != 1 or delimiter in '\n\r"'
    ):
        raise UserError(f"delimiter={delimiter!r}; expected one character that is no quote and no line end")
    for name, value in (("header", header), ("quoting", quoting)):
        if value not in (None, True, False):
            raise UserError(f"{name}={value!r}; expected True or False")
    options = {"header": header, "quoting": quoting, "delimiter": delimiter}

    def load(name: str, place: Any, plan: Plan) -> Held:
        places = list(place) if isinstance(place, list | tuple) else [place]
        if not places:
            raise UserError(f"{name}=[]; expected a file, or a list of at least one")
        return joined([_read(name, each, plan, format, options) for each in places])

    return choose(split, {"train": train, "validation": validation, "test": test}, plan, group, load)


def _read(name: str, place: Any, plan: Plan, format: str | None, options: Mapping[str, Any]) -> Held:
    """Return the rows of one file, or of one set of parallel files."""
    if isinstance(place, Mapping):
        _check_options("lines", format, options, name)
        if not place:
            raise UserError(f"{name}={{}}; expected a file for each column, such as prompt='train.en'")
        read = [str(one) for column in plan.columns.values() for one in _each(column)]
        for key in place:
            if str(key) not in read:
                raise UserError(
                    f"{name}.{key}: no field is read from it{did_you_mean(str(key), read)}; "
                    f"there is: {', '.join(read)}"
                )
        files = {str(key): regular(file, f"{name}.{key}") for key, file in place.items()}
        return _lines.read_parallel(files, plan)
    path = regular(place, name)
    kind = format or _by_suffix(path)
    _check_options(kind, format, options, name)
    ends = _SUFFIXES.get(Path(path.name.lower().removesuffix(".gz")).suffix, kind)
    if ends != kind and {ends, kind} & {"jsonl", "parquet"} and kind != "lines":
        raise UserError(
            f"{path}: ends as {ends}, but is read as {kind}; set format={ends}, or rename the file"
        )
    if kind in ("csv", "tsv"):
        return _read_delimited(path, plan, kind, options)
    if kind == "conll":
        return _lines.read_conll(path, plan, delimiter=options["delimiter"])
    if kind == "lines":
        return _lines.read_parallel({"text": path}, plan)
    readers = {
        "jsonl": _json.read_lines,
        "json": _json.read_list,
        "squad": _json.read_squad,
        "parquet": _arrow.read_parquet,
    }
    return readers[kind](path, plan)


def _each(column: Any) -> tuple[Any, ...]:
    return column if isinstance(column, tuple) else (column,)


def _read_delimited(path: Path, plan: Plan, kind: str, options: Mapping[str, Any]) -> Held:
    header, quoting = options["header"], options["quoting"]
    if header is None:
        named = [each for field in plan.named for each in _each(plan.columns[field])]
        header = not any(isinstance(column, int) for column in named)
    return _delimited.read(
        path,
        plan,
        delimiter=options["delimiter"] or ("," if kind == "csv" else "\t"),
        quoting=kind == "csv" if quoting is None else quoting,
        header=header,
    )


def _by_suffix(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    kind = _SUFFIXES.get(Path(name).suffix)
    if kind is None or (kind == "parquet" and path.name.lower().endswith(".gz")):
        raise UserError(
            f"{path}: its ending is not one of {', '.join(_SUFFIXES)} (all but parquet also with .gz); "
            f"say what it is with format, one of: {', '.join(FORMATS)}"
        )
    return kind


def _check_options(kind: str, format: str | None, options: Mapping[str, Any], name: str) -> None:
    if kind == "lines" and format not in (None, "lines"):
        raise UserError(f"{name} is a mapping of parallel files, but format={format!r}; expected 'lines'")
    for option, kinds in _OPTIONS.items():
        if options[option] is not None and kind not in kinds:
            raise UserError(
                f"{option}={options[option]!r} is for {' and '.join(kinds)}, but {name} is {kind}; "
                "leave it out"
            )
