"""Sequence classification from the raw example to the prediction: labels, weights, texts, heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmx import tokenizer
from lmx.batches import padded
from lmx.commands import _build
from lmx.core.errors import UserError
from lmx.core.examples import Encoded, Example
from lmx.tasks import sequence_classification as task

SIZES = dict(vocab_size=270, positions=16, width=8, layers=1, heads=2, init_range=0.5)
EMPTY = Encoded([], [])
TEN = [{"text": f"text number {i}", "label": i} for i in (10, 9, 1, 2, 0, 10, 10)]


@pytest.fixture(scope="module")
def text() -> tokenizer.Tokenizer:
    return tokenizer.train_bpe(["hello world, good day " * 20], 270)


def read(examples: Sequence[Example], **options: Any) -> list[dict[str, Any]]:
    return [task.read(example, **options) for example in examples]


def test_numbers_sort_as_numbers() -> None:
    """Sorted as texts, 10 would come before 2, and every label after it would be another class."""
    facts = task.learn(read(TEN))
    assert facts == {"names": ["0", "1", "2", "9", "10"]}
    assert task.head(facts) == {"labels": 5}
    mixed = [{"text": "x", "label": name} for name in ("b", "-1", "2.5", "2", "a", "10", "B")]
    assert task.learn(read(mixed))["names"] == ["-1", "2", "2.5", "10", "B", "a", "b"]


@pytest.mark.parametrize(
    ("value", "name"),
    [(1, "1"), (np.int64(3), "3"), (True, "true"), (np.False_, "false"), (" yes\r", "yes"), ("010", "010")],
)
def test_labels_are_names_whatever_they_came_as(value: Any, name: str) -> None:
    assert task.read({"text": "x", "label": value})["label"] == name


@pytest.mark.parametrize(
    ("example", "options", "message"),
    [
        ({"label": 1}, {}, "text=None; expected a text"),
        ({"text": 7, "label": 1}, {}, "text=7; expected a text"),
        ({"text": " \t\n", "label": 1}, {}, "text is empty; fill it in, or leave the row out"),
        ({"text": "x", "text_pair": "", "label": 1}, {}, "text_pair is empty"),
        ({"text": "x", "label": ""}, {}, "label is empty; name it"),
        ({"text": "x", "label": 1.0}, {}, r"label=1\.0; expected a name, a whole number"),
        ({"text": "x", "label": float("nan")}, {}, "label=nan"),
        ({"text": "x", "label": ["a"]}, {}, "expected a name"),
        (
            {"text": "x", "labels": ["a"]},
            {},
            r"labels is read with task\.multi_label=True; name the column label",
        ),
        ({"text": "x", "label": "a"}, {"multi_label": True}, "name the column labels"),
        ({"text": "x", "labels": "a,b"}, {"multi_label": True}, r"or set task\.separator"),
        ({"text": "x", "labels": 3}, {"multi_label": True}, "labels=3; expected a list of names"),
        ({"text": "x", "labels": "a,,b"}, {"multi_label": True, "separator": ","}, "labels is empty"),
        ({"text": "x"}, {"separator": ","}, r"task\.separator=','; .*with task\.multi_label=True"),
        ({"text": "x"}, {"multi_label": 1}, r"task\.multi_label=1; expected True or False"),
    ],
)
def test_bad_examples_are_refused(example: Any, options: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        task.read(example, **options)


def test_several_labels_come_as_a_list_or_as_a_text() -> None:
    for given in (["b", "a", "b"], "b; a;b", np.array(["b", "a"])):
        found = task.read({"text": "x", "labels": given}, multi_label=True, separator=";")
        assert found["labels"] == ["b", "a"]
    for nothing in ("", " ", []):
        assert task.read({"text": "x", "labels": nothing}, multi_label=True, separator=";")["labels"] == []


def test_fields_that_the_task_does_not_know_are_left_out_and_the_id_stays() -> None:
    assert task.read({"id": 3, "text": "x", "text_pair": None, "label": None}) == {"id": 3, "text": "x"}


def test_one_class_alone_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"every example has the same label \('1'\): there is nothing to learn"
    ):
        task.learn(read([{"text": "x", "label": 1}] * 3))
    same = [{"text": "x", "labels": ["a", "b"]}, {"text": "y", "labels": ["b", "a"]}]
    with pytest.raises(UserError, match="every example has the same labels"):
        task.learn(read(same, multi_label=True), multi_label=True)
    with pytest.raises(UserError, match=r"example 2 \(id 'q'\) has no label; .*data\.columns\.label"):
        task.learn([{"text": "x", "label": "1"}, {"id": "q", "text": "y"}])
    with pytest.raises(UserError, match="no examples"):
        task.learn([])


def test_names_can_be_given_in_the_order_of_a_model() -> None:
    examples = read([{"text": "x", "label": name} for name in ("no", "yes")])
    assert task.learn(examples, names=("yes", "no", "maybe"))["names"] == ["yes", "no", "maybe"]
    with pytest.raises(UserError, match=r"label='no'; the task's labels are: yes, maybe"):
        task.learn(examples, names=("yes", "maybe"))
    with pytest.raises(UserError, match="expected each name once"):
        task.learn(examples, names=("yes", "no", "yes"))


def test_balanced_weights_are_scikit_learns() -> None:
    facts = task.learn(read(TEN), class_weights="balanced")
    weights = pytest.importorskip("sklearn.utils.class_weight", reason="the eval extra is not installed")
    labels = np.array([example["label"] for example in TEN])
    theirs = weights.compute_class_weight("balanced", classes=np.array([0, 1, 2, 9, 10]), y=labels)
    np.testing.assert_allclose(facts["weights"], theirs, rtol=1e-12)
    assert task.head(facts) == {"labels": 5, "weights": facts["weights"]}


def test_balanced_weights_by_hand() -> None:
    """7 examples, 5 classes: 7 / (5 x 3) for the label that 3 have. Of questions: absent / present."""
    facts = task.learn(read(TEN), class_weights="balanced")
    np.testing.assert_allclose(facts["weights"], [7 / 5] * 4 + [7 / 15], rtol=1e-12)
    many = [{"text": "x", "labels": labels} for labels in (["a"], ["a", "b"], ["a"], [])]
    facts = task.learn(read(many, multi_label=True), multi_label=True, class_weights="balanced")
    assert facts == {"names": ["a", "b"], "weights": [1 / 3, 3.0]}


def test_weights_by_name() -> None:
    examples = read([{"text": "x", "label": name} for name in ("no", "yes", "maybe")])
    assert task.learn(examples, class_weights={"yes": 3, "no": 0.5})["weights"] == [1.0, 0.5, 3.0]
    for given, message in (
        ({"yess": 3}, r"task\.class_weights='yess' \(did you mean 'yes'\?\)"),
        ({"yes": 0}, r"task\.class_weights\.yes=0; expected a positive number"),
        ({"yes": float("nan")}, "expected a positive number"),
        ("even", "expected 'balanced' or a weight for each name"),
    ):
        with pytest.raises(UserError, match=message):
            task.learn(examples, class_weights=given)
    with pytest.raises(UserError, match="'balanced', but no example has the label 'never'"):
        task.learn(examples, class_weights="balanced", names=("no", "yes", "maybe", "never"))


def test_features_say_what_was_cut(text: tokenizer.Tokenizer) -> None:
    examples = read([{"text": "hello " * n, "label": n} for n in (1, 30, 2)])
    encoded = task.encode(examples, text, facts=task.learn(examples), length=8)
    assert encoded.counts == {"texts cut": 1}
    assert encoded.origin == [0, 1, 2]
    assert [len(feature["input_ids"]) for feature in encoded.features][1] == 8
    assert [int(feature["labels"]) for feature in encoded.features] == [0, 2, 1]
    assert encoded.features[0]["labels"].shape == ()


def test_features_of_several_labels(text: tokenizer.Tokenizer) -> None:
    raw = [{"text": "x", "labels": labels} for labels in (["b"], ["a", "c"], [])]
    examples = read(raw, multi_label=True)
    facts = task.learn(examples, multi_label=True)
    features = task.encode(examples, text, facts=facts, length=8, multi_label=True).features
    assert [feature["labels"].tolist() for feature in features] == [[0, 1, 0], [1, 0, 1], [0, 0, 0]]
    assert padded(features, per_token=task.PER_TOKEN, filler=0, multiple=4, longest=8)["labels"].shape == (
        3,
        3,
    )


def test_a_label_that_training_did_not_have_is_refused(text: tokenizer.Tokenizer) -> None:
    facts = {"names": ["good", "bad"]}
    examples = read([{"text": "x", "label": "god"}])
    wanted = r"label='god' \(did you mean 'good'\?\); the task's labels are: good, bad"
    with pytest.raises(UserError, match=wanted):
        task.encode(examples, text, facts=facts, length=8)
    with pytest.raises(UserError, match=wanted):
        task.references(examples, facts=facts)


def test_examples_without_labels_are_all_so_or_none(text: tokenizer.Tokenizer) -> None:
    bare, told = {"text": "x"}, {"text": "y", "label": "a"}
    facts = {"names": ["a", "b"]}
    assert "labels" not in task.encode([bare, bare], text, facts=facts, length=8).features[0]
    with pytest.raises(UserError, match="example 2 has no label, but others have"):
        task.encode([told, bare], text, facts=facts, length=8)
    with pytest.raises(UserError, match="example 1 has no text_pair, but others have"):
        task.encode([bare, {**bare, "text_pair": "z"}], text, facts=facts, length=8)
    with pytest.raises(UserError, match=r"task\.cut='second' is for pairs"):
        task.encode([bare], text, facts=facts, length=8, cut="second")
    wrong: Any = "secnd"
    with pytest.raises(UserError, match=r"task\.cut='secnd' \(did you mean 'second'\?\)"):
        task.encode([bare], text, facts=facts, length=8, cut=wrong)


def test_a_text_of_which_no_token_is_left_is_refused(tmp_path: Any) -> None:
    """BERT's normalizer drops a zero-width space: the row would be [CLS] [SEP]."""
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    text = tokenizer.load(tmp_path)
    with pytest.raises(UserError, match="example 2: the tokenizer leaves nothing of"):
        task.encode([{"text": "a"}, {"text": "\u200b"}], text, facts={"names": ["a", "b"]}, length=8)


