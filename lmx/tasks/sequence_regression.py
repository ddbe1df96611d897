"""Sequence regression: one or several numbers for each sequence or pair.

Source: Devlin et al. 2018, section 4.1 (STS-B); the loss is the squared error, as in transformers.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from lmx.core.errors import UserError
from lmx.core.hf_table import Entry, HeadTable
from lmx.core.types import Array, Batch, Model, Outputs, Params, Sums
from lmx.tasks import _heads

AXES = ((r"head/kernel", ("width", "label")), (r"head/bias", ("label",)))

HF = {
    "gpt2": HeadTable(
        "GPT2ForSequenceClassification",
        (Entry("score.weight", ("head/kernel",), "transpose"),),
        task={"bias": False, "dropout": 0.0},
        options=(("targets", "num_labels"),),
        problems=("regression",),
    ),
    "bert": HeadTable(
        "BertForSequenceClassification",
        (
            Entry("classifier.weight", ("head/kernel",), "transpose"),
            Entry("classifier.bias", ("head/bias",)),
        ),
        model={"pooler": True},
        options=(("targets", "num_labels"), ("dropout", "classifier_dropout")),
        problems=("regression",),
    ),
}
"""Model -> the head's place in a Hugging Face folder: the class of classification, with another problem."""


def attach(
    body: Model, config: _heads.Sized, *, targets: int = 1, dropout: float = 0.1, bias: bool = True
) -> Model:
    """Return the body with `logits` (B, C): a dense layer over the pooled output gives C numbers.

    targets: how many numbers, C. dropout: before the dense layer. bias: whether it has one.
    """
    _heads.count("targets", targets, 1)
    _heads.probability("dropout", dropout)

    def head(params: Params, outputs: Outputs, batch: Batch, drop: _heads.Dropout) -> Outputs:
        return {"logits": _heads.dense(params, drop(_heads.pooled(outputs)))}

    shapes = _heads.dense_shapes(config.width, targets, bias)
    return _heads.attach(body, shapes, config.init_range, dropout, head)


def loss(outputs: Outputs, batch: Batch) -> tuple[Array, Array, Sums]:
    """Squared error: (its sum over all numbers, how many there are, metric sums).

    labels (B,) for one number a sequence, else (B, C); a label of NaN is not known and counts nothing.
    Errors: UserError for any other shape: (B,) against (B, C) would be broadcast in silence.
    """
    predicted = outputs["logits"].astype(np.promote_types(outputs["logits"].dtype, np.float32))
    wanted = batch["labels"].astype(predicted.dtype)
    wanted = wanted[:, None] if wanted.ndim == 1 and predicted.shape[1] == 1 else wanted
    if wanted.shape != predicted.shape:
        raise UserError(f"labels of shape {batch['labels'].shape}; the task predicts {predicted.shape}")
    real = ~jnp.isnan(wanted)
    total = jnp.sum(jnp.where(real, jnp.square(predicted - jnp.where(real, wanted, 0)), 0))
    count = jnp.sum(real).astype(total.dtype)
    return total, count, {"loss": total, "labels": count}
