"""Sequence classification: one label for each sequence or pair, or several labels at once.

Source: Devlin et al. 2018, section 4.1 (the first token, pooled); Radford et al. 2018, section 3.2 (the last
token).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from lmx.core.errors import UserError
from lmx.core.hf_table import Entry, HeadTable
from lmx.core.types import IGNORED, Array, Batch, Model, Outputs, Params, Sums
from lmx.tasks import _heads

AXES = ((r"head/kernel", ("width", "label")), (r"head/bias", ("label",)))

_PROBLEMS = ("single_label_classification", "multi_label_classification")

HF = {
    "gpt2": HeadTable(
        "GPT2ForSequenceClassification",
        (Entry("score.weight", ("head/kernel",), "transpose"),),
        task={"bias": False, "dropout": 0.0},
        options=(("labels", "num_labels"), ("multi_label", "problem_type")),
        problems=_PROBLEMS,
    ),
    "bert": HeadTable(
        "BertForSequenceClassification",
        (
            Entry("classifier.weight", ("head/kernel",), "transpose"),
            Entry("classifier.bias", ("head/bias",)),
        ),
        model={"pooler": True},
        options=(
            ("labels", "num_labels"),
            ("multi_label", "problem_type"),
            ("dropout", "classifier_dropout"),
        ),
        problems=_PROBLEMS,
    ),
}
"""Model -> the head's place in a Hugging Face folder; GPT-2's head has no bias."""


def attach(
    body: Model,
    config: _heads.Sized,
    *,
    labels: int = 2,
    multi_label: bool = False,
    dropout: float = 0.1,
    bias: bool = True,
) -> Model:
    """Return the body with `logits` (B, C): a dense layer over the pooled output.

    labels: how many there are, C. multi_label: each label is a question of its own. dropout: before the dense
    layer. bias: whether it has one.
    Errors: UserError where the batch's labels are not of this kind: (B,) ids, or (B, C) of 0 and 1 with
    multi_label.
    """
    _heads.count("labels", labels, 1 if multi_label else 2)
    _heads.probability("dropout", dropout)

    def head(params: Params, outputs: Outputs, batch: Batch, drop: _heads.Dropout) -> Outputs:
        if "labels" in batch:
            size = batch["input_ids"].shape[0]
            expected = (size, labels) if multi_label else (size,)
            if batch["labels"].shape != expected:
                raise UserError(
                    f"labels of shape {batch['labels'].shape}; expected {expected} with "
                    f"task.labels={labels} and task.multi_label={multi_label}"
                )
        return {"logits": _heads.dense(params, drop(_heads.pooled(outputs)))}

    shapes = _heads.dense_shapes(config.width, labels, bias)
    return _heads.attach(body, shapes, config.init_range, dropout, head)


def loss(outputs: Outputs, batch: Batch) -> tuple[Array, Array, Sums]:
    """Cross-entropy in nats: (its sum, the count of labels, metric sums); labels of -100 count nothing.

    labels (B,): the softmax over the classes. labels (B, C): a sigmoid for each, as transformers'
    BCEWithLogitsLoss.
    """
    wanted = batch["labels"]
    if wanted.ndim == 1:
        total, count = _heads.negative_log(outputs["logits"], wanted)
    else:
        logits = outputs["logits"].astype(np.promote_types(outputs["logits"].dtype, np.float32))
        real = wanted != IGNORED
        yes = jnp.where(real, wanted, 0).astype(logits.dtype)
        each = jax.nn.softplus(logits) - yes * logits
        total, count = jnp.sum(jnp.where(real, each, 0)), jnp.sum(real).astype(logits.dtype)
    return total, count, {"loss": total, "labels": count}