def test_predictions_by_hand() -> None:
    facts = {"names": ["a", "b"]}
    outputs = {"logits": [np.array([0.0, np.log(3)], np.float32), np.array([800.0, -800.0], np.float32)]}
    found = task.decode([], EMPTY, outputs, facts=facts)
    assert [one["label"] for one in found] == ["b", "a"]
    np.testing.assert_allclose(list(found[0]["scores"].values()), [0.25, 0.75], rtol=1e-6)
    assert found[1]["scores"] == {"a": 1.0, "b": 0.0}
    outputs = {"logits": [np.array([0.0, -np.log(3)], np.float32), np.array([-800.0, 800.0], np.float32)]}
    found = task.decode([], EMPTY, outputs, facts=facts, multi_label=True)
    assert [one["labels"] for one in found] == [["a"], ["b"]]
    np.testing.assert_allclose(list(found[0]["scores"].values()), [0.5, 0.25], rtol=1e-6)
    found = task.decode([], EMPTY, outputs, facts=facts, multi_label=True, threshold=0.2)
    assert found[0]["labels"] == ["a", "b"]
    with pytest.raises(UserError, match=r"task\.threshold=0\.3 needs task\.multi_label=True"):
        task.decode([], EMPTY, outputs, facts=facts, threshold=0.3)


