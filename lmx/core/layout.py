"""How parameters, states and activations lie on a mesh: one table, from a leaf's axis names to mesh axes.

A model names the axes of its leaves (AXES); nothing else says what is cut. Source: Rajbhandari et al. 2020,
"ZeRO", section 5 (states and parameters cut over the devices that share a batch); Shoeybi et al. 2019,
"Megatron-LM", section 3 (heads and the feed-forward layer cut over devices); Xu et al. 2021, "GSPMD".
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lmx.core import layers, tree
from lmx.core.errors import UserError
from lmx.core.mesh import FSDP, ROWS, TENSOR
from lmx.core.types import Array

Axes = Sequence[tuple[str, tuple[str, ...]]]
"""(pattern of a whole path, names of the leaf's axes); the first rule that matches holds."""

CUT: Mapping[str, str] = {"vocab": TENSOR, "heads": TENSOR, "mlp": TENSOR, "width": FSDP}
"""Axis of a leaf -> axis of the mesh that cuts it. A matrix without a `width` that fsdp divides is cut along
another axis; vectors are whole on every device, for they weigh nothing."""

_MESH: ContextVar[Mesh | None] = ContextVar("mesh", default=None)


@contextmanager
def on(mesh: Mesh | None) -> Iterator[None]:
    """Lay out what is traced within for a mesh; within none, or one of one device, nothing is said."""
    before = _MESH.set(mesh if mesh is not None and mesh.size > 1 else None)
    try:
        yield
    finally:
        _MESH.reset(before)


def spec(names: Sequence[str], shape: Sequence[int], mesh: Mesh) -> PartitionSpec:
    """Return how a leaf with these axes lies between steps."""
    cut: list[tuple[str, ...]] = [()] * len(shape)
    tensor, fsdp = mesh.shape.get(TENSOR, 1), mesh.shape.get(FSDP, 1)
    for axis, name in enumerate(names):
        if CUT.get(name) == TENSOR and tensor > 1 and shape[axis] % tensor == 0:
            cut[axis] = (TENSOR,)
            break
    if fsdp > 1 and len(shape) > 1:
        first = sorted(range(len(shape)), key=lambda axis: (CUT.get(names[axis]) != FSDP, -shape[axis]))
        for axis in first:
            left = shape[axis] // (tensor if cut[axis] else 1)
            if left % fsdp == 0:
                cut[axis] = (*cut[axis], FSDP)
                break
    return PartitionSpec(*(one if len(one) > 1 else one[0] if one else None for one in cut))


def names_of(path: str, axes: Axes) -> tuple[str, ...]:
    """Return the names of a leaf's axes; () where no rule has them, as for a task of the user's own."""
    return next((names for pattern, names in axes if re.fullmatch(pattern, path)), ())


def shardings(shapes: Any, axes: Axes, mesh: Mesh) -> Any:
    """Return the sharding of each leaf of a parameters' tree; one without names is whole on every device."""

    def of(path: str, leaf: Any) -> NamedSharding:
        names, shape = names_of(layers.first(path), axes), layers.shape(path, leaf)
        above = (None,) * (len(leaf.shape) - len(shape))  # nothing cuts a stack of layers between them
        one = spec(names, shape, mesh) if len(names) == len(shape) else ()
        return NamedSharding(mesh, PartitionSpec(*above, *one))

    return tree.map_named(of, shapes)


def like(state: Any, params: Any, sharded: Any, mesh: Mesh) -> Any:
    """Return the sharding of each leaf of an optimizer's state: that of the parameter whose path its own ends
    in, where the two have one shape; else whole on every device."""
    shapes = {path: leaf.shape for path, leaf in tree.flatten(params).items()}
    places = tree.flatten(sharded)
    whole = NamedSharding(mesh, PartitionSpec())

    def of(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        keys = [str(one.key) for one in path if isinstance(one, jax.tree_util.DictKey)]
        for begin in range(len(keys)):
            name = "/".join(keys[begin:])
            if shapes.get(name) == leaf.shape:
                return places[name]
        return whole

    return jax.tree_util.tree_map_with_path(of, state)


def check(sizes: Mapping[str, int], mesh: Mesh) -> None:
    """Raise UserError where the mesh's axis `tensor` does not divide one of the sizes, {its name: size}.

    What cannot be cut would be held and computed by each device, and nobody would know.
    """
    tensor = mesh.shape.get(TENSOR, 1)
    for name, size in sizes.items():
        if size % tensor:
            near = min((n for n in range(1, size + 1) if size % n == 0), key=lambda n: abs(n - tensor))
            raise UserError(
                f"mesh.tensor={tensor} does not divide the model's {name} ({size}); the nearest that does is "
                f"{near}"
            )


def held(tree: Any) -> int:
    """Return the bytes of a tree of arrays, or of shapes with shardings, that one device holds."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(one.sharding.shard_shape(one.shape)) * one.dtype.itemsize for one in leaves)


def gathered(leaf: Array, names: Sequence[str]) -> Array:
    """Return a leaf as a layer uses it: what fsdp cuts is put together, what tensor cuts stays cut."""
    mesh = _MESH.get()
    if mesh is None or len(names) != leaf.ndim:
        return leaf
    used = PartitionSpec(*(_without(one) for one in spec(names, leaf.shape, mesh)))
    return jax.lax.with_sharding_constraint(leaf, NamedSharding(mesh, used))


def scattered(gradient: Array, names: Sequence[str]) -> Array:
    """Return the gradient of a leaf as the leaf lies between steps, so that it is summed and cut at once."""
    mesh = _MESH.get()
    if mesh is None or len(names) != gradient.ndim:
        return gradient
    return jax.lax.with_sharding_constraint(gradient, NamedSharding(mesh, spec(names, gradient.shape, mesh)))


def _without(one: Any) -> Any:
    left = tuple(name for name in ((one,) if isinstance(one, str) else one or ()) if name != FSDP)
    return left[0] if len(left) == 1 else left or None


def rows(x: Array, *names: str | None) -> Array:
    """Return an activation (B, ...) with B cut as the batch is; names: of the other axes, None for whole."""
    mesh = _MESH.get()
    if mesh is None:
        return x
    tensor = mesh.shape.get(TENSOR, 1)
    rest = [
        TENSOR if name is not None and CUT.get(name) == TENSOR and size % tensor == 0 else None
        for name, size in zip((*names, *(None,) * x.ndim), x.shape[1:], strict=False)
    ]
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(ROWS, *rest)))


def current() -> Mesh | None:
    """Return the mesh that is traced for; None within none, or one of one device."""
    return _MESH.get()
