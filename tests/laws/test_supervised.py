"""Laws of the tasks that learn from examples, run over every one on the shelf."""

from __future__ import annotations

import inspect
import json
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmx import tokenizer
from lmx.batches import padded, sorted_batches
from lmx.commands import _build
from lmx.core import plugin
from lmx.core.errors import UserError
from lmx.core.types import IGNORED, Array

INTERFACE = ("PER_TOKEN", "OUTPUTS", "METRICS", "SCORE", "read", "learn", "head", "encode", "decode")
INTERFACE += ("references", "attach", "loss", "AXES", "HF")
WRITES = ("prompts", "writing", "text_metrics")  # of tasks whose models write texts: all of them, or none
NAMES = [name for name in plugin.names("lmx.tasks") if hasattr(plugin.find("lmx.tasks", name), "FIELDS")]
LENGTH = 48
SIZES: dict[str, Any] = dict(vocab_size=270, positions=LENGTH, width=8, layers=1, heads=2, init_range=0.5)
WORDS = "hello world, good day to you all".split()


def _spans() -> list[dict[str, Any]]:
    context = " ".join(WORDS)
    found = [{"id": str(i), "question": f"{word}?", "context": context} for i, word in enumerate(WORDS)]
    return [
        {**one, "answers": [{"text": word, "start": context.index(word)}]}
        for one, word in zip(found, WORDS, strict=True)
    ]


# task -> [(options of the config, raw examples with their targets)]
EXAMPLES: dict[str, list[tuple[dict[str, Any], list[dict[str, Any]]]]] = {
    "sequence_classification": [
        ({}, [{"text": word, "label": i % 3} for i, word in enumerate(WORDS)]),
        (
            {"multi_label": True, "class_weights": "balanced"},
            [{"text": word, "labels": ["a", "b", "c"][: i % 3]} for i, word in enumerate(WORDS)],
        ),
    ],
    "sequence_regression": [
        ({}, [{"text": word, "text_pair": "x", "value": i} for i, word in enumerate(WORDS)]),
        ({"standardize": True}, [{"text": word, "value": i} for i, word in enumerate(WORDS)]),
    ],
    "sentence_similarity": [
        ({}, [{"text": word, "text_pair": "day", "value": i / 2} for i, word in enumerate(WORDS)])
    ],
    "multiple_choice": [
        ({}, [{"text": word, "choices": ["good day", "you"], "label": i % 2} for i, word in enumerate(WORDS)])
    ],
    "next_sentence": [
        ({}, [{"text": word, "text_pair": "all", "label": i % 2} for i, word in enumerate(WORDS)])
    ],
    "token_classification": [
        ({}, [{"words": WORDS[i:], "tags": (["O", "B-X", "I-X"] * 3)[: 7 - i]} for i in range(4)])
    ],
    "question_answering": [({}, _spans())],
    "instruction": [({}, [{"prompt": f"say {word}", "response": word} for word in WORDS])],
}
CASES = [
    pytest.param(name, options, raw, id=f"{name}-{'-'.join(options)}")
    for name in NAMES
    for options, raw in EXAMPLES[name]
]


@pytest.fixture(scope="module")
def text() -> tokenizer.Tokenizer:
    return tokenizer.train_bpe([" ".join(WORDS) * 20], 270)


def prepared(name: str, options: dict[str, Any], raw: Any, text: Any, **more: Any) -> tuple[Any, ...]:
    """Return (module, config whole, examples, facts, encoded)."""
    module = plugin.find("lmx.tasks", name)
    model = next(iter(module.HF))
    config = {"model": {"name": model, **SIZES}, "task": {"name": name, **options}}
    examples = [module.read(one, **_build.options_of(config, "read")) for one in raw]
    facts = module.learn(examples, **_build.options_of(config, "learn"))
    length = {"length": LENGTH, **more}
    encoded = module.encode(examples, text, facts=facts, **length, **_build.options_of(config, "encode"))
    whole = {**config, "task": {**config["task"], **module.head(facts)}}
    return module, whole, examples, facts, encoded


def arrays(module: ModuleType, features: Any, longest: int = LENGTH) -> dict[str, Any]:
    made = padded(features, per_token=module.PER_TOKEN, filler=0, multiple=16, longest=longest)
    return {name: jnp.asarray(array) for name, array in made.items()}


@pytest.mark.parametrize("name", NAMES)
def test_a_task_has_the_whole_interface(name: str) -> None:
    module = plugin.find("lmx.tasks", name)
    assert [one for one in INTERFACE if not hasattr(module, one)] == []
    assert len({hasattr(module, one) for one in (*WRITES, "decode_texts")}) == 1
    assert any(field.target for field in module.FIELDS)
    assert "id" in [field.name for field in module.FIELDS]
    for function in _build.ROUTED:
        if function in WRITES and not hasattr(module, function):
            continue
        for one in inspect.signature(getattr(module, function)).parameters.values():
            assert one.kind is not one.VAR_KEYWORD, f"{function} would take any option"
            if one.kind is one.KEYWORD_ONLY and one.name not in _build.PLAIN:
                assert one.default is not one.empty, f"{function} needs {one.name}"


