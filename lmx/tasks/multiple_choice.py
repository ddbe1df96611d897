"""Multiple choice: which of several sequences, each read on its own, is the right one.

Source: Devlin et al. 2018, section 4.4 (SWAG).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import jax.numpy as jnp
import numpy as np

from lmx.core.errors import UserError
from lmx.core.examples import Cut, Encoded, Encoder, Example, Field
from lmx.core.hf_table import Entry, HeadTable
from lmx.core.types import Array, Batch, Model, Outputs, Params, Sums
from lmx.tasks import _examples, _heads, _losses

FIELDS = (
    Field("id", required=False),
    Field("text"),
    Field("choices"),
    Field("label", target=True),
)
PER_TOKEN = ("input_ids", "token_type_ids", "attention_mask")
OUTPUTS = ("logits",)
METRICS: tuple[tuple[str, dict[str, Any]], ...] = (("accuracy", {}),)
SCORE = "accuracy"

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
    A choice without a token in `attention_mask` is none: its logit is the least number there is, so that it
    gets no probability and no gradient.
    Errors: UserError where the ids have no axis of choices.
    """
    _heads.probability("dropout", dropout)

    def head(params: Params, outputs: Outputs, batch: Batch, drop: _heads.Dropout) -> Outputs:
        size, choices = batch["input_ids"].shape[:2]
        seen = _heads.pooled(outputs).reshape(size, choices, -1)
        logits = _heads.dense(params, drop(seen))[..., 0]
        if "attention_mask" in batch:
            there = jnp.any(batch["attention_mask"] > 0, axis=-1)
            logits = jnp.where(there, logits, jnp.finfo(logits.dtype).min)
        return {"logits": logits}

    flat = _heads.side_by_side(body, "choices")
    return _heads.attach(flat, _heads.dense_shapes(config.width, 1), config.init_range, dropout, head)


def read(example: Example) -> dict[str, Any]:
    """Return an example with `text`, `choices`, a list of two or more, and, where it has one, `label`: the
    place of the right choice, counted from 0, which may come as text.

    Errors: UserError for an empty text or choice, and for a label beyond the choices.
    """
    choices = example.get("choices")
    if isinstance(choices, str) or not isinstance(choices, (Sequence, np.ndarray)) or len(choices) < 2:
        raise UserError(f"choices={_examples.shown(choices)}; expected a list of two texts or more")
    found: dict[str, Any] = {"text": _examples.text(example, "text")}
    named = [(f"choices[{i}]", choice) for i, choice in enumerate(choices)]
    found["choices"] = [_examples.text({name: choice}, name) for name, choice in named]
    if example.get("label") is not None:
        name = example["label"] if isinstance(example["label"], bool) else _examples.label(example["label"])
        known = [str(i) for i in range(len(choices))]
        if name not in known:
            raise UserError(
                f"label={_examples.shown(example['label'])}; expected the place of the right one of "
                f"{len(choices)} choices, 0 to {len(choices) - 1}"
            )
        found["label"] = name
    return {**_examples.base(example), **found}


def learn(examples: Sequence[Example]) -> dict[str, Any]:
    """Return nothing: how many choices there are is each example's own affair.

    Errors: UserError where one has no label, and where all have the same.
    """
    held = _examples.targets(examples, "label")
    if len(set(held)) == 1:
        raise UserError(f"in every example the right choice is that at {held[0]}: there is nothing to learn")
    return {}


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
    """Return one feature of each example: C rows of the text with a choice, arrays (C, T), and `labels` ().

    length: the most tokens of a row. cut: whether the longer, the text or the choice gives way. C is the most
    choices of an example; rows beyond an example's own are masked, every token of them. Counts: "texts cut",
    the rows that lost tokens, and "examples filled up" with choices that are none.
    """
    texts = [example["text"] for example in examples for _ in example["choices"]]
    choices = [choice for example in examples for choice in example["choices"]]
    rows = _examples.rows(examples, texts, choices, tokenizer, length=length, cut=cut)
    own = [len(example["choices"]) for example in examples]
    most, ends = max(own, default=0), list(accumulate(own))
    features = [
        _filled(_examples.side_by_side(rows[end - count : end], tokenizer.filler), most, tokenizer.filler)
        for count, end in zip(own, ends, strict=True)
    ]
    if _examples.has(examples, "label"):
        for feature, example in zip(features, examples, strict=True):
            feature["labels"] = np.array(int(example["label"]), np.int32)
    made = _examples.encoded(features, rows)
    filled = sum(count < most for count in own)
    return dataclasses.replace(made, counts={**made.counts, "examples filled up": filled})


def _filled(feature: dict[str, np.ndarray], most: int, filler: int) -> dict[str, np.ndarray]:
    """Return the feature with so many rows, the new ones masked."""
    missing = most - len(feature["input_ids"])
    return {
        name: np.pad(array, ((0, missing), (0, 0)), constant_values=filler if name == "input_ids" else 0)
        for name, array in feature.items()
    }


def decode(
    examples: Sequence[Example],
    encoded: Encoded,
    outputs: Mapping[str, Sequence[np.ndarray]],
    *,
    facts: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Return {"label": place, "scores": {place: probability}} of each example; places are texts, from "0"."""
    scored = []
    for example, logits in zip(examples, outputs["logits"], strict=True):
        places = [str(i) for i in range(len(example["choices"]))]
        scored.append(_examples.probabilities(logits[: len(places)], places))
    return [{"label": _examples.best(scores), "scores": scores} for scores in scored]


def losses(
    examples: Sequence[Example],
    encoded: Encoded,
    outputs: Mapping[str, Sequence[np.ndarray]],
    *,
    facts: Mapping[str, Any],
) -> list[float]:
    """Return -log p of each example's label, in nats: the cross-entropy, whatever was trained with."""
    return _examples.label_nats(encoded, outputs["logits"])


def references(examples: Sequence[Example], *, facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return {"label": place} of each example. Errors: UserError for an example without."""
    return [{"label": place} for place in _examples.targets(examples, "label")]


def loss(
    outputs: Outputs, batch: Batch, *, loss: _losses.Given = "cross_entropy"
) -> tuple[Array, Array, Sums]:
    """Return (sum over `labels` (B,), the right choices, their count, metric sums); -100 counts nothing.

    loss: "cross_entropy" (with smoothing), "focal" (with gamma), or a function by its dotted path.
    """
    total, count = _losses.find(loss, _losses.CLASSES)(outputs["logits"], batch["labels"])
    return total, count, {"loss": total, "labels": count}
