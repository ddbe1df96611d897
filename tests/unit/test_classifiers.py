"""Regression, multiple choice and next sentence, from the raw example to the prediction."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmx import tokenizer
from lmx.batches import padded
from lmx.commands import _build
from lmx.core.errors import UserError
from lmx.core.examples import Encoded
from lmx.tasks import multiple_choice, next_sentence, sequence_regression


@pytest.fixture(scope="module")
def text() -> tokenizer.Tokenizer:
    return tokenizer.train_bpe(["hello world, good day " * 20], 270)


EMPTY = Encoded([], [])
NUMBERS = [{"text": f"text {value}", "value": value} for value in (1.0, 2.0, 3.0, 6.0)]


def test_scaled_values_are_scaled_back(text: tokenizer.Tokenizer) -> None:
    """The mean is 3 and the deviation root 3.5; a split of other values is scaled by the same."""
    examples = [sequence_regression.read(example) for example in NUMBERS]
    facts = sequence_regression.learn(examples, standardize=True)
    assert facts == {"mean": [3.0], "deviation": [pytest.approx(3.5**0.5)]}
    other = [sequence_regression.read({"text": "x", "value": "10"})]
    feature = sequence_regression.encode(other, text, facts=facts, length=8).features[0]
    assert feature["labels"].dtype == np.float32
    np.testing.assert_allclose(feature["labels"], [7 / 3.5**0.5], rtol=1e-6)
    encoded = sequence_regression.encode(examples, text, facts=facts, length=8)
    rows = [feature["labels"] for feature in encoded.features]  # a model without error
    np.testing.assert_allclose(np.mean(rows), 0, atol=1e-6)
    np.testing.assert_allclose(np.std(rows), 1, atol=1e-6)
    found = sequence_regression.decode(examples, encoded, {"logits": rows}, facts=facts)
    wanted = sequence_regression.references(examples, facts=facts)
    np.testing.assert_allclose([one["value"] for one in found], [1, 2, 3, 6], rtol=1e-6)
    assert wanted == [{"value": value} for value in (1.0, 2.0, 3.0, 6.0)]


def test_values_are_not_scaled_unless_asked_for(text: tokenizer.Tokenizer) -> None:
    examples = [sequence_regression.read(example) for example in NUMBERS]
    facts = sequence_regression.learn(examples)
    assert facts == {}
    encoded = sequence_regression.encode(examples, text, facts=facts, length=8)
    assert [feature["labels"].tolist() for feature in encoded.features] == [[1.0], [2.0], [3.0], [6.0]]
    rows = [np.array([0.5], np.float32)]
    assert sequence_regression.decode([], encoded, {"logits": rows}, facts=facts) == [{"value": 0.5}]


def test_several_values(text: tokenizer.Tokenizer) -> None:
    raw = [{"text": "x", "value": [1, "4"]}, {"text": "y", "value": [3, 8.0]}]
    examples = [sequence_regression.read(example, targets=2) for example in raw]
    facts = sequence_regression.learn(examples, standardize=True)
    assert facts == {"mean": [2.0, 6.0], "deviation": [1.0, 2.0]}
    encoded = sequence_regression.encode(examples, text, facts=facts, length=8)
    rows = [feature["labels"] for feature in encoded.features]
    assert [row.tolist() for row in rows] == [[-1.0, -1.0], [1.0, 1.0]]
    found = sequence_regression.decode(examples, encoded, {"logits": rows}, facts=facts)
    assert found == sequence_regression.references(examples, facts=facts)
    assert padded(
        encoded.features, per_token=("input_ids", "token_type_ids"), filler=0, multiple=8, longest=8
    )["labels"].shape == (2, 2)


@pytest.mark.parametrize(
    ("value", "targets", "message"),
    [
        (float("nan"), 1, "value=nan; expected a finite number"),
        ("nan", 1, "value='nan'; expected a finite number"),
        (float("inf"), 1, "expected a finite number"),
        (True, 1, "value=True; expected a finite number"),
        ("much", 1, "value='much'"),
        ([1.0], 1, r"value=\[1.0\]; expected a finite number"),
        (1.0, 2, r"value=1\.0; expected a list of task\.targets=2 numbers"),
        ([1.0], 2, r"expected a list of task\.targets=2 numbers"),
        ("12", 2, r"expected a list of task\.targets=2 numbers"),
        ([1.0, None], 2, "value=None; expected a finite number"),
    ],
)
def test_values_that_are_no_numbers_are_refused(value: Any, targets: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        sequence_regression.read({"text": "x", "value": value}, targets=targets)


def test_one_value_alone_is_refused() -> None:
    with pytest.raises(UserError, match=r"every example has the same value \(2\.5\)"):
        sequence_regression.learn([{"text": "x", "value": 2.5}] * 3)
    with pytest.raises(UserError, match="example 1 has no value"):
        sequence_regression.learn([{"text": "x"}])


CHOICES = [
    {"text": "hello", "choices": ["world", "good good good good day"], "label": 0},
    {"text": "good", "choices": ["day", "hello"], "label": "1"},
]


def test_choices_stand_side_by_side(text: tokenizer.Tokenizer) -> None:
    examples = [multiple_choice.read(example) for example in CHOICES]
    facts = multiple_choice.learn(examples)
    assert facts == {}
    encoded = multiple_choice.encode(examples, text, facts=facts, length=9)
    one = encoded.features[0]
    assert one["input_ids"].shape == one["token_type_ids"].shape == one["attention_mask"].shape
    for row, choice in enumerate(CHOICES[0]["choices"]):
        wanted = text.rows(["hello"], [choice], length=9)[0][0].ids
        assert one["input_ids"][row][one["attention_mask"][row] == 1].tolist() == wanted.tolist()
    assert one["attention_mask"].sum(-1).tolist() != [one["input_ids"].shape[-1]] * 2
    assert [int(feature["labels"]) for feature in encoded.features] == [0, 1]
    batch = padded(encoded.features, per_token=multiple_choice.PER_TOKEN, filler=3, multiple=16, longest=16)
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (2, 2, 16)
    assert (batch["input_ids"][batch["attention_mask"] == 0] == 3).any()
    assert batch["attention_mask"].sum() == sum(int(f["attention_mask"].sum()) for f in encoded.features)
    assert encoded.counts == {"texts cut": 1, "examples filled up": 0}
    assert multiple_choice.encode(examples, text, facts=facts, length=64).counts == {
        "texts cut": 0,
        "examples filled up": 0,
    }


def test_choices_are_told_by_their_place() -> None:
    outputs = {"logits": [np.array([0.0, np.log(3)], np.float32)]}
    found = multiple_choice.decode(CHOICES[:1], EMPTY, outputs, facts={})
    assert found[0]["label"] == "1"
    np.testing.assert_allclose(found[0]["scores"]["0"], 0.25, rtol=1e-6)
    examples = [multiple_choice.read(example) for example in CHOICES]
    assert multiple_choice.references(examples, facts={}) == [{"label": "0"}, {"label": "1"}]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"choices": "ab"}, "expected a list of two texts or more"),
        ({"choices": ["a"]}, "expected a list of two texts or more"),
        ({"choices": ["a", " "]}, r"choices\[1\] is empty"),
        ({"choices": ["a", 3]}, r"choices\[1\]=3; expected a text"),
        ({"label": 2}, "label=2; expected the place of the right one of 2 choices, 0 to 1"),
        ({"label": -1}, "label=-1"),
        ({"label": True}, "label=True"),
        ({"text": ""}, "text is empty"),
    ],
)
def test_bad_choices_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        multiple_choice.read({**CHOICES[0], **changes})


def test_choices_that_are_none_have_no_part_in_anything(text: tokenizer.Tokenizer) -> None:
    """Two choices beside three: the same loss, gradient and prediction as two alone, smoothed or not."""
    three = {"text": "x", "choices": ["hello", "good day", "world"], "label": "2"}
    examples = [multiple_choice.read(example) for example in [CHOICES[0], three]]
    encoded = multiple_choice.encode(examples, text, facts={}, length=32)
    assert encoded.counts["examples filled up"] == 1
    alone = multiple_choice.encode(examples[:1], text, facts={}, length=32)
    assert [len(one.features[0]["input_ids"]) for one in (encoded, alone)] == [3, 2]
    shape = {"vocab_size": 270, "positions": 32, "width": 8, "layers": 1, "heads": 2, "init_range": 0.5}
    model = _build.model({"model": {"name": "bert", **shape}, "task": {"name": "multiple_choice"}})
    params = jax.jit(model.init)(jax.random.key(0))

    @jax.jit
    def slopes(params: Any, batch: Any) -> Any:
        def loss(params: Any) -> Any:
            outputs, given = model.apply(params, batch), {"name": "cross_entropy", "smoothing": 0.2}
            return multiple_choice.loss(outputs, batch, loss=given)[0], outputs["logits"]

        return jax.value_and_grad(loss, has_aux=True)(params)

    def found(feature: Any) -> Any:
        batch = padded([feature], per_token=multiple_choice.PER_TOKEN, filler=0, multiple=16, longest=32)
        return slopes(params, {name: jnp.asarray(array) for name, array in batch.items()})

    ((wide, logits), slope), ((bare, few), steep) = found(encoded.features[0]), found(alone.features[0])
    np.testing.assert_allclose(wide, bare, rtol=1e-5)
    for one, two in zip(jax.tree.leaves(slope), jax.tree.leaves(steep), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)
    wanted = np.exp(few[0] - np.max(few[0])) / np.exp(few[0] - np.max(few[0])).sum()
    told = multiple_choice.decode(examples[:1], encoded, {"logits": [np.asarray(logits[0])]}, facts={})[0]
    assert list(told["scores"].values()) == pytest.approx(wanted.tolist(), rel=1e-5)


def test_one_place_for_all_is_refused() -> None:
    examples = [multiple_choice.read(example) for example in CHOICES]
    with pytest.raises(UserError, match="right choice is that at 0"):
        multiple_choice.learn([examples[0]] * 2)


def pair(label: Any) -> dict[str, Any]:
    return next_sentence.read({"text": "hello", "text_pair": "world", "label": label})


def test_the_first_name_is_that_of_a_pair_that_follows(text: tokenizer.Tokenizer) -> None:
    """The pretrained head's class 0 says "follows", whatever the names of the data sort like."""
    assert next_sentence.learn([pair(1), pair(0)]) == {"names": ["0", "1"]}
    examples = [pair(False), pair(True)]
    facts = next_sentence.learn(examples, names=("true", "false"))
    features = next_sentence.encode(examples, text, facts=facts, length=8).features
    assert [int(feature["labels"]) for feature in features] == [1, 0]
    outputs = {"logits": [np.array([2.0, 0.0], np.float32)]}
    found = next_sentence.decode([], EMPTY, outputs, facts=facts)
    assert found[0]["label"] == "true"
    assert next_sentence.references(examples, facts=facts) == [{"label": "false"}, {"label": "true"}]


def test_what_says_neither_is_refused(text: tokenizer.Tokenizer) -> None:
    with pytest.raises(UserError, match=r"label='true'; the task's labels are: 0, 1"):
        next_sentence.learn([pair(True), pair(0)])
    with pytest.raises(UserError, match=r"label='2'; the task's labels are: 0, 1"):
        next_sentence.encode([pair(2)], text, facts={"names": ["0", "1"]}, length=8)
    with pytest.raises(UserError, match=r"label='2'"):
        next_sentence.references([pair(2)], facts={"names": ["0", "1"]})
    with pytest.raises(UserError, match=r"every example has the same label \('0'\)"):
        next_sentence.learn([pair(0)] * 2)
    for names in (("0",), ("0", "0"), ("0", "1", "2")):
        with pytest.raises(UserError, match=r"task\.names=.*expected two"):
            next_sentence.learn([pair(0), pair(1)], names=names)
    with pytest.raises(UserError, match="text_pair=None; expected a text"):
        next_sentence.read({"text": "hello", "label": 0})
