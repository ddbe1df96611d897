"""How many generated texts ended by themselves, rather than at the most tokens that were allowed."""

from __future__ import annotations

from lmx.core.types import Metric, Totals
from lmx.metrics import _fields
from lmx.metrics._prf import ratio


def metric() -> Metric:
    """Return `ended`: the share of texts that the model ended with its end symbol, 0 to 1.

    Predictions hold `ended`, True or False; nothing in references is read. Totals: `ended`, `count`.
    Errors: UserError from sums for a missing value.
    """

    def sums(predictions: _fields.Examples, references: _fields.Examples) -> Totals:
        _fields.same_length(predictions, references)
        what = "True or False"
        found = _fields.column(predictions, "ended", side="prediction", check=_is_switch, what=what)
        return {"ended": sum(found), "count": len(found)}

    def finish(total: Totals) -> dict[str, float]:
        return {"ended": ratio(total["ended"], total["count"])}

    return Metric(sums=sums, finish=finish)


def _is_switch(value: object) -> bool:
    return isinstance(value, bool)
