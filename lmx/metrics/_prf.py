"""Precision, recall and F1 from counts; what is undefined is 0, as with scikit-learn's zero_division=0.

Source: van Rijsbergen 1979, "Information Retrieval", chapter 7; Sokolova and Lapalme 2009 (the averages).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

NAMES = ("precision", "recall", "f1")


def ratio(above: float, below: float) -> float:
    """Return above / below, 0 where below is 0."""
    return float(above / below) if below else 0.0


def scores(right: int, predicted: int, actual: int) -> tuple[float, float, float]:
    """Return precision, recall and F1 of `right` hits among `predicted` and `actual` ones."""
    return ratio(right, predicted), ratio(right, actual), ratio(2 * right, predicted + actual)


def micro(
    right: Counter[Any], predicted: Counter[Any], actual: Counter[Any], labels: Sequence[Hashable]
) -> tuple[float, float, float]:
    """Return the scores of all labels' counts taken together."""
    return scores(*(sum(counts[label] for label in labels) for counts in (right, predicted, actual)))


def mean(
    right: Counter[Any],
    predicted: Counter[Any],
    actual: Counter[Any],
    labels: Sequence[Hashable],
    *,
    weighted: bool = False,
) -> tuple[float, float, float]:
    """Return the mean of the labels' scores: each counts once, or `weighted` as often as it truly occurs."""
    rows = [scores(right[label], predicted[label], actual[label]) for label in labels]
    weights = [actual[label] if weighted else 1 for label in labels]
    sums = [math.fsum(w * row[i] for w, row in zip(weights, rows, strict=True)) for i in range(3)]
    return ratio(sums[0], sum(weights)), ratio(sums[1], sum(weights)), ratio(sums[2], sum(weights))


def named(values: tuple[float, float, float], suffix: str = "") -> dict[str, float]:
    """Return precision, recall and F1 under their names, such as `f1_macro` for the suffix `_macro`."""
    return {f"{name}{suffix}": value for name, value in zip(NAMES, values, strict=True)}
