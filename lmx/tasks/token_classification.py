"""Token classification: a tag for each word, such as the beginning or the inside of a name.

Source: Devlin et al. 2018, section 5.3: the first piece of a word speaks for it. Windows over long texts, and
the choice of the one with most context, as section 4.2's code does for questions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lmx.core.errors import UserError
from lmx.core.examples import Encoded, Encoder, Example, Feature, Field, Row
from lmx.core.hf_table import Entry, HeadTable
from lmx.core.types import IGNORED, Array, Batch, Model, Outputs, Params, Sums
from lmx.tasks import _examples, _heads, _tags, _tokens

FIELDS = (Field("id", required=False), Field("words"), Field("tags", target=True))
PER_TOKEN = ("input_ids", "token_type_ids", "labels", "word_index")
OUTPUTS = ("logits",)
METRICS: tuple[tuple[str, dict[str, Any]], ...] = (("entity_f1", {}),)
SCORE = "f1"

AXES = ((r"head/kernel", ("width", "label")), (r"head/bias", ("label",)))

_ENTRIES = (
    Entry("classifier.weight", ("head/kernel",), "transpose"),
    Entry("classifier.bias", ("head/bias",)),
)
_OPTIONS = (("labels", "num_labels"), ("dropout", "classifier_dropout"))

HF = {
    "gpt2": HeadTable("GPT2ForTokenClassification", _ENTRIES, options=_OPTIONS, fallback="hidden_dropout"),
    "bert": HeadTable("BertForTokenClassification", _ENTRIES, model={"pooler": False}, options=_OPTIONS),
}
"""Model -> the head's place in a Hugging Face folder."""


def attach(body: Model, config: _heads.Sized, *, labels: int = 2, dropout: float = 0.1) -> Model:
    """Return the body with `logits` (B, T, C): a dense layer over each hidden state, after dropout.

    labels: how many there are, C.
    """
    _heads.count("labels", labels, 2)
    _heads.probability("dropout", dropout)

    def head(params: Params, outputs: Outputs, batch: Batch, drop: _heads.Dropout) -> Outputs:
        return {"logits": _heads.dense(params, drop(outputs["hidden"]))}

    shapes = _heads.dense_shapes(config.width, labels)
    return _heads.attach(body, shapes, config.init_range, dropout, head)


def loss(outputs: Outputs, batch: Batch) -> tuple[Array, Array, Sums]:
    """Cross-entropy in nats over `labels` (B, T): (its sum, the count of labels, metric sums).

    Labels of -100 (special tokens, later pieces of a word, padding) count nothing.
    """
    total, count = _heads.negative_log(outputs["logits"], batch["labels"])
    return total, count, {"loss": total, "labels": count}


def read(example: Example) -> Example:
    """Return the example checked: `words`, a list of texts, and where there are any, as many BIO `tags`.

    Errors: UserError for anything else.
    """
    words = _texts(example, "words")
    found: dict[str, Any] = {"words": words}
    if "tags" in example:
        tags = [_tags.check(tag, i) for i, tag in enumerate(_texts(example, "tags"))]
        if len(tags) != len(words):
            raise UserError(f"{len(words)} words with {len(tags)} tags; expected one tag for each word")
        found["tags"] = tags
    return {**_examples.base(example), **found}


def _texts(example: Example, name: str) -> list[str]:
    given = example.get(name)
    given = given.tolist() if isinstance(given, np.ndarray) else given
    if not isinstance(given, (list, tuple)) or not given:
        raise UserError(f"{name} is {_examples.shown(given)}; expected a list of at least one text")
    for i, text in enumerate(given):
        if not isinstance(text, str):
            raise UserError(f"{name}[{i}] is {_examples.shown(text)}; expected a text")
    return list(given)


def learn(examples: Sequence[Example], *, names: Sequence[str] | None = None) -> dict[str, Any]:
    """Return `names`: the tags of the training split, O first, the rest sorted.

    names: the tags, in the order in which a model has them.
    Errors: UserError where examples have no tags, no tag but O, or one that is not among the names.
    """
    found = _tags.names(_examples.targets(examples, "tags"))
    if len(found) == 1:
        raise UserError(
            "every tag of the training split is 'O'; expected some B-TYPE: is this the tag column?"
        )
    known = found if names is None else [_tags.check(name, i) for i, name in enumerate(names)]
    if len(set(known)) < len(known):
        raise UserError(f"task.names={known}; expected each tag once")
    for index, example in enumerate(examples if names is not None else ()):
        with _examples.named(examples, index):
            _tags.labels(example["tags"], known)
    return {"names": known}


