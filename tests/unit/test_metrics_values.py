"""Correlation, errors and perplexity of numbers: SciPy's and scikit-learn's figures, and undefined ones."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from lmx.core.errors import UserError
from lmx.core.types import Metric
from lmx.metrics import correlation, perplexity, regression

SEEDS = range(100)


def _figures(metric: Metric, predicted: list[float], actual: list[float]) -> dict[str, float]:
    return metric.finish(
        metric.sums([{"value": one} for one in predicted], [{"value": one} for one in actual])
    )


def _drawn(seed: int) -> tuple[list[float], list[float]]:
    """Numbers with many ties, few, or none, on scales and at distances from zero far apart."""
    rng = random.Random(seed)
    length, scale, shift = rng.choice([3, 10, 300]), 10.0 ** rng.randint(-6, 6), rng.choice([0, 1, 1e4])
    digits = rng.choice([0, 1, 15])
    actual = [round(rng.gauss(0, 2), digits) for _ in range(length)]
    predicted = [scale * (round(0.5 * one + rng.gauss(0, 1), digits) + shift) for one in actual]
    return [*predicted, 3 * scale, 4 * scale], [*actual, 0.0, 1.0]  # no side is constant


def test_correlations_equal_scipy() -> None:
    for seed in SEEDS:
        predicted, actual = _drawn(seed)
        found = _figures(correlation.metric(), predicted, actual)
        assert found["pearson"] == pytest.approx(
            stats.pearsonr(predicted, actual).statistic, rel=1e-10, abs=1e-12
        )
        assert found["spearman"] == pytest.approx(
            stats.spearmanr(predicted, actual).statistic, rel=1e-12, abs=1e-12
        )


def test_errors_equal_scikit_learn() -> None:
    for seed in SEEDS:
        sk = pytest.importorskip("sklearn.metrics", reason="scikit-learn comes with pip install 'lmx[eval]'")
        predicted, actual = _drawn(seed)
        found = _figures(regression.metric(), predicted, actual)
        assert found["mse"] == pytest.approx(sk.mean_squared_error(actual, predicted), rel=1e-12)
        assert found["rmse"] == pytest.approx(sk.root_mean_squared_error(actual, predicted), rel=1e-12)
        assert found["mae"] == pytest.approx(sk.mean_absolute_error(actual, predicted), rel=1e-12)


def test_pairs_that_repeat_count_each_time() -> None:
    """(1, 1) ten times: of the distinct pairs alone the correlation would be another."""
    predicted, actual = [1.0] * 10 + [2.0, 3.0], [1.0] * 10 + [3.0, 2.0]
    found = _figures(correlation.metric(), predicted, actual)
    assert found["spearman"] == pytest.approx(stats.spearmanr(predicted, actual).statistic, rel=1e-12)
    assert found["spearman"] != pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("values", [([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [2, 2, 2]), ([1], [2]), ([], [])])
def test_a_correlation_that_is_undefined_is_nan(values: tuple[list[float], list[float]]) -> None:
    found = _figures(correlation.metric(), *values)
    assert math.isnan(found["pearson"])
    assert math.isnan(found["spearman"])


def test_constants_that_are_no_exact_binary_numbers_are_still_constant() -> None:
    """The mean of three 0.1 is not 0.1, so a naive variance is above 0 and the figure is noise."""
    assert math.isnan(_figures(correlation.metric(), [0.1, 0.1, 0.1], [1, 2, 3])["pearson"])


def _exact(one: list[float], two: list[float]) -> float:
    """Return Pearson's correlation by fractions, rounded at the very end."""
    a, b = ([Fraction(value) - sum(map(Fraction, side)) / len(side) for value in side] for side in (one, two))
    products = [float(sum(x * y for x, y in zip(p, q, strict=True))) for p, q in ((a, b), (a, a), (b, b))]
    return products[0] / math.sqrt(products[1]) / math.sqrt(products[2])


def test_values_far_from_zero_keep_their_correlation() -> None:
    """Sums of squares, the naive totals, lose all digits here, and a mean loses some."""
    for seed in SEEDS:
        rng = random.Random(seed)
        one, two = ([1e8 + rng.gauss(0, 1e-4) for _ in range(20)] for _ in range(2))
        found = _figures(correlation.metric(), one, two)["pearson"]
        assert found == pytest.approx(_exact(one, two), rel=0, abs=1e-14)


def test_values_whose_squares_no_float_holds_keep_their_correlation() -> None:
    for scale in (1e308, 1e-300):
        values = [scale * one for one in (-1.5, -0.5, 0.5, 1.5)]
        found = _figures(correlation.metric(), values, [1.0, 3.0, 2.0, 4.0])
        assert found["pearson"] == pytest.approx(0.8, rel=1e-12)


