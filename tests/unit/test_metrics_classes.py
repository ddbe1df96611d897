"""Accuracy, F1, Matthews and calibration of classes: scikit-learn's figures, and what users get wrong."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest

from lmx.core.errors import UserError
from lmx.core.types import Metric
from lmx.metrics import accuracy, calibration, f1, matthews

pytestmark = pytest.mark.filterwarnings("ignore:A single label was found:UserWarning")  # scikit-learn's
SEEDS = range(100)
AVERAGES = ("micro", "macro", "weighted")


@pytest.fixture(scope="module")
def sk() -> Any:
    return pytest.importorskip("sklearn.metrics", reason="scikit-learn comes with pip install 'lmx[eval]'")


def _figures(metric: Metric, predicted: list[Any], actual: list[Any], key: str = "label") -> dict[str, float]:
    return metric.finish(metric.sums([{key: one} for one in predicted], [{key: one} for one in actual]))


def _drawn(seed: int) -> tuple[list[str], list[str]]:
    """Labels of few or many examples, so that classes are missing on either side, or on both."""
    rng = random.Random(seed)
    names = "yes no maybe other".split()[: rng.randint(1, 4)]
    length = rng.choice([1, 2, 3, 50])
    likely = rng.choices(names, k=rng.randint(1, 3))
    return rng.choices(likely, k=length), rng.choices(names, k=length)


def test_single_labels_equal_scikit_learn(sk: Any) -> None:
    for seed in SEEDS:
        predicted, actual = _drawn(seed)
        found = _figures(f1.metric(), predicted, actual)
        for average in AVERAGES:
            wanted = sk.precision_recall_fscore_support(actual, predicted, average=average, zero_division=0)
            for name, value in zip(("precision", "recall", "f1"), wanted, strict=False):
                assert found[f"{name}_{average}"] == pytest.approx(value, rel=1e-12, abs=1e-15)
        assert _figures(accuracy.metric(), predicted, actual)["accuracy"] == sk.accuracy_score(
            actual, predicted
        )
        wanted = sk.matthews_corrcoef(actual, predicted)
        assert _figures(matthews.metric(), predicted, actual)["matthews"] == pytest.approx(
            wanted, rel=1e-12, abs=1e-15
        )


def test_given_labels_equal_scikit_learn(sk: Any) -> None:
    """One that never occurs counts as 0; one that is not listed only costs the others."""
    for seed in SEEDS:
        predicted, actual = _drawn(seed)
        labels = ["no", "maybe", "never"]
        found = _figures(f1.metric(labels=labels, each=True), predicted, actual)
        for average in (*AVERAGES, None):
            wanted = sk.precision_recall_fscore_support(
                actual, predicted, labels=labels, average=average, zero_division=0
            )
            for name, value in zip(("precision", "recall", "f1"), wanted, strict=False):
                suffixes = [f"_{average}"] if average else [f"/{label}" for label in labels]
                assert [found[name + suffix] for suffix in suffixes] == pytest.approx(
                    np.ravel(value), rel=1e-12
                )


def test_one_positive_class_equals_scikit_learn(sk: Any) -> None:
    for seed in SEEDS:
        rng = random.Random(seed)
        length = rng.choice([1, 2, 3, 50])
        predicted = rng.choices(["yes", "no"], [rng.choice([0, 1]), 1], k=length)
        actual = rng.choices(["yes", "no"], [rng.choice([0, 1]), 1], k=length)
        found = _figures(f1.metric(positive="yes"), predicted, actual)
        wanted = sk.precision_recall_fscore_support(
            [one == "yes" for one in actual],
            [one == "yes" for one in predicted],
            average="binary",
            zero_division=0,
        )
        assert [*found] == ["precision", "recall", "f1"]
        assert [*found.values()] == pytest.approx(wanted[:3], rel=1e-12)


def test_several_labels_equal_scikit_learn(sk: Any) -> None:
    for seed in SEEDS:
        rng = random.Random(seed)
        names, length = "a b c d".split(), rng.choice([1, 3, 40])
        predicted, actual = ([rng.sample(names, rng.randint(0, 3)) for _ in range(length)] for _ in range(2))
        tables = [
            np.array([[name in one for name in names] for one in side], int) for side in (actual, predicted)
        ]
        found = _figures(f1.metric(labels=names), predicted, actual, key="labels")
        for average in AVERAGES:
            wanted = sk.precision_recall_fscore_support(*tables, average=average, zero_division=0)
            for name, value in zip(("precision", "recall", "f1"), wanted, strict=False):
                assert found[f"{name}_{average}"] == pytest.approx(value, rel=1e-12, abs=1e-15)
        share = _figures(accuracy.metric(), predicted, actual, key="labels")["accuracy"]
        assert share == sk.accuracy_score(*tables)  # a set is right only if it is the very set


def test_the_order_of_several_labels_does_not_matter() -> None:
    assert _figures(accuracy.metric(), [["a", "b"]], [["b", "a"]], key="labels") == {"accuracy": 1.0}


def test_macro_f1_is_the_mean_of_f1_not_the_f1_of_means() -> None:
    found = _figures(f1.metric(), ["a", "a", "b", "b"], ["a", "a", "a", "b"])
    of_means = 2 / (1 / found["precision_macro"] + 1 / found["recall_macro"])
    assert found["f1_macro"] == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert found["f1_macro"] != pytest.approx(of_means, rel=1e-2)


def test_classes_of_a_large_set_stay_exact() -> None:
    """A naive product of the four cells leaves 64 bits at ten million examples."""
    N = 10**7
    total = {"pairs": {("a", "a"): 4 * N, ("b", "b"): 4 * N, ("a", "b"): N, ("b", "a"): N}}
    assert matthews.metric().finish(total) == {"matthews": pytest.approx(0.6, rel=1e-14)}


@pytest.mark.parametrize("name", ["f1", "accuracy", "matthews"])
def test_a_name_and_a_number_are_never_the_same_class(name: str) -> None:
    metric = {"f1": f1, "accuracy": accuracy, "matthews": matthews}[name].metric()
    with pytest.raises(UserError, match="example 1: the predicted label 1 and the reference's '1' can never"):
        _figures(metric, ["0", 1], ["0", "1"])


def test_a_positive_class_that_is_not_there_is_an_error_not_zero() -> None:
    with pytest.raises(
        UserError, match="positive='1', and the classes found are 'entailment', 'not_entailment'"
    ):
        _figures(f1.metric(positive="1"), ["entailment", "not_entailment"], ["entailment", "entailment"])


def test_options_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(UserError, match="positive= is for two classes"):
        f1.metric(positive="a", labels=["a", "b"])
    with pytest.raises(UserError, match="expected a list of one or more names"):
        f1.metric(labels="abc")
    with pytest.raises(UserError, match=r"give labels=\['a'\] instead"):
        _figures(f1.metric(positive="a"), [["a"]], [["a"]], key="labels")


def test_accuracy_of_tags_counts_words() -> None:
    """Two of three words of one sentence, one of one of the other: 3 / 4, not the mean of 2/3 and 1."""
    predicted, actual = [["NOUN", "VERB", "NOUN"], ["X"]], [["NOUN", "VERB", "VERB"], ["X"]]
    assert _figures(accuracy.metric(), predicted, actual, key="tags") == {"accuracy": 0.75}
    with pytest.raises(UserError, match="example 0 has 4 predicted tags for 3 words"):
        _figures(accuracy.metric(), [["NOUN"] * 4, ["X"]], actual, key="tags")


def _ece(confidence: list[float], right: list[bool], bins: int) -> tuple[float, float]:
    """Return ECE and MCE straight from Guo et al.'s definitions, bin by bin."""
    gaps = []
    for m in range(1, bins + 1):
        inside = [
            i for i, p in enumerate(confidence) if (m - 1) / bins < p <= m / bins or (p == 0 and m == 1)
        ]
        if inside:
            share = sum(right[i] for i in inside) / len(inside)
            gaps.append((len(inside), abs(share - sum(confidence[i] for i in inside) / len(inside))))
    return sum(n * gap for n, gap in gaps) / len(confidence), max(gap for _, gap in gaps)


