"""Several tasks on one body: routing, what rests stays, one program for each task and shape."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lmx import optim
from lmx.commands import _members
from lmx.core import mesh, rng, tree
from lmx.core.errors import UserError
from lmx.core.types import Model
from lmx.models import bert
from lmx.tasks import sequence_classification, sequence_regression, token_classification
from lmx.training import objectives, record, state, step
from lmx.training.members import Members

from . import _optimizing as problem

BODY = ("embed", "block", "final", "pooler")
FIELDS = dict(vocab_size=23, positions=16, width=12, layers=1, heads=2, mlp_width=16)
POOLED, PLAIN = (bert.Config(**FIELDS, pooler=pooler) for pooler in (True, False))
MODELS = {
    "likes": sequence_classification.attach(bert.build(POOLED), POOLED, labels=2),
    "likes2": sequence_classification.attach(bert.build(POOLED), POOLED, labels=3),
    "tags": token_classification.attach(bert.build(PLAIN), PLAIN, labels=5),
}


# ---------------------------------------------------------------------------------------------- routing


@pytest.fixture(scope="module")
def members() -> Members:
    return Members(MODELS, body=BODY)


def batch(name: str, length: int = 8, seed: int = 0) -> dict[str, Any]:
    draw = np.random.default_rng(seed)
    ids = draw.integers(5, 23, (4, length)).astype(np.int32)
    labels = draw.integers(0, 2, (4, length) if name == "tags" else (4,)).astype(np.int32)
    mask = np.ones_like(ids)
    found = {"input_ids": ids, "attention_mask": mask, "labels": labels, "example_index": np.arange(4)}
    return {**found, f"task/{name}": np.zeros(4, np.int32)}


def own(rows: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in rows.items() if not key.startswith("task/")}


def test_the_body_stands_once_and_heads_by_name(members: Members) -> None:
    params = tree.flatten(members.model.init(jax.random.key(0)))
    heads = {path: leaf.shape for path, leaf in params.items() if path.startswith("heads/")}
    assert heads == {
        "heads/likes/head/kernel": (12, 2), "heads/likes/head/bias": (2,),
        "heads/likes2/head/kernel": (12, 3), "heads/likes2/head/bias": (3,),
        "heads/tags/head/kernel": (12, 5), "heads/tags/head/bias": (5,),
    }  # fmt: skip
    single = tree.flatten(MODELS["likes"].init(jax.random.key(0)))
    assert params.keys() - heads.keys() == {path for path in single if not path.startswith("head/")}


@pytest.mark.parametrize("name", list(MODELS))
def test_a_batch_goes_through_its_own_model(members: Members, name: str) -> None:
    """What is taken out is what the task's own model starts with, and gives its outputs bit for bit."""
    params = members.model.init(jax.random.key(0))
    taken, single = members.take(params, name), MODELS[name].init(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, taken, single)
    rows = batch(name)
    wanted = jax.jit(MODELS[name].apply)(single, own(rows))["logits"]
    np.testing.assert_array_equal(jax.jit(members.model.apply)(params, rows)["logits"], wanted)
    whole = members.join({one: members.take(params, one) for one in MODELS})
    jax.tree.map(np.testing.assert_array_equal, whole, params)


def test_a_batch_of_no_task_or_of_two_is_refused(members: Members) -> None:
    params = members.model.init(jax.random.key(0))
    for rows in (own(batch("tags")), {**batch("tags"), "task/likes": np.zeros(4)}, {"task/lieks": 0}):
        with pytest.raises(UserError, match="expected one key of task/likes"):
            members.model.apply(params, rows)


def test_bodies_that_differ_are_refused() -> None:
    other = bert.Config(**{**FIELDS, "width": 16})
    model = sequence_regression.attach(bert.build(other), other)
    with pytest.raises(UserError, match=r"other: .* of shape .*; tasks on one body need the same model"):
        Members({"likes": MODELS["likes"], "other": model}, body=BODY)


# ------------------------------------------------------------------------------------- what rests, stays


