"""Tokenize: texts to ids, with an end token on both sides where documents have boundaries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from lmx.core.errors import UserError

_CHUNK = 1 << 22  # characters given to the tokenizer at once: what bounds the ids held in memory


class TextTokenizer(Protocol):
    """What preparing needs of a tokenizer."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def eos_id(self) -> int | None: ...
    @property
    def cls_id(self) -> int | None: ...
    @property
    def sep_id(self) -> int | None: ...
    @property
    def sha256(self) -> str: ...
    @property
    def kind(self) -> str: ...
    def encode_many(self, texts: Sequence[str]) -> list[list[int]]: ...
    def token_bytes(self, token: int) -> int: ...
    def save(self, folder: str | Path) -> None: ...


def tokenize(texts: Iterable[str], tokenizer: TextTokenizer, *, boundary: bool) -> Iterator[np.ndarray]:
    """Yield the ids of each text, (n,) int64, in order.

    boundary: [eos] + ids + [eos], so that a document's first token and its end are predicted as well. Raises
    UserError where the tokenizer has no end token.
    """
    end = tokenizer.eos_id
    if boundary and end is None:
        raise UserError(
            "boundary=True needs a tokenizer with an end token, and this one has none; set boundary=False"
        )
    edge = [end] if boundary else []
    for chunk in _chunks(texts):
        for ids in tokenizer.encode_many(chunk):
            yield np.array([*edge, *ids, *edge], np.int64)


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    chunk: list[str] = []
    size = 0
    for text in texts:
        chunk.append(text)
        size += len(text)
        if size >= _CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
