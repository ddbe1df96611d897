"""Attention: whole when nobody looks at the weights, in two halves (weights, mix) when somebody does.

Source: Vaswani et al. 2017, "Attention Is All You Need", section 3.2.1; the backward pass through
delta = sum(d_out * out) is that of Dao et al. 2022, "FlashAttention", appendix B.2.
"""

from __future__ import annotations

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lmx.core import execution
from lmx.core.functions import PRECISION, drop, later
from lmx.core.types import Array

Residuals = tuple[Array, Array, Array, Array, Array | None, list[Array]]


class Dropout(NamedTuple):
    """Dropout of the weights: the rate as in `core.functions.dropout`, and the number of all queries."""

    rate: float
    queries: int


def attend(
    query: Array,
    key: Array,
    value: Array,
    mask: Array,
    scale: float,
    *,
    causal: bool = False,
    dropout: Dropout | None = None,
    words: Array | None = None,
) -> Array:
    """Attention without showing the weights: (B, T, H, K), (B, S, H, K) twice -> (B, T, H, K).

    mask (B or 1, 1, T, S): True where a query may look; each query may look at one key at least. The softmax
    is in f32. causal: S is T and the mask forbids every key after the query, so that most of these products
    need not be computed. dropout: of the weights, with two numbers an example, `words` (B, 2) of `rng.words`.
    """
    edges = _edges(query.shape[1]) if causal else (0, query.shape[1])
    return _attend(query, key, value, mask, words, scale, edges, dropout)


def attention_weights(query: Array, key: Array, mask: Array, scale: float, *, upcast: bool) -> Array:
    """Softmax of the scaled products, (B, H, T, S), in f32.

    upcast: scale the queries first and multiply in f32 (`reorder_and_upcast_attn`), which keeps products of
    half precision in range; otherwise the products are scaled afterwards.
    """
    wide = np.promote_types(query.dtype, np.float32)
    if upcast:
        query, key = query.astype(wide) * scale, key.astype(wide)
    scores = jnp.einsum("bthk,bshk->bhts", query, key, precision=PRECISION).astype(wide)
    if not upcast:
        scores = scores * scale
    return jax.nn.softmax(jnp.where(mask, scores, jnp.finfo(wide).min), axis=-1)


def mix(weights: Array, value: Array) -> Array:
    """Sum of the values under the weights: (B, H, T, S), (B, S, H, K) -> (B, T, H, K)."""
    return jnp.einsum("bhts,bshk->bthk", weights.astype(value.dtype), value, precision=PRECISION)


