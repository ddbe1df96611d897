"""What tasks about tokens and spans share: the rows of many texts, a few at a time, and outputs checked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lmx.core.errors import UserError
from lmx.core.examples import Cut, Encoder, Feature, Row

_AT_A_TIME = 256
"""Texts that the tokenizer holds at once: its own account of a row is far larger than the ids."""

UNCUT = 2**30
"""A length that cuts nothing."""


def rows(
    tokenizer: Encoder,
    texts: Sequence[Any],
    pairs: Sequence[Any] | None = None,
    *,
    length: int,
    stride: int,
    cut: Cut = "longest",
    words: bool = False,
) -> Iterator[list[Row]]:
    """Yield the rows of each text, or of each pair, as `Encoder.rows` gives them."""
    for first in range(0, len(texts), _AT_A_TIME):
        some = slice(first, first + _AT_A_TIME)
        others = None if pairs is None else pairs[some]
        yield from tokenizer.rows(texts[some], others, length=length, stride=stride, cut=cut, words=words)


def sizes(tokenizer: Encoder, texts: Sequence[str]) -> list[int]:
    """Return how many tokens each text has, special ones aside."""
    return [len(row.ids) for row in whole(tokenizer, texts)]


def whole(tokenizer: Encoder, texts: Sequence[str]) -> Iterator[Row]:
    """Yield each text as one row without special tokens, however long."""
    for first in range(0, len(texts), _AT_A_TIME):
        for found in tokenizer.rows(texts[first : first + _AT_A_TIME], length=UNCUT, special=False):
            yield found[0]


def real(output: np.ndarray, feature: Feature, name: str) -> np.ndarray:
    """Return a feature's output (T, ...) as f64, without padding. Errors: UserError where it is no number."""
    found = np.asarray(output)[: feature["input_ids"].shape[-1]].astype(np.float64)
    if not np.isfinite(found).all():
        raise UserError(f"the model's {name} are not finite numbers (NaN or infinite); did training diverge?")
    return found
