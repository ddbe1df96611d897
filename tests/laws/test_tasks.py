"""Laws of the tasks' shelf, run over every name on it and every model that has a head for it."""

from __future__ import annotations

import dataclasses
import re
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmx.commands import _build
from lmx.core import plugin, tree
from lmx.core.errors import UserError
from lmx.core.types import IGNORED, Metric, Model
from lmx.hf import convert

NAMES = plugin.names("lmx.tasks")
TRAINED = [name for name in NAMES if name != "features"]  # which has no loss
B, T, V, C, CHOICES = 4, 10, 23, 3, 3
SIZES: dict[str, Any] = dict(vocab_size=V, positions=16, width=8, layers=1, heads=2, init_range=0.5)
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "sequence_classification": [{"labels": C}, {"labels": C, "multi_label": True}],
    "sequence_regression": [{}, {"targets": 2}],
    "token_classification": [{"labels": C}],
}
TEXTS = {"multiple_choice": (CHOICES,), "sentence_similarity": (2,)}  # read side by side
# task -> {the batch's answers: the outputs they are compared with}
ANSWERS = {
    "sentence_similarity": {"labels": "cosine"},
    "bert_pretraining": {"labels": "logits", "next_sentence_label": "next_logits"},
    "question_answering": {"start_positions": "start_logits", "end_positions": "end_logits"},
}
CASES = [
    pytest.param(
        model, {"name": name, **options}, id=f"{name}-{model}-{'-'.join(map(str, options.values()))}"
    )
    for name in NAMES
    for model in plugin.find("lmx.tasks", name).HF
    for options in OPTIONS.get(name, [{}])
]
LEARNED = [case for case in CASES if case.values[1]["name"] in TRAINED]
ONCE = [
    case
    if (case.values[0] == "bert") == ("bert" in plugin.find("lmx.tasks", case.values[1]["name"]).HF)
    else pytest.param(*case.values, id=case.id, marks=pytest.mark.slow)
    for case in LEARNED
]
"""Each task with one of its models, with the others in the slow suite."""


def config(model: str, task: dict[str, Any]) -> dict[str, Any]:
    return {"model": {"name": model, **SIZES}, "task": task}


def built(model: str, task: dict[str, Any]) -> tuple[ModuleType, Model]:
    found = config(model, task)
    return _build.task(found), _build.model(found)


def answers(name: str) -> dict[str, str]:
    return ANSWERS.get(name, {"labels": "logits"})


def batch(task: dict[str, Any], seed: int = 0) -> dict[str, Any]:
    """A batch of which some answers are ignored: every third token, or the second row."""
    draw, name = np.random.default_rng(seed), task["name"]
    shape = (B, *TEXTS.get(name, ()), T)
    found: dict[str, Any] = {"input_ids": draw.integers(0, V, shape)}
    if name in ("causal_lm", "instruction", "masked_lm", "bert_pretraining", "token_classification"):
        found["labels"] = draw.integers(0, C if name == "token_classification" else V, (B, T))
        found["labels"][:, ::3] = IGNORED
    elif name == "sequence_regression":
        found["labels"] = draw.normal(size=(B, task.get("targets", 1))).astype(np.float32)
        found["labels"][1] = np.nan
    elif task.get("multi_label"):
        found["labels"] = draw.integers(0, 2, (B, C))
    elif name == "sentence_similarity":
        found["labels"] = np.array([0.5, np.nan, -0.25, 1.0], np.float32)
    elif name == "question_answering":
        found |= {key: draw.integers(0, T, (B,)) for key in answers(name)}
    else:
        found["labels"] = draw.integers(0, 2, (B,))
    if name == "bert_pretraining":
        found["next_sentence_label"] = draw.integers(0, 2, (B,))
    for key in answers(name):
        if (found[key].ndim == 1 and found[key].dtype.kind == "i") or task.get("multi_label"):
            found[key][1] = IGNORED
    return {key: jnp.asarray(array) for key, array in found.items()}


def answered(
    outputs: dict[str, Any], task: dict[str, Any], given: dict[str, Any], shift: int
) -> dict[str, Any]:
    """Outputs that say the right thing with certainty, or, moved by `shift`, the wrong one."""
    found = {}
    for key, output in answers(task["name"]).items():
        logits, labels = outputs[output], jnp.nan_to_num(given[key])
        if task["name"] in ("sequence_regression", "sentence_similarity"):
            found[output] = labels + 5.0 * shift
        elif task.get("multi_label"):
            found[output] = 20.0 * (2.0 * labels.astype(jnp.float32) - 1.0) * (1 - 2 * shift)
        else:
            found[output] = 20.0 * jax.nn.one_hot((labels + shift) % logits.shape[-1], logits.shape[-1])
    return found


def ignored(labels: jax.Array) -> np.ndarray:
    return np.asarray(jnp.isnan(labels) if jnp.issubdtype(labels.dtype, jnp.floating) else labels == IGNORED)


