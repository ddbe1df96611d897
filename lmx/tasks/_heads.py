"""What heads are made of: dense layers over the body's outputs, and the sums of their losses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from lmx.core import functions, tree
from lmx.core import rng as rng_
from lmx.core.errors import UserError
from lmx.core.types import IGNORED, Array, Batch, Model, Outputs, Params, Taps

SITE = 2**30
"""The head's place among the dropouts of a model, behind those of any number of layers."""

MOST = 10**6
"""Labels or targets of a head; each costs D numbers."""

Dropout = Callable[[Array], Array]

Head = Callable[[Params, Outputs, Batch, Dropout], Outputs]
"""(parameters, the body's outputs, batch, dropout) -> outputs to add, such as `logits`."""


class Sized(Protocol):
    """What a head must know of a model's config."""

    width: int
    init_range: float


def attach(
    body: Model, shapes: Mapping[str, tuple[int, ...]], scale: float, dropout: float, head: Head
) -> Model:
    """Return the body with a head.

    shapes: {path: shape} of the head's leaves; kernels start normal with that scale, `scale`s at 1, others
    at 0. dropout: the rate of the function that `head` receives.
    """

    def init(key: Array) -> Params:
        leaves = {path: _start(key, path, shape, scale) for path, shape in shapes.items()}
        return tree.merge(body.init(key), tree.unflatten(leaves))

    def apply(
        params: Params,
        batch: Batch,
        *,
        rng: Array | None = None,
        train: bool = False,
        taps: Taps | None = None,
        cache: Any = None,
    ) -> Outputs:
        outputs = body.apply(params, batch, rng=rng, train=train, taps=taps, cache=cache)
        keys = rng_.batch_keys(rng, batch) if train and rng is not None else None
        return {
            **outputs,
            **head(params, outputs, batch, lambda x: functions.dropout(x, dropout, keys, SITE)),
        }

    return Model(init=init, apply=apply, trainable=body.trainable, fold=body.fold)


def _start(key: Array, path: str, shape: tuple[int, ...], scale: float) -> Array:
    name = path.rsplit("/", 1)[-1]
    if name == "kernel":
        return scale * jax.random.normal(rng_.leaf_key(key, path), shape, jnp.float32)
    return jnp.ones(shape, jnp.float32) if name == "scale" else jnp.zeros(shape, jnp.float32)


def dense_shapes(width: int, size: int, bias: bool = True) -> dict[str, tuple[int, ...]]:
    """Return {path: shape} of a dense head D -> size."""
    return {"head/kernel": (width, size), **({"head/bias": (size,)} if bias else {})}


def dense(params: Params, x: Array) -> Array:
    """(..., D) -> (..., size), by the head's own kernel and, where it has one, bias."""
    head = params["head"]
    bias = head["bias"] if "bias" in head else jnp.zeros(head["kernel"].shape[-1:], x.dtype)
    return functions.dense(x, head["kernel"], bias)


def over_vocabulary(params: Params, flat: Array) -> Array:
    """(N, D) -> (N, V), in f32 at least: by the head's own matrix, or the tied token embeddings."""
    own = params.get("head", {})
    if "kernel" in own:
        return functions.product(flat, own["kernel"], ("width", "vocab"))
    return functions.product(flat, params["embed"]["token"]["embedding"], ("vocab", "width"), 1)


def side_by_side(body: Model, what: str) -> Model:
    """Return the body for batches whose rows hold N texts each, arrays (B, N, T): it sees B x N rows.

    what: the N are called so in a message. Its outputs lead with B x N.
    Errors: UserError where the ids have no such axis.
    """

    def apply(
        params: Params,
        batch: Batch,
        *,
        rng: Array | None = None,
        train: bool = False,
        taps: Taps | None = None,
        cache: Any = None,
    ) -> Outputs:
        ids = batch["input_ids"]
        if ids.ndim != 3:
            raise UserError(f"input_ids of shape {ids.shape}; expected (B, {what}, T)")
        rows = {k: v.reshape(-1, v.shape[-1]) for k, v in batch.items() if v.ndim == 3}
        if "example_index" in batch:
            first = batch["example_index"][:, None] * ids.shape[1]
            rows["example_index"] = (first + jnp.arange(ids.shape[1])[None, :]).reshape(-1)
        return body.apply(params, rows, rng=rng, train=train, taps=taps, cache=cache)

    return dataclasses.replace(body, apply=apply)


def pooled(outputs: Outputs) -> Array:
    """Return the body's summary of each sequence, (B, D). Errors: UserError where it makes none."""
    if "pooled" not in outputs:
        raise UserError("this task reads a pooled output, which the model has not; set model.pooler=True")
    return outputs["pooled"]


def count(name: str, value: Any, least: int) -> None:
    """Raise UserError where a task's option is not a whole number from `least` to MOST."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UserError(f"task.{name}={value!r}; expected a whole number of at least {least}")
    if value > MOST:
        raise UserError(f"task.{name}={value}; expected at most {MOST:,}")


def switch(name: str, value: Any) -> None:
    """Raise UserError where a task's option is neither True nor False."""
    if not isinstance(value, bool):
        raise UserError(f"task.{name}={value!r}; expected True or False")


def probability(name: str, rate: Any) -> None:
    """Raise UserError where a task's option is not a probability below 1."""
    if not isinstance(rate, (int, float)) or isinstance(rate, bool) or not 0 <= rate < 1:
        raise UserError(f"task.{name}={rate!r}; expected a probability below 1")


def negative_log(logits: Array, labels: Array) -> tuple[Array, Array]:
    """Return (sum of -log p, count) over real labels, in f32: logits (..., C), labels (...), -100 ignored."""
    wide = logits.astype(np.promote_types(logits.dtype, np.float32))
    real = labels != IGNORED
    picked = jnp.take_along_axis(wide, jnp.where(real, labels, 0)[..., None], axis=-1)[..., 0]
    total = jnp.sum(jnp.where(real, jax.nn.logsumexp(wide, axis=-1) - picked, 0))
    return total, jnp.sum(real).astype(total.dtype)
