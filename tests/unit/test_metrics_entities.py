"""Entity F1: seqeval's figures in its default mode, also for malformed tags."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from lmx.core.errors import UserError
from lmx.metrics import accuracy, entity_f1


@pytest.fixture(scope="module")
def seqeval() -> Any:
    return pytest.importorskip(
        "seqeval.metrics.sequence_labeling", reason="seqeval comes with pip install 'lmx[eval]'"
    )


def _figures(predicted: list[list[str]], actual: list[list[str]]) -> dict[str, float]:
    metric = entity_f1.metric()
    return metric.finish(metric.sums([{"tags": one} for one in predicted], [{"tags": one} for one in actual]))


def _drawn(seed: int, tags: list[str]) -> tuple[list[list[str]], list[list[str]]]:
    """Random tags, mostly malformed; predictions repeat many of the references."""
    rng = random.Random(seed)
    lengths = [rng.randint(1, 12) for _ in range(rng.choice([1, 2, 30]))]
    actual = [rng.choices(tags, k=length) for length in lengths]
    predicted = [[tag if rng.random() < 0.8 else rng.choice(tags) for tag in one] for one in actual]
    return predicted, actual


def _check(seqeval: Any, predicted: list[list[str]], actual: list[list[str]]) -> None:
    found = _figures(predicted, actual)
    scores = seqeval.precision_recall_fscore_support
    kinds = sorted({key.partition("/")[2] for key in found if "/" in key})
    if not kinds:
        assert set(found.values()) == {0.0}
        return
    for average, suffixes in (("micro", [""]), ("macro", ["_macro"]), (None, [f"/{kind}" for kind in kinds])):
        wanted = scores(actual, predicted, average=average, zero_division=0)
        for name, value in zip(("precision", "recall", "f1"), wanted, strict=False):
            values = value if average is None else [value]
            assert [found[name + suffix] for suffix in suffixes] == pytest.approx(list(values), rel=1e-12)


def test_entities_equal_seqeval(seqeval: Any) -> None:
    for seed in range(100):
        every = [f"{mark}-{kind}" for mark in "BI" for kind in ("PER", "LOC", "A-B")]
        _check(seqeval, *_drawn(seed, ["O", "O", *every]))


def test_other_schemes_and_bare_marks_equal_seqeval(seqeval: Any) -> None:
    for seed in range(100):
        every = [f"{mark}-{kind}" for mark in "BIES" for kind in ("X", "Y")]
        _check(seqeval, *_drawn(seed, ["O", *every, "B", "I", "E", "S", "B-"]))


def test_the_example_of_seqevals_readme(seqeval: Any) -> None:
    actual = ["O O O B-MISC I-MISC I-MISC O".split(), "B-PER I-PER O".split()]
    predicted = ["O O B-MISC I-MISC I-MISC I-MISC O".split(), "B-PER I-PER O".split()]
    assert _figures(predicted, actual)["f1"] == 0.5
    assert seqeval.f1_score(actual, predicted) == 0.5


def test_accuracy_flatters_where_entity_f1_does_not() -> None:
    """A tagger that cuts every entity short finds none, with most of its words right."""
    actual = [["O"] * 6 + ["B-PER", "I-PER"], ["O"] * 7 + ["B-LOC"]]
    predicted = [["O"] * 6 + ["B-PER", "O"], ["O"] * 8]
    metric = accuracy.metric()
    sides = [[{"tags": one} for one in side] for side in (predicted, actual)]
    assert metric.finish(metric.sums(*sides)) == {"accuracy": 14 / 16}
    assert _figures(predicted, actual)["f1"] == 0.0


def test_entities_end_with_their_sentence() -> None:
    """An I that opens a sentence begins an entity, whatever the sentence before ended with."""
    sentences = [["O", "B-PER"], ["I-PER", "O"]]
    assert _figures(sentences, sentences)["f1"] == 1.0
    metric = entity_f1.metric()
    totals = metric.sums([{"tags": one} for one in sentences], [{"tags": one} for one in sentences])
    assert totals["actual"] == {"PER": 2}


def test_an_inside_tag_begins_an_entity_where_it_cannot_go_on() -> None:
    assert entity_f1.spans(["O", "I-PER", "I-PER", "I-LOC", "B-LOC", "I-LOC"]) == [
        ("PER", 1, 3),
        ("LOC", 3, 4),
        ("LOC", 4, 6),
    ]


@pytest.mark.parametrize("tag", ["NOUN", "B_PER", "o", "", "O-PER", "-PER"])
def test_tags_of_no_scheme_are_the_users_error(tag: str) -> None:
    with pytest.raises(UserError, match="marks no span; expected O, B-TYPE or I-TYPE"):
        _figures([["O", tag]], [["O", "O"]])


def test_tags_of_sub_pieces_are_the_users_error() -> None:
    with pytest.raises(
        UserError, match=r"example 1 has 3 predicted tags for 2 words; .* none for sub-pieces"
    ):
        _figures([["O"], ["O", "B-PER", "I-PER"]], [["O"], ["O", "B-PER"]])


def test_a_real_corpus_equals_seqeval(seqeval: Any, shared_data: Path) -> None:
    path = shared_data / "ncbi_disease" / "devel.tsv"
    sentences = path.read_text(encoding="utf-8").split("\n\n")
    actual = [[line.split("\t")[1] for line in one.splitlines()] for one in sentences if one.strip()]
    rng = random.Random(0)
    noise = ["O", "B-Disease", "I-Disease"]
    predicted = [[tag if rng.random() < 0.95 else rng.choice(noise) for tag in one] for one in actual]
    _check(seqeval, predicted, actual)
