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

    Examples hold `value`; where it is a list, a number for each target, both are the mean over the targets,
    and `pearson/0`, `spearman/0` and so on those of each.

    Totals: `pairs`, a Counter of (predicted, actual), one entry per distinct pair.

    Errors: UserError from sums for a value that is missing, no number or list of them, NaN or infinite.
    """

    def sums(predictions: _fields.Examples, references: _fields.Examples) -> Totals:
        return {"pairs": Counter(_fields.value_pairs(predictions, references))}

    def finish(total: Totals) -> dict[str, float]:
        pairs = sorted(total["pairs"].items())  # so that the order of examples cannot change a digit
        values = np.array([pair for pair, _ in pairs], np.float64)
        weights = np.array([count for _, count in pairs], np.int64)
        targets = np.moveaxis(values, -1, 0) if values.ndim == 3 else values.reshape(1, -1, 2)
        return _fields.of_targets([_figures(target, weights) for target in targets])

    return Metric(sums=sums, finish=finish)


def _figures(values: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    """Return both correlations of the columns of `values` (n, 2), row i being there `weights[i]` times."""
    ranks = np.stack([_ranks(values[:, side], weights) for side in (0, 1)], axis=1)
    return {"pearson": _pearson(values, weights), "spearman": _pearson(ranks, weights)}


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
