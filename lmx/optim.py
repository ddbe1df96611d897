"""Optimizers and learning-rate schedules, by name, over optax.

Source: Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization"; the schedules are those of
transformers (optimization.py), so that a recipe carries over number by number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
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
    if name not in SCHEDULES:
        raise UserError(
            f"no schedule {name!r}{did_you_mean(name, SCHEDULES)}; there is: {', '.join(SCHEDULES)}"
        )
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


def build(name: str, learning_rate: Schedule, **options: Any) -> optax.GradientTransformation:
    """Return the named optimizer. Errors: UserError for an unknown name or option."""
    if name not in OPTIMIZERS:
        raise UserError(
            f"no optimizer {name!r}{did_you_mean(name, OPTIMIZERS)}; there is: {', '.join(OPTIMIZERS)}"
        )
    try:
        made = OPTIMIZERS[name](learning_rate, **options)
    except TypeError as error:
        raise UserError(f"optim.name={name!r}: {error}") from error

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        # optax raises a Python float to an int32 power, which strict promotion refuses.
        with jax.numpy_dtype_promotion("standard"):
            return made.update(updates, state, params)

    return optax.GradientTransformation(made.init, update)
