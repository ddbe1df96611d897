"""Who sees whom, and where: masks, positions, and the cache of a decoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lmx.core.errors import UserError
from lmx.core.types import Array, Params


def visible(batch: Mapping[str, Array], time: int, cache: Mapping[str, Any] | None) -> Array:
    """Return which keys a query may see in a decoder: booleans (B or 1, 1, T, S).

    A query sees itself and what is before it: real tokens only (`attention_mask`), of its own document only
    (`segment_ids`). Padding that would see nothing sees itself, so that no query is left without a key. With
    a cache, S is its length and the queries stand at `cache["length"]` and after.
    """
    if cache is not None:
        seats = jnp.arange(cache["mask"].shape[1])
        here = cache["length"] + jnp.arange(time)
        itself = seats[None, None, None, :] == here[None, None, :, None]
        before = seats[None, None, None, :] <= here[None, None, :, None]
        return _never_nothing(before & cache["mask"][:, None, None, :], itself)
    steps = jnp.arange(time)
    allowed = (steps[None, :] <= steps[:, None])[None, None, :, :]
    if "segment_ids" in batch:
        segments = batch["segment_ids"]
        allowed = allowed & (segments[:, None, :, None] == segments[:, None, None, :])
    if "attention_mask" in batch:
        itself = (steps[None, :] == steps[:, None])[None, None, :, :]
        allowed = _never_nothing(allowed & (batch["attention_mask"] != 0)[:, None, None, :], itself)
    return allowed


def groups(batch: Mapping[str, Array]) -> Array:
    """Return numbers (B, T): tokens of the same number see one another, but for the order.

    For real tokens that is what `visible` and `visible_both_ways` say; padding has a number of its own.
    """
    found = batch.get("segment_ids", jnp.zeros(batch["input_ids"].shape, jnp.int32)).astype(jnp.int32)
    return jnp.where(batch["attention_mask"] != 0, found, -1) if "attention_mask" in batch else found


def _never_nothing(allowed: Array, itself: Array) -> Array:
    """Let a query that sees nothing see itself; both (B or 1, 1, T, S)."""
    return allowed | (itself & ~jnp.any(allowed, axis=-1, keepdims=True))


def visible_both_ways(batch: Mapping[str, Array]) -> Array:
    """Return which keys a query may see in an encoder: booleans (B or 1, 1, T or 1, T).

    All real tokens (`attention_mask`) of its own document (`segment_ids`), before it and after it. A row of
    padding alone sees everything, so that no query is left without a key.
    """
    time = batch["input_ids"].shape[1]
    allowed = jnp.ones((1, 1, 1, time), bool)
    if "attention_mask" in batch:
        allowed = (batch["attention_mask"] != 0)[:, None, None, :]
    if "segment_ids" in batch:
        segments = batch["segment_ids"]
        allowed = allowed & (segments[:, None, :, None] == segments[:, None, None, :])
    return allowed


def last_real(batch: Mapping[str, Array]) -> Array:
    """Return the place of each row's last real token, (B,); the last place where nothing is masked.

    >>> last_real({"input_ids": ids, "attention_mask": jnp.array([[1, 1, 0], [0, 1, 1]])}).tolist()
    [1, 2]
    """
    size, time = batch["input_ids"].shape
    if "attention_mask" not in batch:
        return jnp.full((size,), time - 1)
    real = batch["attention_mask"] != 0
    return jnp.max(jnp.where(real, jnp.arange(time)[None, :], 0), axis=1)


def position_ids(batch: Mapping[str, Array], time: int, cache: Mapping[str, Any] | None) -> Array:
    """Return the position of each token, (B or 1, T).

    As given in the batch; else counted over real tokens, those in the cache first, so that padding on the
    left moves nothing. Padding behind the last token is counted on, as transformers does: a softmax over
    places, that of question answering, sees it.

    >>> position_ids({"attention_mask": jnp.array([[0, 0, 1, 1], [1, 1, 0, 0]])}, 4, None).tolist()
    [[0, 0, 0, 1], [0, 1, 2, 3]]
    """
    if "position_ids" in batch:
        return batch["position_ids"]
    if cache is not None:
        filled = jnp.cumsum(cache["mask"].astype(jnp.int32), axis=1) - 1
        here = jax.lax.dynamic_slice_in_dim(filled, cache["length"], time, axis=1)
        return jnp.maximum(here, 0)
    if "attention_mask" in batch:
        real, places = batch["attention_mask"].astype(jnp.int32), jnp.arange(time)[None, :]
        last = jnp.max(places * real, axis=1, keepdims=True)
        return jnp.maximum(jnp.cumsum(real, axis=1) - 1, 0) + jnp.maximum(places - last, 0)
    return jnp.arange(time)[None, :]


def empty_cache(layers: int, batch: int, seats: int, heads: int, width: int) -> Params:
    """Return a cache of S = `seats` tokens: per layer key and value (B, H, S, K), how many seats are taken
    (`length`), and which of them hold real tokens (`mask`, (B, S))."""
    shape = (batch, heads, seats, width)
    return {
        "layer": {str(i): {"key": jnp.zeros(shape), "value": jnp.zeros(shape)} for i in range(layers)},
        "length": jnp.zeros((), jnp.int32),
        "mask": jnp.zeros((batch, seats), bool),
    }


def open_cache(cache: Any, batch: Mapping[str, Array], layers: int, heads: int, width: int) -> Params | None:
    """Return the cache that a forward pass was given, with seats taken for the new tokens; None for none.

    cache: a number of seats for a new one. width: of one head.
    """
    if isinstance(cache, int):
        cache = empty_cache(layers, batch["input_ids"].shape[0], cache, heads, width)
    return None if cache is None else seat(cache, batch)


def seat(cache: Params, batch: Mapping[str, Array]) -> Params:
    """Mark the seats of the new tokens (B, T) as real, or not where `attention_mask` says so."""
    ids = batch["input_ids"]
    real = batch["attention_mask"] != 0 if "attention_mask" in batch else jnp.ones(ids.shape, bool)
    mask = jax.lax.dynamic_update_slice(cache["mask"], real, (jnp.int32(0), cache["length"]))
    return {"layer": dict(cache["layer"]), "length": cache["length"], "mask": mask}


def layer_cache(cache: Params | None, layer: int) -> Params | None:
    """Return one layer's key and value with the place where the next token goes."""
    return None if cache is None else {**cache["layer"][str(layer)], "length": cache["length"]}


