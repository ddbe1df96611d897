"""What is around every optimizer: L1, L2, groups, the scale from outside, the average; and a resumed run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmx import optim
from lmx.core import mesh, tree
from lmx.core.errors import UserError
from lmx.models import gpt2
from lmx.runs.checkpoints import Checkpoints
from lmx.tasks import causal_lm
from lmx.training import state, step

from . import _optimizing as problem

CONFIG = gpt2.Config(vocab_size=29, positions=16, width=12, layers=1, heads=2)
MODEL = causal_lm.attach(gpt2.build(CONFIG), CONFIG)


def one_update(made: Any, params: Any, slopes: Any) -> dict[str, np.ndarray]:
    moves, _ = made.update(slopes, made.init(params), params)
    return {path: np.asarray(x) for path, x in tree.flatten(jax.tree.map(jnp.add, params, moves)).items()}


# -------------------------------------------------------------------------------------------- L1, L2


def test_l1_is_the_soft_threshold_by_hand() -> None:
    """sgd, rate 0.5, l1 0.2: after the step each number goes 0.1 towards 0; the vector is left alone."""
    params = {"kernel": jnp.array([[0.55, -0.05, 0.3, -2.0]]), "bias": jnp.array([0.05])}
    slopes = {"kernel": jnp.array([[1.0, 0.0, 0.5, 1.0]]), "bias": jnp.array([0.0])}
    found = one_update(optim.build("sgd", lambda step: 0.5, l1=0.2), params, slopes)
    # 0.55 - 0.5 = 0.05 -> 0 · -0.05 -> 0 · 0.3 - 0.25 = 0.05 -> 0 · -2 - 0.5 = -2.5 -> -2.4
    assert found["kernel"][0, :3].tolist() == [0.0, 0.0, 0.0]
    assert found["kernel"][0, 3] == pytest.approx(-2.4)
    assert found["bias"].tolist() == [np.float32(0.05)]


def test_l1_finds_the_lasso_and_its_exact_zeros() -> None:
    """Against sklearn's coordinate descent; the gradient of |w| added to the loss gives no zero at all."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    draw = np.random.default_rng(0)
    x = draw.normal(size=(60, 20))
    y = x[:, :3] @ np.array([2.0, -1.5, 1.0]) + draw.normal(0, 0.3, 60)
    wanted = linear_model.Lasso(alpha=0.1, fit_intercept=False, tol=1e-10).fit(x, y).coef_
    made = optim.build("sgd", lambda step: 0.05, l1=0.1)
    design, target = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)

    def loss(params: Any) -> Any:
        return jnp.sum((design @ params["kernel"][:, 0] - target) ** 2) / (2 * 60)

    def advance(_: int, carry: Any) -> Any:
        params, kept = carry
        moves, kept = made.update(jax.grad(loss)(params), kept, params)
        return jax.tree.map(jnp.add, params, moves), kept

    params = {"kernel": jnp.full((20, 1), 0.5)}
    params, _ = jax.lax.fori_loop(0, 3000, advance, (params, made.init(params)))
    found = np.asarray(params["kernel"][:, 0])
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert (found == 0).tolist() == (wanted == 0).tolist()
    assert (found == 0).sum() >= 5


def test_l2_is_the_penalty_in_the_loss() -> None:
    """(l2 / 2) x sum of squares of the matrices: its gradient has no 2, and none of the vectors' numbers."""
    params = {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([3.0])}
    slopes = jax.tree.map(jnp.ones_like, params)
    found = one_update(optim.build("sgd", lambda step: 0.1, l2=0.5), params, slopes)
    assert found["kernel"][0].tolist() == pytest.approx([1 - 0.1 * 1.5, -2 - 0.1 * 0.0])
    assert found["bias"].tolist() == pytest.approx([2.9])


# -------------------------------------------------------------------------------------------- groups


