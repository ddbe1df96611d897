"""Learning-rate schedules: a warm-up from 0, then a shape by name; all are functions of the step.

Source: the shapes are those of transformers (optimization.py) and torch (StepLR), so that a recipe carries
over number by number; `1-sqrt` of the warm-up-stable-decay shape is from Hägele et al. 2024, "Scaling Laws
and Compute-Optimal Training Beyond Fixed Training Durations", section 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lmx.core.errors import UserError
from lmx.core.types import Array
from lmx.optim import _options

Schedule = Callable[[Array], Array]

SUPPLIED = ("warmup", "length")
"""What every shape is told, besides its options."""


def constant(t: Array, *, warmup: int, length: int) -> Array:
    """The peak throughout."""
    return jnp.ones_like(t)


def linear(t: Array, *, warmup: int, length: int, end: float = 0.0) -> Array:
    """From 1 down to `end` in a straight line."""
    return 1 - (1 - end) * (t / max(1, length))


def cosine(t: Array, *, warmup: int, length: int, end: float = 0.0) -> Array:
    """From 1 down to `end` by half a cosine wave."""
    return end + (1 - end) * 0.5 * (1 + jnp.cos(math.pi * (t / max(1, length))))


def cosine_restarts(t: Array, *, warmup: int, length: int, end: float = 0.0, cycles: int = 2) -> Array:
    """`cycles` times from 1 down to `end` by half a cosine wave; `end` after the last.

    The step at which a cycle begins is reckoned in whole numbers: in f32, 23 x (7/23) lies below 7, and the
    restart would come a step late.
    """
    starts = [-(-k * length // cycles) for k in range(1, cycles)]
    cycle = jnp.zeros_like(t)
    for start in starts:
        cycle += (t >= start).astype(t.dtype)
    span = max(1, length) / cycles
    within = jnp.clip((t - cycle * span) / span, 0.0, 1.0)
    return end + (1 - end) * 0.5 * (1 + jnp.cos(math.pi * within))


def polynomial(t: Array, *, warmup: int, length: int, end: float = 0.0, power: float = 1.0) -> Array:
    """From 1 down to `end` by (1 - progress) ^ power."""
    return end + (1 - end) * (1 - t / max(1, length)) ** jnp.float32(power)


def inverse_sqrt(t: Array, *, warmup: int, length: int, timescale: int | None = None) -> Array:
    """1 / sqrt(1 + t / timescale); timescale: steps, as many as the warm-up has (or else 10,000) if None."""
    scale = timescale or warmup or 10_000
    return jax.lax.rsqrt(1 + t / scale)


def wsd(
    t: Array, *, warmup: int, length: int, end: float = 0.0, cooldown: int | None = None, tail: str = "1-sqrt"
) -> Array:
    """The peak, then down to `end` over the last `cooldown` steps (a tenth of the run if None).

    tail: how it comes down, "linear", "cosine" or "1-sqrt". Raises UserError for a cooldown longer than what
    the warm-up leaves.
    """
    last = min(length, max(1, round((warmup + length) / 10))) if cooldown is None else cooldown
    if last > length:
        raise UserError(f"optim.cooldown is {last} steps, but after the warm-up the run has {length}")
    progress = jnp.clip((t - (length - last)) / max(1, last), 0.0, 1.0)
    falls = {
        "linear": 1 - progress,
        "cosine": 0.5 * (1 + jnp.cos(math.pi * progress)),
        "1-sqrt": 1 - jnp.sqrt(progress),
    }
    return end + (1 - end) * falls[tail]


def step(t: Array, *, warmup: int, length: int, every: int, gamma: float = 0.1) -> Array:
    """gamma ^ floor(step / every); every: steps, counted from the start of the run, warm-up included."""
    return jnp.float32(gamma) ** jnp.floor((t + warmup) / every)


SCHEDULES: dict[str, Callable[..., Array]] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "cosine_restarts": cosine_restarts,
    "polynomial": polynomial,
    "inverse_sqrt": inverse_sqrt,
    "wsd": wsd,
    "step": step,
}
"""Name -> shape: (t, *, warmup, length, options) -> share of the rate.

t: f32 scalar, steps since the warm-up, from 0 to `length`; warmup, length: the steps of the warm-up and those
after it.
"""


def schedule(name: str, *, rate: float, warmup: int, total: int, **options: Any) -> Schedule:
    """Return step -> learning rate: `warmup` steps up from 0, then the named shape times the rate.

    name: one of SCHEDULES, or the dotted name of a function of that type. options: those of the shape; None
    leaves one as it is by itself. The first update (step 0) has rate 0 where there is a warm-up, as in
    transformers. After `total` steps the rate stays where it is.

    Raises UserError for an unknown name or option, and for values that make no sense.

    >>> [float(schedule("linear", rate=10, warmup=2, total=10)(jnp.int32(i))) for i in (0, 1, 2, 3)]
    [0.0, 5.0, 10.0, 8.75]
    """
    shape = _options.find("schedule", name, SCHEDULES)
    chosen = {key: value for key, value in options.items() if value is not None}
    _options.bind(f"the schedule {name}", shape, list(chosen), supplied=SUPPLIED)
    if name in SCHEDULES:
        _options.in_range(chosen)
    if not 0 <= warmup <= total:
        raise UserError(f"optim.warmup is {warmup} steps, but the run has {total}")
    length = total - warmup

    def at(step: Array) -> Array:
        with jax.numpy_dtype_promotion("standard"):
            now = jnp.asarray(step).astype(jnp.float32)
            after = jnp.clip(now - warmup, 0.0, float(length))
            share = jnp.asarray(shape(after, warmup=warmup, length=length, **chosen)).astype(jnp.float32)
            return rate * jnp.where(now < warmup, now / max(1, warmup), share)

    jax.eval_shape(at, jax.ShapeDtypeStruct((), jnp.int32))  # what is wrong with the options shows here
    return at
