"""Causal language modelling: predict each token from those before it.

Source: Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training", section 3.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np

from lmx.core.hf_table import Entry, HeadTable
from lmx.core.types import IGNORED, Array, Batch, Model, Objective, Outputs, Params, Sums
from lmx.tasks import _heads
from lmx.tasks._cross_entropy import cross_entropy

LAYOUT = "packed"
"""How data_prep lays out the rows that `encode` reads."""

METRICS: tuple[tuple[str, dict[str, Any]], ...] = (("perplexity", {}),)


class Decoder(Protocol):
    """What the head must know of a model's config."""

    width: int
    vocab_size: int
    init_range: float
    tie_embeddings: bool


AXES = ((r"head/kernel", ("width", "vocab")),)

HF = {
    "gpt2": HeadTable(
        "GPT2LMHeadModel", (Entry("lm_head.weight", ("head/kernel",), "transpose"),), shared=True
    )
}
"""Model -> the head's place in a Hugging Face folder; where the head is tied, the tensor is not stored."""


def attach(body: Model, config: Decoder) -> Model:
    """Return the body with `logits` (B, T, V): hidden states times the token embeddings, or an own matrix
    `head/kernel` (D, V) where `tie_embeddings` is off.

    Where the batch has labels, the outputs also name the `head` and the logits it made, so that `loss` need
    not make them.
    """

    shapes = {} if config.tie_embeddings else {"head/kernel": (config.width, config.vocab_size)}

    def head(params: Params, outputs: Outputs, batch: Batch, drop: _heads.Dropout) -> Outputs:
        logits = project(params, outputs["hidden"])
        if "labels" not in batch:
            return {"logits": logits}
        own = params["head"] if "head" in params else params["embed"]["token"]
        return {"logits": logits, "head": {**own, "of": logits}}

    return _heads.attach(body, shapes, config.init_range, 0.0, head)


def project(params: Params, hidden: Array) -> Array:
    """(B, T, D) -> logits (B, T, V), from the head's matrix or the tied embeddings."""
    logits = _heads.over_vocabulary(params, hidden.reshape(-1, hidden.shape[-1]))
    return logits.reshape(*hidden.shape[:-1], logits.shape[-1])


def encode(rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Turn packed rows of T + 1 tokens into a batch of T inputs and T labels.

    A label is the next token of the same document; where that ends, or the row is padding, it is -100.

    Worked example, T = 5, two documents and one seat of padding:

        tokens       [7, 8, 9, 4, 5, 0]
        segment_ids  [1, 1, 1, 2, 2, 0]
        input_ids    [7, 8, 9, 4, 5]
        labels       [8, 9, -100, 5, -100]
    """
    tokens, segments = rows["tokens"], rows["segment_ids"]
    same = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] != 0)
    return {
        "input_ids": tokens[:, :-1].astype(np.int32),
        "labels": np.where(same, tokens[:, 1:], IGNORED).astype(np.int32),
        "segment_ids": segments[:, :-1].astype(np.int32),
        "position_ids": rows["position_ids"][:, :-1].astype(np.int32),
    }


def labels(batch: Batch) -> Array:
    """Return the labels (B, T): those of the batch, or else its ids moved one place to the left, with padding
    and the last place ignored.

    >>> labels({"input_ids": jnp.array([[7, 8, 9]])}).tolist()
    [[8, 9, -100]]
    """
    if "labels" in batch:
        return batch["labels"]
    ids = batch["input_ids"]
    if "attention_mask" in batch:
        ids = jnp.where(batch["attention_mask"] != 0, ids, IGNORED)
        # A padded place on the left has a real token after it, but nothing real to predict it from.
        ids = jnp.concatenate([ids[:, :1], jnp.where(ids[:, :-1] == IGNORED, IGNORED, ids[:, 1:])], axis=1)
    return jnp.concatenate([ids[:, 1:], jnp.full_like(ids[:, :1], IGNORED)], axis=1)


def loss(outputs: Outputs, batch: Batch) -> tuple[Array, Array, Sums]:
    """Cross-entropy in nats, in f32: (its sum over real labels, how many there are, metric sums).

    Where the outputs name the `head` that made their logits, and nothing has replaced these since, the loss
    comes from `hidden`, and under jit the logits are never made.
    """
    wanted = labels(batch)
    head = outputs.get("head")
    if head is not None and head["of"] is outputs["logits"]:
        axis, name = (0, "embedding") if "embedding" in head else (1, "kernel")
        total = cross_entropy(outputs["hidden"], head[name], wanted, axis)
    else:
        total = _heads.negative_log(outputs["logits"], wanted)[0]
    count = jnp.sum(wanted != IGNORED).astype(total.dtype)
    return total, count, {"loss": total, "tokens": count}


def objective(model: Model) -> Objective:
    """Return (params, batch, rng) -> (loss sum, count of labels, metric sums); with a key, dropout is on."""

    def evaluate(params: Params, batch: Batch, rng: Array | None) -> tuple[Array, Array, Sums]:
        batch = {**batch, "labels": labels(batch)}
        return loss(model.apply(params, batch, rng=rng, train=rng is not None), batch)

    return evaluate