@pytest.mark.parametrize("name", NAMES)
def test_the_score_is_a_figure_of_a_metric(name: str) -> None:
    module = plugin.find("lmx.tasks", name)
    if module.SCORE == "loss":
        return
    for options, raw in EXAMPLES[name]:
        config = {"task": {"name": name, **options}}
        examples = [module.read(one, **_build.options_of(config, "read")) for one in raw]
        facts = module.learn(examples, **_build.options_of(config, "learn"))
        wanted = module.references(examples, facts=facts)
        told = [
            {**one, "answer": (one.get("answers") or [""])[0], "score": 0.0, "candidates": []}
            for one in wanted
        ]
        figures: dict[str, float] = {}
        for metric, given in module.METRICS:
            made = plugin.find("lmx.metrics", metric).metric(**given)
            figures |= made.finish(made.sums(told, wanted))
        assert figures[module.SCORE] == pytest.approx(100.0 if "squad" in dict(module.METRICS) else 1.0)


@pytest.mark.smoke
@pytest.mark.parametrize(("name", "options", "raw"), CASES)
def test_from_a_raw_example_to_a_loss_and_a_prediction(
    name: str, options: Any, raw: Any, text: tokenizer.Tokenizer
) -> None:
    module, config, examples, facts, encoded = prepared(name, options, raw, text)
    assert json.loads(json.dumps(facts)) == facts
    assert sorted(set(encoded.origin)) == list(range(len(examples)))
    assert encoded.counts, "what was cut must be counted, also where it is nothing"
    built = _build.model(config)
    params = built.init(jax.random.key(0))
    total, weight, _ = _build.objective(config, built)(params, arrays(module, encoded.features), None)
    assert np.isfinite(total) and float(weight) >= len(examples) / 2
    rows: dict[str, dict[int, np.ndarray]] = {}
    for indices, batch in sorted_batches(
        encoded.features, size=4, per_token=module.PER_TOKEN, filler=0, longest=LENGTH
    ):
        given = {key: jnp.asarray(array) for key, array in batch.items()}
        outputs = built.apply(params, given)
        for key in module.OUTPUTS:
            assert len(outputs[key]) == len(given["input_ids"]), f"{key} does not lead with B"
            rows.setdefault(key, {}).update(zip(indices.tolist(), np.asarray(outputs[key]), strict=False))
    outputs = {key: [found[i] for i in sorted(found)] for key, found in rows.items()}
    more = _build.options_of(config, "decode")
    told = module.decode(examples, encoded, outputs, facts=facts, **more)
    wanted = module.references(examples, facts=facts)
    assert len(told) == len(wanted) == len(examples)
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    for metric, given in module.METRICS:
        made = plugin.find("lmx.metrics", metric).metric(**given)
        assert made.finish(made.sums(told, wanted))


