"""Cross-entropy straight from hidden states: the logits of a whole batch and their gradient never exist.

Source: Hsu et al. 2024, "Liger Kernel: Efficient Triton Kernels for LLM Training", section 3.2: the gradient
is formed beside the loss, a chunk of logits at a time.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from lmx.core import layout
from lmx.core.mesh import ROWS
from lmx.core.types import IGNORED, Array

CHUNK = 2**24
"""Logits that exist at a time on a device (64 MiB in f32). Each chunk passes over the head's whole gradient
once more, so that far smaller ones would cost time."""


NAMES = (("vocab", "width"), ("width", "vocab"))
"""The axes of a head, by the place of the vocabulary among them."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def cross_entropy(hidden: Array, head: Array, labels: Array, vocab_axis: int) -> Array:
    """Return the sum of -log p over real labels, in nats and f32, of hidden (B, T, D) and labels (B, T).

    head: (V, D) with vocab_axis 0, as token embeddings are, or (D, V) with vocab_axis 1. Labels of -100 count
    nothing. There are three products in all, the logits and two gradients; the backward pass only scales. A
    head that lies on several devices is put together in the type of hidden.
    """
    return _spread(hidden, _whole(hidden, head, vocab_axis), labels, vocab_axis, gradients=False)[0]


def _whole(hidden: Array, head: Array, vocab_axis: int) -> Array:
    return layout.gathered(head.astype(hidden.dtype), NAMES[vocab_axis])


def _forward(hidden: Array, head: Array, labels: Array, vocab_axis: int) -> tuple[Array, tuple[Array, Array]]:
    whole = _whole(hidden, head, vocab_axis)
    total, d_hidden, d_head = _spread(hidden, whole, labels, vocab_axis, gradients=True)
    return total, (d_hidden, layout.scattered(d_head.astype(head.dtype), NAMES[vocab_axis]))


def _backward(vocab_axis: int, residuals: tuple[Array, Array], d_total: Array) -> tuple[Array, Array, None]:
    d_hidden, d_head = residuals
    return d_hidden * d_total.astype(d_hidden.dtype), d_head * d_total.astype(d_head.dtype), None


cross_entropy.defvjp(_forward, _backward)


def _spread(
    hidden: Array, head: Array, labels: Array, vocab_axis: int, *, gradients: bool
) -> tuple[Array, Array, Array]:
    """As `_scan`, each device over its own rows: the head's gradient is summed once, not once a chunk."""
    run = functools.partial(_scan, vocab_axis=vocab_axis, gradients=gradients)
    mesh = layout.current()
    if mesh is None:
        return run(hidden, head, labels)

    def local(hidden: Array, head: Array, labels: Array) -> tuple[Array, Array, Array]:
        total, d_hidden, d_head = run(hidden, head, labels)
        return jax.lax.psum(total, ROWS), d_hidden, jax.lax.psum(d_head, ROWS)

    whole, cut = PartitionSpec(), PartitionSpec(ROWS)
    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(cut, whole, cut),
        out_specs=(whole, cut if gradients else whole, whole),
        axis_names=set(ROWS),
        check_vma=False,
    )(hidden, head, labels)


def _scan(
    hidden: Array, head: Array, labels: Array, vocab_axis: int, *, gradients: bool
) -> tuple[Array, Array, Array]:
    """Return the loss sum and its gradients (zeros where not asked for), chunk by chunk.

    The chunks cut T, never B, for B may lie on several devices.
    """
    size, time, width = hidden.shape
    wide = np.promote_types(hidden.dtype, np.float32)
    chunks = min(time, -(-size * time * head.shape[vocab_axis] // CHUNK))
    if chunks == 1:
        total, d_hidden, d_head = _chunk(hidden, head, labels, vocab_axis, gradients)
        return total, d_hidden, d_head
    long = -(-time // chunks)
    padding = chunks * long - time
    hidden = jnp.pad(hidden, ((0, 0), (0, padding), (0, 0)))
    labels = jnp.pad(labels, ((0, 0), (0, padding)), constant_values=IGNORED)

    def add(sums: tuple[Array, Array], part: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
        total, d_hidden, d_head = _chunk(part[0], head, part[1], vocab_axis, gradients)
        return (sums[0] + total, sums[1] + d_head), d_hidden

    parts = (
        hidden.reshape(size, chunks, long, width).swapaxes(0, 1),
        labels.reshape(size, chunks, long).swapaxes(0, 1),
    )
    d_head = jnp.zeros(head.shape if gradients else (), wide)
    (total, d_head), d_parts = jax.lax.scan(add, (jnp.zeros((), wide), d_head), parts)
    d_hidden = d_parts.swapaxes(0, 1).reshape(size, chunks * long, -1)[:, :time] if gradients else d_parts
    return total, d_hidden, d_head


def _chunk(
    hidden: Array, head: Array, labels: Array, vocab_axis: int, gradients: bool
) -> tuple[Array, Array, Array]:
    """Return the loss sum of (B, t, D) and its gradients; scalars of 0 where these are not asked for."""
    flat, wanted = hidden.reshape(-1, hidden.shape[-1]), labels.reshape(-1)
    wide = np.promote_types(hidden.dtype, np.float32)
    real = wanted != IGNORED
    logits = _dot(flat, head, (1, 1 - vocab_axis), wide)
    whole = jax.nn.logsumexp(logits, axis=-1)
    picked = jnp.take_along_axis(logits, jnp.where(real, wanted, 0)[:, None], axis=-1)[:, 0]
    total = jnp.sum(jnp.where(real, whole - picked, 0))
    if not gradients:
        return total, jnp.zeros((), hidden.dtype), jnp.zeros((), wide)
    hit = jnp.arange(logits.shape[1], dtype=wanted.dtype)[None, :] == wanted[:, None]
    d_logits = jnp.where(real[:, None], jnp.exp(logits - whole[:, None]) - hit.astype(wide), 0)
    d_logits = d_logits.astype(hidden.dtype)
    d_hidden = _dot(d_logits, head, (1, vocab_axis), wide).astype(hidden.dtype)
    left, right = (d_logits, flat) if vocab_axis == 0 else (flat, d_logits)
    return total, d_hidden.reshape(hidden.shape), _dot(left, right, (0, 0), wide)


def _dot(left: Array, right: Array, axes: tuple[int, int], wide: np.dtype) -> Array:
    """Contract one axis of each matrix, without a transposed copy; sums in f32 at least."""
    return jax.lax.dot_general(
        left,
        right.astype(left.dtype),
        (((axes[0],), (axes[1],)), ((), ())),
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=wide,
    )
