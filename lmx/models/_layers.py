"""The parts that models are made of: leaves, dense layers, norms, dropout, attention and taps.

Modules are flax.nnx, built abstractly and split once (`Blueprint`); outside a model file there are only pure
functions of a plain nested dict.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lmx.core import rng as rng_
from lmx.core import tree
from lmx.core.errors import UserError, did_you_mean
from lmx.core.types import Array, Params, Taps
from lmx.models._attention import PRECISION, later

Init = Callable[..., Array]


def leaf(shape: tuple[int, ...], init: Init) -> nnx.Param[Array]:
    """Declare one f32 parameter: its shape and how it starts; no memory is taken under `Blueprint`."""
    return nnx.Param(init(jax.random.key(0), shape, jnp.float32), init=init)


class Dense(nnx.Module):
    """`x @ kernel + bias` over the last axis; the kernel is (in, out)."""

    def __init__(self, fan_in: int, fan_out: int, *, scale: float) -> None:
        self.kernel = leaf((fan_in, fan_out), nnx.initializers.normal(scale))
        self.bias = leaf((fan_out,), nnx.initializers.zeros)

    def __call__(self, x: Array) -> Array:
        """(..., in) -> (..., out)."""
        return dense(x, self.kernel[...], self.bias[...])


def dense(x: Array, kernel: Array, bias: Array) -> Array:
    """(..., I), (I, O), (O,) -> (..., O).

    Leading axes are flattened first: the weight gradient of a three-dimensional product contracts over two
    axes, which XLA computes slowly on CPUs (1.4 times the whole step of a GPT-2 124M).
    """
    flat = x.reshape(-1, x.shape[-1])
    y = jnp.dot(flat, kernel, precision=PRECISION) + bias[None, :]
    return y.reshape(*x.shape[:-1], kernel.shape[-1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def activate_dense(x: Array, kernel: Array, bias: Array, activation: Callable[[Array], Array]) -> Array:
    """(..., I), (I, O), (O,) -> (..., O): `dense(activation(x))`, keeping x alone for the backward pass."""
    return dense(activation(x), kernel, bias)


def _activate_forward(
    x: Array, kernel: Array, bias: Array, activation: Callable[[Array], Array]
) -> tuple[Array, tuple[Array, ...]]:
    return activate_dense(x, kernel, bias, activation), (x, kernel, bias)


def _activate_backward(
    activation: Callable[[Array], Array], residuals: tuple[Array, ...], d_y: Array
) -> tuple[Array, ...]:
    x, kernel, bias = residuals
    # The activation is computed once more; the product is not, for nothing needs its result.
    pull = jax.vjp(lambda x, k, b: dense(activation(x), k, b), later(x, d_y), kernel, bias)[1]
    return pull(d_y)


activate_dense.defvjp(_activate_forward, _activate_backward)


class LayerNorm(nnx.Module):
    """Layer normalisation over the last axis, in f32 whatever the compute type.

    Source: Ba et al. 2016, "Layer Normalization".
    """

    def __init__(self, width: int, *, epsilon: float) -> None:
        self.scale = leaf((width,), nnx.initializers.ones)
        self.bias = leaf((width,), nnx.initializers.zeros)
        self.epsilon = epsilon

    def __call__(self, x: Array) -> Array:
        """(..., D) -> (..., D)."""
        flat = x.reshape(-1, x.shape[-1])
        return layer_norm(flat, self.scale[...], self.bias[...], self.epsilon).reshape(x.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(x: Array, scale: Array, bias: Array, epsilon: float) -> Array:
    """Normalise rows (N, D) to mean 0 and variance 1, then scale (D,) and shift (D,).

    The backward pass is written out, for it needs the rows and two numbers each, where autodiff keeps several
    arrays of the rows' size.
    """
    return _norm_forward(x, scale, bias, epsilon)[0]


def _norm_forward(x: Array, scale: Array, bias: Array, epsilon: float) -> tuple[Array, tuple[Array, ...]]:
    wide = x.astype(np.promote_types(x.dtype, np.float32))
    mean = jnp.mean(wide, axis=-1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(wide - mean), axis=-1, keepdims=True) + epsilon)
    unit = (wide - mean) * inverse
    y = unit * scale.astype(wide.dtype)[None, :] + bias.astype(wide.dtype)[None, :]
    return y.astype(x.dtype), (x, scale, bias, mean, inverse)


def _norm_backward(epsilon: float, residuals: tuple[Array, ...], d_y: Array) -> tuple[Array, Array, Array]:
    x, scale, bias, mean, inverse = residuals
    unit = (x.astype(mean.dtype) - mean) * inverse
    d_wide = d_y.astype(mean.dtype)
    d_unit = d_wide * scale.astype(mean.dtype)[None, :]
    along = jnp.mean(d_unit * unit, axis=-1, keepdims=True)
    d_x = (d_unit - jnp.mean(d_unit, axis=-1, keepdims=True) - unit * along) * inverse
    d_scale, d_bias = jnp.sum(d_wide * unit, axis=0), jnp.sum(d_wide, axis=0)
    return d_x.astype(x.dtype), d_scale.astype(scale.dtype), d_bias.astype(bias.dtype)


layer_norm.defvjp(_norm_forward, _norm_backward)


class Embedding(nnx.Module):
    """A table of vectors, (rows, D)."""

    def __init__(self, rows: int, width: int, *, scale: float) -> None:
        self.embedding = leaf((rows, width), nnx.initializers.normal(scale))

    def __call__(self, ids: Array) -> Array:
        """ids (...) -> (..., D)."""
        return jnp.take(self.embedding[...], ids, axis=0)


class Blueprint:
    """A module without its arrays: the structure, built once and abstractly, to which leaves are bound.

    shapes: {path: ShapeDtypeStruct}; inits: {path: initializer}.
    """

    def __init__(self, build: Callable[[], nnx.Module]) -> None:
        self._graphdef, state = nnx.split(nnx.eval_shape(build))
        self.shapes: dict[str, jax.ShapeDtypeStruct] = tree.flatten(nnx.to_pure_dict(state))
        self.inits: dict[str, Init] = {
            "/".join(map(str, path)): variable.get_metadata()["init"]
            for path, variable in nnx.to_flat_state(state)
        }

    def bind(self, leaves: Params) -> Any:
        """Return the module with these leaves, a nested dict; differentiable in them."""
        return nnx.merge(self._graphdef, leaves)

    def start(self, key: Array, prefix: str) -> Params:
        """Return fresh leaves; each depends on (key, prefix + its path) alone."""
        flat = {
            path: self.inits[path](rng_.leaf_key(key, f"{prefix}/{path}"), spec.shape, spec.dtype)
            for path, spec in self.shapes.items()
        }
        return tree.unflatten(flat)

    def start_layers(self, key: Array, prefix: str, count: int) -> Params:
        """Return {"0": leaves, …} of `count` modules, each as `start` gives under `prefix`/0, `prefix`/1, ….

        One draw a path for all layers, so that the time to compile does not grow with their number.
        """
        layers: list[dict[str, Array]] = [{} for _ in range(count)]
        for path, spec in self.shapes.items():
            names = [rng_.hashed(f"{prefix}/{i}/{path}") for i in range(count)]
            keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.array(names, jnp.uint32))
            drawn = jax.vmap(lambda k, p=path, s=spec: self.inits[p](k, s.shape, s.dtype))(keys)
            for i, leaves in enumerate(layers):
                leaves[path] = drawn[i]
        return {str(i): tree.unflatten(leaves) for i, leaves in enumerate(layers)}


def dropout(x: Array, rate: float, keys: Array | None, site: int) -> Array:
    """Return x (B, ...) with a share `rate` of its elements zeroed and the rest scaled up.

    keys: one per example (B,), or None for no dropout; site: which of the model's dropouts this is.
    The mask is drawn from 16 random bits an element, half the cost of 32; the probability is the rate rounded
    to a multiple of 1/65536, and the scale is that of the rounded rate, so the mean is exact.
    """
    threshold = round(rate * 65536)
    if keys is None or threshold == 0:
        return x

    def draw(key: Array) -> Array:
        return jax.random.bits(jax.random.fold_in(key, site), x.shape[1:], jnp.uint16)

    keep = jax.vmap(draw)(keys) >= jnp.uint16(threshold)
    return jnp.where(keep, x * (65536 / (65536 - threshold)), jnp.zeros((), x.dtype))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu_fast": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu_pytorch_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "tanh": jnp.tanh,
}
"""Activations under transformers' names; `gelu` is the exact one (erf), `gelu_new` its tanh form."""


