"""Multiple choice: which of several sequences, each read on its own, is the right one.

Source: Devlin et al. 2018, section 4.4 (SWAG).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp

from lmx.core.errors import UserError
from lmx.core.hf_table import Entry, HeadTable
from lmx.core.types import Array, Batch, Model, Outputs, Params, Sums, Taps
from lmx.tasks import _heads

AXES = ((r"head/kernel", ("width", "label")), (r"head/bias", ("label",)))

HF = {
    "bert": HeadTable(
        "BertForMultipleChoice",
        (
            Entry("classifier.weight", ("head/kernel",), "transpose"),
            Entry("classifier.bias", ("head/bias",)),
        ),
        model={"pooler": True},
        options=(("dropout", "classifier_dropout"),),
    )
}
"""Model -> the head's place in a Hugging Face folder."""


def attach(body: Model, config: _heads.Sized, *, dropout: float = 0.1) -> Model:
    """Return the body with `logits` (B, C) of a batch whose rows hold C choices each.

    `input_ids`, `attention_mask`, `token_type_ids` and `position_ids` are (B, C, T); the body sees B x C
    rows, and its other outputs lead with B x C.
    Errors: UserError where the ids have no axis of choices.
    """
    _heads.probability("dropout", dropout)

    def each(
        params: Params,
        batch: Batch,
        *,
        rng: Array | None = None,
        train: bool = False,
        taps: Taps | None = None,
        cache: Any = None,
    ) -> Outputs:
        ids = batch["input_ids"]
        if ids.ndim != 3:
            raise UserError(f"input_ids of shape {ids.shape}; expected (B, choices, T)")
        rows = {k: v.reshape(-1, v.shape[-1]) for k, v in batch.items() if v.ndim == 3}
        if "example_index" in batch:
            first = batch["example_index"][:, None] * ids.shape[1]
            rows["example_index"] = (first + jnp.arange(ids.shape[1])[None, :]).reshape(-1)
        return body.apply(params, rows, rng=rng, train=train, taps=taps, cache=cache)

    def head(params: Params, outputs: Outputs, batch: Batch, drop: _heads.Dropout) -> Outputs:
        size, choices = batch["input_ids"].shape[:2]
        seen = _heads.pooled(outputs).reshape(size, choices, -1)
        return {"logits": _heads.dense(params, drop(seen))[..., 0]}

    flat = dataclasses.replace(body, apply=each)
    return _heads.attach(flat, _heads.dense_shapes(config.width, 1), config.init_range, dropout, head)


def loss(outputs: Outputs, batch: Batch) -> tuple[Array, Array, Sums]:
    """Cross-entropy in nats over `labels` (B,), the right choice: (its sum, the count, metric sums)."""
    total, count = _heads.negative_log(outputs["logits"], batch["labels"])
    return total, count, {"loss": total, "labels": count}