def model(name: str, **options: Any) -> Any:
    fields = {"dropout_hidden": 0.0} if name == "bert" else {"dropout_embed": 0.0, "dropout_residual": 0.0}
    return _build.model(
        {
            "model": {"name": name, **SIZES, **fields, "dropout_attention": 0.0},
            "task": {"name": "sequence_classification", "labels": 3, **options},
        }
    )


def test_dropout_lies_between_the_pooler_and_the_head() -> None:
    """With no dropout in the body, the logits in training are those of the pooled output after dropout."""
    built = model("bert", dropout=0.5)
    params = built.init(jax.random.key(0))
    batch = {"input_ids": jnp.arange(24).reshape(4, 6)}
    calm = built.apply(params, batch)
    drawn = [built.apply(params, batch, rng=jax.random.key(i), train=True) for i in range(2)]
    np.testing.assert_array_equal(drawn[0]["pooled"], calm["pooled"])
    assert np.abs(drawn[0]["logits"] - drawn[1]["logits"]).max() > 0.01
    np.testing.assert_array_equal(built.apply(params, batch, rng=jax.random.key(1))["logits"], calm["logits"])


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_the_head_starts_from_the_seed(name: str) -> None:
    """Neither zeros nor the same whatever the seed; its spread is the model's."""
    kernels = [np.asarray(model(name).init(jax.random.key(seed))["head"]["kernel"]) for seed in range(40)]
    assert np.abs(kernels[0] - kernels[1]).max() > 0.1
    assert abs(float(np.std(kernels)) - 0.5) < 0.05


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("filler", [0, 7])
def test_gpt2_reads_the_last_real_token_of_each_row(side: str, filler: int) -> None:
    """Rows of unlike length in one batch, and the filler may be a token of the text as well."""
    built = model("gpt2", dropout=0.0, bias=False)
    params = built.init(jax.random.key(0))
    rows = [np.array([5, 7]), np.array([1, 2, 3, 7, 7]), np.array([9])]
    alone = [built.apply(params, {"input_ids": jnp.asarray(row)[None]})["logits"][0] for row in rows]
    ids, mask = np.full((3, 6), filler), np.zeros((3, 6), np.int32)
    for i, row in enumerate(rows):
        here = slice(6 - len(row), 6) if side == "left" else slice(0, len(row))
        ids[i, here], mask[i, here] = row, 1
    batch = {"input_ids": jnp.asarray(ids), "attention_mask": jnp.asarray(mask)}
    np.testing.assert_allclose(built.apply(params, batch)["logits"], np.stack(alone), atol=1e-5, rtol=0)
