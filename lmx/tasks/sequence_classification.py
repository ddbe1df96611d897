"""Sequence classification: one label for each sequence or pair, or several labels at once.

Source: Devlin et al. 2018, section 4.1 (the first token, pooled); Radford et al. 2018, section 3.2 (the last
token).
"""

from __future__ import annotations

import math
from collections import Counter
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
    Field("label", target=True, required=False),
    Field("labels", target=True, required=False),
)
"""`label` for one label of each example, `labels` for several; training needs the one that is asked for."""

PER_TOKEN = ("input_ids", "token_type_ids")
OUTPUTS = ("logits",)
METRICS: tuple[tuple[str, dict[str, Any]], ...] = (("accuracy", {}), ("f1", {}))
SCORE = "accuracy"

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


def read(example: Example, *, multi_label: bool = False, separator: str | None = None) -> dict[str, Any]:
    """Return an example with `text`, `text_pair` where it has one, and `label`, a name, where it has one.

    A label may come as a text, a whole number, or true and false. multi_label: `labels` instead, each once:
    they come as a list, or as one text with the `separator` between them; an empty one is no label at all.
    Errors: UserError for an empty text, and for a label of another kind.
    """
    _heads.switch("multi_label", multi_label)
    if separator is not None and (not multi_label or not isinstance(separator, str) or not separator):
        raise UserError(f"task.separator={separator!r}; expected such as ',', with task.multi_label=True")
    found = {**_examples.base(example), **_examples.texts(example)}
    given, other = ("labels", "label") if multi_label else ("label", "labels")
    if example.get(other) is not None:
        raise UserError(f"{other} is read with task.multi_label={not multi_label}; name the column {given}")
    if example.get(given) is not None:
        value = example[given]
        found[given] = _several(value, separator) if multi_label else _examples.label(value)
    return found


def _several(value: Any, separator: str | None) -> list[str]:
    if isinstance(value, str):
        if separator is None:
            raise UserError(
                f"labels={_examples.shown(value)}; expected a list of names, or set task.separator to what "
                "stands between them"
            )
        value = value.split(separator) if value.strip() else []
    if not isinstance(value, (Sequence, np.ndarray)):
        raise UserError(f"labels={_examples.shown(value)}; expected a list of names")
    return list(dict.fromkeys(_examples.label(one, "labels") for one in value))


def learn(
    examples: Sequence[Example],
    *,
    multi_label: bool = False,
    names: Sequence[str] | None = None,
    class_weights: Mapping[str, float] | str | None = None,
) -> dict[str, Any]:
    """Return {"names": the labels in their order} and, with class_weights, {"weights": one of each}.

    names: the labels, in the order in which a model has them; None for those of the examples, numbers sorted
    as numbers before all other names. class_weights: {name: weight}, 1 for those it does not name; or
    "balanced": N / (C x count of the label), with multi_label absent / present examples, the weight of a yes.
    Errors: UserError where an example has no label, where all have the same, and for weights that cannot be.
    """
    field = "labels" if multi_label else "label"
    held = _examples.targets(examples, field)
    sets = held if multi_label else [[name] for name in held]
    counts = Counter(name for each in sets for name in each)
    if len({frozenset(each) for each in sets}) == 1:
        what = ", ".join(map(_examples.shown, sets[0])) or "none"
        raise UserError(f"every example has the same {field} ({what}): there is nothing to learn")
    if names is None:
        known = _examples.ordered(set(counts))
    else:
        if isinstance(names, str) or not isinstance(names, Sequence):
            raise UserError(f"task.names={names!r}; expected a list of labels, such as ('no', 'yes')")
        known = [_examples.label(name, "task.names") for name in names]
        if len(set(known)) < len(known):
            raise UserError(f"task.names={known}; expected each name once")
    for index, each in enumerate(sets if names is not None else ()):
        with _examples.named(examples, index):
            for name in each:
                _examples.place(known, name, field)
    if class_weights is None:
        return {"names": known}
    return {"names": known, "weights": _weights(class_weights, known, counts, len(examples), multi_label)}


def _weights(given: Any, names: list[str], counts: Mapping[str, int], total: int, multi: bool) -> list[float]:
    if given == "balanced":
        for name in names:
            if not 0 < counts[name] < total:
                how = "no" if counts[name] == 0 else "every"
                raise UserError(f"task.class_weights='balanced', but {how} example has the label {name!r}")
        if multi:
            return [(total - counts[name]) / counts[name] for name in names]
        return [total / (len(names) * counts[name]) for name in names]
    if not isinstance(given, Mapping):
        raise UserError(f"task.class_weights={given!r}; expected 'balanced' or a weight for each name")
    found = {str(name): weight for name, weight in given.items()}
    for name, weight in found.items():
        _examples.place(names, name, "task.class_weights")
        good = isinstance(weight, (int, float)) and not isinstance(weight, bool)
        if not good or not math.isfinite(weight) or weight <= 0:
            raise UserError(f"task.class_weights.{name}={weight!r}; expected a positive number")
    return [float(found.get(name, 1.0)) for name in names]


