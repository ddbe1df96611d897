"""The spread of a figure over several runs."""

from __future__ import annotations

import math
from collections.abc import Sequence


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return `mean`, `deviation` (the sample's, with n - 1), `min` and `max` of one or more values.

    One value has no deviation, and a value that is no number leaves none to tell: NaN.

    >>> spread([1.0, 2.0, 4.0, 5.0])["mean"]
    3.0
    """
    count = len(values)
    if any(math.isnan(value) for value in values):
        return dict.fromkeys(("mean", "deviation", "min", "max"), math.nan)
    mean = math.fsum(values) / count
    gaps = math.fsum((value - mean) ** 2 for value in values) if math.isfinite(mean) else math.nan
    deviation = math.sqrt(gaps / (count - 1)) if count > 1 else math.nan
    return {"mean": mean, "deviation": deviation, "min": min(values), "max": max(values)}