def small(pooled: bool, size: int) -> Model:
    """Two or three products: what the steps below need of a model, and quick to compile."""

    def init(key: Any) -> Any:
        shapes = {"block/0/kernel": (3, 4), "head/kernel": (4, size), "head/bias": (size,)}
        shapes |= {"pooler/kernel": (4, 4)} if pooled else {}
        return tree.unflatten(
            {path: jax.random.normal(rng.leaf_key(key, path), shape) for path, shape in shapes.items()}
        )

    def apply(params: Any, rows: Any, **_: Any) -> Any:
        x = jnp.tanh(rows["x"] @ params["block"]["0"]["kernel"])
        x = jnp.tanh(x @ params["pooler"]["kernel"]) if pooled else x
        return {"logits": x @ params["head"]["kernel"] + params["head"]["bias"][None, :]}

    return Model(init, apply, lambda params: tree.mask(params, ".*"), lambda params: params)


def squares(outputs: Any, rows: Any) -> Any:
    total = jnp.sum((outputs["logits"] - rows["labels"][:, None]) ** 2)
    return total, jnp.float32(len(rows["labels"])), {}


SMALL = {"likes": small(True, 2), "likes2": small(True, 3), "tags": small(False, 5)}
OBJECTIVES = {name: objectives.plain(model, squares) for name, model in SMALL.items()}
TOGETHER = Members(SMALL, body=BODY)


def drawn(name: str, size: int = 4, seed: int = 0) -> dict[str, Any]:
    draw = np.random.default_rng(seed)
    x, labels = draw.normal(0, 1, (size, 3)), draw.normal(0, 1, size)
    found = {"x": x.astype(np.float32), "labels": labels.astype(np.float32)}
    return {**found, f"task/{name}": np.zeros(size, np.int32)}


def made(*, moves: bool = True, name: str = "adamw", parts: int = 1, **options: Any) -> tuple[Any, Any]:
    """(the step, the state before the first); without `moves`, the naive way."""
    devices = mesh.make(1)
    options = {"decay": 0.5, "clip": 1.0, **options}
    chain = optim.build(
        name, lambda count: jnp.float32(0.01), parts=TOGETHER.part if moves else None, **options
    )
    model = TOGETHER.model
    objective = TOGETHER.objective(OBJECTIVES, {"likes": 1.0, "likes2": 1.0, "tags": 0.5})
    gate = TOGETHER.moves if moves else None
    update = step.build(model, objective, chain, seed=0, mesh=devices, moves=gate, parts=parts)
    return update, state.start(model, chain, seed=0, mesh=devices)


def trained(names: list[str], **options: Any) -> list[state.State]:
    """The states before and after steps on batches of these tasks."""
    update, now = made(**options)
    found = [jax.device_get(now)]
    for k, one in enumerate(names):
        now, _ = update(now, mesh.put(drawn(one, seed=k), mesh.make(1)))
        found.append(jax.device_get(now))
    return found


def changed(before: Any, after: Any) -> set[str]:
    """Paths of the leaves whose bits differ, in parameters or in what the optimizer keeps of each."""

    def named(values: Any) -> dict[str, Any]:
        flat, _ = jax.tree_util.tree_flatten_with_path(values)
        return {jax.tree_util.keystr(path): leaf for path, leaf in flat}

    old, new = named(before), named(after)
    assert old.keys() == new.keys()
    return {path for path in old if not np.array_equal(old[path], new[path])}


@pytest.mark.parametrize("name", ["adamw", "sgd", "lion"])
def test_absent_heads_stay_bit_for_bit(name: str) -> None:
    """With decay and momentum on, after they have moved: parameters, moments, counts and averages."""
    options = {"momentum": 0.9} if name == "sgd" else {}
    states = trained(["likes", "tags", "likes2", "tags"], name=name, average=0.9, **options)
    before, after = states[-2:]
    moved = changed(before.params, after.params)
    assert {"['heads']['tags']['head']['kernel']", "['block']['0']['kernel']"} <= moved
    assert not [path for path in moved if "likes" in path or "pooler" in path]  # tagging reads no pooler
    resting = {part: (before.optimizer.inner[part], before.optimizer.average[part])
               for part in before.optimizer.inner if "tags" not in part}  # fmt: skip
    assert set(resting) == {"likes", "likes2", "likes+likes2"}
    for part, kept in resting.items():
        assert not changed(kept, (after.optimizer.inner[part], after.optimizer.average[part]))
    first = trained(["tags"], name=name, **options)  # never seen before: nor decayed
    assert not [path for path in changed(first[0].params, first[1].params) if "likes" in path]