def remember(cache: Params, key: Array, value: Array) -> Params:
    """Write new keys and values (B, T, H, K) into one layer's cache (B, H, S, K).

    Heads come first there, as the products want them: else every step would lay the whole cache out anew.
    """
    zero = jnp.int32(0)
    start = (zero, zero, cache["length"], zero)
    new = {"key": key, "value": value}
    return {
        name: jax.lax.dynamic_update_slice(
            cache[name], array.transpose(0, 2, 1, 3).astype(cache[name].dtype), start
        )
        for name, array in new.items()
    }


def remembered(cache: Params) -> tuple[Array, Array]:
    """Return all keys and values of one layer's cache, each (B, S, H, K)."""
    return cache["key"].transpose(0, 2, 1, 3), cache["value"].transpose(0, 2, 1, 3)


def advance(cache: Params, time: int) -> Params:
    """Count `time` more seats as taken."""
    return {**cache, "length": cache["length"] + time}


def check_length(time: int, cache: Any, positions: int) -> None:
    """Raise UserError where a sequence, or the cache it starts, is longer than the model's positions."""
    longest = max(time, cache) if isinstance(cache, int) else time
    if longest > positions:
        raise UserError(
            f"{longest} tokens in a row, but the model has {positions} positions; shorten the rows"
        )
