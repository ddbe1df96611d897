"""Matthews correlation of classes, for two or more of them (CoLA's figure).

Source: Matthews 1975; Gorodkin 2004, "Comparing two K-category assignments by a K-category correlation
coefficient", for more than two classes.
"""

from __future__ import annotations

import math
from collections import Counter

from lmx.core.types import Metric, Totals
from lmx.metrics import _fields


def metric() -> Metric:
    """Return `matthews`, between -1 and 1; 0 where either side has one class only, as in scikit-learn.

    Examples hold `label`. Totals: `pairs`, a Counter of (predicted, actual): the confusion matrix.

    Errors: UserError from sums for missing or unlike labels.
    """

    def sums(predictions: _fields.Examples, references: _fields.Examples) -> Totals:
        return {"pairs": Counter(_fields.label_pairs(predictions, references))}

    def finish(total: Totals) -> dict[str, float]:
        predicted: Counter[_fields.Label] = Counter()
        actual: Counter[_fields.Label] = Counter()
        for (one, two), count in total["pairs"].items():
            predicted[one] += count
            actual[two] += count
        # In whole numbers up to the root, so that neither order nor size costs a digit.
        N = actual.total()
        right = sum(count for (one, two), count in total["pairs"].items() if one == two)
        covariance = N * right - sum(predicted[label] * count for label, count in actual.items())
        spread = [N * N - sum(count**2 for count in side.values()) for side in (predicted, actual)]
        below = math.sqrt(spread[0]) * math.sqrt(spread[1])
        return {"matthews": covariance / below if below else 0.0}

    return Metric(sums=sums, finish=finish)
