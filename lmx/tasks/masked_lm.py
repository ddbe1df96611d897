"""Masked language modelling: predict the tokens that were hidden, from both sides.

Source: Devlin et al. 2018, section 3.1, task 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lmx.core.hf_table import HeadTable
from lmx.core.types import Array, Batch, Model, Outputs, Params, Sums
from lmx.core.vocabulary import Vocabulary
from lmx.tasks import _heads, _masks, _mlm

LAYOUT = "pieces"
METRICS: tuple[tuple[str, dict[str, Any]], ...] = (("masked_lm", {}),)

check = _masks.check
"""Raises UserError for options of `encode` that cannot be."""

AXES = _mlm.AXES

HF = {"bert": HeadTable("BertForMaskedLM", _mlm.ENTRIES, model={"pooler": False}, shared=True)}
"""Model -> the head's place in a Hugging Face folder."""


def attach(body: Model, config: _mlm.Encoder) -> Model:
    """Return the body with `logits` (B, T, V), and, where the batch has `hidden_positions` (B, K), with
    `hidden_logits` (B, K, V), which is all that the loss needs."""

    def head(params: Params, outputs: Outputs, batch: Batch, drop: _heads.Dropout) -> Outputs:
        return _mlm.outputs(params, outputs["hidden"], batch, config)

    return _heads.attach(body, _mlm.shapes(config), config.init_range, 0.0, head)


def encode(
    rows: Mapping[str, np.ndarray],
    *,
    vocabulary: Vocabulary,
    seed: int,
    share: float = 0.15,
    unit: str = "piece",
) -> dict[str, np.ndarray]:
    """Turn rows of T tokens into a batch with hidden tokens; see `lmx.tasks._masks.hide`.

    Each piece of a document in a row is for itself: `segment_ids` part them, and positions restart.
    """
    hidden = _masks.hide(rows, vocabulary, seed=seed, share=share, unit=unit)
    return {
        **hidden,
        "segment_ids": rows["segment_ids"].astype(np.int32),
        "position_ids": rows["position_ids"].astype(np.int32),
    }


def loss(outputs: Outputs, batch: Batch) -> tuple[Array, Array, Sums]:
    """Cross-entropy in nats over `labels` (B, T): (its sum, the count of hidden tokens, metric sums).

    A label of -100 marks a token that was not hidden; it counts nothing, in the denominator too.
    """
    total, count, correct = _mlm.loss(outputs, batch)
    return total, count, {"loss": total, "tokens": count, "correct": correct}
