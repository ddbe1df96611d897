"""Pure functions of arrays that bodies and heads share: dense layers, layer norm, dropout, activations."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from lmx.core import execution, layout, rng
from lmx.core.errors import UserError, did_you_mean
from lmx.core.types import Array

# f32 products in full f32 on every platform: TPUs and recent GPUs would otherwise round the operands.
PRECISION = jax.lax.Precision.HIGHEST

PRODUCT = "product"
"""What results of dense layers are called where a backward pass may keep them and make the rest again: what
stands inside a function with a backward pass of its own is not seen by policies that look for products."""


def later(x: Array, after: Array) -> Array:
    """Return x, unchanged, but for the compiler a value that cannot be known before `after` is.

    A backward pass that computes something again to save memory must say so: the compiler would find the
    same expression in the forward pass and keep its result instead. On CPUs XLA forgets optimization barriers
    before it merges equal expressions; there a zero made of `after` is added (NaN where `after` begins with
    NaN), which costs nothing inside another loop.
    """
    if execution.platform() != "cpu":
        return jax.lax.optimization_barrier((x, after))[0]
    first = after[(0,) * after.ndim]
    return x + jnp.where(jnp.isnan(first), first, 0).astype(x.dtype)


Names = tuple[str, ...]
"""Names of a matrix's axes, by which it lies on a mesh (`core.layout`); () where nothing is known of it."""


def dense(x: Array, kernel: Array, bias: Array, names: Names = ()) -> Array:
    """(..., I), (I, O), (O,) -> (..., O), in the type of x; the kernel's gradient is summed in its own type.

    names: of the kernel's axes. What lies on several devices is put together for the product, in the type of
    x, and once more for the backward pass: between the two no device holds it whole. Leading axes are
    flattened first: the weight gradient of a three-dimensional product contracts over two axes, which XLA
    computes slowly on CPUs (1.4 times the whole step of a GPT-2 124M).
    """
    y = product(x.reshape(-1, x.shape[-1]), kernel, names)
    y = (y + bias.astype(y.dtype)[None, :]).astype(x.dtype)  # so that the bias's gradient adds up in f32
    return checkpoint_name(y.reshape(*x.shape[:-1], kernel.shape[-1]), PRODUCT)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def product(x: Array, kernel: Array, names: Names, inner: int = 0) -> Array:
    """(N, I), (I, O) -> (N, O), in f32 at least: `dense` without a bias.

    inner: the kernel's axis that is contracted; 1 for one of (O, I), such as a table of embeddings. Its
    gradient then adds up with that of the rows that were looked up before devices exchange either, which a
    transposed one would not.
    """
    return _product(x, layout.gathered(kernel.astype(x.dtype), names), ((1,), (inner,)))


def _product_forward(x: Array, kernel: Array, names: Names, inner: int) -> tuple[Array, tuple[Array, Array]]:
    return product(x, kernel, names, inner), (x, kernel)


def _product_backward(
    names: Names, inner: int, residuals: tuple[Array, Array], d_y: Array
) -> tuple[Array, Array]:
    x, kernel = residuals
    whole, d_y = layout.gathered(kernel.astype(x.dtype), names), d_y.astype(x.dtype)
    sides = (d_y, x) if inner else (x, d_y)
    d_kernel = _product(*sides, ((0,), (0,))).astype(kernel.dtype)
    return _product(d_y, whole, ((1,), (1 - inner,))).astype(x.dtype), layout.scattered(d_kernel, names)


product.defvjp(_product_forward, _product_backward)


