"""Comma- and tab-separated values: one row a line, unless a quoted cell goes over several.

Source: RFC 4180, section 2.
"""

from __future__ import annotations

import csv
import io
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from lmx.core.errors import UserError, printable
from lmx.sources._columns import Plan, positions
from lmx.sources._files import read_text
from lmx.sources._records import Held, Row, hold

_LIMIT = threading.Lock()  # the csv module's limit on a cell's length is one for the whole process

Line = tuple[int, list[str]]
"""The number of a row's first line and the row's cells."""


def read(path: Path, plan: Plan, *, delimiter: str, quoting: bool, header: bool) -> Held:
    """Return the rows of a file, all values strings; lines without anything are left out.

    quoting: whether double quotes around a cell are marks, not text. header: whether the first row names the
    columns. Errors: UserError naming the line of a row that has another number of cells than the first.
    """
    text = read_text(path)
    lines = _quoted(path, text, delimiter) if quoting else _bare(text, delimiter)
    first, cells = lines[0]
    names = _header(f"{path}, line {first}", cells) if header else None
    body = lines[1:] if header else lines
    if not body:
        raise UserError(f"{path}: holds a header and no rows; add rows, or set header=False if it is one")
    found = positions(plan, names, len(cells), f"{path}, line {first}{_hint(names, cells)}")
    for number, row in body:
        if len(row) != len(cells):
            kind = "the header" if header else f"line {first}"
            raise UserError(
                f"{path}, line {number}: {_cells(row)}, but {kind} has {len(cells)}; mend the row"
                f"{_advice(row, quoting)}"
            )
    columns = names if names is not None else list(map(str, range(len(cells))))
    wanted = list(found.values())
    rows = [_row(row, wanted) for _, row in body]
    return hold(columns, found, rows, (number for number, _ in body), (f"{path}, line ", ""))


def _row(cells: Sequence[str], wanted: Sequence[int | tuple[int, ...] | None]) -> Row:
    return tuple(
        cells[place] if isinstance(place, int) else place and [cells[each] for each in place]
        for place in wanted
    )


def _bare(text: str, delimiter: str) -> list[Line]:
    lines = (line.removesuffix("\r") for line in text.split("\n"))
    return [(number, line.split(delimiter)) for number, line in enumerate(lines, 1) if line]


def _quoted(path: Path, text: str, delimiter: str) -> list[Line]:
    found = []
    with _LIMIT:
        limit = csv.field_size_limit(sys.maxsize)
        try:
            # Only \n ends a line here: universal line ends would count a \r in a quoted cell.
            reader = csv.reader(io.StringIO(text, newline="\n"), delimiter=delimiter, strict=True)
            start = 1
            for cells in reader:
                if cells:
                    found.append((start, cells))
                start = reader.line_num + 1
        except csv.Error as error:
            raise UserError(f"{path}, line {start}: {_reason(str(error))}") from error
        finally:
            csv.field_size_limit(limit)
    return found


def _reason(said: str) -> str:
    if "unexpected end" in said:
        return (
            "a double quote opens a cell of this row and none closes it; close it, or read with "
            "quoting=False where quotes are text"
        )
    if "expected after" in said:
        return (
            "text after the double quote that closes a cell; double the quotes within a cell, or read with "
            "quoting=False where quotes are text"
        )
    if "new-line" in said:
        return r"a carriage return (\r) within a cell; end the lines with \n"
    return f"cannot be read ({said}); mend the row"


def _header(where: str, cells: list[str]) -> list[str]:
    twice = [name for index, name in enumerate(cells) if name in cells[:index]]
    if twice:
        raise UserError(
            f"{where}: two columns are called {printable(twice[0])!r}; rename one, or set header=False if "
            "this line is an example, and name the columns by position"
        )
    return cells


def _hint(names: list[str] | None, cells: list[str]) -> str:
    """Say what may be amiss where a header lacks a column: not one, or cut at the wrong mark."""
    if names is None:
        return ""
    marks = [mark for mark in "\t;,|" if len(cells) == 1 and mark in cells[0]]
    if marks:
        return f" (one column; is the delimiter {marks[0]!r}?)"
    return " (taken as the header; if it is an example, set header=False)"


def _cells(row: list[str]) -> str:
    return f"{len(row)} cell{'s' * (len(row) != 1)}"


def _advice(row: list[str], quoting: bool) -> str:
    if not any('"' in cell or "\n" in cell for cell in row):
        return ""
    return f", or read with quoting={not quoting} if quotes are {'text' if quoting else 'marks'} here"
