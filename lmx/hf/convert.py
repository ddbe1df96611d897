"""Parameters to stored tensors and back, by a table."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from lmx.core import tree
from lmx.core.errors import UserError
from lmx.core.hf_table import Entry, HeadTable, Table

Tensors = dict[str, np.ndarray]


def entries(table: Table, head: HeadTable, layers: int) -> Iterator[Entry]:
    """Yield the entry of every tensor, names in full, layers counted out."""
    body = [Entry(table.prefix + e.tensor, e.leaves, e.kind) for e in table.entries]
    for entry in (*body, *head.entries):
        if "{}" not in entry.tensor:
            yield entry
            continue
        for layer in range(layers):
            yield Entry(entry.tensor.format(layer), tuple(p.format(layer) for p in entry.leaves), entry.kind)


def to_tensors(params: Mapping[str, Any], table: Table, head: HeadTable, layers: int) -> Tensors:
    """Return the stored tensors of the parameters; every leaf goes into exactly one tensor."""
    leaves = {path: np.asarray(leaf) for path, leaf in tree.flatten(params).items()}
    tensors: Tensors = {}
    for entry in entries(table, head, layers):
        if not all(path in leaves for path in entry.leaves):
            continue  # A head's matrix is not there where it is tied to the embeddings.
        parts = [leaves.pop(path) for path in entry.leaves]
        if entry.kind == "join":
            tensors[entry.tensor] = np.concatenate(parts, axis=-1)
        else:
            tensors[entry.tensor] = parts[0].T if entry.kind == "transpose" else parts[0]
    assert not leaves, f"leaves without a place in the table: {sorted(leaves)}"
    return {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}


def from_tensors(
    tensors: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
    table: Table,
    head: HeadTable,
    layers: int,
) -> dict[str, Any]:
    """Return the parameters of the stored tensors, in f32.

    shapes: {path: shape} of the leaves that the model wants. Tensor names may lack the prefix, as the bare
    model's do, and known buffers are passed over. Errors: UserError with a diff of all that is missing,
    surplus or mis-shaped.
    """
    named = _normalise(tensors, table)
    wanted = [e for e in entries(table, head, layers) if all(path in shapes for path in e.leaves)]
    expected = {entry.tensor: _stored_shape(entry, shapes) for entry in wanted}
    lines = tree.diff(expected, {name: tensor.shape for name, tensor in named.items()})
    if lines:
        raise UserError(
            "the tensors are not those of the config (- missing, + surplus, ! shape): " + "; ".join(lines)
        )
    leaves: dict[str, np.ndarray] = {}
    for entry in wanted:
        tensor = named[entry.tensor].astype(np.float32)
        if entry.kind == "join":
            leaves.update(zip(entry.leaves, np.split(tensor, len(entry.leaves), axis=-1), strict=True))
        else:
            leaves[entry.leaves[0]] = tensor.T if entry.kind == "transpose" else tensor
    return tree.unflatten(leaves)


def _normalise(tensors: Mapping[str, np.ndarray], table: Table) -> dict[str, np.ndarray]:
    """Return the tensors under their full names (the bare model's get the prefix), without buffers."""
    body = [re.escape(entry.tensor).replace(r"\{\}", r"\d+") for entry in table.entries]
    bare = re.compile("|".join(body))
    named = {table.prefix + name if bare.fullmatch(name) else name: t for name, t in tensors.items()}
    ignored = re.compile("|".join(table.ignored) or r"(?!)")
    return {name: tensor for name, tensor in named.items() if not ignored.fullmatch(name)}


def _stored_shape(entry: Entry, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    shape = shapes[entry.leaves[0]]
    if entry.kind == "transpose":
        return shape[::-1]
    return (*shape[:-1], shape[-1] * len(entry.leaves))