@pytest.mark.parametrize("name", sorted(optim.OPTIMIZERS))
def test_factor_0_freezes_and_others_scale(name: str) -> None:
    """Frozen: no decay, no L1, no momentum, no state, and no share in the norm that is clipped."""
    common = {"l1": 0.1, "l2": 0.1, "clip": 0.5, "decay": 0.5}
    rules = (("embed/.*", 0), (".*/bias", 0.0), ("block/0/mlp/.*", 0.5))
    made = optim.build(name, problem.constant, scales=rules, **common)
    found, kept = problem.run(made)
    before = {path: np.asarray(x, "f4").astype("f8") for path, x in problem.start().items()}
    for path in ("embed/token/embedding", "block/0/attn/query/bias"):
        np.testing.assert_array_equal(found[path], before[path])
        size = before[path].size
        assert all(leaf.size != size for leaf in jax.tree.leaves(kept)) or name == "adafactor"
    params = tree.unflatten({k: jnp.asarray(v, jnp.float32) for k, v in problem.start().items()})
    slopes = tree.unflatten({k: jnp.asarray(v, jnp.float32) for k, v in problem.noise(0).items()})
    mask = tree.mask(params, r"(?!embed/).*(?<!bias)")
    less = tree.split(params, mask)[0], tree.split(slopes, mask)[0]
    whole = tree.flatten(made.update(slopes, made.init(params), params)[0])
    plain = optim.build(name, problem.constant, **{**common, "l1": 0.0})
    scaled = optim.build(name, problem.constant, **{**common, "l1": 0.0}, scales=rules)
    some = tree.flatten(plain.update(less[1], plain.init(less[0]), less[0])[0])
    half = tree.flatten(scaled.update(slopes, scaled.init(params), params)[0])
    for path, move in some.items():
        factor = 0.5 if path.startswith("block/0/mlp") else 1.0
        np.testing.assert_allclose(half[path], factor * move, rtol=1e-6, err_msg=path)
        assert np.any(whole[path] != half[path]) == (move.ndim > 1)  # L1


def test_layer_wise_rates_are_parameter_groups_of_torch() -> None:
    torch = pytest.importorskip("torch")
    factor = {
        path: 0.3 if path.startswith("block") else 0.1 if "embed" in path else 1.0 for path in problem.SHAPES
    }
    leaves = {path: torch.nn.Parameter(torch.tensor(x)) for path, x in problem.start().items()}
    theirs = torch.optim.AdamW(
        [
            {"params": [x], "lr": problem.RATE * factor[path], "weight_decay": 0.4 if x.ndim > 1 else 0.0}
            for path, x in leaves.items()
        ]
    )
    for k in range(problem.STEPS):
        slopes = problem.gradients({path: x.detach().numpy() for path, x in leaves.items()}, k)
        for path, slope in slopes.items():
            leaves[path].grad = torch.tensor(slope)
        theirs.step()
    found = problem.ours("adamw", decay=0.4, scales=[["block/.*", 0.3], ["embed/.*", 0.1]])
    problem.assert_equal(found, {path: x.detach().numpy() for path, x in leaves.items()})


@pytest.mark.parametrize(
    ("rules", "pattern"),
    [
        ((("blok/.*", 0.5),), r"optim\.scales\[0\]: 'blok/\.\*' matches no trainable parameter"),
        ((("block/.*", 0.5), ("block/0/mlp/.*", 0.1)), r"scales\[1\].*only what rules before it match"),
        ((("block", 0.5),), "patterns are for whole paths such as 'embed/token/embedding'"),
        (((".*", 0.0),), "every factor is 0"),
    ],
)
def test_rules_that_decide_nothing_are_refused(rules: Any, pattern: str) -> None:
    params = tree.unflatten({k: jnp.asarray(v, jnp.float32) for k, v in problem.start().items()})
    with pytest.raises(UserError, match=pattern):
        optim.build("adamw", problem.constant, scales=rules).init(params)


@pytest.mark.parametrize("rules", [("block/.*", 0.5), (("(", 0.5),), (("a", -1),), (("a", True),), 3])
def test_what_is_no_rule_is_refused(rules: Any) -> None:
    with pytest.raises(
        UserError, match=r"optim\.scales=.*expected pairs of a regular expression and a factor"
    ):
        optim.check("adamw", schedule="linear", scales=rules)


# ------------------------------------------------------------------------------------------- average


def test_the_average_by_hand() -> None:
    """d = 2/11, 3/12, 4/13 and then 0.3: (1 + n) / (10 + n) until the decay itself is smaller."""
    numbers, wanted = [1.0, 5.0, 2.0, -4.0], [1.0]
    for n, number in enumerate(numbers, start=1):
        d = min(0.3, (1 + n) / (10 + n))
        wanted.append(d * wanted[-1] + (1 - d) * number)
    average = optim.ema.start({"w": jnp.array([1.0])})
    for n, number in enumerate(numbers, start=1):
        average = optim.ema.update(average, {"w": jnp.array([number])}, decay=0.3)
        assert float(average.params["w"][0]) == pytest.approx(wanted[n], rel=1e-6), n
    assert wanted[2] == pytest.approx(0.25 * 1.0 + 0.75 * 5.0)