def activation(name: str) -> Callable[[Array], Array]:
    """Return the activation of that name; UserError lists the known ones."""
    if name not in ACTIVATIONS:
        raise UserError(
            f"no activation {name!r}{did_you_mean(name, ACTIVATIONS)}; "
            f"there is: {', '.join(sorted(ACTIVATIONS))}"
        )
    return ACTIVATIONS[name]


class Tapper:
    """Applies the taps of one forward pass and gathers what they capture."""

    def __init__(self, taps: Taps | None, known: tuple[str, ...]) -> None:
        self.taps = taps or {}
        for name in self.taps:
            if name not in known:
                raise UserError(f"no tap {name!r}{did_you_mean(name, known)}; there is: {', '.join(known)}")

    def __contains__(self, name: str) -> bool:
        return name in self.taps

    def __call__(self, name: str, x: Array, layer: Any, captured: dict[str, Any]) -> Array:
        """Pass x through the tap of that name; what the tap reads goes into `captured`."""
        if name not in self.taps:
            return x
        result = self.taps[name](x, layer)
        if not isinstance(result, tuple):
            return result
        x, captured[name] = result
        return x


def stack_captured(layers: list[dict[str, Any]]) -> dict[str, Any]:
    """Return {name: values of all layers, stacked in front} from one dict per layer."""
    if not layers:
        return {}
    return {name: jax.tree.map(lambda *x: jnp.stack(x), *(c[name] for c in layers)) for name in layers[0]}