def test_the_naive_way_moves_what_is_absent() -> None:
    """What the test above would not see otherwise: gradients of zero, and yet heads move."""
    states = trained(["likes", "tags"], moves=False)
    assert "['heads']['likes']['head']['kernel']" in changed(states[1].params, states[2].params)
    assert "['heads']['likes2']['head']['kernel']" in changed(states[0].params, states[1].params)


def test_a_head_that_comes_late_moves_as_if_it_came_first() -> None:
    """Adam's first move is the rate, whatever the gradient; by the count of all steps it would be 3.2."""
    states = trained([*["tags"] * 40, "likes"], decay=0.0)
    path = ("heads", "likes", "head", "bias")
    old, new = [s.params[path[0]][path[1]][path[2]][path[3]] for s in states[-2:]]
    np.testing.assert_allclose(np.abs(new - old), 0.01, rtol=1e-3)
    body = states[-1].optimizer.inner["likes+likes2+tags"][0].count
    assert (body, states[-1].optimizer.inner["likes"][0].count, states[-1].optimizer.made) == (41, 1, 41)


def test_learning_rates_go_by_the_steps_of_the_run() -> None:
    """A head that comes in step 3 for the first time has the rate of step 3, not of its own step 0."""
    made = optim.build("sgd", lambda count: 1.0 / (1.0 + count), parts=lambda path: path.split("/")[0])
    params = {"a": {"bias": jnp.zeros(1)}, "b": {"bias": jnp.zeros(1)}}
    ones = {name: {"bias": jnp.ones(1)} for name in params}
    kept = made.init(params)
    for names in (["a"], ["a"], ["a"], ["a", "b"]):
        some = {name: params[name] for name in names}
        moves, kept = made.update({name: ones[name] for name in names}, kept, some)
        params |= jax.tree.map(jnp.add, some, moves)
    assert float(params["a"]["bias"][0]) == pytest.approx(-(1 + 1 / 2 + 1 / 3 + 1 / 4))
    assert float(params["b"]["bias"][0]) == pytest.approx(-1 / 4)


def test_the_norm_that_is_clipped_is_of_what_is_there() -> None:
    made = optim.build("sgd", lambda count: 1.0, clip=1.0, parts=lambda path: path.split("/")[0])
    params = {name: {"bias": jnp.zeros(1)} for name in "ab"}
    moves, _ = made.update({"a": {"bias": jnp.array([4.0])}}, made.init(params), {"a": params["a"]})
    assert moves["a"]["bias"].tolist() == [-1.0]
    both = {"a": {"bias": jnp.array([3.0])}, "b": {"bias": jnp.array([4.0])}}
    moves, _ = made.update(both, made.init(params), params)  # one norm over all parts: 5
    assert [float(moves[name]["bias"][0]) for name in "ab"] == pytest.approx([-0.6, -0.8])


@pytest.mark.parametrize("name", sorted(optim.OPTIMIZERS))
def test_parts_that_always_come_together_change_nothing(name: str) -> None:
    """Of any optimizer: two parts, both in every update, move as one."""
    common = {"clip": 0.5, "l1": 0.01, "l2": 0.1, "decay": 0.1, "average": 0.9}
    plain, kept = problem.run(optim.build(name, problem.constant, **common), 4)
    made = optim.build(name, problem.constant, **common, parts=lambda path: path.split("/")[0])
    parted, states = problem.run(made, 4)
    problem.assert_equal(parted, plain)
    whole = tree.unflatten({path: jnp.asarray(x, jnp.float32) for path, x in plain.items()})
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6),
        optim.averaged(states, whole), optim.averaged(kept, whole),
    )  # fmt: skip


