"""The two halves of a transformer's block, as decoders and encoders share them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from lmx.core import execution, functions, layers, layout, rng
from lmx.core.types import Array, Params
from lmx.models import _attention as attention_
from lmx.models import _kernels as kernels_
from lmx.models import _layers as layers_

AXES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"block/\d+/attn/(query|key|value)/kernel", ("width", "heads")),
    (r"block/\d+/attn/(query|key|value)/bias", ("heads",)),
    (r"block/\d+/attn/out/kernel", ("heads", "width")),
    (r"block/\d+/mlp/up/kernel", ("width", "mlp")),
    (r"block/\d+/mlp/up/bias", ("mlp",)),
    (r"block/\d+/mlp/down/kernel", ("mlp", "width")),
    (r"block/\d+/(attn/out|mlp/down)/bias", ("width",)),
    (r"block/\d+/norm[12]/(scale|bias)", ("width",)),
)
"""Path -> axis names of a block's leaves, for a model's own AXES."""


class SelfAttention(nnx.Module):
    """The four products of self-attention: query, key, value and out, each D -> D."""

    def __init__(self, width: int, *, scale: float, out_scale: float) -> None:
        self.query = layers_.Dense(width, width, scale=scale)
        self.key = layers_.Dense(width, width, scale=scale)
        self.value = layers_.Dense(width, width, scale=scale)
        self.out = layers_.Dense(width, width, scale=out_scale)

    def project(self, x: Array, heads: int) -> tuple[Array, Array, Array]:
        """(B, T, D) -> query, key, value, each (B, T, H, K).

        Three products: to join the kernels for a single one costs more than it gains, in time and memory.
        """
        shape = (*x.shape[:2], heads, -1)

        def cut(product: layers_.Dense) -> Array:
            return layout.rows(product(x).reshape(shape), None, "heads")

        return cut(self.query), cut(self.key), cut(self.value)


class MLP(nnx.Module):
    """The feed-forward layer, D -> F -> D."""

    def __init__(self, width: int, inner: int, *, scale: float, down_scale: float) -> None:
        self.up = layers_.Dense(width, inner, scale=scale)
        self.down = layers_.Dense(inner, width, scale=down_scale)

    def __call__(self, x: Array, activation: str) -> Array:
        """(B, T, D) -> (B, T, D)."""
        down = self.down
        return functions.activate_dense(
            layout.rows(self.up(x), None, "mlp"),
            down.kernel[...],
            down.bias[...],
            functions.activation(activation),
            down.names,
        )


def attention(
    query: Array,
    key: Array,
    value: Array,
    mask: Array,
    scale: float,
    *,
    groups: Array | None,
    layer: Array | int,
    rate: float,
    keys: Array | None,
    site: Array | int,
    tapper: layers_.Tapper,
    captured: dict[str, Any],
    causal: bool = False,
    upcast: bool = False,
    of: int | None = None,
) -> Array:
    """Attention of (B, T, H, K) over (B, S, H, K) -> (B, T, D), through dropout and the tap `attn/weights`.

    The weights are made only where somebody needs them. mask, causal: as in `_attention.attend`; groups: the
    same as numbers (`_sequence.groups`), None where the queries are not the keys; upcast: as in
    `_attention.attention_weights`; rate, keys, site: as in `core.functions.dropout`. of: how many queries
    there are in all, where these are the first of them.
    """
    queries = of or query.shape[1]
    if upcast or "attn/weights" in tapper:
        weights = attention_.attention_weights(query, key, mask, scale, upcast=upcast)
        weights = tapper("attn/weights", weights, layer, captured)
        whole = (*weights.shape[:2], queries, weights.shape[3])
        weights = functions.dropout(weights, rate, keys, site, whole)
        mixed = attention_.mix(weights, value)
    else:
        drops = attention_.Dropout(rate, queries) if keys is not None and rate > 0 else None
        by = "xla" if groups is None else execution.kernel(query.shape[1], dropout=drops is not None)
        if groups is not None and by == "splash":
            return _joined(kernels_.splash(query, key, value, groups, scale, causal=causal))
        if by == "cudnn":
            return _joined(kernels_.cudnn(query, key, value, mask, scale, causal=causal))
        words = None if keys is None or drops is None else rng.words(keys, site)
        mixed = attention_.attend(query, key, value, mask, scale, causal=causal, dropout=drops, words=words)
    return _joined(mixed)


def _joined(mixed: Array) -> Array:
    """(B, T, H, K) -> (B, T, D)."""
    return mixed.reshape(*mixed.shape[:2], -1)


Layer = Callable[[Params, Array, Any], tuple[Array, dict[str, Any]]]
"""(a layer's leaves, x, its number) -> (x, what its taps captured)."""


def through(layer: Layer, leaves: Params, x: Array, count: int) -> tuple[Array, dict[str, Any]]:
    """Return x after the layers 0 … count - 1, and what their taps captured, stacked over the layers.

    leaves: {"0": a layer's leaves, ...}, or {"all": those of all `count` layers as one}. One after the other,
    or as a loop over one compiled layer; with what the backward pass shall not keep computed again in it
    (`core.execution`).
    """
    how = execution.current()
    scans = how.layers == "scanned" and count > 1
    step = _remat(layer, how.remat, scans)
    if scans:
        loop = (leaves.get(layers.ALL) or _stacked(leaves, count), jnp.arange(count))
        return jax.lax.scan(lambda x, one: step(one[0], x, one[1]), x, loop)
    inside = []
    for i in range(count):
        x, read = step(_layer(leaves, i), x, i)
        inside.append(read)
    return x, layers_.stack_captured(inside)


def _layer(leaves: Params, i: int) -> Params:
    """Return the leaves of one layer."""
    if layers.ALL not in leaves:
        return leaves[str(i)]
    one: Params = jax.tree.map(lambda leaf: leaf[i], leaves[layers.ALL])
    return one


def _stacked(leaves: Params, count: int) -> Params:
    """Return the leaves of the first layers as one."""
    one: Params = jax.tree.map(lambda *each: jnp.stack(each), *(leaves[str(i)] for i in range(count)))
    return one


def _remat(layer: Layer, what: str, scans: bool) -> Layer:
    if what == "none":
        return layer
    policy = jax.checkpoint_policies.save_only_these_names(functions.PRODUCT) if what == "dots" else None
    # In a loop nothing can be merged with the forward pass, so that no barrier is needed.
    return jax.checkpoint(layer, policy=policy, prevent_cse=not scans, static_argnums=() if scans else (2,))
