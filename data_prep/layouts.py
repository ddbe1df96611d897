"""Layouts: what a row of tokens holds, for models of each kind.

packed: documents one after another, each token predicted from those before it. pieces: pieces of documents
between [CLS] and [SEP], for masked language models. pairs: two stretches of text, of which the second follows
the first or not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from typing import Any

import numpy as np

from data_prep.steps.pack import pack
from data_prep.steps.pairs import Document, pairs
from data_prep.steps.pieces import pieces
from data_prep.steps.sentences import sentences
from data_prep.steps.tokenize import TextTokenizer, tokenize
from lmx.core.errors import UserError, did_you_mean

Tally = MutableMapping[str, int]
"""`tokens` of the text, `labels` (tokens that can be predicted), `unpredicted` (bytes of those that cannot),
and what the layout counts besides."""

Row = tuple[np.ndarray, list[int], int]
"""(tokens, lengths of the segments, label)."""

Layout = Callable[[Iterable[str], TextTokenizer, Mapping[str, Any], Tally], Iterator[Row]]
"""(texts, tokenizer, settings of the preparation, tally to fill) -> rows."""


def _packed(
    texts: Iterable[str], tokenizer: TextTokenizer, settings: Mapping[str, Any], tally: Tally
) -> Iterator[Row]:
    boundary = settings["boundary"]

    def counted() -> Iterator[np.ndarray]:
        for ids in tokenize(texts, tokenizer, boundary=boundary):
            tally["tokens"] += len(ids)
            tally["labels"] += max(len(ids) - 1, 0)
            tally["unpredicted"] += 0 if boundary or not len(ids) else tokenizer.token_bytes(int(ids[0]))
            yield ids

    for tokens, lengths in pack(counted(), length=settings["length"]):
        yield tokens, lengths, 0


def _pieces(
    texts: Iterable[str], tokenizer: TextTokenizer, settings: Mapping[str, Any], tally: Tally
) -> Iterator[Row]:
    first, last = _edges(tokenizer)
    if settings["length"] < 3:
        raise UserError(f"batch.length={settings['length']}; a piece takes at least 3 tokens: [CLS] A [SEP]")

    def counted() -> Iterator[np.ndarray]:
        for ids in tokenize(texts, tokenizer, boundary=False):
            tally["tokens"] += len(ids)
            tally["labels"] += len(ids)
            yield ids

    for tokens, lengths in pieces(counted(), length=settings["length"], first=first, last=last):
        yield tokens, lengths, 0


def _pairs(
    texts: Iterable[str], tokenizer: TextTokenizer, settings: Mapping[str, Any], tally: Tally
) -> Iterator[Row]:
    first, last = _edges(tokenizer)
    documents: list[Document] = []
    for text in texts:
        found = [np.array(ids, np.int32) for ids in tokenizer.encode_many(sentences(text)) if ids]
        tally["tokens"] += sum(map(len, found))
        if found:
            documents.append(found)
    options = {name: settings[name] for name in ("length", "short", "copies", "seed")}
    for tokens, lengths, label in pairs(documents, first=first, last=last, tally=tally, **options):
        tally["labels"] += len(tokens) - 3
        yield tokens, lengths, label


def _edges(tokenizer: TextTokenizer) -> tuple[int, int]:
    first, last = tokenizer.cls_id, tokenizer.sep_id
    if first is None or last is None:
        raise UserError(
            f"a tokenizer of kind {tokenizer.kind!r} without [CLS] and [SEP], which these rows need; "
            "set tokenizer.name=wordpiece, or name one of BERT's form: tokenizer.name=file"
        )
    return first, last


LAYOUTS: Mapping[str, Layout] = {"packed": _packed, "pieces": _pieces, "pairs": _pairs}


def settings(layout: str, *, boundary: bool, short: float, copies: int) -> dict[str, Any]:
    """Return what decides the rows of a layout. Errors: UserError for one that is not there, and for options
    that cannot be."""
    if layout not in LAYOUTS:
        raise UserError(f"layout={layout!r}{did_you_mean(layout, LAYOUTS)}; there is: {', '.join(LAYOUTS)}")
    if not 0 <= short <= 1:
        raise UserError(f"data.short={short}; expected a share from 0 to 1")
    if copies < 1:
        raise UserError(f"data.copies={copies}; expected at least 1")
    own: dict[str, dict[str, Any]] = {
        "packed": {"boundary": boundary},
        "pairs": {"short": short, "copies": copies},
    }
    return {"layout": layout, **own.get(layout, {})}


def judged(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings for rows held out: they are laid out once, however often a text is trained on."""
    return {**settings, "copies": 1} if "copies" in settings else dict(settings)
