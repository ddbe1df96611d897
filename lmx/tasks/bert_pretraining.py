"""BERT's pretraining: masked language modelling and next-sentence prediction together.

Source: Devlin et al. 2018, section 3.1 and appendix A.2 (the loss is the sum of the two mean losses).
"""

from __future__ import annotations

import jax.numpy as jnp

from lmx.core.hf_table import HeadTable
from lmx.core.types import Array, Batch, Model, Outputs, Params, Sums
from lmx.tasks import _heads, _mlm, _next

AXES = _mlm.AXES + _next.AXES

HF = {
    "bert": HeadTable("BertForPreTraining", _mlm.ENTRIES + _next.ENTRIES, model={"pooler": True}, shared=True)
}
"""Model -> the heads' place in a Hugging Face folder."""


def attach(body: Model, config: _mlm.Encoder) -> Model:
    """Return the body with `logits` (B, T, V) and `next_logits` (B, 2), class 0 being "follows"."""

    def head(params: Params, outputs: Outputs, batch: Batch, drop: _heads.Dropout) -> Outputs:
        return {
            "logits": _mlm.predict(params, outputs["hidden"], config),
            "next_logits": _next.predict(params, _heads.pooled(outputs)),
        }

    shapes = {**_mlm.shapes(config), **_next.shapes(config.width)}
    return _heads.attach(body, shapes, config.init_range, 0.0, head)


def loss(outputs: Outputs, batch: Batch) -> tuple[Array, Array, Sums]:
    """Return (sum, weight, metric sums) whose quotient is the mean loss of hidden tokens plus that of pairs.

    `labels` (B, T), -100 where nothing was hidden; `next_sentence_label` (B,). The weight is the count of
    hidden tokens; the pairs' sum is scaled so that it is divided by their own count.
    """
    tokens, hidden = _heads.negative_log(outputs["logits"], batch["labels"])
    follows, pairs = _heads.negative_log(outputs["next_logits"], batch["next_sentence_label"])
    weight = jnp.maximum(hidden, 1)  # a batch without a hidden token still learns from its pairs
    total = tokens + follows * (weight / jnp.maximum(pairs, 1))
    sums = {"loss": tokens, "tokens": hidden, "next_loss": follows, "pairs": pairs}
    return total, weight, sums
