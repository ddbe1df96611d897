"""Laws of training: devices change nothing but rounding, only what is trainable moves, saved is what was."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmx import optim
from lmx.core import config, mesh, tree
from lmx.core.types import Model
from lmx.models import gpt2
from lmx.runs.checkpoints import Checkpoints, abstract
from lmx.tasks import causal_lm
from lmx.training import evaluate, hooks, loop, state, step
from lmx.training.hooks import Hook

CONFIG = gpt2.Config(
    vocab_size=29, positions=16, width=12, layers=2, heads=2,
    dropout_embed=0.1, dropout_attention=0.2, dropout_residual=0.1,
)  # fmt: skip
STEPS = 10


def model() -> Model:
    return causal_lm.attach(gpt2.build(CONFIG), CONFIG)


def optimizer(**changes: Any) -> Any:
    rate = optim.schedule("cosine", rate=1e-2, warmup=2, total=STEPS)
    options = {"decay": 0.1, "clip": 1.0, "b1": 0.9, "b2": 0.95, "epsilon": 1e-8, **changes}
    return optim.build("adamw", rate, **options)


def batches(start: int = 0) -> Any:
    for k in range(start, STEPS):
        draw = np.random.default_rng(k)
        segments = np.sort(draw.integers(0, 3, (8, 17)), axis=1)[:, ::-1]
        yield causal_lm.encode(
            {
                "tokens": draw.integers(0, 29, (8, 17)),
                "segment_ids": segments,
                "position_ids": np.zeros((8, 17), np.int32),
            }
        )


def trained(data: int) -> tuple[list[float], Any, Any]:
    devices, built, chain = mesh.make(data), model(), optimizer()
    objective = causal_lm.objective(built)
    update = step.build(built, objective, chain, seed=3, mesh=devices)
    losses: list[float] = []

    def note(made: int, now: state.State, window: list[Any]) -> None:
        losses.append(float(window[0]["loss"] / window[0]["tokens"]))

    now = state.start(built, chain, seed=3, mesh=devices)
    now, _ = loop.run(
        now,
        update,
        batches(),
        start=0,
        total=STEPS,
        mesh=devices,
        hooks=[Hook(1, note)],
        stopping=lambda long: False,
    )
    sums = evaluate.over(evaluate.build(objective, mesh=devices), now.params, batches(), mesh=devices)
    return losses, jax.device_get(now.params), sums


@pytest.fixture(scope="module")
def alone() -> tuple[list[float], Any, Any]:
    return trained(1)


@pytest.mark.parametrize("data", [2, 8])
def test_devices_change_nothing_but_rounding(alone: tuple[list[float], Any, Any], data: int) -> None:
    """Dropout is on and rows have unequal numbers of labels, so a mean of means would show."""
    losses, params, sums = trained(data)
    np.testing.assert_allclose(losses, alone[0], rtol=1e-5)
    for path, leaf in tree.flatten(params).items():
        np.testing.assert_allclose(leaf, tree.flatten(alone[1])[path], atol=2e-5, rtol=0, err_msg=path)
    assert sums["tokens"] == alone[2]["tokens"]
    assert sums["loss"] == pytest.approx(alone[2]["loss"], rel=1e-5)


def test_only_what_is_trainable_moves() -> None:
    """With weight decay on, and an optimizer state for nothing else."""
    plain = model()
    frozen = dataclasses.replace(plain, trainable=lambda p: tree.mask(p, r"block/1/.*|final/.*"))
    devices, chain = mesh.make(2), optimizer(decay=0.5)
    update = step.build(frozen, causal_lm.objective(frozen), chain, seed=0, mesh=devices)
    now = state.start(frozen, chain, seed=0, mesh=devices)
    before = {path: np.array(leaf) for path, leaf in tree.flatten(now.params).items()}
    assert len(jax.tree.leaves(now.optimizer)) < 2 * len(before)
    for batch in batches(start=STEPS - 4):
        now, _ = update(now, mesh.put(batch, devices))
    for path, leaf in tree.flatten(now.params).items():
        moved = not np.array_equal(leaf, before[path])
        assert moved == path.startswith(("block/1/", "final/")), path


def test_decay_reaches_matrices_only() -> None:
    params = model().init(jax.random.key(0))
    for path, on in tree.flatten(optim.decayed(params)).items():
        assert on == path.endswith(("kernel", "embedding")), path


def test_every_seed_takes_the_same_program() -> None:
    """So that runs that differ in the seed alone compile nothing twice."""
    devices, built, chain = mesh.make(1), model(), optimizer()
    now = state.start(built, chain, seed=0, mesh=devices)
    texts = []
    for seed in (3, 2**32 - 1):
        update: Any = step.build(built, causal_lm.objective(built), chain, seed=seed, mesh=devices)
        texts.append(update.func.lower(*update.args, now, next(batches())).as_text())
    assert texts[0] == texts[1]


def test_start_depends_on_the_seed_alone() -> None:
    one = state.start(model(), optimizer(), seed=5, mesh=mesh.make(1))
    two = state.start(model(), optimizer(decay=0.3), seed=5, mesh=mesh.make(8))
    other = state.start(model(), optimizer(), seed=6, mesh=mesh.make(1))
    for path, leaf in tree.flatten(one.params).items():
        np.testing.assert_array_equal(leaf, tree.flatten(two.params)[path])
    assert not np.array_equal(
        one.params["embed"]["token"]["embedding"], other.params["embed"]["token"]["embedding"]
    )


def test_a_save_holds_the_state_at_its_step_though_the_step_gives_its_buffers_up(tmp_path: Path) -> None:
    devices, built, chain = mesh.make(2), model(), optimizer()
    update = step.build(built, causal_lm.objective(built), chain, seed=0, mesh=devices)
    now = state.start(built, chain, seed=0, mesh=devices)
    kept = Checkpoints(tmp_path, keep_last=20)
    seen: dict[int, Any] = {}
    for count, batch in enumerate(batches(start=STEPS - 4), start=1):
        now, _ = update(now, mesh.put(batch, devices))
        seen[count] = jax.tree.map(np.array, (now.params, now.optimizer))
        kept.save(count, now.params, now.optimizer, facts={"loss": None})
    kept.wait()
    for count, (params, moments) in seen.items():
        found = kept.restore(count, abstract(now.params), abstract(now.optimizer))
        for one, two in zip(jax.tree.leaves((params, moments)), jax.tree.leaves(found[:2]), strict=True):
            np.testing.assert_array_equal(one, two)
    kept.close()


def test_dropout_differs_from_step_to_step() -> None:
    """At rate 0 nothing moves, so the same batch shows the masks alone: new at each step, the same again."""
    devices, built = mesh.make(1), model()
    chain = optim.build("adamw", lambda count: 0.0, decay=0.0, clip=1.0, b1=0.9, b2=0.95, epsilon=1e-8)
    update = step.build(built, causal_lm.objective(built), chain, seed=0, mesh=devices)
    batch = next(iter(batches()))
    runs: list[list[float]] = []
    for _ in range(2):
        now, losses = state.start(built, chain, seed=0, mesh=devices), []
        for _ in range(4):
            now, sums = update(now, mesh.put(batch, devices))
            losses.append(float(sums["loss"]))
        runs.append(losses)
    assert len(set(runs[0])) == 4
    assert runs[0] == runs[1]


def test_the_key_of_a_step_is_its_own() -> None:
    from lmx.core import rng

    keys = {
        tuple(np.asarray(jax.random.key_data(rng.stream_key(seed, k, stream))).tolist())
        for seed in (0, 1)
        for k in range(5)
        for stream in ("dropout", "init")
    }
    assert len(keys) == 20
    examples = rng.example_keys(rng.stream_key(0, 1, "dropout"), jnp.arange(8))
    again = rng.example_keys(rng.stream_key(0, 1, "dropout"), jnp.array([5]))
    assert len({tuple(key) for key in np.asarray(jax.random.key_data(examples)).tolist()}) == 8
    np.testing.assert_array_equal(jax.random.key_data(examples)[5], jax.random.key_data(again)[0])


def test_an_epoch_that_is_no_whole_number_of_steps() -> None:
    """6,920 examples in batches of 32 are 216.25 steps; three epochs end at 649, as the third interval."""
    total = config.steps("3 epochs", tokens_per_step=None, steps_per_epoch=216.25)
    every = config.interval("1 epochs", tokens_per_step=None, steps_per_epoch=216.25, total=total)
    assert [step for step in range(total + 1) if hooks.falls(step, every)] == [216, 432, 649]
    assert [step for step in range(9) if hooks.falls(step, 1.0)] == list(range(1, 9))
    assert not any(hooks.falls(step, 0.0) for step in range(9))


def test_an_evaluation_that_asks_for_the_end_gets_it_at_once() -> None:
    """No further step is made, and what runs last runs after the same step."""
    seen: list[tuple[str, int]] = []

    def told(name: str) -> hooks.Action:
        def action(made: int, now: Any, window: Any) -> None:
            seen.append((name, made))

        return action

    _, made = loop.run(
        0,  # type: ignore[arg-type]
        lambda now, batch: (now, {}),
        [{}] * 9,
        start=0,
        total=9,
        mesh=mesh.make(1),
        hooks=[Hook(3, told("evaluate")), Hook(5, told("save"), last=True)],
        stopping=lambda long: False,
        satisfied=lambda: ("evaluate", 6) in seen,
    )
    assert made == 6
    assert seen == [("evaluate", 3), ("save", 5), ("evaluate", 6), ("save", 6)]
