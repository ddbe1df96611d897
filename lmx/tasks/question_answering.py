"""Extractive question answering: where in the text the answer begins and where it ends.

Source: Devlin et al. 2018, section 4.2.
"""

from __future__ import annotations

import jax.numpy as jnp

from lmx.core.hf_table import Entry, HeadTable
from lmx.core.types import IGNORED, Array, Batch, Model, Outputs, Params, Sums
from lmx.tasks import _heads

AXES = ((r"head/kernel", ("width", "edge")), (r"head/bias", ("edge",)))

_ENTRIES = (
    Entry("qa_outputs.weight", ("head/kernel",), "transpose"),
    Entry("qa_outputs.bias", ("head/bias",)),
)

HF = {
    "gpt2": HeadTable("GPT2ForQuestionAnswering", _ENTRIES, labels=2),
    "bert": HeadTable("BertForQuestionAnswering", _ENTRIES, model={"pooler": False}, labels=2),
}
"""Model -> the head's place in a Hugging Face folder."""


def attach(body: Model, config: _heads.Sized) -> Model:
    """Return the body with `start_logits` and `end_logits` (B, T): two dense outputs a token."""

    def head(params: Params, outputs: Outputs, batch: Batch, drop: _heads.Dropout) -> Outputs:
        edges = _heads.dense(params, outputs["hidden"])
        return {"start_logits": edges[..., 0], "end_logits": edges[..., 1]}

    return _heads.attach(body, _heads.dense_shapes(config.width, 2), config.init_range, 0.0, head)


def loss(outputs: Outputs, batch: Batch) -> tuple[Array, Array, Sums]:
    """Mean of the start's and the end's cross-entropy: (its sum, the count of answers, metric sums).

    `start_positions` and `end_positions` (B,): places in the row; one outside it, on either side (an answer
    that was cut away), counts nothing, and its other edge half. transformers means each edge by itself, which
    is the same where answers are cut away whole, and takes a negative place for the first.
    """
    sums = [
        _heads.negative_log(logits, jnp.where((at >= 0) & (at < logits.shape[1]), at, IGNORED))
        for logits, at in (
            (outputs["start_logits"], batch["start_positions"]),
            (outputs["end_logits"], batch["end_positions"]),
        )
    ]
    total, count = ((one + two) / 2 for one, two in zip(*sums, strict=True))
    return total, count, {"loss": total, "answers": count}