def _edges(time: int) -> tuple[int, ...]:
    """Return where to cut the queries, 0 … T: the block from a to b looks at keys before b only.

    At most 4 blocks, which leaves 5/8 of the work. On CPUs blocks of 64 are the best (those of 32 cost twice
    as much); accelerators want larger products.
    """
    smallest = 64 if execution.platform() == "cpu" else 512
    count = max(1, min(4, time // smallest))
    return tuple(time * i // count for i in range(count + 1))


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7))
def _attend(
    query: Array,
    key: Array,
    value: Array,
    mask: Array,
    words: Array | None,
    scale: float,
    edges: tuple[int, ...],
    dropout: Dropout | None,
) -> Array:
    return _forward(query, key, value, mask, words, scale, edges, dropout)[0]


def _heads_first(x: Array) -> Array:
    """(B, T, H, K) <-> (B, H, T, K): products over two leading batch axes need no further transposition."""
    return x.transpose(0, 2, 1, 3)


def _product(subscripts: str, left: Array, right: Array) -> Array:
    """Multiply in the inputs' type, add up and return in f32 at least."""
    wide = np.promote_types(left.dtype, np.float32)
    return jnp.einsum(subscripts, left, right, precision=PRECISION, preferred_element_type=wide)


def _key_edges(edges: tuple[int, ...], keys: int) -> list[tuple[int, int, int]]:
    """Return (first query, end of the queries, end of the keys) of each block; one block sees all keys."""
    if len(edges) == 2:
        return [(edges[0], edges[1], keys)]
    return [(start, end, end) for start, end in itertools.pairwise(edges)]


def _through(x: Array, words: Array | None, dropout: Dropout | None, keys: int, start: int) -> Array:
    """Return weights (B, H, T, S), or their gradient, through dropout; the first query is number `start`."""
    if words is None or dropout is None:
        return x
    whole = (x.shape[1], dropout.queries, keys)
    return drop(x, words, dropout.rate, of=whole, start=(0, start, 0))


def _forward(
    query: Array,
    key: Array,
    value: Array,
    mask: Array,
    words: Array | None,
    scale: float,
    edges: tuple[int, ...],
    dropout: Dropout | None,
) -> tuple[Array, Residuals]:
    q, k, v = _heads_first(query), _heads_first(key), _heads_first(value)
    mixed, kept = [], []
    for start, end, seen in _key_edges(edges, key.shape[1]):
        scores = _product("bhtk,bhsk->bhts", q[:, :, start:end], k[:, :, :seen]) * scale
        scores = jnp.where(mask[:, :, start:end, :seen], scores, jnp.finfo(scores.dtype).min)
        raised = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True))
        weights = (raised / jnp.sum(raised, axis=-1, keepdims=True)).astype(value.dtype)
        kept.append(weights)
        left = _through(weights, words, dropout, key.shape[1], start)
        mixed.append(_product("bhts,bhsk->bhtk", left, v[:, :, :seen]).astype(value.dtype))
    out = _heads_first(jnp.concatenate(mixed, axis=2) if len(mixed) > 1 else mixed[0])
    return out, (query, key, value, out, words, kept)


def _backward(
    scale: float, edges: tuple[int, ...], dropout: Dropout | None, residuals: Residuals, d_out: Array
) -> tuple[Array, Array, Array, None, None]:
    query, key, value, out, words, kept = residuals
    query, key, value = (later(x, d_out) for x in (query, key, value))
    wide = np.promote_types(d_out.dtype, np.float32)
    q, k, v, d = _heads_first(query), _heads_first(key), _heads_first(value), _heads_first(d_out)
    # The softmax's gradient needs sum(weights * d_weights) over S; that equals sum(out * d_out) over K, with
    # dropout as well, whose factor stands in both.
    delta = jnp.sum(d_out.astype(wide) * out.astype(wide), axis=-1).transpose(0, 2, 1)[..., None]
    d_query = []
    d_key, d_value = jnp.zeros(k.shape, wide), jnp.zeros(v.shape, wide)
    for (start, end, seen), weights in zip(_key_edges(edges, key.shape[1]), kept, strict=True):
        here = d[:, :, start:end]
        d_left = _product("bhtk,bhsk->bhts", here, v[:, :, :seen])
        d_weights = _through(d_left, words, dropout, key.shape[1], start)
        d_scores = weights.astype(wide) * (d_weights - delta[:, :, start:end]) * scale
        d_scores = d_scores.astype(query.dtype)
        d_query.append(_product("bhts,bhsk->bhtk", d_scores, k[:, :, :seen]))
        rest = ((0, 0), (0, 0), (0, key.shape[1] - seen), (0, 0))
        d_key += jnp.pad(_product("bhts,bhtk->bhsk", d_scores, q[:, :, start:end]), rest)
        left = _through(weights, words, dropout, key.shape[1], start)
        d_value += jnp.pad(_product("bhts,bhtk->bhsk", left, here), rest)
    joined = jnp.concatenate(d_query, axis=2) if len(d_query) > 1 else d_query[0]
    return (
        _heads_first(joined).astype(query.dtype),
        _heads_first(d_key).astype(key.dtype),
        _heads_first(d_value).astype(value.dtype),
        None,
        None,
    )


_attend.defvjp(_forward, _backward)
