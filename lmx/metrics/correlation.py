"""Pearson's and Spearman's correlation of predicted with reference values (STS-B's figures).

Source: Pearson 1895; Spearman 1904, ties by average ranks. Ranks are known only once every value is, so the
totals are the pairs themselves, counted.
"""

from __future__ import annotations

import math
from collections import Counter

import numpy as np

from lmx.core.types import Metric, Totals
from lmx.metrics import _fields


def metric() -> Metric:
    """Return `pearson` and `spearman`, between -1 and 1.

    Both are NaN where they are undefined: for fewer than two examples, and where all predictions, or all
    references, are one value. A model that predicts a constant has no correlation, not one of 0.

    Examples hold `value`. Totals: `pairs`, a Counter of (predicted, actual), one entry per distinct pair.

    Errors: UserError from sums for a value that is missing, no single number, NaN or infinite.
    """

    def sums(predictions: _fields.Examples, references: _fields.Examples) -> Totals:
        _fields.same_length(predictions, references)
        what = "one finite number"
        found = _fields.column(predictions, "value", side="prediction", check=_fields.is_finite, what=what)
        wanted = _fields.column(references, "value", side="reference", check=_fields.is_finite, what=what)
        return {"pairs": Counter((float(one), float(two)) for one, two in zip(found, wanted, strict=True))}

    def finish(total: Totals) -> dict[str, float]:
        pairs = sorted(total["pairs"].items())  # so that the order of examples cannot change a digit
        values = np.array([pair for pair, _ in pairs], np.float64).reshape(-1, 2)
        weights = np.array([count for _, count in pairs], np.int64)
        ranks = np.stack([_ranks(values[:, side], weights) for side in (0, 1)], axis=1)
        return {"pearson": _pearson(values, weights), "spearman": _pearson(ranks, weights)}

    return Metric(sums=sums, finish=finish)


def _pearson(values: np.ndarray, weights: np.ndarray) -> float:
    """Return the correlation of the columns of `values` (n, 2), row i being there `weights[i]` times."""
    if any(len(np.unique(values[:, side])) < 2 for side in (0, 1)):
        return math.nan
    # Divide by a power of two, so that no square overflows or vanishes, and take one value off all, so that
    # those far from zero keep their digits: both are exact. The mean is then of small numbers.
    centred = np.ldexp(values, -np.frexp(np.abs(values).max(axis=0))[1])
    centred -= centred[len(centred) // 2].copy()
    centred -= (weights @ centred) / weights.sum()
    one, two = centred[:, 0], centred[:, 1]
    root = math.sqrt(weights @ one**2) * math.sqrt(weights @ two**2)
    return min(1.0, max(-1.0, float(weights @ (one * two)) / root))


def _ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the rank (n,) of each value from 1, the mean of its places where it is there several times."""
    _, place = np.unique(values, return_inverse=True)
    times = np.bincount(place, weights=weights)
    ends = np.cumsum(times)
    return np.asarray((ends - (times - 1) / 2)[place])
