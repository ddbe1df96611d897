"""Sentence similarity: two texts, each read on its own by one encoder, compared by a cosine.

Source: Reimers and Gurevych 2019, "Sentence-BERT", section 3 (mean pooling; the regression objective).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lmx.core.errors import UserError
from lmx.core.examples import Encoded, Encoder, Example, Field
from lmx.core.hf_table import HeadTable
from lmx.core.types import Array, Batch, Model, Outputs, Params, Sums
from lmx.tasks import _examples, _heads, _losses

FIELDS = (
    Field("id", required=False),
    Field("text"),
    Field("text_pair", required=False),
    Field("value", target=True),
)
"""Without `text_pair` a prediction is the text's embedding; training needs pairs."""

PER_TOKEN = ("input_ids", "token_type_ids", "attention_mask")
OUTPUTS = ("embeddings",)
METRICS: tuple[tuple[str, dict[str, Any]], ...] = (("correlation", {}),)
SCORE = "spearman"
AXES = ()

HF = {
    "gpt2": HeadTable("GPT2Model", bare=True),
    "bert": HeadTable("BertModel", bare=True, model={"pooler": False}),
}
"""Model -> the bare class, for nothing is added to the body; a pooler would not be read."""

POOLINGS = ("mean", "first")


def attach(body: Model, config: Any, *, pooling: str = "mean") -> Model:
    """Return the body with `embeddings`, vectors of length 1, and, of two texts, their `cosine`.

    `input_ids`, `attention_mask` and `token_type_ids` (B, N, T) give embeddings (B, N, D), and with N = 2 a
    cosine (B,); (B, T) gives embeddings (B, D). The body sees B x N rows, and its other outputs lead with
    B x N. pooling: "mean" over the real tokens, or the "first" of them.
    Errors: UserError for "first" with a decoder, whose first token sees nothing of the text behind it.
    """
    _examples.choice("pooling", pooling, POOLINGS)
    if pooling == "first" and config.causal:
        raise UserError("task.pooling='first', but a decoder's first token sees no other; expected 'mean'")
    flat = _heads.side_by_side(body, "texts")

    def head(params: Params, outputs: Outputs, batch: Batch, drop: _heads.Dropout) -> Outputs:
        shape = batch["input_ids"].shape
        hidden = outputs["hidden"].astype(np.promote_types(outputs["hidden"].dtype, np.float32))
        mask = batch["attention_mask"] if "attention_mask" in batch else jnp.ones(shape, jnp.int32)
        vectors = _unit(_pool(hidden, mask.reshape(-1, shape[-1]) != 0, pooling))
        found: Outputs = {"embeddings": vectors.reshape(*shape[:-1], -1)}
        if len(shape) == 3 and shape[1] == 2:
            found["cosine"] = jnp.sum(found["embeddings"][:, 0] * found["embeddings"][:, 1], axis=-1)
        return found

    pairs = _heads.attach(flat, {}, 0.0, 0.0, head)
    single = _heads.attach(body, {}, 0.0, 0.0, head)

    def apply(params: Params, batch: Batch, **options: Any) -> Outputs:
        return (single if batch["input_ids"].ndim == 2 else pairs).apply(params, batch, **options)

    return Model(init=body.init, apply=apply, trainable=body.trainable, fold=body.fold)


def _pool(hidden: Array, real: Array, pooling: str) -> Array:
    """(R, T, D) and which tokens are real (R, T) -> (R, D); padding on either side counts nothing."""
    if pooling == "first":
        return hidden[jnp.arange(hidden.shape[0]), jnp.argmax(real, axis=1)]
    share = real.astype(hidden.dtype)
    count = jnp.maximum(jnp.sum(share, axis=1, keepdims=True), 1)
    return jnp.sum(hidden * share[..., None], axis=1) / count


def _unit(x: Array) -> Array:
    """Return vectors (R, D) at length 1; one of 0 stays."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=-1, keepdims=True), 1e-24))


def read(example: Example) -> dict[str, Any]:
    """Return an example with `text`, `text_pair` where it has one, and `value`, a number, where it has one.

    Errors: UserError for an empty text, and for a value that is no finite number.
    """
    found = {**_examples.base(example), **_examples.texts(example)}
    value = example.get("value")
    return found if value is None else {**found, "value": _examples.number(value)}


def learn(examples: Sequence[Example], *, values: Sequence[float] | None = None) -> dict[str, Any]:
    """Return {"values": [lowest, highest]}, the ends of the scale that people judged on.

    values: those ends, such as (0, 5) for STS-B; None for the lowest and highest value of the examples.
    Errors: UserError where an example has no value or no second text, where all have the same value, and for
    one beyond the ends.
    """
    held = _examples.targets(examples, "value")
    _examples.targets(examples, "text_pair")
    if min(held) == max(held):
        raise UserError(f"every example has the same value ({held[0]:g}): there is nothing to learn")
    low, high = (min(held), max(held)) if values is None else _examples.span("values", values)
    _within(examples, low, high)
    return {"values": [low, high]}


def _within(examples: Sequence[Example], low: float, high: float) -> None:
    for index, example in enumerate(examples):
        with _examples.named(examples, index):
            if not low <= example["value"] <= high:
                value = f"value={example['value']:g}"
                raise UserError(f"{value} lies beyond task.values=({low:g}, {high:g}); widen them")


def head(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of `attach` that follow from the facts: none."""
    return {}


