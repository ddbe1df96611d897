"""BERT's masked-language-model head: dense, activation, norm, then the token embeddings and a bias.

Source: Devlin et al. 2018, section 3.1, task 1, and the authors' released code.
"""

from __future__ import annotations

from typing import Protocol

import jax.numpy as jnp

from lmx.core import functions
from lmx.core.hf_table import Entry
from lmx.core.types import IGNORED, Array, Batch, Outputs, Params
from lmx.tasks import _heads


class Encoder(Protocol):
    """What the head must know of a model's config."""

    width: int
    vocab_size: int
    init_range: float
    activation: str
    norm_epsilon: float
    tie_embeddings: bool


AXES = (
    (r"head/dense/kernel", ("width", "pooled")),
    (r"head/dense/bias", ("pooled",)),
    (r"head/norm/(scale|bias)", ("width",)),
    (r"head/kernel", ("width", "vocab")),
    (r"head/bias", ("vocab",)),
)

ENTRIES = (
    Entry("cls.predictions.transform.dense.weight", ("head/dense/kernel",), "transpose"),
    Entry("cls.predictions.transform.dense.bias", ("head/dense/bias",)),
    Entry("cls.predictions.transform.LayerNorm.weight", ("head/norm/scale",)),
    Entry("cls.predictions.transform.LayerNorm.bias", ("head/norm/bias",)),
    Entry("cls.predictions.decoder.weight", ("head/kernel",), "transpose"),
    Entry("cls.predictions.bias", ("head/bias",), twin="cls.predictions.decoder.bias"),
)
"""BERT's tensors; the decoder's weight is not stored where it is tied to the embeddings."""


def shapes(config: Encoder) -> dict[str, tuple[int, ...]]:
    """Return {path: shape} of the head's leaves."""
    own = {} if config.tie_embeddings else {"head/kernel": (config.width, config.vocab_size)}
    return {
        "head/dense/kernel": (config.width, config.width),
        "head/dense/bias": (config.width,),
        "head/norm/scale": (config.width,),
        "head/norm/bias": (config.width,),
        "head/bias": (config.vocab_size,),
        **own,
    }


def predict(params: Params, hidden: Array, config: Encoder) -> Array:
    """(B, T, D) -> logits (B, T, V)."""
    head = params["head"]
    x = functions.activation(config.activation)(
        functions.dense(hidden, **head["dense"], names=("width", "pooled"))
    )
    flat = functions.layer_norm(
        x.reshape(-1, x.shape[-1]), head["norm"]["scale"], head["norm"]["bias"], config.norm_epsilon
    )
    logits = _heads.over_vocabulary(params, flat) + head["bias"][None, :]
    return logits.reshape(*hidden.shape[:-1], logits.shape[-1])


def outputs(params: Params, hidden: Array, batch: Batch, config: Encoder) -> Outputs:
    """Return `logits` (B, T, V), and, where the batch has `hidden_positions` (B, K), their `hidden_logits`
    (B, K, V).

    Under jit, those that nothing reads are never made.
    """
    found = {"logits": predict(params, hidden, config)}
    if "hidden_positions" in batch:
        there = jnp.take_along_axis(hidden, batch["hidden_positions"][..., None], axis=1)
        found["hidden_logits"] = predict(params, there, config)
    return found


def loss(outputs: Outputs, batch: Batch) -> tuple[Array, Array, Array]:
    """Return (sum of -log p in nats, count, how many are right) over the hidden tokens, in f32."""
    logits, labels = outputs["logits"], batch["labels"]
    if "hidden_logits" in outputs:
        logits = outputs["hidden_logits"]
        labels = jnp.take_along_axis(labels, batch["hidden_positions"], axis=1)
    total, count = _heads.negative_log(logits, labels)
    right = (jnp.argmax(logits, axis=-1).astype(labels.dtype) == labels) & (labels != IGNORED)
    return total, count, jnp.sum(right).astype(total.dtype)