# What an example's loss is, in units of the loss that trains: a cosine of 1 stands for a value of 3 here.
SHARE = {"question_answering": 2.0, "sentence_similarity": 3.0**2}


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_of_an_example_is_that_of_a_batch_of_it(name: str, text: tokenizer.Tokenizer) -> None:
    """What numpy tells example by example against the loss that trains, in JAX, on one example at a time."""
    options, raw = EXAMPLES[name][0]
    options = {**options, "padding": False} if name == "question_answering" else options
    module, config, examples, facts, encoded = prepared(name, options, raw, text)
    built = _build.model(config)
    params, loss = built.init(jax.random.key(0)), _build.loss(config)

    @jax.jit
    def told(batch: Any) -> Any:
        outputs = built.apply(params, batch)
        total, weight, _ = loss(outputs, batch)
        return total / weight, {key: outputs[key][0] for key in module.OUTPUTS}

    wanted, rows = zip(*(told(arrays(module, [feature])) for feature in encoded.features), strict=True)
    assert encoded.origin == list(range(len(examples)))
    outputs = {key: [np.asarray(row[key]) for row in rows] for key in module.OUTPUTS}
    found = module.losses(examples, encoded, outputs, facts=facts, **_build.options_of(config, "losses"))
    np.testing.assert_allclose(found, np.array(wanted) * SHARE.get(name, 1.0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("name", "options", "raw"), CASES)
def test_targets_may_be_missing_where_predictions_are_asked_for(
    name: str, options: Any, raw: Any, text: tokenizer.Tokenizer
) -> None:
    module, config, _, facts, encoded = prepared(name, options, raw, text)
    targets = [field.name for field in module.FIELDS if field.target]
    read, more = _build.options_of(config, "read"), _build.options_of(config, "encode")
    bare = [module.read({k: v for k, v in one.items() if k not in targets}, **read) for one in raw]
    found = module.encode(bare, text, facts=facts, length=LENGTH, **more)
    labels = set(encoded.features[0]) - set(found.features[0])
    assert labels, "the features of training have labels"
    assert all(key == "labels" or key.endswith(("_positions", "_labels")) for key in labels)
    for one, two in zip(encoded.features, found.features, strict=False):
        np.testing.assert_array_equal(two["input_ids"], one["input_ids"][..., : two["input_ids"].shape[-1]])
    with pytest.raises(UserError):
        module.learn(bare, **_build.options_of(config, "learn"))


@pytest.mark.parametrize(
    ("name", "options", "raw"),
    [
        case
        if case.id in ("sequence_classification-", "question_answering-", "instruction-")
        else pytest.param(*case.values, id=case.id, marks=pytest.mark.slow)
        for case in CASES
    ],
)
def test_padding_changes_no_loss(name: str, options: Any, raw: Any, text: tokenizer.Tokenizer) -> None:
    """Neither more of it on the right, nor the unlabelled rows that fill a batch up.

    Question answering's softmax goes over the places of padding too, as transformers' does: there only the
    rows are tried.
    """
    module, config, _, _, encoded = prepared(name, options, raw, text, length=32)
    built = _build.model(config)
    params, objective = built.init(jax.random.key(0)), _build.objective(config, built)
    features = encoded.features[:3]
    total, weight, _ = objective(params, arrays(module, features), None)
    width = max(feature["input_ids"].shape[-1] for feature in features)
    wide = padded(features, per_token=module.PER_TOKEN, filler=5, multiple=width + 7, longest=LENGTH)
    again = objective(params, {key: jnp.asarray(array) for key, array in wide.items()}, None)
    if name != "question_answering":
        np.testing.assert_allclose(again[0], total, rtol=2e-5)
    np.testing.assert_allclose(again[1], weight, rtol=1e-6)
    ((_, full),) = sorted_batches(
        features, size=8, per_token=module.PER_TOKEN, filler=0, longest=LENGTH, multiple=16
    )
    again = objective(params, {key: jnp.asarray(array) for key, array in full.items()}, None)
    np.testing.assert_allclose(again[0], total, rtol=2e-5)
    np.testing.assert_allclose(again[1], weight, rtol=1e-6)


def double(predicted: Array, wanted: Array) -> tuple[Array, Array]:
    """A loss of a user's own."""
    return jnp.sum(predicted) * 0 + 2.0 * wanted.size, jnp.ones(()) * wanted.size


def test_the_options_of_the_loss_reach_the_objective() -> None:
    config = {
        "model": {"name": "bert", **SIZES},
        "task": {"name": "sequence_classification", "loss": {"name": "focal", "gamma": 3.0}},
    }
    built = _build.model(config)
    params = built.init(jax.random.key(0))
    batch = {"input_ids": jnp.arange(24).reshape(4, 6), "labels": jnp.array([0, 1, 1, IGNORED])}
    outputs = built.apply(params, batch)
    module = _build.task(config)
    wanted = module.loss(outputs, batch, loss={"name": "focal", "gamma": 3.0})[0]
    assert float(wanted) != float(module.loss(outputs, batch)[0])
    np.testing.assert_allclose(_build.objective(config, built)(params, batch, None)[0], wanted, rtol=1e-6)
    np.testing.assert_allclose(_build.loss(config)(outputs, batch)[0], wanted, rtol=1e-6)
    own = {**config, "task": {**config["task"], "loss": f"{__name__}.double"}}
    if "." in __name__:
        assert float(_build.objective(own, built)(params, batch, None)[0]) == 8


def test_an_option_goes_to_each_function_that_takes_it() -> None:
    given = {"labels": 3, "multi_label": True, "threshold": 0.3, "loss": "focal", "cut": "first"}
    config = {"task": {"name": "sequence_classification", **given}}
    for function, wanted in (
        ("attach", {"labels", "multi_label"}),
        ("read", {"multi_label"}),
        ("learn", {"multi_label"}),
        ("encode", {"multi_label", "cut"}),
        ("decode", {"multi_label", "threshold"}),
        ("loss", {"loss"}),
    ):
        found = _build.options_of(config, function)
        assert found == {name: given[name] for name in wanted}, function
        with pytest.raises(
            UserError, match=r"task\.treshold: .* \(did you mean 'threshold'\?\); it has: labels,"
        ):
            _build.options_of({"task": {**config["task"], "treshold": 1}}, function)
    with pytest.raises(UserError, match="cannot do this yet: it has no learn"):
        _build.options_of({"task": {"name": "features"}}, "learn")


def test_options_that_an_own_objective_does_not_take_are_refused(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task whose objective goes another way than its loss: the loss's options would be dead."""
    (tmp_path / "owned").mkdir()
    (tmp_path / "owned" / "task.py").write_text(
        "HF = {}\n\ndef attach(body, config):\n    return body\n\n"
        "def loss(outputs, batch, *, smoothing=0.0):\n    return None\n\n"
        "def objective(model, *, scale=1.0):\n    return ('objective', model, scale)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = {"model": {"name": "bert", **SIZES}, "task": {"name": "owned.task", "scale": 2.0}}
    model: Any = "model"
    assert _build.objective(config, model) == ("objective", "model", 2.0)
    with pytest.raises(UserError, match=r"task\.smoothing: owned\.task has no such option.*it has: scale"):
        _build.objective({**config, "task": {"name": "owned.task", "smoothing": 0.1}}, model)
