"""Digests: of arrays by value, the same on any mesh; of JSON and files by sha256.

Orbax keeps no checksum of array data: a flipped bit would be restored as a wrong number without an error.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lmx.core import rng, rows
from lmx.core.types import Array

FILES = "digests.json"
"""The list of file digests in a folder."""


def of_json(value: Any) -> str:
    """Return the sha256 of the canonical JSON of a value."""
    return hashlib.sha256(rows.canonical(value)).hexdigest()


def of_files(folder: Path) -> dict[str, str]:
    """Return {path below the folder: sha256} of every file but the list itself."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != FILES)
    return {path.relative_to(folder).as_posix(): rows.file_sha256(path) for path in files}


def damaged(folder: Path) -> str | None:
    """Return what is wrong with a folder that holds a list of digests, in a few words; None where nothing is.

    A folder without a list passes: the process may have died between the rename and the list.
    """
    path = folder / FILES
    if not path.exists():
        return None
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        return f"{FILES} cannot be read ({error.strerror})"
    except (ValueError, RecursionError):
        return f"{FILES} is not JSON"
    if not isinstance(listed, dict) or not all(isinstance(digest, str) for digest in listed.values()):
        return f"{FILES} is damaged (no object of strings)"
    found = of_files(folder)
    for name, digest in listed.items():
        if name not in found:
            return f"{name} is missing"
        if found[name] != digest:
            return f"{name} is damaged (its digest differs)"
    return None


def of_arrays(arrays: Any) -> str:
    """Return the digest of a tree of arrays, eight hex digits.

    A wrap-around sum, over all elements, of the bit pattern mixed with the leaf's path and the element's
    index: integer sums do not depend on their order, so the digest is the same on any mesh; the mixing is one
    to one, so any change of one element changes it, and changes of several cancel only by chance (2^-32; with
    a product in place of the mixing, two flipped signs always would).
    """
    flat = named(arrays)
    factors = {path: np.uint32(rng.hashed(path)) for path in flat}
    return f"{int(jax.device_get(_digest(flat, factors))):08x}"


@jax.jit
def _digest(flat: dict[str, Array], factors: dict[str, Array]) -> Array:
    return sum((_leaf_digest(leaf, factors[path]) for path, leaf in flat.items()), jnp.uint32(0))


def _leaf_digest(leaf: Array, factor: Array) -> Array:
    bits = _bits(leaf)
    index = jnp.zeros((1,) * bits.ndim, jnp.uint32)
    for axis, size in enumerate(bits.shape):  # not flattened, for that would put a leaf that is cut together
        stride = jnp.uint32(math.prod(bits.shape[axis + 1 :]) & 0xFFFFFFFF)
        along = jnp.arange(size, dtype=jnp.uint32) * stride
        index = index + along.reshape((1,) * axis + (size,) + (1,) * (bits.ndim - 1 - axis))
    place = index * jnp.uint32(2654435761) + factor
    return jnp.sum(_mixed(bits ^ place), dtype=jnp.uint32)


def _mixed(x: Array) -> Array:
    """MurmurHash3's last step (Appleby 2011): one to one, each bit reaching all others."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def _bits(leaf: Array) -> Array:
    """Return the leaf's bit patterns as uint32 (f64 and 64-bit integers give two each)."""
    if leaf.dtype == jnp.bool_:
        return leaf.astype(jnp.uint32)
    if leaf.dtype.itemsize >= 4:
        return jax.lax.bitcast_convert_type(leaf, jnp.uint32)
    return jax.lax.bitcast_convert_type(leaf, {1: jnp.uint8, 2: jnp.uint16}[leaf.dtype.itemsize]).astype(
        jnp.uint32
    )


def named(arrays: Any) -> dict[str, Any]:
    """Return {key path: leaf} of any tree (named tuples of an optimizer, too)."""
    leaves = jax.tree_util.tree_flatten_with_path(arrays)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
