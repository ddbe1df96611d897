"""Schedules against the numbers of transformers and torch, and what they refuse."""

from __future__ import annotations

import sys
import types
from typing import Any

import jax.numpy as jnp
import pytest

from lmx import optim
from lmx.core.errors import UserError


def rates(name: str, *, rate: float = 10.0, warmup: int = 2, total: int = 10, **options: Any) -> list[float]:
    at = optim.schedule(name, rate=rate, warmup=warmup, total=total, **options)
    return [float(at(jnp.int32(i))) for i in range(total + 3)]


@pytest.mark.parametrize(
    ("name", "options", "values"),
    [
        ("constant", {"warmup": 4}, [0, 2.5, 5, 7.5, 10, 10, 10, 10, 10, 10]),
        ("linear", {}, [0, 5, 10, 8.75, 7.5, 6.25, 5, 3.75, 2.5, 1.25]),
        ("cosine", {}, [0, 5, 10, 9.61, 8.53, 6.91, 5, 3.08, 1.46, 0.38]),
        ("cosine_restarts", {"cycles": 2}, [0, 5, 10, 8.53, 5, 1.46, 10, 8.53, 5, 1.46]),
        ("polynomial", {"power": 2.0}, [0, 5, 10, 7.656, 5.625, 3.906, 2.5, 1.406, 0.625, 0.156]),
        ("inverse_sqrt", {}, [0, 5, 10, 8.165, 7.071, 6.325, 5.774, 5.345, 5, 4.714]),
        (
            "wsd",
            {"cooldown": 5, "tail": "cosine"},
            [0, 5, 10, 10, 10, 10, 9.045, 6.545, 3.455, 0.955],
        ),
    ],
)
def test_schedules_are_those_of_transformers(name: str, options: dict[str, Any], values: list[float]) -> None:
    """Peak 10, 10 steps, warm-up 2: transformers' test_optimization."""
    assert rates(name, **options)[:10] == pytest.approx(values, abs=1e-2)


THEIRS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "linear": ("get_linear_schedule_with_warmup", {}, {}),
    "cosine": ("get_cosine_with_min_lr_schedule_with_warmup", {"end": 0.25}, {"min_lr_rate": 0.25}),
    "cosine_restarts": (
        "get_cosine_with_hard_restarts_schedule_with_warmup",
        {"cycles": 7},
        {"num_cycles": 7},
    ),
    "polynomial": (
        "get_polynomial_decay_schedule_with_warmup",
        {"power": 1.5, "end": 0.1},
        {"power": 1.5, "lr_end": 1e-4},
    ),
    "inverse_sqrt": ("get_inverse_sqrt_schedule", {"timescale": 30}, {"timescale": 30}),
    "wsd": (
        "get_wsd_schedule",
        {"cooldown": 21, "tail": "1-sqrt", "end": 0.2},
        {"num_decay_steps": 21, "decay_type": "1-sqrt", "min_lr_ratio": 0.2},
    ),
    "wsd linear": (
        "get_wsd_schedule",
        {"cooldown": 21, "tail": "linear"},
        {"num_decay_steps": 21, "decay_type": "linear"},
    ),
}


@pytest.mark.parametrize("case", sorted(THEIRS))
def test_every_step_is_that_of_transformers(case: str) -> None:
    torch = pytest.importorskip("torch")
    from transformers import optimization

    name, options, theirs = THEIRS[case]
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1e-3)
    runs = {} if "inverse" in name else {"num_training_steps": 84}
    scheduler = getattr(optimization, name)(optimizer, num_warmup_steps=7, **runs, **theirs)
    at = optim.schedule(case.split()[0], rate=1e-3, warmup=7, total=84, **options)
    for step in range(85):
        if (
            step >= 7 or "wsd" not in name or options.get("end", 0) == 0
        ):  # its warm-up begins at the end's rate
            wanted = scheduler.get_last_lr()[0]
            assert float(at(jnp.int32(step))) == pytest.approx(wanted, abs=2e-9), step
        optimizer.step()
        scheduler.step()


def test_steps_down_are_those_of_torch() -> None:
    """StepLR: lr x gamma ^ floor(epoch / every), the first fall at `every` itself."""
    torch = pytest.importorskip("torch")
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=10.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.5)
    wanted = []
    for _ in range(10):
        wanted.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert wanted == [10, 10, 10, 5, 5, 5, 2.5, 2.5, 2.5, 1.25]
    assert rates("step", warmup=0, every=3, gamma=0.5)[:10] == pytest.approx(wanted)
    # A warm-up does not shift the falls: epochs end where they end.
    assert rates("step", warmup=2, every=3, gamma=0.5)[:10] == pytest.approx([0, 5, *wanted[2:]])


