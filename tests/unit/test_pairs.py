"""Rows of encoders: pieces of documents, and pairs of texts of which the second follows or not."""

import numpy as np
import pytest

from data_prep.steps.pairs import FOLLOWS, RANDOM, pairs
from data_prep.steps.pieces import pieces
from lmx.core.errors import UserError

FIRST, LAST = 1, 2


def test_pieces_by_hand() -> None:
    found = pieces([np.array([10, 11]), np.array([20, 21, 22])], length=6, first=1, last=2)
    assert [(row.tolist(), lengths) for row, lengths in found] == [
        ([1, 10, 11, 2], [4]),
        ([1, 20, 21, 22, 2], [5]),
    ]
    # A row of 8 holds both: 4 places, and 4 for the beginning of the next document, which goes on.
    found = pieces([np.array([10, 11]), np.array([20, 21, 22])], length=8, first=1, last=2)
    assert [(row.tolist(), lengths) for row, lengths in found] == [
        ([1, 10, 11, 2, 1, 20, 21, 2], [4, 4]),
        ([1, 22, 2], [3]),
    ]


def documents(count: int, *, sentences: int = 40, seed: int = 0) -> list[list[np.ndarray]]:
    """Return documents of sentences; token 1000 * document + k is its k-th, so that order and origin show."""
    draw = np.random.default_rng(seed)
    found = []
    for place in range(count):
        lengths = draw.integers(1, 12, sentences)
        ids = 1000 * (place + 1) + np.arange(lengths.sum())
        found.append(np.split(ids, np.cumsum(lengths)[:-1]))
    return found


def made(
    given: list[list[np.ndarray]], **options: object
) -> tuple[list[tuple[list[int], list[int], int]], dict[str, int]]:
    tally: dict[str, int] = {}
    settings = {"length": 32, "first": FIRST, "last": LAST, "tally": tally, **options}
    found = []
    for tokens, lengths, label in pairs(given, **settings):  # type: ignore[arg-type]
        assert len(tokens) == sum(lengths) <= 32
        a, b = tokens[: lengths[0]], tokens[lengths[0] :]
        assert a[0] == FIRST and a[-1] == LAST == b[-1] and FIRST not in b and len(a) > 2 and len(b) > 1
        found.append((a[1:-1].tolist(), b[:-1].tolist(), label))
    return found, tally


def test_half_follow_and_half_are_of_another_document() -> None:
    found, tally = made(documents(60))
    labels = np.array([label for *_, label in found])
    assert len(found) > 600
    assert tally["pairs"] == len(found) and tally["random"] == labels.sum()
    # 95 % of such draws lie within two standard deviations, 1 / sqrt(n); this allows for three.
    assert abs(labels.mean() - 0.5) < 1.5 / np.sqrt(len(found))
    for a, b, label in found:
        same = a[-1] // 1000 == b[0] // 1000
        assert same == (label == FOLLOWS)
        for text in (a, b):
            assert text == list(range(text[0], text[0] + len(text)))  # of one document, in its order


def test_what_follows_is_the_true_next_text() -> None:
    """Without cuts, B begins where A ends; tokens that had no room lie between them or at the ends."""
    found, tally = made(documents(8), length=32, short=0.0)
    gaps = [b[0] - a[-1] - 1 for a, b, label in found if label == FOLLOWS]
    assert all(gap >= 0 for gap in gaps) and gaps.count(0) > len(gaps) / 4
    one = [[np.arange(k, k + 1) for k in range(1000, 1100)], [np.arange(k, k + 1) for k in range(2000, 2100)]]
    found, tally = made(one, short=0.0)
    assert tally["cut"] == 0 and all(b[0] == a[-1] + 1 for a, b, label in found if label == FOLLOWS)


def test_a_long_sentence_is_halved_rather_than_always_random() -> None:
    """Where a sentence fills a row, the released code of BERT can only draw a random second text."""
    long = [[np.arange(1000 * k + 40 * i, 1000 * k + 40 * i + 40) for i in range(20)] for k in range(1, 31)]
    found, tally = made(long)
    labels = [label for *_, label in found]
    assert 0.4 < np.mean(labels) < 0.6
    assert tally["cut"] > 0


def test_short_rows() -> None:
    few, tally = made(documents(40), short=0.0)
    many, shorter = made(documents(40), short=0.5)
    assert tally["short"] == 0 and 0.35 < shorter["short"] / len(many) < 0.65
    fill = [sum(len(a) + len(b) for a, b, _ in found) / len(found) for found in (few, many)]
    assert fill[0] > 27 > fill[1]  # of 29


def test_copies_are_other_pairs_and_a_document_has_its_own_draws() -> None:
    once, _ = made(documents(5))
    twice, _ = made(documents(5), copies=2)
    assert twice[: len(once)] == once and twice[len(once) :] != once
    assert made(documents(5), seed=1)[0] != once
    assert made(documents(5))[0] == once


def test_refused() -> None:
    with pytest.raises(UserError, match="1 document in a split; pairs need at least two"):
        made(documents(1))
    with pytest.raises(UserError, match="a pair takes at least 5"):
        made(documents(2), length=4)
    assert RANDOM == 1