def encode(
    examples: Sequence[Example],
    tokenizer: Encoder,
    *,
    facts: Mapping[str, Any],
    length: int,
    scale: Sequence[float] = (0.0, 1.0),
    values: Sequence[float] | None = None,
) -> Encoded:
    """Return one feature of each example: arrays (2, T) of its pair, and `labels` (), the cosine to reach.

    length: the most tokens of a text. scale: the cosines that stand for the lowest and the highest value,
    (0, 1) or (-1, 1). values: the ends of the data's scale where the config names them, which no value may
    lie beyond. Examples without a second text give arrays (T,). Counts: "texts cut".
    """
    paired = _examples.has(examples, "text_pair")
    names = ("text", "text_pair") if paired else ("text",)
    texts = [example[name] for example in examples for name in names]
    rows = _examples.rows(examples, texts, None, tokenizer, length=length)
    features = (
        [_examples.side_by_side(rows[i : i + 2], tokenizer.filler) for i in range(0, len(rows), 2)]
        if paired
        else [_examples.feature(row) for row in rows]
    )
    if _examples.has(examples, "value"):
        if values is not None:
            _within(examples, *_examples.span("values", values))
        ends, cosines = _ends(facts, scale), _cosines(scale)
        for feature, example in zip(features, examples, strict=True):
            feature["labels"] = np.array(_moved(example["value"], ends, cosines), np.float32)
    return _examples.encoded(features, rows)


def decode(
    examples: Sequence[Example],
    encoded: Encoded,
    outputs: Mapping[str, Sequence[np.ndarray]],
    *,
    facts: Mapping[str, Any],
    scale: Sequence[float] = (0.0, 1.0),
) -> list[dict[str, Any]]:
    """Return {"value": number} of each pair, on the scale of the data; of a text alone {"embedding": [D]}.

    Where nothing was learnt, facts being empty, the value is the cosine.
    """
    ends, cosines = _ends(facts, scale), _cosines(scale)
    found: list[dict[str, Any]] = []
    for vectors in outputs["embeddings"]:
        if vectors.ndim == 1:
            found.append({"embedding": vectors.tolist()})
        else:
            one, two = vectors.astype(np.float64)
            found.append({"value": _moved(float(one @ two), cosines, ends)})
    return found


def losses(
    examples: Sequence[Example],
    encoded: Encoded,
    outputs: Mapping[str, Sequence[np.ndarray]],
    *,
    facts: Mapping[str, Any],
    scale: Sequence[float] = (0.0, 1.0),
) -> list[float]:
    """Return each pair's squared error, on the scale of the data."""
    told = decode(examples, encoded, outputs, facts=facts, scale=scale)
    return [(one["value"] - example["value"]) ** 2 for one, example in zip(told, examples, strict=True)]


def references(examples: Sequence[Example], *, facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return {"value": number} of each example, as it came. Errors: UserError for an example without."""
    return [{"value": value} for value in _examples.targets(examples, "value")]


def _ends(facts: Mapping[str, Any], scale: Sequence[float]) -> tuple[float, float]:
    low, high = facts["values"] if "values" in facts else _cosines(scale)
    return low, high


def _cosines(scale: Sequence[float]) -> tuple[float, float]:
    low, high = _examples.span("scale", scale)
    if low < -1 or high > 1:
        raise UserError(f"task.scale=({low:g}, {high:g}); expected cosines, such as (0, 1) or (-1, 1)")
    return low, high


def _moved(value: float, old: tuple[float, float], new: tuple[float, float]) -> float:
    """Return a value of one scale on another, so that the ends meet."""
    return new[0] + (value - old[0]) * (new[1] - new[0]) / (old[1] - old[0])


def loss(outputs: Outputs, batch: Batch, *, loss: _losses.Given = "mse") -> tuple[Array, Array, Sums]:
    """Return (sum over the cosines, how many there are, metric sums); a label of NaN counts nothing.

    labels (B,). loss: "mse", "mae", "huber" (with delta), or a function by its dotted path.
    Errors: UserError where the batch has no pairs.
    """
    if "cosine" not in outputs:
        raise UserError("the batch has no pairs of texts to compare; name the column, data.columns.text_pair")
    total, count = _losses.find(loss, _losses.NUMBERS)(outputs["cosine"], batch["labels"])
    return total, count, {"loss": total, "pairs": count}