@pytest.mark.parametrize(("length", "cycles"), [(100, 3), (230, 23), (370, 37), (1_000_003, 11)])
def test_restarts_come_at_their_step(length: int, cycles: int) -> None:
    """In f32 23 x (7 / 23) is below 7: `(cycles x progress) % 1` has no rate where the peak should be."""
    at = optim.schedule("cosine_restarts", rate=1.0, warmup=0, total=length, cycles=cycles)
    for k in range(1, cycles):
        start = -(-k * length // cycles)  # the first whole step of cycle k
        assert float(at(jnp.int32(start))) > 0.99, (k, start)
        assert float(at(jnp.int32(start - 1))) < 0.1, (k, start)


@pytest.mark.parametrize("name", ["linear", "cosine", "cosine_restarts", "polynomial", "wsd"])
def test_a_schedule_ends_where_it_is_told(name: str) -> None:
    at = optim.schedule(name, rate=6e-4, warmup=0, total=100, end=0.1)
    assert float(at(jnp.int32(0))) == pytest.approx(6e-4)
    assert float(at(jnp.int32(100))) == pytest.approx(6e-5)
    assert float(at(jnp.int32(1000))) == pytest.approx(6e-5)


@pytest.mark.parametrize("name", sorted(optim.SCHEDULES))
def test_the_first_update_has_no_rate_where_there_is_a_warm_up(name: str) -> None:
    options = {"every": 3} if name == "step" else {}
    assert rates(name, **options)[:2] == [0.0, 5.0]
    assert rates(name, warmup=0, **options)[0] == 10.0
    assert all(0 <= rate <= 10 for rate in rates(name, warmup=10, **options))


@pytest.mark.parametrize(
    ("name", "knob", "value"),
    [
        ("linear", "end", 0.5), ("cosine", "end", 0.5), ("cosine_restarts", "end", 0.5), ("wsd", "end", 0.5),
        ("polynomial", "end", 0.5), ("cosine_restarts", "cycles", 3), ("polynomial", "power", 3.0),
        ("inverse_sqrt", "timescale", 5), ("wsd", "cooldown", 4), ("wsd", "tail", "linear"),
        ("step", "gamma", 0.3), ("step", "every", 4),
    ],
)  # fmt: skip
def test_every_option_turns_something(name: str, knob: str, value: Any) -> None:
    base = {"every": 3} if name == "step" else {"cooldown": 3} if name == "wsd" else {}
    assert rates(name, **base) != rates(name, **{**base, knob: value})


def test_a_share_of_the_run_is_the_default_cooldown() -> None:
    at = optim.schedule("wsd", rate=1.0, warmup=10, total=200, tail="linear")
    assert [float(at(jnp.int32(i))) for i in (10, 180, 190, 200)] == pytest.approx([1, 1, 0.5, 0], abs=1e-6)


def test_what_a_schedule_refuses() -> None:
    def refused(pattern: str, name: str, **options: Any) -> None:
        with pytest.raises(UserError, match=pattern):
            rates(name, **options)

    refused("no schedule 'cosin' .did you mean 'cosine'.*or a dotted name of your own", "cosin")
    refused(r"optim\.warmup is 12 steps, but the run has 10", "linear", warmup=12)
    refused(r"optim\.end: the schedule constant has no such option; it has none", "constant", end=0.1)
    refused(r"optim\.cycle: .* \(did you mean 'cycles'\?\)", "cosine_restarts", cycle=2)
    refused(r"optim\.every is not set; the schedule step needs it", "step")
    refused(r"optim\.cooldown is 9 steps, but after the warm-up the run has 8", "wsd", cooldown=9)
    refused(r"optim\.tail='cubic'; expected 'linear' or 'cosine' or '1-sqrt'", "wsd", tail="cubic")
    refused(r"optim\.cycles=0; expected a whole number of at least 1", "cosine_restarts", cycles=0)
    refused(r"optim\.gamma=0; expected a number above 0, at most 1", "step", every=1, gamma=0)
    assert rates("constant", end=None) == rates("constant")  # None: as it is by itself


def test_a_schedule_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def triangle(t: Any, *, warmup: int, length: int, top: float = 1.0) -> Any:
        return top * (1 - abs(2 * t / length - 1))

    mine = types.ModuleType("my_schedules")
    mine.triangle = triangle  # type: ignore[attr-defined]
    mine.NUMBER = 3  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_schedules", mine)
    found = rates("my_schedules.triangle", warmup=2, top=0.5)
    assert found == pytest.approx([0, 5, 0, 1.25, 2.5, 3.75, 5, 3.75, 2.5, 1.25, 0, 0, 0])
    with pytest.raises(UserError, match=r"optim\.tip: the schedule my_schedules.triangle has no such option"):
        rates("my_schedules.triangle", tip=0.5)
    with pytest.raises(UserError, match=r"optim\.schedule='my_schedules\.triangl'.*did you mean 'triangle'"):
        rates("my_schedules.triangl")
    with pytest.raises(UserError, match="my_schedules has no function 'NUMBER'"):
        rates("my_schedules.NUMBER")
    with pytest.raises(UserError, match="no module 'my_schedule'; is its folder on PYTHONPATH"):
        rates("my_schedule.triangle")