def test_a_perfect_correlation_is_one_and_not_more() -> None:
    for seed in SEEDS:
        values = [random.Random(seed).gauss(0, 1) * k for k in range(1, 40)]
        found = _figures(correlation.metric(), values, [3 * one for one in values])
        assert 1 - 1e-12 < found["pearson"] <= 1
        assert found["spearman"] == pytest.approx(1)


@pytest.mark.parametrize("metric", [correlation.metric(), regression.metric()])
@pytest.mark.parametrize("value", [math.nan, math.inf, None, "3", True, [0.5], np.array([0.5])])
def test_what_is_not_one_finite_number_is_the_users_error(metric: Metric, value: object) -> None:
    """One number in a list would broadcast (B,) against (B, 1) to B x B errors."""
    with pytest.raises(UserError, match=r"prediction 1: 'value' is .*; expected one finite number"):
        metric.sums([{"value": 1.0}, {"value": value}], [{"value": 1.0}, {"value": 1}])
    with pytest.raises(UserError, match=r"reference 0: 'value' is .*; expected one finite number"):
        metric.sums([{"value": 1.0}], [{"value": value}])


def test_several_targets_have_their_figures_and_the_mean() -> None:
    """Against scikit-learn's uniform average over outputs, and SciPy for each column."""
    sk = pytest.importorskip("sklearn.metrics", reason="scikit-learn comes with pip install 'lmx[eval]'")
    drawn = np.random.default_rng(0).normal(size=(2, 40, 3))
    rows = [[{"value": row} for row in side.tolist()] for side in drawn]
    parts = [(rows[0][:7], rows[1][:7]), (rows[0][7:], rows[1][7:])]
    found: dict[str, float] = {}
    for metric in (regression.metric(), correlation.metric()):
        one, two = (metric.sums(*part) for part in parts)
        found |= metric.finish({name: one[name] + two[name] for name in one})
    predicted, actual = drawn
    for name, peer in (
        ("mse", sk.mean_squared_error), ("mae", sk.mean_absolute_error), ("rmse", sk.root_mean_squared_error)
    ):  # fmt: skip
        assert found[name] == pytest.approx(peer(actual, predicted), rel=1e-12)
        each = peer(actual, predicted, multioutput="raw_values")
        assert [found[f"{name}/{i}"] for i in range(3)] == pytest.approx(each.tolist(), rel=1e-12)
    for name, of in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
        each = [of(predicted[:, i], actual[:, i]).statistic for i in range(3)]
        assert [found[f"{name}/{i}"] for i in range(3)] == pytest.approx(each, rel=1e-12)
        assert found[name] == pytest.approx(np.mean(each), rel=1e-12)


@pytest.mark.parametrize("metric", [correlation.metric(), regression.metric()])
def test_other_counts_of_targets_are_the_users_error(metric: Metric) -> None:
    with pytest.raises(UserError, match="prediction 1: 'value' has 3 numbers, the first reference's has 2"):
        metric.sums([{"value": [1, 2]}, {"value": [1, 2, 3]}], [{"value": [1, 2]}] * 2)
    with pytest.raises(UserError, match="prediction 0: 'value' has 1 numbers, the first reference's has 2"):
        metric.sums([{"value": 1}], [{"value": [1, 2]}])


def test_numbers_of_numpy_will_do() -> None:
    assert _figures(regression.metric(), [np.float32(1.5), np.int64(2)], [1, 2])["mae"] == 0.25


def test_perplexity_is_over_tokens_not_over_examples() -> None:
    metric = perplexity.metric()
    found = metric.finish(metric.sums([{"loss": 10.0, "tokens": 1}, {"loss": 0.0, "tokens": 9}], [{}, {}]))
    assert found == pytest.approx({"loss": 1.0, "perplexity": math.e})


def test_bits_per_byte_do_not_depend_on_the_tokens() -> None:
    """The same 60 nats for the same 20 bytes, as 10 tokens and as 5."""
    found = []
    for tokens in (10, 5):
        metric = perplexity.metric(bytes_per_token=20 / tokens)
        found.append(metric.finish(metric.sums([{"loss": 60.0, "tokens": tokens}], [{}])))
    assert found[0]["bits_per_byte"] == pytest.approx(60 / math.log(2) / 20)
    assert found[0]["bits_per_byte"] == pytest.approx(found[1]["bits_per_byte"])
    assert found[0]["perplexity"] != pytest.approx(found[1]["perplexity"])
