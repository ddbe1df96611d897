"""The best answer of all windows: the oracle looks at every span."""

from __future__ import annotations

import math
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmx import tokenizer
from lmx.core.errors import UserError
from lmx.core.examples import Encoded, Encoder, Example
from lmx.tasks import question_answering as task

VOCAB = "[PAD] [UNK] [CLS] [SEP] [MASK] where is ? the old city of rome ##s . 東 京"
CONTEXT = "The old 東京 city  of romes is the nai\u0308ve\n\n old 🙂 city . The city is romes . "
ANSWERED, OPEN = {"unanswerable": False}, {"unanswerable": True}


@pytest.fixture
def bert(tmp_path: Path) -> tokenizer.Tokenizer:
    (tmp_path / "vocab.txt").write_text("\n".join(VOCAB.split()), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    return tokenizer.load(tmp_path)


def every_span(
    text: Encoder, one: Example, outputs: list[tuple[np.ndarray, np.ndarray]], most: int, **how: Any
) -> list[tuple[float, int, int]]:
    """(score, start, end) of all distinct spans, best first, from the tokenizer's own rows."""
    rows = text.rows([one["question"]], [one["context"]], cut="second", **how)[0]
    context = one["context"]
    found: dict[tuple[int, int], float] = {}
    for row, (start, end) in zip(rows, outputs, strict=True):
        for i in range(len(row.ids)):
            for j in range(i, min(i + most, len(row.ids))):
                if row.text[i] != 1 or row.text[j] != 1:
                    continue
                begin, end_of = (int(row.offsets[i, 0]), int(row.offsets[j, 1]))
                while unicodedata.category(context[end_of : end_of + 1] or " ").startswith("M"):
                    end_of += 1  # a letter's marks go with it
                first, last = context[begin : row.offsets[i, 1]], context[row.offsets[j, 0] : end_of]
                if not first.strip() or not last.strip():
                    continue
                at = begin + len(first) - len(first.lstrip())
                to = end_of - len(last) + len(last.rstrip())
                score = float(start[i]) + float(end[j])
                found[at, to] = max(found.get((at, to), -np.inf), score)
    return sorted(((score, *span) for span, score in found.items()), key=lambda x: (-x[0], x[1:]))


def logits(draw: np.random.Generator, encoded: Encoded, ties: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    found = []
    for feature in encoded.features:
        size = (2, len(feature["input_ids"]) + 3)  # with padding
        pair = (draw.integers(-2, 3, size) if ties else draw.normal(size=size)).astype(np.float32)
        pair[:, : int(np.argmax(feature["char_start"] >= 0))] += 50  # the question, and the first token
        pair[:, len(feature["input_ids"]) - 1 :] += 50  # the last separator of a BERT, and padding
        found.append((pair[0], pair[1]))
    return found


def as_outputs(pairs: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, list[np.ndarray]]:
    return {"start_logits": [pair[0] for pair in pairs], "end_logits": [pair[1] for pair in pairs]}


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("byte_level", [False, True])
@pytest.mark.parametrize(("most", "many"), [(1, 1), (4, 7), (30, 20), (1000, 5000)])
def test_the_answer_is_the_best_of_all_spans(
    bert: tokenizer.Tokenizer, ties: bool, byte_level: bool, most: int, many: int
) -> None:
    made = tokenizer.train_bpe(["the old city of rome\n\n" * 50], 266) if byte_level else bert
    some: list[Example] = [
        {"question": "where is rome ?", "context": CONTEXT},
        {"question": "where ?", "context": "rome"},
        {"question": "is rome old ?", "context": CONTEXT * 2},
    ]
    how = {"length": 48 if byte_level else 20, "stride": 6}
    encoded = task.encode(some, made, facts=ANSWERED, **how)
    assert len(encoded.features) > 6
    pairs = logits(np.random.default_rng(most), encoded, ties)
    found = task.decode(some, encoded, as_outputs(pairs), facts=ANSWERED, max_answer=most, n_best=many)
    for index, (one, prediction) in enumerate(zip(some, found, strict=True)):
        mine = [pair for pair, i in zip(pairs, encoded.origin, strict=True) if i == index]
        wanted = every_span(made, one, mine, most, **how)
        given = [(c["score"], c["start"], c["end"]) for c in prediction["candidates"]]
        assert given == wanted[:many]
        assert all(c["answer"] == one["context"][c["start"] : c["end"]] for c in prediction["candidates"])
        assert (prediction["answer"], prediction["score"]) == (
            one["context"][wanted[0][1] : wanted[0][2]],
            wanted[0][0],
        )
        assert sum(c["probability"] for c in prediction["candidates"]) == pytest.approx(1)


def hand(bert: tokenizer.Tokenizer, *, best: float, null: tuple[float, float]) -> tuple[Any, ...]:
    """Two windows of one question; the best span is `old city`, its other reading `city` 1 lower."""
    one: Example = {"question": "where", "context": "the old city of rome . the city is rome ."}
    encoded = task.encode([one], bert, facts=OPEN, length=12, stride=3)
    pairs = []
    for feature, score in zip(encoded.features, null, strict=True):
        pair = np.full((2, len(feature["input_ids"])), -60, np.float32)
        pair[:, 0] = score / 2
        pairs.append((pair[0], pair[1]))
    at = encoded.features[0]["char_start"].tolist()
    pairs[0][0][at.index(4)], pairs[0][0][at.index(8)] = best / 2, best / 2 - 1
    pairs[0][1][at.index(8)] = best / 2
    return [one], encoded, as_outputs(pairs)


def test_scores_and_probabilities_by_hand(bert: tokenizer.Tokenizer) -> None:
    given = hand(bert, best=4.0, null=(3.0, 3.5))
    (found,) = task.decode(*given, facts=OPEN, n_best=2)
    assert (found["answer"], found["score"], found["null_score"]) == ("old city", 4.0, 3.0)
    assert [(c["answer"], c["start"], c["end"], c["score"]) for c in found["candidates"]] == [
        ("old city", 4, 12, 4.0),
        ("city", 8, 12, 3.0),
        ("", None, None, 3.0),
    ]
    shares = [1 / (1 + 2 / math.e), *[1 / (math.e + 2)] * 2]
    assert [c["probability"] for c in found["candidates"]] == pytest.approx(shares)
    assert found["probability"] == pytest.approx(shares[0])


@pytest.mark.parametrize(
    ("null", "threshold", "answer"),
    [
        ((3.0, 9.0), None, "old city"),  # one window sees no answer, as it should; the other does
        ((9.0, 3.0), None, "old city"),
        ((5.0, 9.0), None, ""),
        ((4.0, 9.0), None, "old city"),
        ((5.0, 9.0), 1.0, "old city"),
        ((5.5, 9.0), 1.0, ""),
        ((3.5, 3.0), -2.0, ""),
    ],
)
def test_no_answer_wins_by_more_than_the_threshold(
    bert: tokenizer.Tokenizer, null: tuple[float, float], threshold: float | None, answer: str
) -> None:
    given = hand(bert, best=4.0, null=null)
    (found,) = task.decode(*given, facts=OPEN, no_answer_threshold=threshold)
    assert (found["answer"], found["null_score"]) == (answer, min(null))
    assert found["score"] == (4.0 if answer else min(null))
    assert [c["answer"] for c in found["candidates"]].count("") == 1


def test_where_every_question_has_an_answer_one_is_given(bert: tokenizer.Tokenizer) -> None:
    given = hand(bert, best=4.0, null=(90.0, 90.0))
    (found,) = task.decode(*given, facts=ANSWERED)
    assert found["answer"] == "old city" and all(c["answer"] for c in found["candidates"])
    with pytest.raises(UserError, match="every question of the training split has an answer; leave it out"):
        task.decode(*given, facts=ANSWERED, no_answer_threshold=0.0)


def test_a_context_without_a_token_has_no_answer(bert: tokenizer.Tokenizer) -> None:
    one: Example = {"question": "where", "context": "\u200b"}
    encoded = task.encode([one], bert, facts=ANSWERED, length=12)
    zeros = np.zeros(len(encoded.features[0]["input_ids"]), np.float32)
    (found,) = task.decode([one], encoded, as_outputs([(zeros, zeros)]), facts=ANSWERED)
    assert (found["answer"], found["probability"], len(found["candidates"])) == ("", 1.0, 1)


def test_logits_that_are_no_numbers_are_refused(bert: tokenizer.Tokenizer) -> None:
    one, encoded, outputs = hand(bert, best=4.0, null=(0.0, 0.0))
    outputs["end_logits"][1][2] = np.nan
    with pytest.raises(UserError, match="not finite numbers"):
        task.decode(one, encoded, outputs, facts=ANSWERED)
    with pytest.raises(UserError, match=r"task\.n_best=0"):
        task.decode(one, encoded, outputs, facts=ANSWERED, n_best=0)
    with pytest.raises(UserError, match=r"task\.max_answer=0"):
        task.decode(one, encoded, outputs, facts=ANSWERED, max_answer=0)
