"""Losses by name: of classes, of yes-or-no questions, of numbers; each gives (sum, weight), never a mean.

A loss is a function (predicted, wanted, **options) -> (sum of the losses, weight to divide it by), in f32 at
least. What is not known counts nothing: a label of -100, a number of NaN. A user's own function of that kind
goes by its dotted path.
Source: cross-entropy with weights and smoothing, BCE and Huber as PyTorch defines them; Lin et al. 2017,
"Focal Loss for Dense Object Detection", section 3.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lmx.core import plugin
from lmx.core.errors import UserError, did_you_mean
from lmx.core.types import IGNORED, Array
from lmx.tasks import _heads

Loss = Callable[..., tuple[Array, Array]]

Given = str | Mapping[str, Any]
"""What a config says of a loss: its name, or a mapping of `name` and the loss's own options."""


def cross_entropy(
    logits: Array, labels: Array, *, smoothing: float = 0.0, weights: Sequence[float] | None = None
) -> tuple[Array, Array]:
    """Softmax cross-entropy in nats of logits (..., C) and labels (...).

    smoothing: this share of the wanted probability is spread evenly over all C classes. weights: one per
    class; the loss of a label counts as much as its class, and the weight is the sum of the labels' weights,
    as in torch's CrossEntropyLoss(weight=..., label_smoothing=...).
    Errors: UserError for a bad option, and where labels and logits are not of these shapes.
    """
    _heads.probability("loss.smoothing", smoothing)
    wide, wanted, real = _classes(logits, labels)
    logs = jax.nn.log_softmax(wide, axis=-1)
    each, count = _picked(-logs, wanted), jnp.ones(wanted.shape, wide.dtype)
    if weights is not None:
        scale = jnp.asarray(_checked(weights, wide.shape[-1]), wide.dtype)
        count = scale[wanted]
        logs = logs * scale.reshape((1,) * wanted.ndim + (-1,))
        each = each * count
    if smoothing:
        there = logits > jnp.finfo(logits.dtype).min  # a choice that is none has this logit, and no share
        each = (1 - smoothing) * each - smoothing * jnp.mean(logs, axis=-1, where=there)
    return _added(each, count, real)


def focal(
    logits: Array, labels: Array, *, gamma: float = 2.0, weights: Sequence[float] | None = None
) -> tuple[Array, Array]:
    """Cross-entropy times (1 - p)^gamma, where p is the probability of the wanted class: logits (..., C).

    gamma: how much less a label counts that is told well already; 0 is cross-entropy. weights: as there; the
    paper's alpha.
    """
    _least("loss.gamma", gamma, 0)
    wide, wanted, real = _classes(logits, labels)
    log = _picked(jax.nn.log_softmax(wide, axis=-1), wanted)
    count = jnp.ones(wanted.shape, wide.dtype)
    if weights is not None:
        count = jnp.asarray(_checked(weights, wide.shape[-1]), wide.dtype)[wanted]
    return _added(-count * _missing(log, gamma) * log, count, real)


def binary_cross_entropy(
    logits: Array, labels: Array, *, smoothing: float = 0.0, weights: Sequence[float] | None = None
) -> tuple[Array, Array]:
    """Cross-entropy in nats of yes-or-no questions, a sigmoid each: logits (..., C), labels the same, 0 or 1.

    smoothing: wanted are smoothing / 2 and 1 - smoothing / 2. weights: how much a yes counts, one per
    question, as torch's BCEWithLogitsLoss(pos_weight=...); the sum is divided by the count all the same.
    """
    _heads.probability("loss.smoothing", smoothing)
    wide, yes, real = _questions(logits, labels)
    yes = yes * (1 - smoothing) + smoothing / 2
    told = -jax.nn.log_sigmoid(wide) * yes * _yes(weights, wide)
    return _added(told - jax.nn.log_sigmoid(-wide) * (1 - yes), jnp.ones_like(wide), real)


def binary_focal(
    logits: Array, labels: Array, *, gamma: float = 2.0, weights: Sequence[float] | None = None
) -> tuple[Array, Array]:
    """The focal loss of yes-or-no questions, a sigmoid each: logits (..., C), labels the same, 0 or 1.

    gamma: as in `focal`. weights: as in `binary_cross_entropy`.
    """
    _least("loss.gamma", gamma, 0)
    wide, yes, real = _questions(logits, labels)
    log = jax.nn.log_sigmoid(jnp.where(yes > 0, wide, -wide))
    each = -_missing(log, gamma) * log * jnp.where(yes > 0, _yes(weights, wide), 1)
    return _added(each, jnp.ones_like(wide), real)


def mse(predicted: Array, wanted: Array) -> tuple[Array, Array]:
    """Squared error, without a half: two arrays of one shape."""
    gap, real = _gap(predicted, wanted)
    return _added(jnp.square(gap), jnp.ones_like(gap), real)


def mae(predicted: Array, wanted: Array) -> tuple[Array, Array]:
    """Absolute error: two arrays of one shape."""
    gap, real = _gap(predicted, wanted)
    return _added(jnp.abs(gap), jnp.ones_like(gap), real)


def huber(predicted: Array, wanted: Array, *, delta: float = 1.0) -> tuple[Array, Array]:
    """Half the squared error up to an error of delta, and beyond it a straight line: torch's HuberLoss."""
    _least("loss.delta", delta, 1e-12)
    gap, real = _gap(predicted, wanted)
    size = jnp.abs(gap)
    each = jnp.where(size <= delta, 0.5 * jnp.square(gap), delta * (size - 0.5 * delta))
    return _added(each, jnp.ones_like(gap), real)


