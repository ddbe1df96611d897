"""Laws of the tasks' shelf, run over every name on it."""

from __future__ import annotations

import dataclasses
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmx.core import plugin
from lmx.core.types import IGNORED, Model
from lmx.models import gpt2

pytestmark = pytest.mark.smoke
NAMES = plugin.names("lmx.tasks")
CONFIG = gpt2.Config(vocab_size=23, positions=16, width=8, layers=1, heads=2, init_range=0.5)
B, T, V = 4, 10, 23


def example(name: str, seed: int = 0) -> tuple[Model, dict[str, Any]]:
    """Return a model with the task's head, and a batch of which some labels are ignored."""
    rng = np.random.default_rng(seed)
    if name == "causal_lm":
        model = plugin.find("lmx.tasks", name).attach(gpt2.build(CONFIG), CONFIG)
        labels = rng.integers(0, V, (B, T))
        labels[:, ::3] = IGNORED
        return model, {"input_ids": jnp.asarray(rng.integers(0, V, (B, T))), "labels": jnp.asarray(labels)}
    pytest.fail(f"no example of the task {name} here")


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def task(name: str) -> ModuleType:
    return plugin.find("lmx.tasks", name)


def test_ignored_labels_get_no_gradient(name: str, task: ModuleType) -> None:
    model, batch = example(name)
    logits = model.apply(model.init(jax.random.key(0)), batch)["logits"]
    gradient = jax.grad(lambda x: task.loss({"logits": x}, batch)[0])(logits)
    ignored = np.asarray(batch["labels"]) == IGNORED
    assert np.abs(gradient)[ignored].max() == 0
    assert np.abs(gradient)[~ignored].max(axis=-1).min() > 0


def test_the_perfect_answer_beats_a_random_one(name: str, task: ModuleType) -> None:
    _, batch = example(name)
    right = 20.0 * jax.nn.one_hot(batch["labels"], V)
    wrong = 20.0 * jax.nn.one_hot((batch["labels"] + 1) % V, V)
    perfect, weight, _ = task.loss({"logits": right}, batch)
    assert perfect / weight < 1e-6 < 19 < task.loss({"logits": wrong}, batch)[0] / weight


def test_loss_is_a_sum_so_parts_add_up(name: str, task: ModuleType) -> None:
    """Sums over parts of unequal weight give the whole; means of means would not."""
    model, batch = example(name)
    params, objective = model.init(jax.random.key(0)), task.objective(model)
    parts = [{k: v[i:j] for k, v in batch.items()} for i, j in ((0, 1), (1, 4))]
    parts[0]["labels"] = parts[0]["labels"].at[:, 2:].set(IGNORED)
    whole = {k: jnp.concatenate([p[k] for p in parts]) for k in batch}
    total, weight, sums = objective(params, whole, None)
    found = [objective(params, part, None) for part in parts]
    assert float(weight) == sum(float(f[1]) for f in found)
    np.testing.assert_allclose(total, sum(f[0] for f in found), rtol=1e-6)
    np.testing.assert_allclose(sums["loss"], sum(f[2]["loss"] for f in found), rtol=1e-6)
    mean_of_means = sum(f[0] / f[1] for f in found) / 2
    assert abs(float(mean_of_means - total / weight)) > 1e-3


def test_objective_equals_the_loss_of_the_logits(name: str, task: ModuleType) -> None:
    """Value and gradient, for the objective may take a shorter way than through the logits."""
    model, batch = example(name)
    params = model.init(jax.random.key(0))
    fused = jax.value_and_grad(lambda p: task.objective(model)(p, batch, None)[0])(params)
    plain = jax.value_and_grad(lambda p: task.loss({"logits": model.apply(p, batch)["logits"]}, batch)[0])(
        params
    )
    for one, two in zip(jax.tree.leaves(fused), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(one, two, atol=2e-5 * max(1, float(np.abs(two).max())), rtol=0)


def test_the_loss_sees_logits_that_a_wrapper_replaced(name: str, task: ModuleType) -> None:
    model, batch = example(name)

    def halved(params: Any, batch: Any, **kwargs: Any) -> Any:
        outputs = model.apply(params, batch, **kwargs)
        return {**outputs, "logits": outputs["logits"] * 0.5}

    params = model.init(jax.random.key(0))
    found = task.objective(dataclasses.replace(model, apply=halved))(params, batch, None)[0]
    wanted = task.loss({"logits": model.apply(params, batch)["logits"] * 0.5}, batch)[0]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_every_metric_named_exists(task: ModuleType) -> None:
    assert set(task.METRICS) <= set(plugin.names("lmx.metrics"))
