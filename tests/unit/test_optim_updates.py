"""Ten steps of each optimizer against torch, transformers, or the paper's lines in numpy (all f64)."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmx import optim
from lmx.core import tree
from lmx.core.errors import UserError
from tests.unit import _optimizing as problem

Arrays = dict[str, np.ndarray]


def by_torch(make: Callable[[list[dict[str, Any]]], Any], *, decay: float = 0.0, clip: float = 0.0) -> Arrays:
    """Run an optimizer of torch in f64; `decay` is the weight_decay of matrices."""
    torch = pytest.importorskip("torch")
    leaves = {path: torch.nn.Parameter(torch.tensor(leaf)) for path, leaf in problem.start().items()}
    matrices = [leaf for leaf in leaves.values() if leaf.ndim > 1]
    vectors = [leaf for leaf in leaves.values() if leaf.ndim == 1]
    made = make([{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}])
    for step in range(problem.STEPS):
        values = {path: leaf.detach().numpy() for path, leaf in leaves.items()}
        for path, slope in problem.gradients(values, step).items():
            leaves[path].grad = torch.tensor(slope)
        if clip:
            torch.nn.utils.clip_grad_norm_(list(leaves.values()), clip)
        made.step()
    return {path: leaf.detach().numpy() for path, leaf in leaves.items()}


def by_hand(move: Callable[[int, str, np.ndarray, np.ndarray, Arrays], np.ndarray]) -> Arrays:
    """Run `move(t from 1, path, gradient, parameter, memory of the leaf) -> new parameter` in f64."""
    params = problem.start()
    memory: dict[str, Arrays] = {
        path: {"m": np.zeros_like(x), "v": np.zeros_like(x)} for path, x in params.items()
    }
    for step in range(problem.STEPS):
        slopes = problem.gradients(params, step)
        params = {path: move(step + 1, path, slopes[path], x, memory[path]) for path, x in params.items()}
    return params


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_adamw_is_that_of_torch(clip: float) -> None:
    torch = pytest.importorskip("torch")
    wanted = by_torch(
        lambda groups: torch.optim.AdamW(groups, lr=problem.RATE, betas=(0.8, 0.95), eps=1e-3),
        decay=0.5,
        clip=clip,
    )
    found = problem.ours("adamw", decay=0.5, b1=0.8, b2=0.95, epsilon=1e-3, clip=clip or None)
    problem.assert_equal(found, wanted)


def test_adam_with_l2_is_that_of_torch_with_weight_decay() -> None:
    """Coupled: through the moments, so that it is not what decay does."""
    torch = pytest.importorskip("torch")
    wanted = by_torch(lambda groups: torch.optim.Adam(groups, lr=problem.RATE), decay=0.7)
    problem.assert_equal(problem.ours("adam", l2=0.7), wanted)
    decayed = problem.ours("adam", decay=0.7)
    assert max(float(np.abs(decayed[path] - wanted[path]).max()) for path in wanted) > 1e-3


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_sgd_is_that_of_torch(momentum: float, nesterov: bool) -> None:
    """torch's weight_decay of SGD is coupled, so it is our l2; clipped before it, as in a loop of torch."""
    torch = pytest.importorskip("torch")
    wanted = by_torch(
        lambda groups: torch.optim.SGD(groups, lr=problem.RATE, momentum=momentum, nesterov=nesterov),
        decay=0.4,
        clip=2.0,
    )
    problem.assert_equal(problem.ours("sgd", momentum=momentum, nesterov=nesterov, l2=0.4, clip=2.0), wanted)


def test_bert_adam_is_googles() -> None:
    """google-research/bert, optimization.py: no bias correction, epsilon outside the root, decay by name."""

    def move(t: int, path: str, g: np.ndarray, p: np.ndarray, memory: Arrays) -> np.ndarray:
        memory["m"] = 0.9 * memory["m"] + 0.1 * g
        memory["v"] = 0.999 * memory["v"] + 0.001 * g**2
        update = memory["m"] / (np.sqrt(memory["v"]) + 1e-6)
        if not path.endswith(("bias", "scale")):
            update = update + 0.01 * p
        return p - problem.RATE * update

    wanted = by_hand(move)
    problem.assert_equal(problem.ours("bert_adam"), wanted)
    corrected = problem.ours("adamw", epsilon=1e-6)  # the naive version
    assert max(float(np.abs(corrected[path] - wanted[path]).max()) for path in wanted) > 1e-2


def test_bert_adams_first_step_is_several_times_the_rate() -> None:
    """(1 - b1) / sqrt(1 - b2) = 0.1 / sqrt(0.001) = 3.1623 rates, where a corrected Adam moves by one."""
    found = problem.ours("bert_adam", steps=1, decay=0.0)
    for path, leaf in problem.start().items():
        np.testing.assert_allclose(np.abs(found[path] - leaf), 3.1623 * problem.RATE, rtol=5e-3)