CLASSES: Mapping[str, Loss] = {"cross_entropy": cross_entropy, "focal": focal}
QUESTIONS: Mapping[str, Loss] = {"cross_entropy": binary_cross_entropy, "focal": binary_focal}
NUMBERS: Mapping[str, Loss] = {"mse": mse, "mae": mae, "huber": huber}
"""The losses of a task, by the names that a config gives."""


def find(given: Given, known: Mapping[str, Loss], *, weights: Sequence[float] | None = None) -> Loss:
    """Return (predicted, wanted) -> (sum, weight) of a config's loss, its options bound.

    given: a name among `known`, a dotted path of a function of the user's own, or a mapping such as
    {"name": "focal", "gamma": 1.0}. weights: of classes, for a loss that takes them.
    Errors: UserError, naming what there is, for an unknown name or option.
    """
    options: dict[str, Any] = dict(given) if isinstance(given, Mapping) else {"name": given}
    name = options.pop("name", None)
    function = _function(name, known)
    takes = list(inspect.signature(function).parameters)[2:]
    for option in options:
        if option not in takes:
            raise UserError(
                f"task.loss.{option}: {name} has no such option{did_you_mean(option, takes)}; it has: "
                f"{', '.join(takes) or 'none'}"
            )
    if weights is not None:
        if "weights" not in takes:
            raise UserError(f"task.loss={name!r} takes no weights of classes; leave task.class_weights out")
        if "weights" in options:
            raise UserError(
                "task.loss.weights and task.class_weights both weigh classes; leave one of them out"
            )
        options["weights"] = weights

    def bound(predicted: Array, wanted: Array) -> tuple[Array, Array]:
        try:
            made = function(predicted, wanted, **options)
        except UserError:
            raise
        except Exception as error:  # the user's own code: whatever it raises
            raise UserError(
                f"task.loss={name!r} failed on what is predicted {predicted.shape} and wanted "
                f"{wanted.shape}: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
            ) from error
        if not isinstance(made, tuple) or len(made) != 2 or any(jnp.shape(one) != () for one in made):
            shapes = [jnp.shape(one) for one in made] if isinstance(made, tuple) else type(made).__name__
            raise UserError(f"task.loss={name!r} gave {shapes}; expected (sum, weight), two numbers")
        return made

    return bound


def _function(name: Any, known: Mapping[str, Loss]) -> Loss:
    if isinstance(name, str) and name in known:
        return known[name]
    if not isinstance(name, str) or "." not in name.strip("."):
        hint = did_you_mean(str(name), known)
        raise UserError(
            f"task.loss={name!r}{hint}; expected {', '.join(known)}, or the dotted path of a function"
        )
    return plugin.own_function(name, said=f"task.loss={name!r}")


def _wide(x: Array) -> Array:
    return x.astype(np.promote_types(x.dtype, np.float32))


def _classes(logits: Array, labels: Array) -> tuple[Array, Array, Array]:
    """Return (logits in f32, labels with 0 for what is ignored, which are real)."""
    if labels.shape != logits.shape[:-1]:
        raise UserError(f"labels of shape {labels.shape}; expected {logits.shape[:-1]}, one for each row")
    real = labels != IGNORED
    return _wide(logits), jnp.where(real, labels, 0), real


def _questions(logits: Array, labels: Array) -> tuple[Array, Array, Array]:
    """Return (logits in f32, 1 for yes and 0 for no or ignored, which are real)."""
    if labels.shape != logits.shape:
        raise UserError(f"labels of shape {labels.shape}; expected {logits.shape}, a 0 or 1 for each name")
    real = labels != IGNORED
    real = real & ~jnp.isnan(labels) if jnp.issubdtype(labels.dtype, jnp.floating) else real
    wide = _wide(logits)
    return wide, jnp.where(real, labels, 0).astype(wide.dtype), real


def _gap(predicted: Array, wanted: Array) -> tuple[Array, Array]:
    """Return (predicted - wanted in f32, 0 where that is not known; where it is)."""
    if wanted.shape != predicted.shape:  # (B,) against (B, 1) would become (B, B) in silence
        raise UserError(f"labels of shape {wanted.shape}; the task predicts {predicted.shape}")
    wide = _wide(predicted)
    real = ~jnp.isnan(wanted)
    return jnp.where(real, wide - jnp.where(real, wanted, 0).astype(wide.dtype), 0), real


def _picked(rows: Array, wanted: Array) -> Array:
    return jnp.take_along_axis(rows, wanted[..., None], axis=-1)[..., 0]


def _missing(log: Array, gamma: float) -> Array:
    """Return (1 - p)^gamma of log p; kept off 0, where the slope of a root is infinite."""
    return jnp.maximum(-jnp.expm1(log), jnp.finfo(log.dtype).tiny) ** gamma


def _yes(weights: Sequence[float] | None, logits: Array) -> Array:
    if weights is None:
        return jnp.ones((1,) * logits.ndim, logits.dtype)
    checked = jnp.asarray(_checked(weights, logits.shape[-1]), logits.dtype)
    return checked.reshape((1,) * (logits.ndim - 1) + (-1,))


def _checked(weights: Sequence[float], count: int) -> np.ndarray:
    found = np.asarray(weights, np.float64)
    if found.shape != (count,) or not np.isfinite(found).all() or not (found > 0).all():
        raise UserError(f"task.weights={list(weights)}; expected {count} positive numbers, one per label")
    return found


def _added(each: Array, count: Array, real: Array) -> tuple[Array, Array]:
    """Return (sum of the losses, sum of their weights) over what is real."""
    return jnp.sum(jnp.where(real, each, 0)), jnp.sum(jnp.where(real, count, 0))


def _least(name: str, value: Any, least: float) -> None:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not good or value < least:
        kind = "0 or a positive number" if least == 0 else "a positive number"
        raise UserError(f"task.{name}={value!r}; expected {kind}")