@pytest.mark.parametrize(("model", "task"), CASES)
def test_axes_name_each_leaf_of_the_head_once_with_its_rank(model: str, task: dict[str, Any]) -> None:
    module, whole = built(model, task)
    body = plugin.find("lmx.models", model)
    paths = set()
    for tied in (True, False):
        changed = config(model, task)
        changed["model"]["tie_embeddings"] = tied
        for path, leaf in tree.flatten(_build.shapes(_build.model(changed))).items():
            if any(re.fullmatch(pattern, path) for pattern, _ in body.AXES):
                continue
            hits = [axes for pattern, axes in module.AXES if re.fullmatch(pattern, path)]
            assert len(hits) == 1, path
            assert len(hits[0]) == leaf.ndim, path
            paths.add(path)
    if module.HF[model].task.get("bias", True):
        for pattern, _ in module.AXES:
            assert any(re.fullmatch(pattern, path) for path in paths), f"dead rule {pattern}"
    assert isinstance(whole, Model)


@pytest.mark.parametrize(("model", "task"), CASES)
def test_head_table_is_one_to_one(model: str, task: dict[str, Any]) -> None:
    table, heads = _build.tables(model)
    for tied in (True, False):
        changed = config(model, task)
        changed["model"]["tie_embeddings"] = tied
        shapes = {p: leaf.shape for p, leaf in tree.flatten(_build.shapes(_build.model(changed))).items()}
        layout = convert.Layout(table, heads[task["name"]], SIZES["layers"], tied)
        planned = convert.written(shapes, layout)
        held = [path for name, (entry, _) in planned.items() if name == entry.tensor for path in entry.leaves]
        assert sorted(held) == sorted(shapes)


@pytest.mark.parametrize(("model", "task"), ONCE)
def test_ignored_answers_get_no_gradient(model: str, task: dict[str, Any]) -> None:
    module, whole = built(model, task)
    given = batch(task)
    outputs = whole.apply(whole.init(jax.random.key(0)), given)
    for key, output in answers(task["name"]).items():
        gradient = jax.grad(lambda x, o=output: module.loss({**outputs, o: x, "head": None}, given)[0])(
            outputs[output]
        )
        rows = np.abs(np.asarray(gradient))
        missing = ignored(given[key])
        assert missing.any()
        if missing.ndim < rows.ndim:
            rows = rows.max(axis=-1)
        assert rows[missing].max() == 0
        assert rows[~missing].min() > 0


@pytest.mark.parametrize(("model", "task"), LEARNED)
def test_the_perfect_answer_beats_a_wrong_one(model: str, task: dict[str, Any]) -> None:
    module, whole = built(model, task)
    given = batch(task)
    outputs = whole.apply(whole.init(jax.random.key(0)), given)
    perfect, weight, _ = module.loss(answered(outputs, task, given, 0), given)
    wrong, _, _ = module.loss(answered(outputs, task, given, 1), given)
    assert perfect / weight < 1e-6
    assert wrong / weight > 19


@pytest.mark.parametrize(("model", "task"), ONCE)
def test_loss_is_a_sum_so_parts_add_up(model: str, task: dict[str, Any]) -> None:
    """Sums over parts of unequal weight give the whole; means of means would not."""
    whole = built(model, task)[1]
    given = batch(task)
    params, objective = whole.init(jax.random.key(0)), _build.objective(config(model, task), whole)
    parts = [{key: array[i:j] for key, array in given.items()} for i, j in ((0, 1), (1, 4))]
    _, weight, sums = objective(params, given, None)
    found = [objective(params, part, None) for part in parts]
    for name, total in sums.items():
        np.testing.assert_allclose(total, sum(one[2][name] for one in found), rtol=1e-5, err_msg=name)
    if task["name"] != "bert_pretraining":  # whose sum holds a quotient; see its loss
        assert float(weight) == sum(float(one[1]) for one in found)
        assert float(found[0][1]) != float(found[1][1])


TIED = ("causal_lm", "masked_lm", "bert_pretraining")


@pytest.mark.parametrize(("model", "task"), [one for one in LEARNED if one.values[1]["name"] in TIED])
def test_a_tied_table_gets_its_gradient_as_it_lies(model: str, task: dict[str, Any]) -> None:
    """Turned, its two uses would be exchanged between devices one by one."""
    module, whole = built(model, task)
    given = batch(task)

    def loss(params: Any) -> Any:
        outputs = whole.apply(params, given)
        return module.loss({name: x for name, x in outputs.items() if name != "head"}, given)[0]

    params = jax.eval_shape(whole.init, jax.random.key(0))
    program = jax.jit(jax.grad(loss)).lower(params).as_text()
    turned = set(re.findall(r"stablehlo\.transpose .*-> tensor<(\d+x\d+)xf32>", program))
    size = [str(n) for n in params["embed"]["token"]["embedding"].shape]
    assert not {"x".join(size), "x".join(size[::-1])} & turned