def _product(left: Array, right: Array, axes: tuple[tuple[int], tuple[int]]) -> Array:
    """Contract one axis of each matrix; sums in f32 at least."""
    wide = np.promote_types(left.dtype, np.float32)
    return jax.lax.dot_general(
        left, right, (axes, ((), ())), precision=PRECISION, preferred_element_type=wide
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def activate_dense(
    x: Array, kernel: Array, bias: Array, activation: Callable[[Array], Array], names: Names = ()
) -> Array:
    """(..., I), (I, O), (O,) -> (..., O): `dense(activation(x))`, keeping x alone for the backward pass."""
    return dense(activation(x), kernel, bias, names)


def _activate_forward(
    x: Array, kernel: Array, bias: Array, activation: Callable[[Array], Array], names: Names
) -> tuple[Array, tuple[Array, ...]]:
    return activate_dense(x, kernel, bias, activation, names), (x, kernel, bias)


def _activate_backward(
    activation: Callable[[Array], Array], names: Names, residuals: tuple[Array, ...], d_y: Array
) -> tuple[Array, ...]:
    x, kernel, bias = residuals
    # The activation is computed once more; the product is not, for nothing needs its result.
    pull = jax.vjp(lambda x, k, b: dense(activation(x), k, b, names), later(x, d_y), kernel, bias)[1]
    return pull(d_y)


activate_dense.defvjp(_activate_forward, _activate_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def look_up(table: Array, ids: Array, names: Names, type: str) -> Array:
    """Return the rows (..., D) of a table (V, D) by ids (...), in a type; the gradient is the table's own."""
    return jnp.take(layout.gathered(table.astype(type), names), ids, axis=0)


def _look_up_forward(table: Array, ids: Array, names: Names, type: str) -> tuple[Array, tuple[Array, Array]]:
    return look_up(table, ids, names, type), (table, ids)


def _look_up_backward(
    names: Names, type: str, residuals: tuple[Array, Array], d_rows: Array
) -> tuple[Array, None]:
    table, ids = residuals
    added = jnp.zeros(table.shape, table.dtype).at[ids].add(d_rows.astype(table.dtype))
    return layout.scattered(layout.gathered(added, names), names), None


look_up.defvjp(_look_up_forward, _look_up_backward)


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


def dropout(
    x: Array, rate: float, keys: Array | None, site: Array | int, of: tuple[int, ...] | None = None
) -> Array:
    """Return x (B, ...) with a share `rate` of its elements zeroed and the rest scaled up.

    keys: one per example (B,), or None for no dropout; site: which of the model's dropouts this is. of: where
    x is the beginning of something larger along its axes, that one's shape: what is dropped is the same.
    The probability is the rate rounded to a multiple of 2^-32, and the scale is that of the rounded rate. The
    backward pass draws the mask again, so that none is kept.
    """
    if keys is None or _least(rate) == 0:
        return x
    return _dropped(x, rng.words(keys, site), rate, (of or x.shape)[1:])


def drop(x: Array, words: Array, rate: float, *, of: tuple[int, ...], start: tuple[int, ...] = ()) -> Array:
    """Return x (B, ...) through dropout, to be differentiated by hand: the gradient goes the same way.

    words: two numbers an example, (B, 2), of `rng.words`. The elements are those of an array (B, *of) from
    `start` on, one number an axis, or else from its beginning.
    """
    least = _least(rate)
    drawn = rng.bits(words, x.shape[1:], of=of, start=start or (0,) * len(of))
    scaled = x.astype(np.promote_types(x.dtype, np.float32)) * (2**32 / (2**32 - least))
    return jnp.where(drawn >= jnp.uint32(least), scaled, 0).astype(x.dtype)


def _least(rate: float) -> int:
    """Return the number of 32 bits below which an element is dropped."""
    return min(round(rate * 2**32), 2**32 - 1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _dropped(x: Array, words: Array, rate: float, of: tuple[int, ...]) -> Array:
    return drop(x, words, rate, of=of)


def _dropped_forward(x: Array, words: Array, rate: float, of: tuple[int, ...]) -> tuple[Array, Array]:
    return drop(x, words, rate, of=of), words


def _dropped_backward(rate: float, of: tuple[int, ...], words: Array, d_y: Array) -> tuple[Array, None]:
    return drop(d_y, words, rate, of=of), None


_dropped.defvjp(_dropped_forward, _dropped_backward)


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
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise UserError(
            f"no activation {name!r}{did_you_mean(str(name), ACTIVATIONS)}; "
            f"there is: {', '.join(sorted(ACTIVATIONS))}"
        )
    return ACTIVATIONS[name]
