"""Names and options of a config's `optim`: what is refused, and how; a function of the user's own."""

from __future__ import annotations

import inspect
import sys
import types
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

from lmx import optim
from lmx.core.errors import UserError
from lmx.optim import schedules

VALUES = {"decay": 0.1, "clip": 1.0, "b1": 0.9, "b2": 0.99, "epsilon": 1e-8}


def test_names_and_options_are_checked() -> None:
    at = optim.schedule("constant", rate=1.0, warmup=0, total=1)
    with pytest.raises(UserError, match="did you mean 'adamw'"):
        optim.build("adam_w", at)
    with pytest.raises(UserError, match=r"optim\.epsilom: adamw has no such option \(did you mean 'epsilon'"):
        optim.check("adamw", schedule="cosine", epsilom=1, **VALUES)
    optim.check("adamw", schedule="cosine", rate=1e-3, end=1.0, **{**VALUES, "clip": None})
    with pytest.raises(UserError, match=r"optim\.every is not set; the schedule step needs it"):
        optim.check("adamw", schedule="step", decay=0.1)
    for name, value in (
        ("clip", True), ("decay", "x"), ("rate", float("nan")), ("rate", None), ("end", 1.5), ("epsilon", 0),
        ("l1", -0.1), ("l2", float("inf")), ("average", 1.0), ("average", 0),
    ):  # fmt: skip
        with pytest.raises(UserError, match=rf"optim\.{name}={value!r}; expected"):
            optim.check("adamw", schedule="cosine", **{**VALUES, name: value})
    with pytest.raises(UserError, match=r"optim\.lr: adamw has no such option \(did you mean 'rate'"):
        optim.check("adamw", schedule="linear", lr=1e-4)
    with pytest.raises(UserError, match=r"optim\.momentum: adamw has no such option"):
        optim.build("adamw", at, **VALUES, momentum=0.9)


def test_an_option_is_refused_where_the_schedule_has_none() -> None:
    with pytest.raises(
        UserError, match=r"optim\.cycles: the schedule cosine has no such option; it has: end"
    ):
        optim.check("adamw", schedule="cosine", cycles=2)
    with pytest.raises(UserError, match=r"optim\.end: the schedule constant has no such option; it has none"):
        optim.check("adamw", schedule="constant", end=0.1)
    optim.check("adamw", schedule="constant", end=None, cycles=None, momentum=None)  # None: not set
    optim.check("adamw", schedule="step", every="2 epochs", warmup="6%", rate=1.0)  # steps are not known yet
    optim.check("sgd", schedule="cosine_restarts", cycles=2, momentum=0.9)


def test_every_option_has_its_range() -> None:
    for function in optim.OPTIMIZERS.values():
        assert set(list(inspect.signature(function).parameters)[1:]) <= optim.RANGES.keys()
    for shape in optim.SCHEDULES.values():
        own = set(list(inspect.signature(shape).parameters)[1:]) - set(schedules.SUPPLIED)
        assert own <= optim.RANGES.keys()
    assert set(optim.COMMON) <= optim.RANGES.keys()
    # No optimizer and no schedule share the name of an option, so that each value has one meaning.
    names = [set(list(inspect.signature(f).parameters)[1:]) for f in optim.OPTIMIZERS.values()]
    shaping = [set(list(inspect.signature(f).parameters)[1:]) for f in optim.SCHEDULES.values()]
    assert not set.union(*names) & (set.union(*shaping) | set(optim.COMMON))


def test_make_joins_a_schedule_and_an_optimizer() -> None:
    at, made = optim.make(
        "sgd", rate=0.1, schedule="step", warmup=0, total=10, every=2, gamma=0.5, l2=0.0, momentum=None
    )
    assert [float(at(jnp.int32(k))) for k in range(5)] == pytest.approx([0.1, 0.1, 0.05, 0.05, 0.025])
    params = {"w": jnp.array([1.0])}
    kept = made.init(params)
    for _ in range(3):
        moves, kept = made.update({"w": jnp.array([1.0])}, kept, params)
    assert float(moves["w"][0]) == pytest.approx(-0.05)
    assert int(kept.made) == 3
    with pytest.raises(UserError, match=r"optim\.every='2 epochs'; expected a duration"):
        optim.make("sgd", rate=0.1, schedule="step", warmup=0, total=10, every="2 epochs")


def test_an_optimizer_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def signed(learning_rate: Any, *, power: float = 1.0) -> optax.GradientTransformation:
        """`power` is an option of a schedule, too, with another range."""
        shrink = optax.stateless(lambda g, _: jax.tree.map(lambda x: jnp.sign(x) * abs(x) ** power, g))
        return optax.chain(shrink, optax.scale_by_learning_rate(learning_rate))

    mine = types.ModuleType("my_optimizers")
    mine.signed = signed  # type: ignore[attr-defined]
    mine.loose = lambda learning_rate, **options: optax.sgd(learning_rate, **options)  # type: ignore[attr-defined]
    mine.wrong = lambda learning_rate: learning_rate  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_optimizers", mine)
    params, slopes = {"w": jnp.array([[3.0]])}, {"w": jnp.array([[4.0]])}

    def moved(name: str, **options: Any) -> float:
        _, made = optim.make(
            f"my_optimizers.{name}", rate=0.1, schedule="constant", warmup=0, total=9, **options
        )
        return float(made.update(slopes, made.init(params), params)[0]["w"][0, 0])

    assert moved("signed", power=0.0) == pytest.approx(-0.1)
    assert moved("signed", power=-0.5) == pytest.approx(-0.05)
    assert moved("signed", l2=2.0) == pytest.approx(-0.1 * (4 + 2 * 3))  # with what is around every optimizer
    assert moved("signed", clip=1.0) == pytest.approx(-0.1)
    assert moved("loose", momentum=0.9, nesterov=True) == pytest.approx(-0.1 * 1.9 * 4)
    for name, options, pattern in (
        (
            "signed",
            {"powr": 2},
            r"optim\.powr: my_optimizers\.signed has no such option \(did you mean 'power'",
        ),
        (
            "sined",
            {},
            r"optim\.name='my_optimizers\.sined': my_optimizers has no function 'sined' .*'signed'",
        ),
        ("wrong", {}, r"my_optimizers\.wrong' gave a function; expected an optax\.GradientTransformation"),
    ):
        with pytest.raises(UserError, match=pattern):
            moved(name, **options)
    with pytest.raises(UserError, match="no module 'my_optimisers'; is its folder on PYTHONPATH"):
        optim.check("my_optimisers.signed", schedule="linear")


def test_a_module_that_cannot_be_imported_is_one_line(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half_written.py").write_text("def f(:\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match="half_written cannot be imported: SyntaxError") as raised:
        optim.check("half_written.f", schedule="linear")
    assert "\n" not in str(raised.value)