def test_the_average_follows_the_run_and_changes_nothing_in_it() -> None:
    made = optim.build("adamw", problem.constant, average=0.9, scales=(("embed/.*", 0),))
    params = tree.unflatten({k: jnp.asarray(v, jnp.float32) for k, v in problem.start().items()})
    kept, by_hand = made.init(params), {k: v.copy() for k, v in problem.start().items()}
    for n in range(1, problem.STEPS + 1):
        slopes = tree.unflatten({k: jnp.asarray(v, jnp.float32) for k, v in problem.noise(n).items()})
        moves, kept = made.update(slopes, kept, params)
        params = jax.tree.map(jnp.add, params, moves)
        d = min(0.9, (1 + n) / (10 + n))
        by_hand = {k: d * by_hand[k] + (1 - d) * np.asarray(x) for k, x in tree.flatten(params).items()}
    found = tree.flatten(optim.averaged(kept, params))
    assert list(found) == list(tree.flatten(params))
    for path, leaf in found.items():
        np.testing.assert_allclose(leaf, by_hand[path], atol=1e-6, err_msg=path)
    assert found["embed/token/embedding"] is params["embed"]["token"]["embedding"]
    plain, _ = problem.run(optim.build("adamw", problem.constant))
    with_average, _ = problem.run(optim.build("adamw", problem.constant, average=0.9))
    problem.assert_equal(with_average, plain, atol=0)
    with pytest.raises(UserError, match=r"set optim\.average, such as 0\.999"):
        optim.averaged(optim.build("sgd", problem.constant).init(params), params)


# ----------------------------------------------------------------------------- scale, and a whole run


def test_a_scale_is_another_rate() -> None:
    made = optim.build("adamw", problem.constant, l1=0.3)
    half = optim.build("adamw", lambda step: 0.5 * problem.constant(step), l1=0.3)
    params = tree.unflatten({k: jnp.asarray(v, jnp.float32) for k, v in problem.start().items()})
    slopes = tree.unflatten({k: jnp.asarray(v, jnp.float32) for k, v in problem.noise(0).items()})
    moves, kept = made.update(slopes, optim.rescaled(made.init(params), 0.5), params)
    wanted, _ = half.update(slopes, half.init(params), params)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-8), moves, wanted)
    assert float(kept.scale) == 0.5  # it stays until the host sets another
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match="scale of the learning rate"):
            optim.rescaled(kept, wrong)


def batch(k: int, devices: Any) -> Any:
    tokens = np.random.default_rng(k).integers(0, 29, (8, 17))
    segments = np.ones((8, 17), np.int32)
    rows = {"tokens": tokens, "segment_ids": segments, "position_ids": np.zeros((8, 17), np.int32)}
    return mesh.put(causal_lm.encode(rows), devices)


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param("adamw", marks=pytest.mark.sample), "adafactor", "muon"])
def test_a_resumed_run_is_bit_identical_and_never_compiled_again(name: str, tmp_path: Path) -> None:
    """The scale falls at step 3; the checkpoint of step 4 holds it, the moments and the average."""
    at, made = optim.make(
        name, rate=1e-2, schedule="linear", warmup=2, total=12, average=0.9, clip=1.0, decay=0.1,
        scales=(("embed/position/.*", 0), ("block/0/.*", 0.5)), l1=1e-4,
    )  # fmt: skip
    assert float(at(jnp.int32(7))) == pytest.approx(5e-3)
    devices = mesh.make(2)
    update = step.build(MODEL, causal_lm.objective(MODEL), made, seed=0, mesh=devices)
    now = state.start(MODEL, made, seed=0, mesh=devices)
    frozen = np.array(now.params["embed"]["position"]["embedding"])
    kept = Checkpoints(tmp_path)
    for k in range(8):
        if k == 3:
            now = now._replace(optimizer=optim.rescaled(now.optimizer, 0.25))
        now, _ = update(now, batch(k, devices))
        if k == 3:
            kept.save(4, now.params, now.optimizer, facts={"loss": None})
            kept.wait()
    assert update.func._cache_size() == 1  # type: ignore[attr-defined]
    wanted = state.abstract(MODEL, made, mesh=devices)
    params, optimizer, _ = kept.restore(4, wanted.params, wanted.optimizer)
    assert float(optimizer.scale) == 0.25
    again = state.State(jnp.int32(4), params, optimizer)
    for k in range(4, 8):
        again, _ = update(again, batch(k, devices))
    for one, two in zip(jax.tree.leaves(now), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(one, two)
    kept.close()
    np.testing.assert_array_equal(now.params["embed"]["position"]["embedding"], frozen)
    averages = optim.averaged(now.optimizer, now.params)
    assert jax.tree.structure(averages) == jax.tree.structure(now.params)
    assert not np.array_equal(averages["final"]["scale"], now.params["final"]["scale"])
