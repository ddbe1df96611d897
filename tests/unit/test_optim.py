"""Schedules against transformers' own numbers, and what the optimizer refuses."""

from __future__ import annotations

import jax.numpy as jnp
import pytest

from lmx import optim
from lmx.core.errors import UserError


@pytest.mark.parametrize(
    ("name", "warmup", "values"),
    [
        ("constant", 4, [0, 2.5, 5, 7.5, 10, 10, 10, 10, 10, 10]),
        ("linear", 2, [0, 5, 10, 8.75, 7.5, 6.25, 5, 3.75, 2.5, 1.25]),
        ("cosine", 2, [0, 5, 10, 9.61, 8.53, 6.91, 5, 3.08, 1.46, 0.38]),
    ],
)
def test_schedules_are_those_of_transformers(name: str, warmup: int, values: list[float]) -> None:
    """Peak 10, 10 steps: transformers' test_optimization."""
    at = optim.schedule(name, rate=10.0, warmup=warmup, total=10)
    assert [float(at(jnp.int32(i))) for i in range(10)] == pytest.approx(values, abs=1e-2)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_a_schedule_ends_where_it_is_told(name: str) -> None:
    at = optim.schedule(name, rate=6e-4, warmup=0, total=100, end=0.1)
    assert float(at(jnp.int32(0))) == pytest.approx(6e-4)
    assert float(at(jnp.int32(100))) == pytest.approx(6e-5)
    assert float(at(jnp.int32(1000))) == pytest.approx(6e-5)


def test_names_and_options_are_checked() -> None:
    at = optim.schedule("constant", rate=1.0, warmup=0, total=1)
    with pytest.raises(UserError, match="did you mean 'cosine'"):
        optim.schedule("cosin", rate=1.0, warmup=0, total=1)
    with pytest.raises(UserError, match="did you mean 'adamw'"):
        optim.build("adam_w", at)
    values = {"decay": 0.1, "clip": 1.0, "b1": 0.9, "b2": 0.99, "epsilon": 1e-8}
    with pytest.raises(UserError, match=r"optim\.epsilom: adamw has no such option \(did you mean 'epsilon'"):
        optim.check("adamw", schedule="cosine", epsilom=1, **values)
    optim.check("adamw", schedule="cosine", rate=1e-3, end=1.0, **{**values, "clip": None})
    with pytest.raises(UserError, match=r"optim\.clip is not set"):
        optim.check("adamw", schedule="cosine", decay=0.1)
    for name, value in (
        ("clip", True),
        ("decay", "x"),
        ("rate", float("nan")),
        ("end", 1.5),
        ("epsilon", None),
    ):
        with pytest.raises(UserError, match=rf"optim\.{name}={value!r}; expected"):
            optim.check("adamw", schedule="cosine", **{**values, name: value})
    with pytest.raises(UserError, match="momentum"):
        optim.build("adamw", at, decay=0.1, clip=1.0, b1=0.9, b2=0.99, epsilon=1e-8, momentum=0.9)
    with pytest.raises(UserError, match="warmup is 5 steps, but the run has 3"):
        optim.schedule("linear", rate=1.0, warmup=5, total=3)