@pytest.mark.parametrize(("model", "task"), ONCE)
def test_objective_equals_the_loss_of_the_outputs(model: str, task: dict[str, Any]) -> None:
    """Value and gradient, for the objective may take a shorter way than through the logits."""
    module, whole = built(model, task)
    given = batch(task)
    params = whole.init(jax.random.key(0))
    objective = _build.objective(config(model, task), whole)

    def plain(params: Any) -> Any:
        outputs = whole.apply(params, given)
        return module.loss({name: x for name, x in outputs.items() if name != "head"}, given)[0]

    shorter = jax.value_and_grad(lambda p: objective(p, given, None)[0])
    one, two = jax.jit(lambda p: (shorter(p), jax.value_and_grad(plain)(p)))(params)
    for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(left, right, atol=2e-5 * max(1, float(np.abs(right).max())), rtol=0)


@pytest.mark.parametrize(("model", "task"), LEARNED)
def test_the_loss_sees_outputs_that_a_wrapper_replaced(model: str, task: dict[str, Any]) -> None:
    module, whole = built(model, task)
    given = batch(task)
    replaced = next(iter(answers(task["name"]).values()))

    def halved(params: Any, batch: Any, **kwargs: Any) -> Any:
        outputs = whole.apply(params, batch, **kwargs)
        return {**outputs, replaced: outputs[replaced] * 0.5}

    params = whole.init(jax.random.key(0))
    changed = dataclasses.replace(whole, apply=halved)
    found = _build.objective(config(model, task), changed)(params, given, None)[0]
    outputs = halved(params, given)
    wanted = module.loss({name: x for name, x in outputs.items() if name != "head"}, given)[0]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_every_metric_named_exists(name: str) -> None:
    """With its options; a bare name has none."""
    for given in getattr(plugin.find("lmx.tasks", name), "METRICS", ()):
        metric, options = (given, {}) if isinstance(given, str) else given
        assert isinstance(plugin.find("lmx.metrics", metric).metric(**options), Metric)


def test_regression_never_broadcasts() -> None:
    module = plugin.find("lmx.tasks", "sequence_regression")
    three = jnp.array([[1.0], [2.0], [4.0]])
    total, count, _ = module.loss({"logits": three}, {"labels": jnp.array([1.0, 2.0, 2.0])})
    assert (float(total), float(count)) == (4.0, 3.0)
    for labels in (jnp.ones((3, 2)), jnp.ones((1,)), jnp.ones((1, 1))):
        with pytest.raises(UserError, match="the task predicts"):
            module.loss({"logits": three}, {"labels": labels})


@pytest.mark.parametrize("multi", [False, True])
def test_labels_of_the_other_kind_are_refused(multi: bool) -> None:
    task = {"name": "sequence_classification", "labels": C, "multi_label": multi}
    model = built("bert", task)[1]
    given = batch({**task, "multi_label": not multi})
    with pytest.raises(UserError, match=r"labels of shape .*; expected"):
        model.apply(model.init(jax.random.key(0)), given)


def test_a_decoder_is_judged_by_its_last_real_token() -> None:
    """Whatever follows it, and on whichever side the padding lies."""
    model = built("gpt2", {"name": "sequence_classification", "labels": C})[1]
    params = model.init(jax.random.key(0))
    ids = batch({"name": "sequence_classification"})["input_ids"][:, :6]
    plain = model.apply(params, {"input_ids": ids})["logits"]
    for side in ((0, 3), (3, 0)):
        width = ((0, 0), side)
        padded = {
            "input_ids": jnp.pad(ids, width, constant_values=7),
            "attention_mask": jnp.pad(jnp.ones_like(ids), width),
        }
        np.testing.assert_allclose(model.apply(params, padded)["logits"], plain, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"name": "sequence_classification", "label": 3}, "did you mean 'labels'"),
        ({"name": "sequence_classification", "labels": 1}, "task.labels=1; expected .* at least 2"),
        ({"name": "token_classification", "labels": True}, "task.labels=True"),
        ({"name": "token_classification", "dropout": 1}, "task.dropout=1; expected a probability"),
        ({"name": "sequence_regression", "targets": 0}, "at least 1"),
        (
            {"name": "sequence_classification", "sepparator": ","},
            "did you mean 'separator'.*; it has: labels, mul",
        ),
        ({"name": "sequence_classification", "facts": {}}, "task.facts: .* has no such option"),
        ({"name": "masked_lm", "labels": 2}, "masked_lm has no such option; it has: share, unit"),
    ],
)
def test_bad_options_are_refused(task: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        built("bert", task)


def test_a_task_without_a_head_for_the_model_is_refused() -> None:
    with pytest.raises(UserError, match=r"'masked_lm' has no head for model.name='gpt2'; it has: bert"):
        built("gpt2", {"name": "masked_lm"})


def test_a_pooled_output_that_the_model_lacks_is_asked_for() -> None:
    found = config("bert", {"name": "next_sentence"})
    found["model"]["pooler"] = False
    model = _build.model(found)
    with pytest.raises(UserError, match=r"set model\.pooler=True"):
        model.apply(model.init(jax.random.key(0)), {"input_ids": jnp.ones((B, T), jnp.int32)})
