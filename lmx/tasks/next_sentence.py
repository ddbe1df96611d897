"""Next-sentence prediction alone: does the second part follow the first?

Source: Devlin et al. 2018, section 3.1, task 2.
"""

from __future__ import annotations

from lmx.core.hf_table import HeadTable
from lmx.core.types import Array, Batch, Model, Outputs, Params, Sums
from lmx.tasks import _heads, _next

AXES = _next.AXES

HF = {"bert": HeadTable("BertForNextSentencePrediction", _next.ENTRIES, model={"pooler": True}, shared=True)}
"""Model -> the head's place in a Hugging Face folder."""


def attach(body: Model, config: _heads.Sized) -> Model:
    """Return the body with `logits` (B, 2): class 0 is "follows", class 1 "does not", as in transformers."""

    def head(params: Params, outputs: Outputs, batch: Batch, drop: _heads.Dropout) -> Outputs:
        return {"logits": _next.predict(params, _heads.pooled(outputs))}

    return _heads.attach(body, _next.shapes(config.width), config.init_range, 0.0, head)


def loss(outputs: Outputs, batch: Batch) -> tuple[Array, Array, Sums]:
    """Cross-entropy in nats over `labels` (B,): (its sum, the count of pairs, metric sums)."""
    total, count = _heads.negative_log(outputs["logits"], batch["labels"])
    return total, count, {"loss": total, "pairs": count}
