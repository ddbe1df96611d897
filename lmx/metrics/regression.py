"""Mean squared error, its root, and mean absolute error of predicted values."""

from __future__ import annotations

import math

from lmx.core.types import Metric, Totals
from lmx.metrics import _fields


def metric() -> Metric:
    """Return `mse`, `rmse` and `mae`, in the units of the references (squared for `mse`); NaN of no examples.

    Examples hold `value`, one number each, in the units of the data: a model trained on scaled values has to
    scale them back first.

    Errors: UserError from sums for a value that is missing, no single number, NaN or infinite.
    """

    def sums(predictions: _fields.Examples, references: _fields.Examples) -> Totals:
        _fields.same_length(predictions, references)
        what = "one finite number"
        found = _fields.column(predictions, "value", side="prediction", check=_fields.is_finite, what=what)
        wanted = _fields.column(references, "value", side="reference", check=_fields.is_finite, what=what)
        errors = [float(one) - float(two) for one, two in zip(found, wanted, strict=True)]
        return {
            "squared": math.fsum(error * error for error in errors),
            "absolute": math.fsum(map(abs, errors)),
            "count": len(errors),
        }

    def finish(total: Totals) -> dict[str, float]:
        if not total["count"]:
            return dict.fromkeys(("mse", "rmse", "mae"), math.nan)
        mse = total["squared"] / total["count"]
        return {"mse": mse, "rmse": math.sqrt(mse), "mae": total["absolute"] / total["count"]}

    return Metric(sums=sums, finish=finish)
