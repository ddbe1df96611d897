"""Spans of a text: from characters to tokens, and from the logits of two edges to the best of all spans.

Source: Devlin et al. 2018, section 4.2: the score of a span is its start's logit plus its end's.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NOWHERE = -1


@dataclass(frozen=True)
class Window:
    """The tokens of one row by the characters of the text that they stand for.

    starts, ends (T,) int32: the first character and the one after the last, without white space at either
    side; -1 for a token that stands for nothing in the text.
    """

    starts: np.ndarray
    ends: np.ndarray


class Text:
    """A text whose tokens are asked for their characters."""

    def __init__(self, text: str) -> None:
        size = len(text)
        at = np.arange(size)
        space = np.array([c.isspace() for c in text], bool)
        begin = np.minimum.accumulate(np.where(space, size, at)[::-1])[::-1] if size else at
        self._begin = np.append(begin, size)  # the first character at or after this place that is no space
        finish = np.maximum.accumulate(np.where(space, 0, at + 1)) if size else at
        self._finish = np.insert(finish, 0, 0)  # the end of the last one before this place
        self._after = np.arange(size + 1)  # behind the combining marks that stand at this place
        if not text.isascii():
            for place in range(size - 1, -1, -1):
                if unicodedata.category(text[place]).startswith("M"):
                    self._after[place] = self._after[place + 1]

    def window(self, offsets: np.ndarray, inside: np.ndarray) -> Window:
        """Return the characters of each token. offsets (T, 2); inside (T,): whether it is one of this text.

        A tokenizer that drops accents leaves combining marks uncovered: they go with the letter before them.
        """
        first, last = offsets[:, 0], offsets[:, 1]
        inside = inside & (first < last)
        first, last = np.where(inside, first, 0), np.where(inside, last, 0)
        starts, ends = self._begin[first], self._finish[self._after[last]]
        real = inside & (starts < ends)
        return Window(
            np.where(real, starts, NOWHERE).astype(np.int32), np.where(real, ends, NOWHERE).astype(np.int32)
        )


@dataclass(frozen=True)
class Placed:
    """Where the characters of an answer lie among the tokens of windows.

    tokens: (first, last) in each window that holds all of it, None in the others. whole: whether its tokens
    begin and end where it does; else they stand for more.
    """

    tokens: list[tuple[int, int] | None]
    whole: bool


def place(windows: Sequence[Window], start: int, end: int) -> Placed:
    """Return the tokens that characters start .. end - 1 touch; end > start.

    A window that holds only a part of them holds nothing.
    """
    touched = [(one.starts < end) & (one.ends > start) & (one.starts != NOWHERE) for one in windows]
    if not any(some.any() for some in touched):
        return Placed([None] * len(windows), whole=True)
    first = min(one.starts[some].min() for one, some in zip(windows, touched, strict=True) if some.any())
    last = max(one.ends[some].max() for one, some in zip(windows, touched, strict=True) if some.any())
    tokens: list[tuple[int, int] | None] = []
    for one, some in zip(windows, touched, strict=True):
        held = np.flatnonzero(some)
        complete = held.size and one.starts[held[0]] == first and one.ends[held[-1]] == last
        tokens.append((int(held[0]), int(held[-1])) if complete else None)
    return Placed(tokens, whole=bool(first >= start and last <= end))


def best(
    window: Window, start_logits: np.ndarray, end_logits: np.ndarray, *, most: int, many: int
) -> dict[tuple[int, int], float]:
    """Return {(first character, the one after the last): score} of at least the `many` best spans, if any.

    start_logits, end_logits (T,) f64. most: tokens of a span. A span begins and ends at tokens that stand for
    something in the text; of spans of the same characters the best counts. Spans that score as the last of
    those returned are returned with it.
    """
    count = len(window.starts)
    real = window.starts != NOWHERE
    starts, ends = np.where(real, start_logits, -np.inf), np.where(real, end_logits, -np.inf)
    scores = np.full((min(most, count), count), -np.inf)  # more tokens x first token
    for more in range(len(scores)):
        scores[more, : count - more] = starts[: count - more] + ends[more:]
    flat = scores.ravel()
    possible = np.flatnonzero(flat > -np.inf)
    wanted = many
    while True:
        chosen = possible
        if wanted < possible.size:
            limit = np.partition(flat[possible], possible.size - wanted)[possible.size - wanted]
            chosen = possible[flat[possible] >= limit]
        found: dict[tuple[int, int], float] = {}
        for spot in chosen:
            more, first = divmod(int(spot), count)
            key = int(window.starts[first]), int(window.ends[first + more])
            found[key] = max(float(flat[spot]), found.get(key, -np.inf))
        if len(found) >= many or len(chosen) == possible.size:
            return found
        wanted *= 2