def head(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the head's size: one output a tag."""
    return {"labels": len(facts["names"])}


def encode(
    examples: Sequence[Example],
    tokenizer: Encoder,
    *,
    facts: Mapping[str, Any],
    length: int,
    stride: int | None = None,
    label_all: bool = False,
) -> Encoded:
    """Return each example's windows: `input_ids`, `token_type_ids`, `labels` and `word_index`, all (T,).

    length: the most tokens of a row, special ones among them. stride: None cuts what is longer; a number goes
    on in windows that share so many tokens. label_all: label a word's later pieces as well, those after B as
    I where there is such a tag. A word is labelled and predicted at its first piece, in that of its windows
    where it has the most tokens on its shorter side; `word_index` is its place there, -1 elsewhere. All other
    labels are -100.

    Worked example, words [New, Yorkers, win] of tags [B-X, I-X, O] and names [O, B-X, I-X]:

        pieces      [CLS]   new  york ##ers   win [SEP]
        labels       -100     1     2  -100     0  -100
        word_index     -1     0     1    -1     2    -1

    Counts: `words cut`, and `words without a token` (such as control characters), which are predicted as O;
    `texts cut`; `tags I without B`, which are taken as they are.
    """
    if stride is not None:
        _heads.count("stride", stride, 0)
    told = _examples.has(examples, "tags")
    names = list(facts["names"])
    features: list[Feature] = []
    origin: list[int] = []
    counts = dict.fromkeys(("texts cut", "words cut", "words without a token", "tags I without B"), 0)
    texts = [example["words"] for example in examples]
    # All windows even where one is kept: the others tell which words were cut, and which have no token.
    every = _tokens.rows(tokenizer, texts, length=length, stride=stride or 0, words=True)
    for index, (example, rows) in enumerate(zip(examples, every, strict=True)):
        pieces = _tags.first_pieces(rows, stride or 0)
        kept = rows if stride is not None else rows[:1]
        best = _tags.best(piece for piece in pieces if piece.window < len(kept))
        present = {piece.word for piece in pieces}
        counts["words without a token"] += len(texts[index]) - len(present)
        counts["words cut"] += len(present) - len(best)
        counts["texts cut"] += len(kept) < len(rows)
        labels = later = None
        if told:
            counts["tags I without B"] += _tags.orphans(example["tags"])
            with _examples.named(examples, index):
                labels, later = _tags.labels(example["tags"], names)
        for window, row in enumerate(kept):
            if not row.ids.size:  # a tokenizer without special tokens, and no word with a piece
                continue
            here = [piece for piece in best.values() if piece.window == window]
            feature = _feature(row, here)
            if labels is not None:
                feature["labels"] = _labels(row, here, labels, later if label_all else None)
            features.append(feature)
            origin.append(index)
    return Encoded(features, origin, counts)


def _feature(row: Row, pieces: Sequence[_tags.Piece]) -> dict[str, np.ndarray]:
    places = np.full(len(row.ids), -1, np.int32)
    for piece in pieces:
        places[piece.token] = piece.word
    return {**_examples.feature(row), "word_index": places}


def _labels(
    row: Row, pieces: Sequence[_tags.Piece], labels: Sequence[int], later: Sequence[int] | None
) -> np.ndarray:
    """Return the labels (T,) of a row. later: of each word's later pieces; None for none."""
    found = np.full(len(row.ids), IGNORED, np.int32)
    for piece in pieces:
        if later is not None:
            own = np.flatnonzero((row.words == piece.word) & (row.text == 0))
            found[own[own > piece.token]] = later[piece.word]
        found[piece.token] = labels[piece.word]
    return found


def decode(
    examples: Sequence[Example],
    encoded: Encoded,
    outputs: Mapping[str, Sequence[np.ndarray]],
    *,
    facts: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Return for each example `tags`, one a word, and `probabilities`, that of each tag.

    outputs: `logits`, (T, C) for each feature. A word without a prediction (it was cut, or has no token) is
    O, with the probability None.
    Errors: UserError for logits that are no numbers.
    """
    names = facts["names"]
    tags = [[_tags.OUTSIDE] * len(example["words"]) for example in examples]
    sure: list[list[float | None]] = [[None] * len(example["words"]) for example in examples]
    for feature, index, output in zip(encoded.features, encoded.origin, outputs["logits"], strict=True):
        places = np.flatnonzero(feature["word_index"] >= 0)
        logits = _tokens.real(output, feature, "logits")[places]
        weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
        shares = weights / weights.sum(axis=-1, keepdims=True)
        chosen = logits.argmax(axis=-1)
        for word, label, share in zip(feature["word_index"][places], chosen, shares, strict=True):
            tags[index][word], sure[index][word] = names[label], float(share[label])
    return [{"tags": those, "probabilities": shares} for those, shares in zip(tags, sure, strict=True)]


def losses(
    examples: Sequence[Example],
    encoded: Encoded,
    outputs: Mapping[str, Sequence[np.ndarray]],
    *,
    facts: Mapping[str, Any],
) -> list[float]:
    """Return -log p of each example's tags, in nats, the mean of its words that the model saw; NaN where it
    saw none."""
    names = list(facts["names"])
    found: list[list[float]] = [[] for _ in examples]
    for feature, index, output in zip(encoded.features, encoded.origin, outputs["logits"], strict=True):
        labels, _ = _tags.labels(examples[index]["tags"], names)
        logits = _tokens.real(output, feature, "logits")
        for token in np.flatnonzero(feature["word_index"] >= 0):
            found[index].append(_examples.nats(logits[token], labels[feature["word_index"][token]]))
    return [float(np.mean(those)) if those else math.nan for those in found]


def references(examples: Sequence[Example], *, facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the right `tags` of each example."""
    return [{"tags": list(example["tags"])} for example in examples]
