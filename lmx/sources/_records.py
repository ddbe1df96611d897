"""The rows of a split, held in memory, each with the place that it comes from."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lmx.core.examples import Example

Row = tuple[Any, ...]
"""The values of one example in the order of the fields; None where it has none."""


@dataclass
class Held:
    """R rows: `held[i]` is a dict of the fields that row i has. It can be pickled.

    columns: those of the source, by its own names. fields: of each place in a row. places: what stands before
    and after a row's number in a message. part, number (R,): the row's place, and its number there.
    """

    columns: tuple[str, ...]
    fields: tuple[str, ...]
    rows: Sequence[Row]
    places: tuple[tuple[str, str], ...]
    part: Sequence[int]
    number: Sequence[int]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self.rows):
            raise IndexError(f"row {index} of {len(self.rows)}")
        row = self.rows[index]
        return {name: value for name, value in zip(self.fields, row, strict=True) if value is not None}

    def where(self, index: int) -> str:
        """Return where a row comes from, for a message: `train.tsv, line 17`."""
        before, after = self.places[self.part[index]]
        return f"{before}{self.number[index]}{after}"

    def values(self, field: str) -> list[Any]:
        """Return one field of every row, None where a row has none."""
        place = self.fields.index(field)
        return [row[place] for row in self.rows]

    def without(self, field: str) -> Held:
        """Return the same rows without a field."""
        place = self.fields.index(field)
        rows = [row[:place] + row[place + 1 :] for row in self.rows]
        fields = self.fields[:place] + self.fields[place + 1 :]
        return Held(self.columns, fields, rows, self.places, self.part, self.number)

    def only(self, indices: Iterable[int]) -> Held:
        """Return some of the rows, which keep their places."""
        chosen = list(indices)
        return Held(
            self.columns,
            self.fields,
            [self.rows[i] for i in chosen],
            self.places,
            array("q", [self.part[i] for i in chosen]),
            array("q", [self.number[i] for i in chosen]),
        )


def hold(
    columns: Iterable[str],
    fields: Iterable[str],
    rows: Sequence[Row],
    numbers: Iterable[int],
    place: tuple[str, str],
) -> Held:
    """Return the rows of one place; numbers: of each row, counted there."""
    number = array("q", numbers)
    return Held(tuple(columns), tuple(fields), rows, (place,), array("q", bytes(8 * len(number))), number)


def joined(parts: Sequence[Held]) -> Held:
    """Return the rows of one or more parts, one after another; all have the same fields."""
    if len(parts) == 1:
        return parts[0]
    part, number = array("q"), array("q")
    for index, held in enumerate(parts):
        assert held.fields == parts[0].fields and len(held.places) == 1, "parts come from one reader"
        part.extend([index] * len(held))
        number.extend(held.number)
    return Held(
        tuple(dict.fromkeys(name for held in parts for name in held.columns)),
        parts[0].fields,
        [row for held in parts for row in held.rows],
        tuple(held.places[0] for held in parts),
        part,
        number,
    )