def test_lamb_is_that_of_the_paper() -> None:
    """You et al. 2020, algorithm 2, with the ratio for what is decayed alone."""

    def move(t: int, path: str, g: np.ndarray, p: np.ndarray, memory: Arrays) -> np.ndarray:
        memory["m"] = 0.9 * memory["m"] + 0.1 * g
        memory["v"] = 0.999 * memory["v"] + 0.001 * g**2
        r = memory["m"] / (1 - 0.9**t) / (np.sqrt(memory["v"] / (1 - 0.999**t)) + 1e-6)
        if p.ndim == 1:
            return p - problem.RATE * r
        u = r + 0.3 * p
        return p - problem.RATE * np.linalg.norm(p) / np.linalg.norm(u) * u

    problem.assert_equal(problem.ours("lamb", decay=0.3), by_hand(move))


def test_lion_is_that_of_the_paper() -> None:
    """Chen et al. 2023, algorithm 2."""

    def move(t: int, path: str, g: np.ndarray, p: np.ndarray, memory: Arrays) -> np.ndarray:
        c = 0.9 * memory["m"] + 0.1 * g
        memory["m"] = 0.99 * memory["m"] + 0.01 * g
        return p - problem.RATE * (np.sign(c) + (0.3 * p if p.ndim > 1 else 0))

    problem.assert_equal(problem.ours("lion", decay=0.3), by_hand(move))


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_adafactor_is_that_of_transformers(scale: bool, momentum: float) -> None:
    pytest.importorskip("torch")
    from transformers.optimization import Adafactor

    wanted = by_torch(
        lambda groups: Adafactor(
            groups, lr=problem.RATE, beta1=momentum or None, scale_parameter=scale, relative_step=False
        )
    )
    found = problem.ours("adafactor", scale_parameter=scale, momentum=momentum, factor_from=1)
    problem.assert_equal(found, wanted)


def test_adafactor_with_decay_is_that_of_torch() -> None:
    torch = pytest.importorskip("torch")
    wanted = by_torch(lambda groups: torch.optim.Adafactor(groups, lr=problem.RATE), decay=0.5)
    problem.assert_equal(problem.ours("adafactor", decay=0.5, factor_from=1), wanted)


def test_adafactors_memory_is_a_row_and_a_column() -> None:
    made = optim.build("adafactor", problem.constant)
    params = {"kernel": jnp.zeros((256, 512))}
    assert sum(leaf.size for leaf in jax.tree.leaves(made.init(params))) < 256 + 512 + 10


