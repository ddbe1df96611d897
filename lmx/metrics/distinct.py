"""Distinct-n: how many of the n-grams that a model wrote are different ones, over the whole corpus.

Source: Li et al. 2016, "A Diversity-Promoting Objective Function for Neural Conversation Models", section 5;
divided by the count of n-grams, as in DialoGPT's evaluation.
"""

from __future__ import annotations

from collections import Counter

from lmx.core.errors import UserError
from lmx.core.types import Metric, Totals
from lmx.metrics import _fields
from lmx.metrics._prf import ratio


def metric(*, order: int = 2, characters: bool = False) -> Metric:
    """Return `distinct_1` ... `distinct_N`, each between 0 and 1; 0 where there are no n-grams.

    order: N, the longest n-gram. characters: count characters instead of words between spaces, for languages
    that are written without spaces.

    The figure falls as the corpus grows: compare corpora of one size only. Predictions hold `text`; nothing
    in references is read. N-grams do not cross from one text into the next. Totals: Counters of n-grams.

    Errors: UserError for an order below 1, and from sums for a missing text.
    """
    if not isinstance(order, int) or order < 1:
        raise UserError(f"distinct got order={order!r}; expected the longest n-gram, 1 or more, such as 2")
    orders = {f"distinct_{n}": n for n in range(1, order + 1)}

    def sums(predictions: _fields.Examples, references: _fields.Examples) -> Totals:
        _fields.same_length(predictions, references)
        what = "the generated text"
        texts = _fields.column(predictions, "text", side="prediction", check=_fields.is_text, what=what)
        units = [list("".join(text.split())) if characters else text.split() for text in texts]
        return {
            name: Counter(tuple(unit[i : i + n]) for unit in units for i in range(len(unit) - n + 1))
            for name, n in orders.items()
        }

    def finish(total: Totals) -> dict[str, float]:
        return {name: ratio(len(total[name]), total[name].total()) for name in orders}

    return Metric(sums=sums, finish=finish)