def head(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of `attach` and `loss` that follow from the facts."""
    found = {"labels": len(facts["names"])}
    return {**found, "weights": facts["weights"]} if "weights" in facts else found


def encode(
    examples: Sequence[Example],
    tokenizer: Encoder,
    *,
    facts: Mapping[str, Any],
    length: int,
    multi_label: bool = False,
    cut: Cut = "longest",
) -> Encoded:
    """Return one feature of each example, with `labels` (), or (C,) of 0 and 1, where all have them.

    length: the most tokens. cut: which text of a pair gives way. Counts: "texts cut".
    Errors: UserError for a label that the training split did not have.
    """
    rows = _examples.pair_rows(examples, tokenizer, length=length, cut=cut)
    features = [_examples.feature(row) for row in rows]
    field, names = "labels" if multi_label else "label", facts["names"]
    if _examples.has(examples, field):
        for index, (feature, example) in enumerate(zip(features, examples, strict=True)):
            with _examples.named(examples, index):
                held = example[field] if multi_label else [example[field]]
                places = [_examples.place(names, name, field) for name in held]
            if multi_label:
                feature["labels"] = np.isin(np.arange(len(names)), places).astype(np.int32)
            else:
                feature["labels"] = np.array(places[0], np.int32)
    return _examples.encoded(features, rows)


def decode(
    examples: Sequence[Example],
    encoded: Encoded,
    outputs: Mapping[str, Sequence[np.ndarray]],
    *,
    facts: Mapping[str, Any],
    multi_label: bool = False,
    threshold: float | None = None,
) -> list[dict[str, Any]]:
    """Return {"label": name, "scores": {name: probability}} of each example.

    multi_label: "labels", those with a probability of at least the threshold (0.5), instead.
    """
    names = facts["names"]
    if not multi_label:
        if threshold is not None:
            raise UserError(f"task.threshold={threshold!r} needs task.multi_label=True; one label has none")
        scored = [_examples.probabilities(logits, names) for logits in outputs["logits"]]
        return [{"label": _examples.best(scores), "scores": scores} for scores in scored]
    least = 0.5 if threshold is None else threshold
    _heads.probability("threshold", least)
    found = []
    for logits in outputs["logits"]:
        shares = 0.5 * (1 + np.tanh(0.5 * logits.astype(np.float64)))
        scores = dict(zip(names, shares.tolist(), strict=True))
        found.append({"labels": [name for name in names if scores[name] >= least], "scores": scores})
    return found


def losses(
    examples: Sequence[Example],
    encoded: Encoded,
    outputs: Mapping[str, Sequence[np.ndarray]],
    *,
    facts: Mapping[str, Any],
    multi_label: bool = False,
) -> list[float]:
    """Return -log p of each example's label, in nats: the cross-entropy, whatever was trained with.

    multi_label: of all its labels together: the sum over all names of a yes or a no.
    """
    if not multi_label:
        return _examples.label_nats(encoded, outputs["logits"])
    found = []
    for feature, logits in zip(encoded.features, outputs["logits"], strict=True):
        wide = logits.astype(np.float64)
        found.append(float(np.logaddexp(0.0, np.where(feature["labels"] > 0, -wide, wide)).sum()))
    return found


def references(examples: Sequence[Example], *, facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return {"label": name}, or {"labels": names}, of each example.

    Errors: UserError for an example without, and for a label that the training split did not have.
    """
    field = "labels" if examples and "labels" in examples[0] else "label"
    held = _examples.targets(examples, field)
    for value in held:
        for name in [value] if field == "label" else value:
            _examples.place(facts["names"], name, field)
    return [{field: value} for value in held]


def loss(
    outputs: Outputs,
    batch: Batch,
    *,
    loss: _losses.Given = "cross_entropy",
    weights: Sequence[float] | None = None,
) -> tuple[Array, Array, Sums]:
    """Return (sum, weight, metric sums) over `labels`; those of -100 count nothing.

    labels (B,): of the softmax over the classes. labels (B, C) of 0 and 1: of a sigmoid for each, as
    transformers' BCEWithLogitsLoss. loss: "cross_entropy" (with smoothing), "focal" (with gamma), or a
    function of the user's own, by its dotted path. weights: one per label, in their order.
    """
    wanted = batch["labels"]
    known = _losses.CLASSES if wanted.ndim == 1 else _losses.QUESTIONS
    total, weight = _losses.find(loss, known, weights=weights)(outputs["logits"], wanted)
    return total, weight, {"loss": total, "labels": weight}