def test_rules_of_rates_may_be_for_heads_that_rest() -> None:
    """A rule for one head is not dead because the batch is another's; one that matches nothing still is."""
    rules = ((r"heads/likes/.*", 0.5), (r"(embed|block|pooler)/.*", 0.0))
    states = trained(["tags", "likes"], scales=rules)
    assert changed(states[0].params, states[1].params) == {
        "['heads']['tags']['head']['bias']",
        "['heads']['tags']['head']['kernel']",
    }
    frozen = ((r"(?!heads/likes/).*", 0.0),)  # a batch of tags then moves nothing at all
    states = trained(["tags", "likes"], scales=frozen)
    assert not changed(states[0].params, states[1].params)
    assert len(changed(states[1].params, states[2].params)) == 2
    with pytest.raises(UserError, match="no trainable parameter"):
        trained([], scales=(("heads/like/.*", 0.5),))


def test_the_weight_of_a_task_scales_its_loss_and_gradient() -> None:
    params = TOGETHER.model.init(jax.random.key(0))
    rows = drawn("tags")

    def total(weight: float) -> Any:
        weighed = TOGETHER.objective(OBJECTIVES, {"likes": 1.0, "likes2": 1.0, "tags": weight})
        return jax.value_and_grad(lambda p: weighed(p, rows, None)[0])(params)

    (loss, slopes), (more, steeper) = total(1.0), total(4.0)
    single = OBJECTIVES["tags"](TOGETHER.take(params, "tags"), rows, None)[0]
    assert float(loss) == pytest.approx(float(single), rel=1e-6)
    assert float(more) == pytest.approx(4 * float(loss), rel=1e-6)
    scaled = jax.tree.map(lambda x: 4 * x, slopes)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7), steeper, scaled)


# ------------------------------------------------------------------------------------- programs, records


def test_one_program_for_each_task_and_shape() -> None:
    """Not one for each step: counted by jax itself. A mask of tasks as a value would need but one program,
    and run every head on every batch; a task as a static argument of another name each time, one a step."""
    update, now = made()
    kinds = [("likes", 8), ("tags", 8), ("tags", 12)]
    for k, (name, size) in enumerate([*kinds, *kinds[::-1], *kinds]):
        now, _ = update(now, mesh.put(drawn(name, size, seed=k), mesh.make(1)))
        assert update.func._cache_size() == min(k + 1, 3)


def test_a_batch_in_parts_is_the_batch() -> None:
    found = []
    for parts in (1, 2):
        update, now = made(name="sgd", parts=parts)
        now, sums = update(now, mesh.put(drawn("tags"), mesh.make(1)))
        found.append((now.params, sums))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6, rtol=1e-5), *found)


def test_the_recorded_loss_is_the_mean_of_the_steps() -> None:
    """By hand: 32 sentences at 1.0 a piece, 800 tokens at 0.1; added up, the tokens would decide: 0.13."""
    sentences = {"loss": 64.0, "weight": 32.0, "a/loss": 32.0, "a/weight": 32.0}  # the task's weight is 2
    tokens = {"loss": 80.0, "weight": 800.0, "b/loss": 80.0, "b/weight": 800.0}
    window: Any = [sentences, tokens, tokens]
    loss, by_task = record._losses(window)
    assert loss == pytest.approx((2.0 + 0.1 + 0.1) / 3)
    assert by_task == {"a/loss": 1.0, "b/loss": pytest.approx(0.1)}
    assert record._losses([{"loss": 3.0, "weight": 2.0}, {"loss": 0.0, "weight": 1.0}]) == (1.0, {})  # type: ignore[dict-item]


def test_optax_keeps_the_count_of_a_schedule_where_it_is_looked_for() -> None:
    """Every optimizer's rate goes by optax.scale_by_schedule, which `_parts` sets to the run's step."""
    params = {"block": {"0": {"kernel": jnp.ones((2, 2))}}, "head": {"bias": jnp.ones(2)}}
    for name in optim.OPTIMIZERS:
        kept = optim.build(name, lambda count: 0.1).init(params).inner
        nodes = jax.tree.leaves(kept, is_leaf=lambda node: isinstance(node, optax.ScaleByScheduleState))
        assert any(isinstance(node, optax.ScaleByScheduleState) for node in nodes), name


def test_options_to_type_are_those_of_the_task() -> None:
    said = "no column 'text'; name one with --config.data.columns.text; or raise --config.batch.length"
    with pytest.raises(UserError) as caught, _members.named("mood"):
        raise UserError(said)
    assert str(caught.value) == "tasks.mood: " + said.replace("config.data", "config.tasks.mood.data")
