"""Text by lines: a token and its tag a line, and files that are parallel line by line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from lmx.core.errors import UserError
from lmx.sources._columns import Plan, pick
from lmx.sources._files import read_text
from lmx.sources._records import Held, hold

_BLANKS = re.compile(r"[ \t]+")


def read_conll(path: Path, plan: Plan, *, delimiter: str | None) -> Held:
    """Return the sentences of a file with one token a line and a blank line after each sentence.

    Columns are positions: words is the first, tags the last unless it is given, as CoNLL-2003 has them. They
    are parted by the delimiter; None is a tab where there is one in the line, else blanks. Lines that begin a
    document (`-DOCSTART-`) are left out. The place of a sentence is the line of its first token.
    """
    sentences: list[tuple[int, list[list[str]]]] = []
    width, first, fresh = 0, 0, True
    for number, line in enumerate(read_text(path).split("\n"), 1):
        line = line.removesuffix("\r")
        if not line.strip() or line.startswith("-DOCSTART-"):
            fresh = True
            continue
        mark = delimiter or ("\t" if "\t" in line else None)
        cells = line.split(mark) if mark else _BLANKS.split(line.strip(" "))
        width, first = width or len(cells), first or number
        if len(cells) != width:
            raise UserError(
                f"{path}, line {number}: {len(cells)} columns, but line {first} has {width}; mend the line, "
                "or name what parts the columns with delimiter"
            )
        if not all(cells):
            raise UserError(f"{path}, line {number}: an empty column; mend the line")
        if fresh:
            sentences.append((number, []))
            fresh = False
        sentences[-1][1].append(cells)
    if not sentences:
        raise UserError(f"{path}: holds no token, expected one a line; is it the right file?")
    places = {field: _place(path, plan, field, width, first) for field in plan.columns}
    rows = [
        tuple(None if at is None else [cells[at] for cells in tokens] for at in places.values())
        for _, tokens in sentences
    ]
    columns = map(str, range(width))
    return hold(columns, places, rows, (number for number, _ in sentences), (f"{path}, line ", ""))


def _place(path: Path, plan: Plan, field: str, width: int, first: int) -> int | None:
    """Return the position of a field's column, None where there is none."""
    column = plan.columns[field]
    if field not in plan.named:
        column = {"words": 0, "tags": width - 1 if width > 1 else width}.get(field, field)
    if isinstance(column, int) and column < width:
        return column
    if field in plan.named or field in plan.required:
        raise UserError(
            f"{path}, line {first}: no column for {field} (columns.{field}={column!r}); there are {width}; "
            f"choose a position from 0 to {width - 1}"
        )
    return None


def read_parallel(files: Mapping[str, Path], plan: Plan) -> Held:
    """Return the lines of one or more files of equally many, one example a line; the files name the columns.

    Only a line feed ends a line, and one at the end of a file begins no further line.
    """
    columns = {}
    for name, path in files.items():
        lines = read_text(path).removesuffix("\n").split("\n")
        columns[name] = [line.removesuffix("\r") for line in lines]
    counts = {name: len(lines) for name, lines in columns.items()}
    if len(set(counts.values())) > 1:
        shown = ", ".join(f"{files[name]} has {count:,} lines" for name, count in counts.items())
        raise UserError(f"{shown}; parallel files need equally many, one example a line")
    place = " and ".join(map(str, files.values())) + ", line "
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    _, found = pick(rows, plan, lambda index: f"{place}{index + 1}")
    return hold(columns, plan.columns, found, range(1, len(rows) + 1), (place, ""))
