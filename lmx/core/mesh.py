"""The device mesh: its three axes, and how batches lie on it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from lmx.core.errors import UserError
from lmx.core.types import Array

DATA, FSDP, TENSOR = AXES = ("data", "fsdp", "tensor")
"""The mesh's axes: `data` copies the state and cuts the batch, `fsdp` cuts both, `tensor` cuts the layers."""

ROWS = (DATA, FSDP)
"""The axes that cut a batch."""


def make(data: int = -1, fsdp: int = 1, tensor: int = 1, *, devices: Sequence[Any] | None = None) -> Mesh:
    """Return a mesh of these sizes; one of them may be -1 for as many as there are devices.

    devices: all, without them. Fewer than all may be asked for in one process, and the first are taken.
    Errors: UserError for sizes that do not fit the devices, with the nearest that do.
    """
    there = list(jax.devices() if devices is None else devices)
    sizes = {DATA: data, FSDP: fsdp, TENSOR: tensor}
    asked = ", ".join(f"mesh.{name}={size}" for name, size in sizes.items())
    if any(size != -1 and size < 1 for size in sizes.values()):
        raise UserError(f"{asked}; expected sizes of at least 1, or -1 for as many as there are devices")
    free = [name for name, size in sizes.items() if size == -1]
    if len(free) > 1:
        raise UserError(f"{asked}; only one of them can be -1")
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if free:
        sizes[free[0]] = max(1, len(there) // fixed)
    needed = math.prod(sizes.values())
    if needed > len(there) or (free and needed != len(there)):
        nearest = _nearest(fixed, len(there))
        raise UserError(
            f"{asked} does not fit {len(there)} device{'s' * (len(there) > 1)}; "
            f"the product of what is not -1 must divide {len(there)}, as {' and '.join(map(str, nearest))} "
            f"{'do' if len(nearest) > 1 else 'does'}"
        )
    if needed < len(there) and len({device.process_index for device in there}) > 1:
        raise UserError(
            f"{asked} uses {needed} of {len(there)} devices; several processes must use all: the product of "
            f"the sizes must be {len(there)}"
        )
    # Axes of a torus are cut where none is as long as the mesh's; jax.make_mesh cuts those of v5e alone.
    grid = mesh_utils.create_device_mesh(
        tuple(sizes.values()), there[:needed], allow_split_physical_axes=True
    )
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _nearest(fixed: int, count: int) -> list[int]:
    """Return the divisors of `count` next to `fixed`, below and above."""
    divisors = [n for n in range(1, count + 1) if count % n == 0]
    below = [n for n in divisors if n <= fixed]
    above = [n for n in divisors if n > fixed]
    return [*below[-1:], *above[:1]]


def idle(count: int) -> str:
    """Return what to say of so many devices beside the mesh's; nothing of none."""
    return f" ({count} more {'is' if count == 1 else 'are'} idle)" if count else ""


def ways(mesh: Mesh) -> int:
    """Return into how many parts the mesh cuts a batch."""
    return math.prod(mesh.shape.get(name, 1) for name in ROWS)


def filled(size: int, mesh: Mesh) -> int:
    """Return the least size of a batch, from `size` up, that the mesh cuts evenly."""
    return -(-size // ways(mesh)) * ways(mesh)


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of a value that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def by_example(mesh: Mesh) -> NamedSharding:
    """Return the sharding of a batch: B is cut over the axes `data` and `fsdp`."""
    return NamedSharding(mesh, PartitionSpec(ROWS))


def check_batch(size: int, mesh: Mesh, parts: int = 1) -> None:
    """Raise UserError unless each of the parts of a global batch of `size` divides over the mesh."""
    cuts = ways(mesh) * parts
    if size % cuts:
        nearest = max(cuts, round(size / cuts) * cuts)
        into = f" in batch.parts={parts}" * (parts > 1)
        raise UserError(
            f"batch.size={size}{into} does not divide over {ways(mesh)} devices; the nearest that does is "
            f"{nearest}"
        )


def blocks(mesh: Mesh) -> list[int]:
    """Return which blocks of a batch, of as many as `ways`, the devices of this process hold, in order.

    A mesh lies on its devices as suits their links, so that these need be neither one after the other nor
    this process's alone: devices that share a block by `tensor` may be those of several.
    """
    held = by_example(mesh).addressable_devices_indices_map((ways(mesh),))
    return sorted({index[0].start or 0 for index in held.values() if index})


def places(size: int, mesh: Mesh) -> np.ndarray:
    """Return the places in a global batch of `size` of the rows that this process holds, in order."""
    each = size // ways(mesh)
    return np.concatenate([np.arange(block * each, (block + 1) * each) for block in blocks(mesh)])


def part(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, np.ndarray]:
    """Return this process's rows of a global batch that each process has whole."""
    mine = places(len(next(iter(batch.values()))), mesh)
    return {name: rows[mine] for name, rows in batch.items()}


def put(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, Array]:
    """Return the global batch on the mesh, made of the rows at the `places` of each process."""
    sharding, mine, count = by_example(mesh), blocks(mesh), ways(mesh)

    def placed(rows: np.ndarray) -> Array:
        each = len(rows) // len(mine)

        def block(index: tuple[slice, ...] | None) -> np.ndarray:
            first = (index[0].start or 0) if index else 0
            begin = mine.index(first // each) * each
            return rows[begin : begin + each]

        return jax.make_array_from_callback((each * count, *rows.shape[1:]), sharding, block)

    return {name: placed(np.asarray(rows)) for name, rows in batch.items()}


def under(tree: Any) -> Mesh | None:
    """Return the mesh of several devices on which a tree of arrays lies, None where it lies on one device."""
    for leaf in jax.tree.leaves(tree):
        sharding = getattr(leaf, "sharding", None)
        if isinstance(sharding, NamedSharding) and sharding.mesh.size > 1:
            return cast(Mesh, sharding.mesh)
    return None


def place(tree: Any, mesh: Mesh) -> Any:
    """Return a tree of arrays on the mesh: what lies elsewhere is made whole on each device."""
    there, whole = set(mesh.devices.flat), replicated(mesh)

    def of(leaf: Any) -> Any:
        known = isinstance(leaf, jax.Array) and leaf.sharding.device_set == there
        return leaf if known else laid(leaf, whole)

    return jax.tree.map(of, tree)


def laid(leaf: Any, sharding: jax.sharding.Sharding) -> Array:
    """Return an array that each process has whole under a sharding of the devices of all."""
    if sharding.is_fully_addressable:
        return jax.device_put(leaf, sharding)
    host = np.asarray(leaf)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])