def test_calibration_is_that_of_the_definition() -> None:
    for seed in SEEDS:
        rng = random.Random(seed)
        bins, length = rng.choice([1, 10, 15]), rng.choice([1, 5, 200])
        # Probabilities on the edges of bins too, where 0.7 * 10 is more than 7 in floating point.
        top = [
            max(p, round(1 - p, 2))
            for p in (rng.choice([rng.random(), k / 10]) for k in rng.choices(range(11), k=length))
        ]
        right = [rng.random() < p for p in top]
        predictions = [{"scores": {"a": p, "b": 1 - p}} for p in top]
        metric = calibration.metric(bins=bins)
        found = metric.finish(metric.sums(predictions, [{"label": "a" if one else "b"} for one in right]))
        confidence = [max(one["scores"].values()) for one in predictions]
        assert [found["ece"], found["mce"]] == pytest.approx(
            _ece(confidence, right, bins), rel=1e-10, abs=1e-14
        )


def test_calibration_totals_are_the_table_of_a_plot() -> None:
    predictions = [{"scores": {"a": p, "b": 1 - p}} for p in (0.6, 0.7, 1.0)]
    totals = calibration.metric(bins=10).sums(predictions, [{"label": "a"}, {"label": "b"}, {"label": "a"}])
    assert totals["count"].tolist() == [0, 0, 0, 0, 0, 1, 1, 0, 0, 1]  # a bin holds its upper end
    assert totals["right"].tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 0, 1]
    assert totals["confidence"].tolist() == [0, 0, 0, 0, 0, 0.6, 0.7, 0, 0, 1.0]


def test_calibration_refuses_logits_and_unknown_labels() -> None:
    metric = calibration.metric()
    for scores in ({"a": 3.2, "b": -1.0}, {"a": math.nan, "b": 0.5}, {}):
        with pytest.raises(
            UserError, match=r"prediction 0: 'scores' is .*; expected probabilities between 0 and 1"
        ):
            metric.sums([{"scores": scores}], [{"label": "a"}])
    with pytest.raises(
        UserError, match="reference 0: the label 'A' has no score in its prediction; expected one of"
    ):
        metric.sums([{"scores": {"a": 0.5, "b": 0.5}}], [{"label": "A"}])
    with pytest.raises(UserError, match="bins=0"):
        calibration.metric(bins=0)
