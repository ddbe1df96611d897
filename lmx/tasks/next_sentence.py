"""Next-sentence prediction alone: does the second part follow the first?

Source: Devlin et al. 2018, section 3.1, task 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lmx.core.errors import UserError
from lmx.core.examples import Cut, Encoded, Encoder, Example, Field
from lmx.core.hf_table import HeadTable
from lmx.core.types import Array, Batch, Model, Outputs, Params, Sums
from lmx.tasks import _examples, _heads, _losses, _next

FIELDS = (
    Field("id", required=False),
    Field("text"),
    Field("text_pair"),
    Field("label", target=True),
)
PER_TOKEN = ("input_ids", "token_type_ids")
OUTPUTS = ("logits",)
METRICS: tuple[tuple[str, dict[str, Any]], ...] = (("accuracy", {}),)
SCORE = "accuracy"

AXES = _next.AXES

HF = {"bert": HeadTable("BertForNextSentencePrediction", _next.ENTRIES, model={"pooler": True}, shared=True)}
"""Model -> the head's place in a Hugging Face folder."""


def attach(body: Model, config: _heads.Sized) -> Model:
    """Return the body with `logits` (B, 2): class 0 is "follows", class 1 "does not", as in transformers."""

    def head(params: Params, outputs: Outputs, batch: Batch, drop: _heads.Dropout) -> Outputs:
        return {"logits": _next.predict(params, _heads.pooled(outputs))}

    return _heads.attach(body, _next.shapes(config.width), config.init_range, 0.0, head)


def read(example: Example) -> dict[str, Any]:
    """Return an example with `text`, `text_pair` and, where it has one, `label`, a name.

    Errors: UserError for an empty text, and for a label that is no name, whole number, true or false.
    """
    found: dict[str, Any] = {name: _examples.text(example, name) for name in ("text", "text_pair")}
    if example.get("label") is not None:
        found["label"] = _examples.label(example["label"])
    return {**_examples.base(example), **found}


def learn(examples: Sequence[Example], *, names: Sequence[str] = ("0", "1")) -> dict[str, Any]:
    """Return {"names": [what says "follows", what says "does not"]}.

    names: those two labels, as the data have them; the order is that of the pretrained head, so that it is
    never sorted. The default is that of BERT's data: 0 follows, 1 does not; data with `is_next` as true and
    false need ("true", "false").
    Errors: UserError for another label, and where all examples have the same.
    """
    known = [_examples.label(name, "task.names") for name in names]
    if len(known) != 2 or known[0] == known[1]:
        raise UserError(
            f"task.names={known}; expected two: the label for 'follows', then that for 'does not'"
        )
    held = _examples.targets(examples, "label")
    for index, name in enumerate(held):
        with _examples.named(examples, index):
            _examples.place(known, name)
    if len(set(held)) == 1:
        raise UserError(f"every example has the same label ({held[0]!r}): there is nothing to learn")
    return {"names": known}


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
    """Return one feature of each example, with `labels` () where the examples have them.

    length: the most tokens. cut: which text gives way. Counts: "texts cut".
    Errors: UserError for a label that is neither of the two.
    """
    rows = _examples.pair_rows(examples, tokenizer, length=length, cut=cut)
    features = [_examples.feature(row) for row in rows]
    if _examples.has(examples, "label"):
        for index, (feature, example) in enumerate(zip(features, examples, strict=True)):
            with _examples.named(examples, index):
                feature["labels"] = np.array(_examples.place(facts["names"], example["label"]), np.int32)
    return _examples.encoded(features, rows)


def decode(
    examples: Sequence[Example],
    encoded: Encoded,
    outputs: Mapping[str, Sequence[np.ndarray]],
    *,
    facts: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Return {"label": name, "scores": {name: probability}} of each example."""
    scored = [_examples.probabilities(logits, facts["names"]) for logits in outputs["logits"]]
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
    """Return {"label": name} of each example. Errors: UserError for one without, or with another label."""
    held = _examples.targets(examples, "label")
    for name in held:
        _examples.place(facts["names"], name)
    return [{"label": name} for name in held]


def loss(
    outputs: Outputs, batch: Batch, *, loss: _losses.Given = "cross_entropy"
) -> tuple[Array, Array, Sums]:
    """Return (sum over `labels` (B,), the count of pairs, metric sums); labels of -100 count nothing.

    loss: "cross_entropy" (with smoothing), "focal" (with gamma), or a function by its dotted path.
    """
    total, count = _losses.find(loss, _losses.CLASSES)(outputs["logits"], batch["labels"])
    return total, count, {"loss": total, "pairs": count}
