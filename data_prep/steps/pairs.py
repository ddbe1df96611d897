"""Pairs: two stretches of text in a row, of which the second follows the first, or is from another document.

Source: Devlin et al. 2018, "BERT", appendix A.2. One departure: where a chunk is a single sentence, the true
next stretch is its second half, so that half of the rows follow in texts of long sentences, too.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, MutableMapping, Sequence

import numpy as np

from lmx.core.errors import UserError

FOLLOWS, RANDOM = 0, 1
"""The row's label, as BERT has it: 0 says that the second stretch is the true next one."""

Pair = tuple[np.ndarray, list[int], int]
"""([CLS] A [SEP] B [SEP]; the lengths of [CLS] A [SEP] and B [SEP]; the label)."""

Document = Sequence[np.ndarray]
"""The ids of its sentences; none is empty."""


def pairs(
    documents: Sequence[Document],
    *,
    length: int,
    first: int,
    last: int,
    short: float = 0.1,
    copies: int = 1,
    seed: int = 0,
    tally: MutableMapping[str, int],
) -> Iterator[Pair]:
    """Yield rows of at most `length` tokens, each document's in its order, `copies` times.

    Sentences of one document are gathered until a row is full; the first stretch ends at a random one of
    them. With probability 1/2 the second stretch is what comes next; else it is from a random place of
    another document, and what was not used goes into the next row. short: the share of rows that are cut
    to a random length, so that a model knows short texts, too. The draws of a document derive from
    (seed, copy, its place). tally: gets `pairs`, of them `random` and `short`, and `cut`, the tokens that
    had no room.

    Raises UserError for fewer than two documents, and for rows too short for a pair.
    """
    if length < 5:
        raise UserError(f"batch.length={length}; a pair takes at least 5 tokens: [CLS] A [SEP] B [SEP]")
    if len(documents) < 2:
        raise UserError(
            f"{len(documents)} document in a split; pairs need at least two, for a random second text is one "
            "of another document: give more documents, or set task.name=masked_lm"
        )
    for name in ("pairs", "random", "short", "cut"):
        tally.setdefault(name, 0)
    for copy in range(copies):
        for place in range(len(documents)):
            draw = np.random.default_rng([seed, zlib.crc32(b"pairs"), copy, place])
            for a, b, label in _of_document(documents, place, length - 3, short, draw, tally):
                row = np.concatenate([[first], a, [last], b, [last]])
                yield row, [len(a) + 2, len(b) + 1], label


def _of_document(
    documents: Sequence[Document],
    place: int,
    room: int,
    short: float,
    draw: np.random.Generator,
    tally: MutableMapping[str, int],
) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Yield (A, B, label) of one document; A and B have at most `room` tokens together."""
    document = documents[place]
    at = 0
    while at < len(document):
        is_short = draw.random() < short
        target = int(draw.integers(2, room + 1)) if is_short else room
        end, size = at, 0
        while end < len(document) and size < target:
            size += len(document[end])
            end += 1
        chunk = document[at:end]
        label = int(draw.integers(2))
        if len(chunk) == 1 and len(chunk[0]) < 2:
            label = RANDOM
        if label == FOLLOWS:
            a, b = _cut(chunk, draw)
            at = end
        else:
            split = int(draw.integers(1, len(chunk))) if len(chunk) > 1 else 1
            a = np.concatenate(chunk[:split])
            b = _elsewhere(documents, place, target - len(a), draw)
            at += split
        tally["pairs"] += 1
        tally["random"] += label
        tally["short"] += is_short
        tally["cut"] += max(0, len(a) + len(b) - room)
        yield *_truncated(a, b, room, draw), label


def _cut(chunk: Document, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return two stretches that follow one another: the chunk, cut between sentences, or halved."""
    if len(chunk) == 1:
        half = len(chunk[0]) // 2
        return chunk[0][:half], chunk[0][half:]
    split = int(draw.integers(1, len(chunk)))
    return np.concatenate(chunk[:split]), np.concatenate(chunk[split:])


def _elsewhere(documents: Sequence[Document], place: int, size: int, draw: np.random.Generator) -> np.ndarray:
    """Return a stretch of another document, at least one sentence, until it has `size` tokens."""
    other = int(draw.integers(len(documents) - 1))
    document = documents[other + (other >= place)]
    at = int(draw.integers(len(document)))
    parts = [document[at]]
    while sum(map(len, parts)) < size and at + len(parts) < len(document):
        parts.append(document[at + len(parts)])
    return np.concatenate(parts)


def _truncated(
    a: np.ndarray, b: np.ndarray, room: int, draw: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return both with what has no room cut off the longer one, at either end by the toss of a coin."""
    over = max(0, len(a) + len(b) - room)
    # The longer gives way until both are equal, then both in turn.
    from_longer = min(over, abs(len(a) - len(b)))
    rest = over - from_longer
    longer, other = from_longer + (rest + 1) // 2, rest // 2
    cut_a, cut_b = (longer, other) if len(a) >= len(b) else (other, longer)
    return _trimmed(a, cut_a, draw), _trimmed(b, cut_b, draw)


def _trimmed(ids: np.ndarray, count: int, draw: np.random.Generator) -> np.ndarray:
    front = int(draw.binomial(count, 0.5))
    return ids[front : len(ids) - (count - front)]
