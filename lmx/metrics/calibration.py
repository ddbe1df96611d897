"""Calibration: whether a model is right as often as its probabilities say.

Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", section 2 (equations 3 and 5).
"""

from __future__ import annotations

import math

import numpy as np

from lmx.core.errors import UserError, printable
from lmx.core.types import Metric, Totals
from lmx.metrics import _fields

LOWER = ("ece", "mce")
"""Figures of which a lower one is the better."""

_SLACK = 1e-4  # probabilities that come from f32 or bf16 may be a little outside [0, 1]


def metric(*, bins: int = 15) -> Metric:
    """Return `ece` and `mce`: mean and largest gap between confidence and accuracy over bins, 0 to 1.

    bins: how many bins of equal width; the confidence is the top probability, and a bin holds what is above
    its lower end, up to and including its upper one. An example is right if its label has the top probability
    (the first of equal ones). Predictions hold `scores`, a probability for each label, references `label`.

    Totals, for a plot as well, arrays (bins,): `count`, `right`, and `confidence` (summed). The accuracy of
    bin i is right[i] / count[i], its confidence confidence[i] / count[i]. Nothing to count gives 0.

    Errors: UserError for fewer than one bin, and from sums for missing scores or labels, values that are no
    probabilities (logits, say), and scores that do not hold the reference's label.
    """
    if not isinstance(bins, int) or bins < 1:
        raise UserError(f"calibration got bins={bins!r}; expected a number of bins, 1 or more, such as 15")
    upper = np.arange(1, bins) / bins  # the upper ends of all bins but the last

    def sums(predictions: _fields.Examples, references: _fields.Examples) -> Totals:
        _fields.same_length(predictions, references)
        what = "probabilities between 0 and 1 by label"
        scores = _fields.column(predictions, "scores", side="prediction", check=_probabilities, what=what)
        what = "the name of a class"
        labels = _fields.column(references, "label", side="reference", check=_fields.is_label, what=what)
        right: list[list[bool]] = [[] for _ in range(bins)]
        confidence: list[list[float]] = [[] for _ in range(bins)]
        for index, (given, label) in enumerate(zip(scores, labels, strict=True)):
            if label not in given:
                known = ", ".join(printable(repr(name)) for name in list(given)[:10])
                raise UserError(
                    f"reference {index}: the label {printable(repr(label))} has no score in its prediction; "
                    f"expected one of {known}"
                )
            top = max(given, key=given.__getitem__)
            place = int(np.searchsorted(upper, given[top]))
            right[place].append(top == label)
            confidence[place].append(min(float(given[top]), 1.0))
        return {
            "count": np.array([len(one) for one in right], np.int64),
            "right": np.array([sum(one) for one in right], np.int64),
            "confidence": np.array([math.fsum(one) for one in confidence]),
        }

    def finish(total: Totals) -> dict[str, float]:
        count = total["count"]
        gaps = np.abs(total["right"] - total["confidence"])  # of a bin, times its count
        filled = count > 0
        return {
            "ece": float(gaps.sum() / max(count.sum(), 1)),
            "mce": float((gaps[filled] / count[filled]).max(initial=0.0)),
        }

    return Metric(sums=sums, finish=finish)


def _probabilities(value: object) -> bool:
    return (
        isinstance(value, dict)
        and len(value) > 0
        and all(_fields.is_number(one) and -_SLACK <= one <= 1 + _SLACK for one in value.values())
    )
