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


def words(keys: Array, site: Array | int) -> Array:
    """Return two numbers of 32 bits for each key, (B,) -> (B, 2), others for each site of a model."""
    found = jax.random.key_data(keys)
    first = _mixed(found[:, 0] ^ _mixed(jnp.asarray(site).astype(jnp.uint32)))
    return jnp.stack([first, _mixed(found[:, 1] + first)], axis=1)


def bits(words: Array, shape: tuple[int, ...], *, of: tuple[int, ...], start: tuple[int, ...]) -> Array:
    """Return 32 random bits for each element, (B, *shape), from two numbers an example, (B, 2).

    The elements are those of an array (B, *of) from `start` on, and a part has the bits of the whole. Each
    element is a hash of its place under these numbers: no loop and no array between, so that the compiler
    draws the bits where they are used, and draws them again in a backward pass for less than keeping them
    would cost. Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3" (a counter, mixed
    under a key).
    """
    place = jnp.zeros((1,) * (1 + len(shape)), jnp.uint32)
    for axis, (size, begin) in enumerate(zip(shape, start, strict=True)):
        along = jnp.arange(begin, begin + size, dtype=jnp.uint32) * jnp.uint32(
            math.prod(of[axis + 1 :]) & 0xFFFFFFFF
        )
        place = place + along.reshape((1,) * (1 + axis) + (size,) + (1,) * (len(shape) - 1 - axis))
    first, second = (words[:, i].reshape((-1,) + (1,) * len(shape)) for i in (0, 1))
    return _mixed(_mixed(place ^ first) + second)


def _mixed(x: Array) -> Array:
    """Mix the bits of u32 numbers, one to one (the form of MurmurHash3's last step)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x21F0AAAD)
    x = (x ^ (x >> 15)) * jnp.uint32(0x735A2D97)
    return x ^ (x >> 15)
