"""How well hidden tokens are found, and whether a second text is seen to follow the first.

Source: Devlin et al. 2018, "BERT", section 3.1.
"""

from __future__ import annotations

import math

from lmx.core.types import Metric, Totals
from lmx.metrics import _fields

_TOKENS = {
    "loss": "nats, a number",
    "tokens": "how many tokens were hidden",
    "correct": "how many of them were found",
}
_PAIRS = {
    "next_loss": "nats, a number",
    "pairs": "how many pairs there are",
    "next_correct": "how many of them were told right",
}

LOWER = ("loss", "perplexity", "masked_loss", "next_loss")
"""Figures of which a lower one is the better."""


def metric(*, pairs: bool = False) -> Metric:
    """Return loss (nats per hidden token), its perplexity and the accuracy of hidden tokens.

    pairs: the loss is that of the tokens plus that of the pairs, as in BERT's pretraining, and each of the
    two is told with its accuracy besides.

    Predictions hold sums over the example: `loss` (nats), `tokens`, `correct`, and for pairs `next_loss`,
    `pairs`, `next_correct`; nothing in references is read. Nothing to count gives figures of 0.

    Errors: UserError from sums for a missing value or one that is no number.
    """
    wanted = {**_TOKENS, **(_PAIRS if pairs else {})}

    def sums(predictions: _fields.Examples, references: _fields.Examples) -> Totals:
        _fields.same_length(predictions, references)
        columns = {
            name: _fields.column(predictions, name, side="prediction", check=_fields.is_number, what=meaning)
            for name, meaning in wanted.items()
        }
        return {name: math.fsum(values) for name, values in columns.items()}

    def finish(total: Totals) -> dict[str, float]:
        tokens = max(total["tokens"], 1)
        loss = total["loss"] / tokens
        figures = {"perplexity": math.exp(min(loss, 700)), "masked_accuracy": total["correct"] / tokens}
        if not pairs:
            return {"loss": loss, **figures}
        count = max(total["pairs"], 1)
        second = total["next_loss"] / count
        own = {"masked_loss": loss, **figures, "next_loss": second}
        return {"loss": loss + second, **own, "next_accuracy": total["next_correct"] / count}

    return Metric(sums=sums, finish=finish)
