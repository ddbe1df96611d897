"""Pieces: documents of any length into rows of T tokens, each piece between [CLS] and [SEP].

Source: Liu et al. 2019, "RoBERTa", section 4.2 (rows without pairs); documents share a row here, but never a
piece.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from data_prep.steps.pack import Row


def pieces(documents: Iterable[np.ndarray], *, length: int, first: int, last: int) -> Iterator[Row]:
    """Yield rows of at most `length` tokens: pieces of documents, each as [first] tokens [last].

    Documents keep their order. One that a row's end cuts goes on in the next row; no token comes twice and
    none is left out. A place too narrow for a piece (fewer than 3 tokens) stays padding.

    Worked example, length 6, documents [10 11] and [20 21 22], first 1, last 2:

        row 0    1 10 11 2 . .
        row 1    1 20 21 22 2 .
    """
    parts: list[np.ndarray] = []
    used = 0
    for document in documents:
        start = 0
        while start < len(document):
            if length - used < 3:
                yield np.concatenate(parts), [len(part) for part in parts]
                parts, used = [], 0
            piece = document[start : start + length - used - 2]
            parts.append(np.concatenate([[first], piece, [last]]))
            used += len(piece) + 2
            start += len(piece)
    if parts:
        yield np.concatenate(parts), [len(part) for part in parts]
