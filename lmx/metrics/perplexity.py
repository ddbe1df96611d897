"""Perplexity, and bits per byte, which compares models with different tokenizers.

Perplexity depends on how the text was cut into tokens; the cost of the whole text in bits, divided by its
bytes, does not. Source: Gao et al. 2020, "The Pile", section 3.1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lmx.core.types import Metric, Totals


def metric(*, bytes_per_token: float | None = None) -> Metric:
    """Return loss (nats per token), perplexity, and, where `bytes_per_token` is given, bits per byte.

    bytes_per_token: UTF-8 bytes of text per predicted token, over the whole split. The symbol that ends a
    document is predicted too and counts in the cost, though it has no bytes.
    """

    def sums(
        predictions: Sequence[Mapping[str, Any]], references: Sequence[Mapping[str, Any]]
    ) -> dict[str, float]:
        return {name: math.fsum(one[name] for one in predictions) for name in ("loss", "tokens")}

    def finish(total: Totals) -> dict[str, float]:
        loss = total["loss"] / max(total["tokens"], 1)
        figures = {"loss": loss, "perplexity": math.exp(min(loss, 700))}
        if bytes_per_token:
            figures["bits_per_byte"] = loss / math.log(2) / bytes_per_token
        return figures

    return Metric(sums=sums, finish=finish)
