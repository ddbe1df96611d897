"""Every random key derives from (seed, step, stream); per-example keys from the global example index."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from lmx.core.types import Array


def hashed(name: str) -> int:
    """Return a 32-bit number that depends on the text alone, not on the process (`hash` is salted)."""
    return zlib.crc32(name.encode())


def root(seed: Array | int) -> Array:
    """Return the key from which a run derives all others."""
    return jax.random.key(seed, impl="threefry2x32")


def stream_key(seed: Array | int, step: Array | int, stream: str) -> Array:
    """Return the key of one stream (such as "dropout") at one step."""
    return jax.random.fold_in(jax.random.fold_in(root(seed), hashed(stream)), step)


def leaf_key(key: Array, path: str) -> Array:
    """Return the key that initialises the leaf at `path`."""
    return jax.random.fold_in(key, hashed(path))


def example_keys(key: Array, index: Array) -> Array:
    """Return one key per example, (B,), from the global example index (B,).

    The key of an example does not depend on which device holds it, so sharding changes no random draw.
    """
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, index.astype(jnp.uint32))


def batch_keys(key: Array, batch: Mapping[str, Array]) -> Array:
    """Return one key per example (B,), from its `example_index`, or else from its place in the batch."""
    size = batch["input_ids"].shape[0]
    return example_keys(key, batch["example_index"] if "example_index" in batch else jnp.arange(size))


def bits(
    words: Array, site: int, shape: tuple[int, ...], *, of: tuple[int, ...], start: tuple[int, ...]
) -> Array:
    """Return 32 random bits for each element, (B, *shape), from the data of one key per example, (B, 2).

    The elements are those of an array (B, *of) from `start` on, and a part has the bits of the whole. site:
    one key gives each site bits of its own. Each element is a hash of its place, its key and the site: no
    loop and no array between, so that the compiler draws the bits where they are used, and draws them again
    in a backward pass for less than keeping them would cost. Threefry made a fifth of a step of dropout's.
    Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3" (a counter, mixed under a key).
    """
    first = _mixed(words[:, 0] ^ _mixed(jnp.uint32(site)))
    second = _mixed(words[:, 1] + first)
    place = jnp.zeros((1,) * (1 + len(shape)), jnp.uint32)
    for axis, (size, begin) in enumerate(zip(shape, start, strict=True)):
        along = jnp.arange(begin, begin + size, dtype=jnp.uint32) * jnp.uint32(
            math.prod(of[axis + 1 :]) & 0xFFFFFFFF
        )
        place = place + along.reshape((1,) * (1 + axis) + (size,) + (1,) * (len(shape) - 1 - axis))
    one = (-1,) + (1,) * len(shape)
    return _mixed(_mixed(place ^ first.reshape(one)) + second.reshape(one))


def _mixed(x: Array) -> Array:
    """Mix the bits of u32 numbers, one to one (the form of MurmurHash3's last step)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x21F0AAAD)
    x = (x ^ (x >> 15)) * jnp.uint32(0x735A2D97)
    return x ^ (x >> 15)
