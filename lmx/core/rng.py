"""Every random key derives from (seed, step, stream); per-example keys from the global example index."""

from __future__ import annotations

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
