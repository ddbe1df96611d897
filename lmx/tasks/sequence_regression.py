"""Sequence regression: one or several numbers for each sequence or pair.

Source: Devlin et al. 2018, section 4.1 (STS-B); the loss is the squared error, as in transformers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lmx.core.errors import UserError
from lmx.core.examples import Cut, Encoded, Encoder, Example, Field
from lmx.core.hf_table import Entry, HeadTable
from lmx.core.types import Array, Batch, Model, Outputs, Params, Sums
from lmx.tasks import _examples, _heads, _losses

FIELDS = (
    Field("id", required=False),
    Field("text"),
    Field("text_pair", required=False),
    Field("value", target=True),
)
PER_TOKEN = ("input_ids", "token_type_ids")
OUTPUTS = ("logits",)
METRICS: tuple[tuple[str, dict[str, Any]], ...] = (("correlation", {}), ("regression", {}))
SCORE = "loss"

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


def read(example: Example, *, targets: int = 1) -> dict[str, Any]:
    """Return an example with `text`, `text_pair` where it has one, and `value`: a number, or a list of them.

    targets: how many numbers.
    Errors: UserError for an empty text, and for a value that is no finite number, or not as many.
    """
    found = {**_examples.base(example), **_examples.texts(example)}
    value = example.get("value")
    if value is None:
        return found
    if targets == 1:
        return {**found, "value": _examples.number(value)}
    if isinstance(value, str) or not isinstance(value, (Sequence, np.ndarray)) or len(value) != targets:
        raise UserError(f"value={_examples.shown(value)}; expected a list of task.targets={targets} numbers")
    return {**found, "value": [_examples.number(one) for one in value]}


def learn(examples: Sequence[Example], *, standardize: bool = False) -> dict[str, Any]:
    """Return {"mean": ..., "deviation": ...}, one of each target, with `standardize`; else nothing.

    standardize: train on (value - mean) / deviation of the training split. Predictions are in the units of
    the data all the same; the loss is then in those of the deviation.
    Errors: UserError where an example has no value, or a target has the same one everywhere.
    """
    _heads.switch("standardize", standardize)
    values = np.array(_examples.targets(examples, "value"), np.float64).reshape(len(examples), -1)
    if (flat := np.ptp(values, axis=0) == 0).any():
        same = values[0, flat][0]
        raise UserError(f"every example has the same value ({same:g}): there is nothing to learn")
    if not standardize:
        return {}
    return {"mean": values.mean(axis=0).tolist(), "deviation": values.std(axis=0).tolist()}


def head(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of `attach` that follow from the facts: none."""
    return {}


def encode(
    examples: Sequence[Example],
    tokenizer: Encoder,
    *,
    facts: Mapping[str, Any],
    length: int,
    cut: Cut = "longest",
) -> Encoded:
    """Return one feature of each example, with `labels` (C,) where the examples have a value.

    length: the most tokens. cut: which text of a pair gives way. Counts: "texts cut".
    """
    rows = _examples.pair_rows(examples, tokenizer, length=length, cut=cut)
    features = [_examples.feature(row) for row in rows]
    if _examples.has(examples, "value"):
        mean, deviation = _scaling(facts)
        for feature, example in zip(features, examples, strict=True):
            feature["labels"] = ((np.atleast_1d(example["value"]) - mean) / deviation).astype(np.float32)
    return _examples.encoded(features, rows)


def _scaling(facts: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(facts.get("mean", [0.0])), np.array(facts.get("deviation", [1.0]))


def decode(
    examples: Sequence[Example],
    encoded: Encoded,
    outputs: Mapping[str, Sequence[np.ndarray]],
    *,
    facts: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Return {"value": number} of each example, in the units of the data; a list where there are several."""
    mean, deviation = _scaling(facts)
    values = [(row.astype(np.float64) * deviation + mean).tolist() for row in outputs["logits"]]
    return [{"value": one[0] if len(one) == 1 else one} for one in values]


def losses(
    examples: Sequence[Example],
    encoded: Encoded,
    outputs: Mapping[str, Sequence[np.ndarray]],
    *,
    facts: Mapping[str, Any],
) -> list[float]:
    """Return each example's squared error in the units of the data, the mean of its numbers."""
    told = decode(examples, encoded, outputs, facts=facts)
    gaps = [np.subtract(one["value"], example["value"]) for one, example in zip(told, examples, strict=True)]
    return [float(np.mean(np.square(gap))) for gap in gaps]


def references(examples: Sequence[Example], *, facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return {"value": number} of each example, as it came. Errors: UserError for an example without."""
    return [{"value": value} for value in _examples.targets(examples, "value")]


def loss(outputs: Outputs, batch: Batch, *, loss: _losses.Given = "mse") -> tuple[Array, Array, Sums]:
    """Return (sum over all numbers, how many there are, metric sums).

    labels (B,) for one number a sequence, else (B, C); a label of NaN is not known and counts nothing. loss:
    "mse", "mae", "huber" (with delta), or a function of the user's own, by its dotted path.
    Errors: UserError for any other shape: (B,) against (B, C) would be broadcast in silence.
    """
    predicted, wanted = outputs["logits"], batch["labels"]
    wanted = wanted[:, None] if wanted.ndim == 1 and predicted.shape[1] == 1 else wanted
    total, count = _losses.find(loss, _losses.NUMBERS)(predicted, wanted)
    return total, count, {"loss": total, "labels": count}
