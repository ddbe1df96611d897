"""BERT's pretraining: masked language modelling and next-sentence prediction together.

Source: Devlin et al. 2018, section 3.1 and appendix A.2 (the loss is the sum of the two mean losses).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from lmx.core.hf_table import HeadTable
from lmx.core.types import IGNORED, Array, Batch, Model, Outputs, Params, Sums
from lmx.core.vocabulary import Vocabulary
from lmx.tasks import _heads, _masks, _mlm, _next

LAYOUT = "pairs"
METRICS: tuple[tuple[str, dict[str, Any]], ...] = (("masked_lm", {"pairs": True}),)

check = _masks.check
"""Raises UserError for options of `encode` that cannot be."""

AXES = _mlm.AXES + _next.AXES

HF = {
    "bert": HeadTable("BertForPreTraining", _mlm.ENTRIES + _next.ENTRIES, model={"pooler": True}, shared=True)
}
"""Model -> the heads' place in a Hugging Face folder."""


def attach(body: Model, config: _mlm.Encoder) -> Model:
    """Return the body with `logits` (B, T, V) and `next_logits` (B, 2), class 0 being "follows".

    Where the batch has `hidden_positions` (B, K), there are `hidden_logits` (B, K, V), too, which is all that
    the loss needs.
    """

    def head(params: Params, outputs: Outputs, batch: Batch, drop: _heads.Dropout) -> Outputs:
        return {
            **_mlm.outputs(params, outputs["hidden"], batch, config),
            "next_logits": _next.predict(params, _heads.pooled(outputs)),
        }

    shapes = {**_mlm.shapes(config), **_next.shapes(config.width)}
    return _heads.attach(body, shapes, config.init_range, 0.0, head)


def encode(
    rows: Mapping[str, np.ndarray],
    *,
    vocabulary: Vocabulary,
    seed: int,
    share: float = 0.15,
    unit: str = "piece",
) -> dict[str, np.ndarray]:
    """Turn rows [CLS] A [SEP] B [SEP] into a batch with hidden tokens; see `lmx.tasks._masks.hide`.

    `token_type_ids` are 1 for B [SEP]; `next_sentence_label` (B,) is 0 where B follows A, 1 where it is
    random, and -100 for a row of padding.
    """
    segments = rows["segment_ids"]
    real = segments[:, 0] != 0
    return {
        **_masks.hide(rows, vocabulary, seed=seed, share=share, unit=unit),
        "attention_mask": (segments != 0).astype(np.int32),
        "token_type_ids": (segments == 2).astype(np.int32),
        "next_sentence_label": np.where(real, rows["label"], IGNORED).astype(np.int32),
    }


def whole(batch: Batch) -> Batch:
    """Return the batch with what its loss needs of all of it, before it is cut into parts.

    `hidden_per_pair` (B,): hidden tokens over pairs, the same for each row.
    """
    hidden = jnp.sum(batch["labels"] != IGNORED).astype(jnp.float32)
    pairs = jnp.sum(batch["next_sentence_label"] != IGNORED).astype(jnp.float32)
    ratio = jnp.maximum(hidden, 1) / jnp.maximum(pairs, 1)
    return {**batch, "hidden_per_pair": jnp.full(batch["next_sentence_label"].shape, ratio)}


def loss(outputs: Outputs, batch: Batch) -> tuple[Array, Array, Sums]:
    """Return (sum, weight, metric sums) whose quotient is the mean loss of hidden tokens plus that of pairs.

    `labels` (B, T), -100 where nothing was hidden; `next_sentence_label` (B,). The weight is the count of
    hidden tokens; the pairs' sum is scaled so that it is divided by their own count, for which a part of a
    batch needs what `whole` adds.
    """
    tokens, hidden, correct = _mlm.loss(outputs, batch)
    wanted = batch["next_sentence_label"]
    follows, pairs = _heads.negative_log(outputs["next_logits"], wanted)
    right = (jnp.argmax(outputs["next_logits"], axis=-1).astype(wanted.dtype) == wanted).astype(tokens.dtype)
    weight, ratio = hidden, jnp.maximum(hidden, 1) / jnp.maximum(pairs, 1)
    if "hidden_per_pair" in batch:
        ratio = batch["hidden_per_pair"][0].astype(tokens.dtype)
    else:  # a batch without a hidden token still learns from its pairs
        weight = jnp.maximum(hidden, 1)
    sums = {"loss": tokens, "tokens": hidden, "correct": correct}
    sums |= {"next_loss": follows, "pairs": pairs, "next_correct": jnp.sum(right)}
    return tokens + follows * ratio, weight, sums
