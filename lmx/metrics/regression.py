"""Mean squared error, its root, and mean absolute error of predicted values."""

from __future__ import annotations

import math

import numpy as np

from lmx.core.types import Metric, Totals
from lmx.metrics import _fields

LOWER = ("mse", "rmse", "mae")
"""Figures of which a lower one is the better."""


def metric() -> Metric:
    """Return `mse`, `rmse` and `mae`, in the units of the references (squared for `mse`); NaN of no examples.

    Examples hold `value`, in the units of the data: a model trained on scaled values has to scale them back
    first. Where it is a list, a number for each target, the figures are means over the targets, and `mse/0`
    and so on those of each.

    Errors: UserError from sums for a value that is missing, no number or list of them, NaN or infinite.
    """

    def sums(predictions: _fields.Examples, references: _fields.Examples) -> Totals:
        pairs = _fields.value_pairs(predictions, references)
        errors = np.array([np.subtract(one, two) for one, two in pairs], np.float64)
        targets = errors.reshape(len(pairs), -1).T if pairs else np.zeros((1, 0))
        return {
            "squared": np.array([math.fsum(error * error for error in target) for target in targets]),
            "absolute": np.array([math.fsum(map(abs, target)) for target in targets]),
            "count": len(pairs),
        }

    def finish(total: Totals) -> dict[str, float]:
        if not total["count"]:
            return dict.fromkeys(("mse", "rmse", "mae"), math.nan)
        count = total["count"]
        each = [
            {"mse": squared / count, "rmse": math.sqrt(squared / count), "mae": absolute / count}
            for squared, absolute in zip(total["squared"].tolist(), total["absolute"].tolist(), strict=True)
        ]
        return _fields.of_targets(each)

    return Metric(sums=sums, finish=finish)
