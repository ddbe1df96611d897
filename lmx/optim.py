"""Optimizers and learning-rate schedules, by name, over optax.

Source: Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization"; the schedules are those of
transformers (optimization.py), so that a recipe carries over number by number.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lmx.core import tree
from lmx.core.errors import UserError, did_you_mean
from lmx.core.types import Array, Params

Schedule = Callable[[Array], Array]


def constant(progress: Array, end: float) -> Array:
    """The peak throughout."""
    return jnp.ones_like(progress)


def linear(progress: Array, end: float) -> Array:
    """From 1 down to `end` in a straight line."""
    return 1 - (1 - end) * progress


def cosine(progress: Array, end: float) -> Array:
    """From 1 down to `end` by half a cosine wave."""
    return end + (1 - end) * 0.5 * (1 + jnp.cos(math.pi * progress))


SCHEDULES: dict[str, Callable[[Array, float], Array]] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
}


def schedule(name: str, *, rate: float, warmup: int, total: int, end: float = 0.0) -> Schedule:
    """Return step -> learning rate: `warmup` steps up from 0, then the named shape down to rate x end.

    The first update (step 0) has rate 0 where there is a warm-up, as in transformers.

    >>> [float(schedule("linear", rate=10, warmup=2, total=10)(jnp.int32(i))) for i in (0, 1, 2, 3)]
    [0.0, 5.0, 10.0, 8.75]
    """
    _named("schedule", name, SCHEDULES)
    if not 0 <= warmup <= total:
        raise UserError(f"optim.warmup is {warmup} steps, but the run has {total}")
    shape = SCHEDULES[name]

    def at(step: Array) -> Array:
        now = jnp.asarray(step).astype(jnp.float32)
        progress = jnp.clip((now - warmup) / max(1, total - warmup), 0.0, 1.0)
        rising = now / max(1, warmup)
        return rate * jnp.where(now < warmup, rising, shape(progress, end))

    return at


def decayed(params: Params) -> Params:
    """Return the mask of weight decay: matrices only, not biases, norms or other vectors."""
    return tree.map_named(lambda _, leaf: leaf.ndim >= 2, params)


def adamw(
    learning_rate: Schedule, *, decay: float, clip: float | None, b1: float, b2: float, epsilon: float
) -> optax.GradientTransformation:
    """AdamW after clipping by the global norm; decay is decoupled and scaled by the learning rate."""
    parts: list[Any] = [] if clip is None else [optax.clip_by_global_norm(clip)]
    parts += [
        optax.scale_by_adam(b1=b1, b2=b2, eps=epsilon),
        optax.add_decayed_weights(decay, mask=decayed),
        optax.scale_by_learning_rate(learning_rate),
    ]
    return optax.chain(*parts)


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {"adamw": adamw}


def check(name: str, *, schedule: str, **values: Any) -> None:
    """Raise UserError for an unknown optimizer, schedule or option, or for a value that makes no sense.

    values: `rate`, `end` and the optimizer's own options, `clip` a number or None (no clipping).
    """
    _named("schedule", schedule, SCHEDULES)
    options = {key: value for key, value in values.items() if key not in ("rate", "end")}
    _named("optimizer", name, OPTIMIZERS)
    _bind(name, options)
    for key, value in values.items():
        fits, expected = RANGES.get(key, (None, ""))
        if fits is None or (key == "clip" and value is None):
            continue
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not (number and fits(value)):
            raise UserError(f"optim.{key}={value!r}; expected {expected}")


RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "rate": (lambda x: x > 0, "a number above 0"),
    "end": (lambda x: 0 <= x <= 1, "a share of the rate, from 0 to 1"),
    "decay": (lambda x: x >= 0, "0 (none) or more"),
    "clip": (lambda x: x > 0, "a norm above 0, or None for no clipping"),
    "b1": (lambda x: 0 <= x < 1, "a number from 0 to below 1"),
    "b2": (lambda x: 0 <= x < 1, "a number from 0 to below 1"),
    "epsilon": (lambda x: x > 0, "a number above 0"),
}
"""What each number may be."""


def build(name: str, learning_rate: Schedule, **options: Any) -> optax.GradientTransformation:
    """Return the named optimizer. Errors: UserError for an unknown name or option."""
    _named("optimizer", name, OPTIMIZERS)
    _bind(name, options)
    made = OPTIMIZERS[name](learning_rate, **options)

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        # optax raises a Python float to an int32 power, which strict promotion refuses.
        with jax.numpy_dtype_promotion("standard"):
            return made.update(updates, state, params)

    return optax.GradientTransformation(made.init, update)


def _named(what: str, name: str, known: Mapping[str, Any]) -> None:
    if name not in known:
        key = "optim.name" if what == "optimizer" else f"optim.{what}"
        raise UserError(
            f"{key}: no {what} {name!r}{did_you_mean(str(name), known)}; there is: {', '.join(known)}"
        )


def _bind(name: str, options: Mapping[str, Any]) -> None:
    """Refuse options that the optimizer has not, and options that it lacks."""
    wanted = inspect.signature(OPTIMIZERS[name]).parameters
    known = [key for key, kind in wanted.items() if kind.kind is kind.KEYWORD_ONLY]
    for key in options:
        if key not in known:
            raise UserError(
                f"optim.{key}: {name} has no such option{did_you_mean(key, known)}; it has: "
                f"{', '.join(known)}"
            )
    lacking = [key for key in known if key not in options and wanted[key].default is inspect.Parameter.empty]
    if lacking:
        raise UserError(f"optim.{lacking[0]} is not set; {name} needs it")