def visible(batch: Mapping[str, Array], time: int, cache: Mapping[str, Any] | None) -> Array:
    """Return which keys a query may see in a decoder: booleans (B or 1, 1, T, S).

    A query sees itself and what is before it: real tokens only (`attention_mask`), of its own document only
    (`segment_ids`). Padding sees itself, too, so that no query is left without a key. With a cache, S is its
    length and the queries stand at `cache["length"]` and after.
    """
    if cache is not None:
        seats = jnp.arange(cache["mask"].shape[1])
        here = cache["length"] + jnp.arange(time)
        itself = seats[None, None, None, :] == here[None, None, :, None]
        before = seats[None, None, None, :] <= here[None, None, :, None]
        return itself | (before & cache["mask"][:, None, None, :])
    steps = jnp.arange(time)
    allowed = (steps[None, :] <= steps[:, None])[None, None, :, :]
    if "attention_mask" in batch:
        itself = (steps[None, :] == steps[:, None])[None, None, :, :]
        allowed = allowed & (itself | (batch["attention_mask"] != 0)[:, None, None, :])
    if "segment_ids" in batch:
        segments = batch["segment_ids"]
        allowed = allowed & (segments[:, None, :, None] == segments[:, None, None, :])
    return allowed


def position_ids(batch: Mapping[str, Array], time: int, cache: Mapping[str, Any] | None) -> Array:
    """Return the position of each token, (B or 1, T).

    As given in the batch; else counted over real tokens, those in the cache first, so that padding on the
    left moves nothing.

    >>> position_ids({"attention_mask": jnp.array([[0, 0, 1, 1]])}, 4, None).tolist()
    [[0, 0, 0, 1]]
    """
    if "position_ids" in batch:
        return batch["position_ids"]
    if cache is not None:
        filled = jnp.cumsum(cache["mask"].astype(jnp.int32), axis=1) - 1
        here = jax.lax.dynamic_slice_in_dim(filled, cache["length"], time, axis=1)
        return jnp.maximum(here, 0)
    if "attention_mask" in batch:
        return jnp.maximum(jnp.cumsum(batch["attention_mask"].astype(jnp.int32), axis=1) - 1, 0)
    return jnp.arange(time)[None, :]


def empty_cache(layers: int, batch: int, seats: int, heads: int, width: int) -> Params:
    """Return a cache of S = `seats` tokens: per layer key and value (B, S, H, K), how many seats are taken
    (`length`), and which of them hold real tokens (`mask`, (B, S))."""
    shape = (batch, seats, heads, width)
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
    """Write new keys and values (B, T, H, K) into one layer's cache (B, S, H, K)."""
    zero = jnp.int32(0)
    start = (zero, cache["length"], zero, zero)
    return {
        "key": jax.lax.dynamic_update_slice(cache["key"], key.astype(cache["key"].dtype), start),
        "value": jax.lax.dynamic_update_slice(cache["value"], value.astype(cache["value"].dtype), start),
    }


def advance(cache: Params, time: int) -> Params:
    """Count `time` more seats as taken."""
    return {**cache, "length": cache["length"] + time}


def dropout_keys(key: Array, batch: Mapping[str, Array]) -> Array:
    """Return one key per example (B,), from its place in the global batch."""
    size = batch["input_ids"].shape[0]
    return rng_.example_keys(key, batch["example_index"] if "example_index" in batch else jnp.arange(size))


def check_length(time: int, cache: Any, positions: int) -> None:
    """Raise UserError where a sequence, or the cache it starts, is longer than the model's positions."""
    longest = max(time, cache) if isinstance(cache, int) else time
    if longest > positions:
        raise UserError(
            f"{longest} tokens in a row, but the model has {positions} positions; shorten the rows"
        )


def residual_scale(scale: float, layers: int) -> float:
    """Return the start scale of the matrices that write into the residual stream: scale / sqrt(2 L).

    Source: Radford et al. 2019, section 2.3.
    """
    return scale / math.sqrt(2 * layers)
