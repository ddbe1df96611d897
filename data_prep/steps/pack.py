"""Pack: documents of any length into rows of T + 1 tokens, each transition predicted exactly once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

Row = tuple[np.ndarray, list[int]]
"""(the row's real tokens, (n,) with n <= T + 1; the lengths of its segments, which add up to n)."""


def pack(documents: Iterable[np.ndarray], *, length: int) -> Iterator[Row]:
    """Yield rows of at most `length` + 1 tokens; documents keep their order and never share a segment.

    A document that a row's end cuts goes on in the next row, with its last token again: there that token is
    an input only. A place for one token alone has no label, and stays padding; so does a document of one
    token.

    Worked example, length 4 (rows of 5), documents [1 2 3], [4 5 6 7]:

        row 0    1 2 3 | 4 5     labels 2 3 · 5
        row 1    5 6 7 . .       labels 6 7 · ·      (5 is there again, to predict 6)
    """
    width = length + 1
    parts: list[np.ndarray] = []
    used = 0
    for document in documents:
        start = 0
        while len(document) - start >= 2:
            if width - used < 2:
                yield _row(parts)
                parts, used = [], 0
            piece = document[start : start + width - used]
            parts.append(piece)
            used += len(piece)
            start += len(piece) - 1
    if parts:
        yield _row(parts)


def _row(parts: list[np.ndarray]) -> Row:
    return np.concatenate(parts), [len(part) for part in parts]
