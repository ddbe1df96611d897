"""The device mesh, and how batches and states lie on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from lmx.core.errors import UserError
from lmx.core.types import Array


def make(data: int = -1) -> Mesh:
    """Return a mesh with the axis `data`; -1 takes every device.

    Raises UserError where more devices are asked for than there are.
    """
    devices = jax.devices()
    size = len(devices) if data == -1 else data
    if not 1 <= size <= len(devices):
        raise UserError(f"mesh.data={data}, but there are {len(devices)} devices; use -1 for all of them")
    return jax.make_mesh((size,), ("data",), axis_types=(AxisType.Auto,), devices=devices[:size])


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of a value that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def by_example(mesh: Mesh) -> NamedSharding:
    """Return the sharding of a batch: B is cut over the `data` axis."""
    return NamedSharding(mesh, PartitionSpec("data"))


def check_batch(size: int, mesh: Mesh) -> None:
    """Raise UserError unless a global batch of `size` divides over the mesh and the processes."""
    ways = mesh.shape["data"]
    if size % ways:
        nearest = max(ways, round(size / ways) * ways)
        raise UserError(
            f"batch.size={size} does not divide over {ways} devices; the nearest that does is {nearest}"
        )


def put(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, Array]:
    """Return the global batch on the mesh, made of the rows that each process holds (its own slice)."""
    sharding = by_example(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()}


def gather(tree: Any) -> Any:
    """Return the tree as numpy arrays, whole on this host."""
    return jax.tree.map(np.asarray, jax.device_get(tree))
