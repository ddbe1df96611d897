"""Bootstrap intervals: how far a metric's figures would move had other examples been drawn.

Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13 (percentile intervals).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lmx.core.errors import UserError
from lmx.core.rng import hashed
from lmx.core.types import Metric
from lmx.metrics._fields import Examples, same_length

Weighted = Callable[[np.ndarray], Any]
"""How often each example was drawn, (N,) -> one total of the sample."""


def intervals(
    metric: Metric,
    predictions: Examples,
    references: Examples,
    *,
    seed: int,
    samples: int = 1000,
    level: float = 0.95,
) -> dict[str, tuple[float, float]]:
    """Return the percentile bootstrap interval (low, high) of each figure of a metric.

    Each sample draws as many examples as there are, with replacement. Every example is scored once; the
    totals of a sample are those of the examples, times how often each was drawn. Samples that do not have a
    figure, or have it as NaN, are left out of its interval; where that is all of them, it is (nan, nan).

    seed: non-negative; equal seeds give equal intervals. samples: at least 1. level: between 0 and 1.

    Raises UserError for no examples, unequal counts, or a value out of those ranges.
    """
    same_length(predictions, references)
    N = len(predictions)
    if not N:
        raise UserError("intervals of no examples: expected at least one prediction with its reference")
    if samples < 1 or not 0 < level < 1 or seed < 0:
        raise UserError(
            f"intervals got samples={samples}, level={level}, seed={seed}; expected samples of 1 or more, "
            "a level between 0 and 1, such as 0.95, and a seed of 0 or more"
        )
    ones = [metric.sums([one], [two]) for one, two in zip(predictions, references, strict=True)]
    totals = {name: _weighted([one[name] for one in ones]) for name in ones[0]}
    generator = np.random.default_rng((seed, hashed("intervals")))
    found: dict[str, list[float]] = {}
    for _ in range(samples):
        drawn = np.bincount(generator.integers(0, N, N), minlength=N)
        figures = metric.finish({name: total(drawn) for name, total in totals.items()})
        for name, value in figures.items():
            found.setdefault(name, []).append(value)
    return {name: _ends(values, level) for name, values in found.items()}


def _weighted(values: Sequence[Any]) -> Weighted:
    """Return the function that adds up one total over a sample, from its value for each example alone."""
    if isinstance(values[0], Counter):
        return _weighted_counters(values)
    table = np.asarray(values)  # (N, ...)
    if not isinstance(values[0], np.ndarray):
        return lambda drawn: (drawn @ table).item()
    return lambda drawn: np.tensordot(drawn, table, axes=1)


def _weighted_counters(values: Sequence[Counter[Any]]) -> Weighted:
    places: dict[Any, int] = {}
    example, place, count = [], [], []
    for index, counter in enumerate(values):
        for key, times in counter.items():
            example.append(index)
            place.append(places.setdefault(key, len(places)))
            count.append(times)
    examples, columns = np.array(example, np.int64), np.array(place, np.int64)
    counts, keys = np.array(count, np.float64), list(places)  # exact below 2**53

    def add(drawn: np.ndarray) -> Counter[Any]:
        sums = np.bincount(columns, weights=counts * drawn[examples], minlength=len(keys))
        present = np.flatnonzero(sums)  # a Counter's `+` keeps no zeros either
        return Counter(
            dict(zip((keys[i] for i in present), sums[present].astype(np.int64).tolist(), strict=True))
        )

    return add


def _ends(values: Sequence[float], level: float) -> tuple[float, float]:
    defined = np.asarray(values, np.float64)
    defined = defined[~np.isnan(defined)]
    if not len(defined):
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
