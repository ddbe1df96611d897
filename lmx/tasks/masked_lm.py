"""Masked language modelling: predict the tokens that were hidden, from both sides.

Source: Devlin et al. 2018, section 3.1, task 1.
"""

from __future__ import annotations

from lmx.core.hf_table import HeadTable
from lmx.core.types import Array, Batch, Model, Outputs, Params, Sums
from lmx.tasks import _heads, _mlm

AXES = _mlm.AXES

HF = {"bert": HeadTable("BertForMaskedLM", _mlm.ENTRIES, model={"pooler": False}, shared=True)}
"""Model -> the head's place in a Hugging Face folder."""


def attach(body: Model, config: _mlm.Encoder) -> Model:
    """Return the body with `logits` (B, T, V)."""

    def head(params: Params, outputs: Outputs, batch: Batch, drop: _heads.Dropout) -> Outputs:
        return {"logits": _mlm.predict(params, outputs["hidden"], config)}

    return _heads.attach(body, _mlm.shapes(config), config.init_range, 0.0, head)


def loss(outputs: Outputs, batch: Batch) -> tuple[Array, Array, Sums]:
    """Cross-entropy in nats over `labels` (B, T): (its sum, the count of hidden tokens, metric sums).

    A label of -100 marks a token that was not hidden; it counts nothing, in the denominator too.
    """
    total, count = _heads.negative_log(outputs["logits"], batch["labels"])
    return total, count, {"loss": total, "tokens": count}
