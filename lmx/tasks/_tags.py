"""Tags of words, and the pieces of words that carry them.

Source: Ramshaw and Marcus 1995, "Text Chunking using Transformation-Based Learning" (the tags); Devlin et al.
2018, section 5.3 (the first piece of a word speaks for it).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmx.core.errors import UserError
from lmx.core.examples import Row
from lmx.tasks import _examples

OUTSIDE = "O"
_MARKS = ("B", "I", "E", "S")


def check(tag: Any, index: int) -> str:
    """Return the tag. Errors: UserError where it marks no span."""
    if not isinstance(tag, str) or (tag != OUTSIDE and tag.partition("-")[0] not in _MARKS):
        raise UserError(
            f"tags[{index}] is {_examples.shown(tag)}; expected BIO tags: O, B-TYPE or I-TYPE (or E-, S-)"
        )
    return tag


def names(tags: Iterable[Sequence[str]]) -> list[str]:
    """Return the tags that occur, O first, the rest sorted."""
    return [OUTSIDE, *sorted({tag for some in tags for tag in some} - {OUTSIDE})]


def labels(tags: Sequence[str], known: Sequence[str]) -> tuple[list[int], list[int]]:
    """Return the labels of each word's first piece, and of its later ones: the places of tags in `known`.

    The later pieces of a word go on with the span that its first begins, where there is a tag for that.
    Errors: UserError for a tag that is not known.
    """
    places = {name: i for i, name in enumerate(known)}
    first = [places[tag] if tag in places else _examples.place(known, tag, "tag") for tag in tags]
    inner = [f"I{tag[1:]}" if tag.startswith("B") else tag for tag in tags]
    return first, [places.get(tag, label) for tag, label in zip(inner, first, strict=True)]


def orphans(tags: Sequence[str]) -> int:
    """Return how many I (or E) go on with nothing: with no B or I of their type before them.

    >>> orphans(["I-PER", "I-PER", "O", "B-LOC", "I-PER"])
    2
    """
    count, before = 0, OUTSIDE
    for tag in tags:
        mark, _, kind = tag.partition("-")
        same = before[:1] in ("B", "I") and before.partition("-")[2] == kind
        count += mark in ("I", "E") and not same
        before = tag
    return count


@dataclass(frozen=True)
class Piece:
    """The first piece of a word in a window. token: its place in the row. room: the tokens of the text on
    its shorter side."""

    word: int
    window: int
    token: int
    room: int


def first_pieces(rows: Sequence[Row], stride: int) -> list[Piece]:
    """Return the first pieces of words that the rows of one text hold, each window's from left to right.

    rows: windows of which neighbours share `stride` tokens; they may run from the right, as in a tokenizer
    that cuts on the left. A window may begin in the middle of a word: what it holds of it is no first piece.
    """
    inside = [np.flatnonzero(row.text == 0) for row in rows]
    words = [row.words[places] for row, places in zip(rows, inside, strict=True)]
    order = list(range(len(rows)))
    if len(rows) > 1 and _begin(rows[0], inside[0]) > _begin(rows[-1], inside[-1]):
        order.reverse()
    found, before = [], -1
    for place, window in enumerate(order):
        mine = words[window]
        if place:  # the token before this window's first lies in the window before
            previous = words[order[place - 1]]
            before = int(previous[len(previous) - stride - 1])
        first = np.flatnonzero(mine != np.concatenate([[before], mine[:-1]]))
        found += [
            Piece(int(mine[i]), window, int(inside[window][i]), int(min(i, len(mine) - 1 - i))) for i in first
        ]
    return found


def _begin(row: Row, inside: np.ndarray) -> tuple[int, int]:
    """Return the word, and the character in it, that a window begins with."""
    return int(row.words[inside[0]]), int(row.offsets[inside[0], 0])


def best(pieces: Iterable[Piece]) -> dict[int, Piece]:
    """Return {word: its first piece where it has most room}; of equals the one met first."""
    found: dict[int, Piece] = {}
    for piece in pieces:
        if piece.word not in found or piece.room > found[piece.word].room:
            found[piece.word] = piece
    return found