@pytest.mark.parametrize(("adjust", "theirs"), [("rms", "match_rms_adamw"), ("shape", "original")])
@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_is_that_of_torch(
    monkeypatch: pytest.MonkeyPatch, adjust: str, theirs: str, nesterov: bool
) -> None:
    """torch turns in bf16; here it keeps its f64. Its matrices are (out, in), our kernels (in, out)."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    params = problem.start()
    body = {
        path: torch.nn.Parameter(torch.tensor(leaf.T.copy()))
        for path, leaf in params.items()
        if path.startswith("block/") and leaf.ndim == 2
    }
    rest = {path: torch.nn.Parameter(torch.tensor(x)) for path, x in params.items() if path not in body}
    groups = [{"params": [leaf], "weight_decay": 0.2 if leaf.ndim > 1 else 0.0} for leaf in rest.values()]
    turning = torch.optim.Muon(
        list(body.values()), lr=problem.RATE, weight_decay=0.2, nesterov=nesterov, adjust_lr_fn=theirs
    )
    plain = torch.optim.AdamW(groups, lr=0.5 * problem.RATE, betas=(0.9, 0.95))

    def values() -> Arrays:
        turned = {path: leaf.detach().numpy().T for path, leaf in body.items()}
        return turned | {path: leaf.detach().numpy() for path, leaf in rest.items()}

    for step in range(problem.STEPS):
        for path, slope in problem.gradients(values(), step).items():
            if path in body:
                body[path].grad = torch.tensor(slope.T.copy())
            else:
                rest[path].grad = torch.tensor(slope)
        turning.step()
        plain.step()
    found = problem.ours("muon", decay=0.2, nesterov=nesterov, adjust=adjust, others=0.5)
    problem.assert_equal({path: found[path] for path in values()}, values())


def test_muons_update_is_nearly_orthogonal() -> None:
    """Jordan et al. 2024: singular values between about 0.7 and 1.2, whatever those of the gradient."""
    draw = np.random.default_rng(3)
    turn = np.linalg.qr(draw.normal(size=(8, 8)))[0], np.linalg.qr(draw.normal(size=(12, 12)))[0][:8]
    slope = turn[0] @ np.diag(np.geomspace(1.0, 20.0, 8)) @ turn[1]
    params = {"block": {"kernel": jnp.zeros((8, 12))}}
    made = optim.build("muon", lambda step: 1.0, adjust="shape", decay=0.0)
    moves, _ = made.update({"block": {"kernel": jnp.asarray(slope, jnp.float32)}}, made.init(params), params)
    singular = np.linalg.svd(np.asarray(moves["block"]["kernel"]), compute_uv=False) / math.sqrt(12 / 8)
    assert 0.65 < singular.min() <= singular.max() < 1.25
    with pytest.raises(UserError, match=r"optim\.body='layers/\.\*' matches no trainable matrix"):
        optim.build("muon", problem.constant, body="layers/.*").init(params)


# ------------------------------------------------------------------------------------------ the knobs

ACTIVE: dict[str, dict[str, Any]] = {
    "sgd": {"momentum": 0.9, "decay": 0.1},
    "adafactor": {"momentum": 0.5, "factor_from": 1, "decay": 0.1},
}
"""What makes every option of an optimizer count."""

TURNED: dict[str, Any] = {
    "decay": 0.5, "b1": 0.5, "b2": 0.6, "epsilon": 0.1, "momentum": 0.3, "nesterov": True, "exponent": 0.3,
    "threshold": 0.3, "scale_parameter": False, "factor_from": 128, "epsilon_scale": 0.9, "iterations": 3,
    "adjust": "shape", "body": "block/.*/mlp/.*", "others": 0.5,
    "clip": 0.1, "l1": 0.5, "l2": 5.0, "scales": ((".*/kernel", 0.5),),
}  # fmt: skip


def three_steps(name: str, **options: Any) -> Arrays:
    """Operation by operation: all optimizers share those; each option would compile its own program."""
    with jax.disable_jit():
        return problem.ours(name, steps=3, **options)


@functools.cache
def unturned(name: str) -> Arrays:
    return three_steps(name, **ACTIVE.get(name, {}))


def knobs() -> list[tuple[str, str]]:
    found = []
    for name, function in optim.OPTIMIZERS.items():
        own = [key for key, p in inspect.signature(function).parameters.items() if p.kind is p.KEYWORD_ONLY]
        found += [(name, key) for key in (*own, *optim.COMMON) if key != "average"]
    return found


@pytest.mark.parametrize(("name", "knob"), knobs())
def test_every_option_turns_something(name: str, knob: str) -> None:
    active = ACTIVE.get(name, {})
    turned = not active.get(knob, name == "muon") if knob == "nesterov" else TURNED[knob]
    one, two = unturned(name), three_steps(name, **{**active, knob: turned})
    assert max(float(np.abs(one[path] - two[path]).max()) for path in one) > 1e-5


@pytest.mark.parametrize("name", sorted(optim.OPTIMIZERS))
def test_decay_reaches_matrices_only_and_state_is_f32(name: str) -> None:
    params = tree.unflatten({k: jnp.asarray(v, jnp.bfloat16) for k, v in problem.start().items()})
    zeros = jax.tree.map(jnp.zeros_like, params)
    made = optim.build(name, lambda step: 0.125, decay=0.5)
    state = made.init(params)
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} <= {jnp.dtype("float32"), jnp.dtype("int32")}
    moves, _ = made.update(zeros, state, params)
    for path, move in tree.flatten(moves).items():
        leaf = tree.flatten(params)[path]
        assert move.dtype == jnp.bfloat16, path
        if leaf.ndim == 1 or name == "lamb":  # lamb's ratio makes the decay as long as the parameter is
            assert leaf.ndim > 1 or not np.any(move), path
        else:
            np.testing.assert_allclose(move.astype("f4"), -0.0625 * leaf.astype("f4"), rtol=1e-2)


@pytest.mark.parametrize("name", sorted(optim.OPTIMIZERS))
def test_leaves_that_are_split_away_change_nothing_for_the_others(name: str) -> None:
    """As the step does: only what is trainable reaches the optimizer."""
    params = tree.unflatten({k: jnp.asarray(v, jnp.float32) for k, v in problem.start().items()})
    slopes = tree.unflatten({k: jnp.asarray(v, jnp.float32) for k, v in problem.noise(0).items()})
    mask = tree.mask(params, r"block/.*")
    made = optim.build(name, problem.constant)
    some, less = tree.split(params, mask)[0], tree.split(slopes, mask)[0]
    moves, _ = made.update(less, made.init(some), some)
    whole, _ = made.update(slopes, made.init(params), params)
    for path, move in tree.flatten(moves).items():
        np.testing.assert_array_equal(move, tree.flatten(whole)[path])


def test_nesterov_needs_momentum() -> None:
    with pytest.raises(UserError, match=r"optim\.nesterov=True .* set optim\.momentum above 0"):
        optim.build("sgd", problem.constant, nesterov=True)
