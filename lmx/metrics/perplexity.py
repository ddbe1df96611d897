"""Perplexity, and bits per byte, which compares models with different tokenizers.

Perplexity depends on how the text was cut into tokens; the cost of the whole text in bits, divided by its
bytes, does not. Source: Gao et al. 2020, "The Pile", section 3.1.
"""

from __future__ import annotations

import math

from lmx.core.types import Metric, Totals
from lmx.metrics import _fields

LOWER = ("loss", "perplexity", "bits_per_byte")
"""Figures of which a lower one is the better."""


def metric(*, bytes_per_token: float | None = None) -> Metric:
    """Return loss (nats per token), perplexity, and, where `bytes_per_token` is given, bits per byte.

    bytes_per_token: UTF-8 bytes of text per predicted token, over the whole split. The symbol that ends a
    document is predicted too and counts in the cost, though it has no bytes.

    Predictions hold `loss` (nats, summed over the example's tokens) and `tokens` (how many); nothing in
    references is read. Nothing to count gives a loss of 0.

    Errors: UserError from sums for a missing value or one that is no number.
    """

    def sums(predictions: _fields.Examples, references: _fields.Examples) -> Totals:
        _fields.same_length(predictions, references)
        what = {"loss": "nats, a number", "tokens": "how many tokens the loss is of"}
        columns = {
            name: _fields.column(predictions, name, side="prediction", check=_fields.is_number, what=meaning)
            for name, meaning in what.items()
        }
        return {name: math.fsum(values) for name, values in columns.items()}

    def finish(total: Totals) -> dict[str, float]:
        loss = total["loss"] / max(total["tokens"], 1)
        figures = {"loss": loss, "perplexity": math.exp(min(loss, 700))}
        if bytes_per_token:
            figures["bits_per_byte"] = loss / math.log(2) / bytes_per_token
        return figures

    return Metric(sums=sums, finish=finish)
