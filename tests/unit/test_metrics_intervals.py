"""Bootstrap intervals: as wide as theory says; and what metrics do without."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from lmx.core.errors import UserError
from lmx.core.types import Metric, Totals
from lmx.metrics import accuracy, correlation, f1, intervals, regression


def _labels(some: list[str]) -> list[dict[str, str]]:
    return [{"label": label} for label in some]


def test_an_interval_of_accuracy_is_that_of_a_binomial() -> None:
    """80% of 400 right: 0.8 -/+ 1.96 * sqrt(0.8 * 0.2 / 400) = 0.8 -/+ 0.0392."""
    predictions, references = _labels(["a"] * 320 + ["b"] * 80), _labels(["a"] * 400)
    found = intervals(accuracy.metric(), predictions, references, seed=0, samples=4000)["accuracy"]
    assert found == pytest.approx((0.7608, 0.8392), abs=0.005)
    narrow = intervals(accuracy.metric(), predictions, references, seed=0, samples=4000, level=0.5)[
        "accuracy"
    ]
    assert narrow == pytest.approx((0.8 - 0.6745 * 0.02, 0.8 + 0.6745 * 0.02), abs=0.004)


def test_an_interval_of_pearson_is_that_of_fisher() -> None:
    """tanh(atanh(r) -/+ 1.96 / sqrt(n - 3)), Fisher 1921, for pairs that are jointly normal."""
    rng = np.random.default_rng(0)
    one = rng.normal(size=500)
    two = 0.6 * one + 0.8 * rng.normal(size=500)
    sides = [[{"value": float(value)} for value in side] for side in (one, two)]
    r = correlation.metric().finish(correlation.metric().sums(*sides))["pearson"]
    wanted = [math.tanh(math.atanh(r) + sign * 1.96 / math.sqrt(497)) for sign in (-1, 1)]
    assert intervals(correlation.metric(), *sides, seed=0)["pearson"] == pytest.approx(wanted, abs=0.015)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng, hits = random.Random(0), 0
    for seed in range(200):
        values = [rng.gauss(0, 1) for _ in range(80)]
        low, high = intervals(
            regression.metric(),
            [{"value": v} for v in values],
            [{"value": 0.0}] * 80,
            seed=seed,
            samples=200,
            level=0.9,
        )["mse"]
        hits += low <= 1.0 <= high
    assert 0.80 <= hits / 200 <= 0.95  # 0.9 in the limit; percentiles of few examples fall a little short


def test_where_nothing_varies_the_interval_is_a_point() -> None:
    found = intervals(accuracy.metric(), _labels(["a"] * 9), _labels(["a"] * 9), seed=0, samples=10)
    assert found == {"accuracy": (1.0, 1.0)}


def test_a_figure_that_is_undefined_in_every_sample_has_no_interval() -> None:
    found = intervals(correlation.metric(), [{"value": 1.0}] * 5, [{"value": 2.0}] * 5, seed=0, samples=10)
    assert all(math.isnan(end) for ends in found.values() for end in ends)


def test_a_sample_where_a_figure_is_undefined_is_left_out() -> None:
    """One sample in nine draws one pair three times and has no correlation; in all others it is 1."""
    sides = [[{"value": value} for value in values] for values in ([1.0, 2.0, 3.0], [1.0, 2.0, 2.5])]
    found = intervals(correlation.metric(), *sides, seed=0, samples=200)["spearman"]
    assert found == pytest.approx((1.0, 1.0))


def test_a_sample_without_the_positive_class_is_no_error() -> None:
    predictions, references = _labels(["no"] * 9 + ["yes"]), _labels(["no"] * 9 + ["yes"])
    found = intervals(f1.metric(positive="yes"), predictions, references, seed=0, samples=100)
    assert found["f1"] == (0.0, 1.0)


def test_each_example_is_scored_once_however_many_samples() -> None:
    scored = []
    plain = accuracy.metric()

    def sums(predictions: Any, references: Any) -> Totals:
        scored.extend(predictions)
        return plain.sums(predictions, references)

    predictions = _labels(["a", "b"] * 10)
    intervals(Metric(sums, plain.finish), predictions, _labels(["a"] * 20), seed=0, samples=500)
    assert scored == predictions


@pytest.mark.parametrize(
    "wrong", [{"samples": 0}, {"level": 0.0}, {"level": 1.0}, {"level": 95}, {"seed": -1}]
)
def test_values_out_of_range_are_the_users_error(wrong: dict[str, float]) -> None:
    options = {"seed": 0} | wrong
    with pytest.raises(UserError, match="expected samples of 1 or more, a level between 0 and 1"):
        intervals(accuracy.metric(), _labels(["a"]), _labels(["a"]), **options)


def test_no_examples_are_the_users_error() -> None:
    with pytest.raises(UserError, match="intervals of no examples"):
        intervals(accuracy.metric(), [], [], seed=0)
    with pytest.raises(UserError, match="1 predictions for 2 references"):
        intervals(accuracy.metric(), _labels(["a"]), _labels(["a", "b"]), seed=0)


def test_metrics_import_no_library_of_the_extra(lmx_environment: dict[str, str]) -> None:
    code = (
        "import sys; from lmx.core import plugin\n"
        "for name in plugin.names('lmx.metrics'): plugin.find('lmx.metrics', name)\n"
        "print(sorted({'sklearn', 'seqeval', 'sacrebleu', 'rouge_score', 'nltk'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=lmx_environment)
    assert (run.stdout, run.stderr) == ("[]\n", "")
