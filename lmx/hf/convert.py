"""Stored tensors to parameters and back, by the tables of a model and of its head."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lmx.core import tree
from lmx.core.errors import UserError, printable
from lmx.core.hf_table import Entry, HeadTable, Table
from lmx.hf.stored import Spec
from lmx.hf.types import FLOATS

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Layout:
    """How parameters lie in a file: the tables of the body and the head, the layers counted out.

    others: tables of the model's other heads, whose tensors a file may hold besides. tied: whether the head
    shares the token embeddings.
    """

    table: Table
    head: HeadTable
    layers: int
    tied: bool
    others: Sequence[HeadTable] = ()

    @property
    def prefix(self) -> str:
        """What stands before the names of the body's tensors."""
        return "" if self.head.bare else self.table.prefix

    @property
    def embeddings(self) -> str:
        """The name of the tensor that a tied head copies."""
        return self.prefix + self.table.entries[0].tensor

    def entries(self) -> Iterator[Entry]:
        """Yield the entry of every tensor, names in full."""
        for entry in self.table.entries:
            tensor = self.prefix + entry.tensor
            for i in range(self.layers) if "{}" in tensor else (None,):
                leaves = entry.leaves if i is None else tuple(path.format(i) for path in entry.leaves)
                yield replace(entry, tensor=tensor if i is None else tensor.format(i), leaves=leaves)
        yield from self.head.entries


@dataclass(frozen=True)
class Plan:
    """What to do with each tensor of a file.

    entries: what to read, by the names of the tables. names: {name of the tables: name in the file}. equal:
    pairs of names in the file that must hold the same values. dropped: {name in the file: why}. fresh: leaves
    that the file has not, to be started anew.
    """

    entries: tuple[Entry, ...]
    names: Mapping[str, str]
    equal: tuple[tuple[str, str], ...]
    dropped: Mapping[str, str]
    fresh: tuple[str, ...]


def layers_in(names: Sequence[str], table: Table) -> int:
    """Return how many layers the names of stored tensors count: as many as there are numbers in them.

    The largest number says nothing: one small tensor could ask for a billion layers.
    """
    body = [re.escape(e.tensor).replace(r"\{\}", r"(\d{1,9})") for e in table.entries if "{}" in e.tensor]
    pattern = re.compile(f"(?:{re.escape(table.prefix)})?(?:{'|'.join(body)})")
    found = [pattern.fullmatch(modern(name, table)) for name in names]
    return len({int(next(filter(None, m.groups()))) for m in found if m is not None})


def plan(
    specs: Mapping[str, Spec],
    shapes: Shapes,
    layout: Layout,
    *,
    may_start: bool = False,
    another: bool = False,
    assumed: Sequence[str] = (),
) -> Plan:
    """Return what to read of a file for leaves of these shapes.

    may_start: a head, or a pooler, that is missing as a whole, and a head of another size, is started anew
    instead of refused. another: the file is of another task, whose head is not this one's even where the
    names are the same, unless the table says that it is. assumed: what to say of sizes that the config does
    not give, where shapes differ (`settings.assumed`).
    Errors: UserError, one line that reads as a diff, with what is missing, surplus, mis-shaped or of a type
    that is no float, the layers grouped and the rest counted.
    """
    names, dropped = _names(specs, layout)
    wanted = [entry for entry in layout.entries() if all(path in shapes for path in entry.leaves)]
    equal = _settle_copies(names, dropped, wanted, layout)
    if may_start:
        _leave_other_head(specs, names, dropped, shapes, layout, another)
    fresh = _fresh(names, wanted, layout) if may_start else ()
    wanted = [entry for entry in wanted if not set(entry.leaves) <= set(fresh)]
    known = {entry.tensor for entry in wanted}
    elsewhere = _elsewhere(layout)
    for name in [name for name in names if name not in known and name in elsewhere]:
        dropped[names.pop(name)] = elsewhere[name]
    expected = {entry.tensor: _stored_shape(entry, shapes) for entry in wanted}
    kinds = {name: specs[names[name]].dtype for name in sorted(known & names.keys())}
    found = {name: specs[stored].shape for name, stored in names.items()}
    if expected != found or not set(kinds.values()) <= set(FLOATS):
        raise UserError(_complaint(expected, found, kinds, layout, assumed))
    return Plan(tuple(wanted), names, equal, dropped, fresh)


def _complaint(
    expected: Shapes, found: Shapes, kinds: Mapping[str, str], layout: Layout, assumed: Sequence[str]
) -> str:
    """Return what to say of a file that has not the tensors of the tables, or not as floats.

    kinds: {tensor: its stored type}. Where shapes differ, it is told where in the config the sizes come from
    that do not plainly stand there.
    """
    lines = tree.diff(expected, found)
    lines += [
        f"! {name} is {kind}, expected one of {', '.join(FLOATS)}"
        for name, kind in kinds.items()
        if kind not in FLOATS
    ]
    told = tree.summary(lines)
    wrong = {name for name in expected.keys() & found.keys() if expected[name] != found[name]}
    counted = any(theirs == "num_labels" for _, theirs in layout.head.options)
    if counted and any(entry.tensor in wrong for entry in layout.head.entries):
        told.append("the labels are counted by num_labels, or else by the names in id2label")
    return (
        f"the tensors are not those of a {layout.head.architecture} of this config "
        f"(- missing, + surplus, ! other): {'; '.join([*told, *(assumed if wrong else ())])}"
    )


def modern(name: str, table: Table) -> str:
    """Return the name of today for a tensor of an old file."""
    for pattern, replacement in table.renamed:
        name = re.sub(pattern, replacement, name)
    return name


def _names(specs: Mapping[str, Spec], layout: Layout) -> tuple[dict[str, str], dict[str, str]]:
    """Return ({name of the tables: name in the file}, {name of a buffer: why it is dropped})."""
    table = layout.table
    body = [re.escape(entry.tensor).replace(r"\{\}", r"\d+") for entry in table.entries]
    bare = re.compile("|".join(body))
    ignored = re.compile("|".join(table.ignored) or r"(?!)")
    names: dict[str, str] = {}
    dropped: dict[str, str] = {}
    for stored in specs:
        if ignored.fullmatch(stored):
            dropped[stored] = "a buffer, not a parameter"
            continue
        name = modern(stored, table)
        inner = name.removeprefix(table.prefix)
        name = layout.prefix + inner if bare.fullmatch(inner) else name
        if name in names:
            raise UserError(
                f"{printable(stored)} and {printable(names[name])} are the same tensor, {printable(name)}; "
                "remove one of them"
            )
        names[name] = stored
    return names, dropped


def _settle_copies(
    names: dict[str, str], dropped: dict[str, str], wanted: Sequence[Entry], layout: Layout
) -> tuple[tuple[str, str], ...]:
    """Take the second copies of tied tensors out of `names`; return the pairs that must be equal."""
    equal = []
    known = {entry.tensor for entry in wanted}
    for entry in layout.head.entries:
        # A head's matrix is not among the leaves where it is tied to the embeddings.
        if entry.tensor not in known and entry.tensor in names and layout.tied and layout.embeddings in names:
            stored = names.pop(entry.tensor)
            equal.append((stored, names[layout.embeddings]))
            dropped[stored] = f"a copy of {names[layout.embeddings]}"
    for entry in wanted:
        if entry.twin is None or entry.twin not in names:
            continue
        stored = names.pop(entry.twin)
        if entry.tensor in names and layout.tied:
            equal.append((stored, names[entry.tensor]))
            dropped[stored] = f"a copy of {names[entry.tensor]}"
        elif entry.tensor in names:
            dropped[names[entry.tensor]] = f"{layout.head.architecture} computes with {stored} instead"
            names[entry.tensor] = stored
        else:
            names[entry.tensor] = stored
    return tuple(equal)


def _leave_other_head(
    specs: Mapping[str, Spec],
    names: dict[str, str],
    dropped: dict[str, str],
    shapes: Shapes,
    layout: Layout,
    another: bool,
) -> None:
    """Take a stored head out of `names` that is another task's, or of another size."""
    if layout.head.shared:
        return
    held = [entry for entry in layout.head.entries if entry.tensor in names]
    sizes = {
        entry.tensor: _stored_shape(entry, shapes)
        for entry in held
        if all(path in shapes for path in entry.leaves)
    }
    other = any(specs[names[tensor]].shape != shape for tensor, shape in sizes.items())
    if another or other:
        why = "the head of another task" if another else "the head for another number of labels"
        for entry in held:
            dropped[names.pop(entry.tensor)] = why


def _fresh(names: Mapping[str, str], wanted: Sequence[Entry], layout: Layout) -> tuple[str, ...]:
    """Return the leaves of those groups, named by their first part, that the file lacks as a whole."""
    groups: dict[str, list[Entry]] = {}
    for entry in wanted:
        groups.setdefault(entry.leaves[0].split("/")[0], []).append(entry)
    missing = [
        entries
        for name, entries in groups.items()
        if name not in ("embed", "block", "final") and not any(entry.tensor in names for entry in entries)
    ]
    return tuple(path for entries in missing for entry in entries for path in entry.leaves)


def _elsewhere(layout: Layout) -> dict[str, str]:
    """Return {tensor: whose it is} of the model's other heads, and of optional parts of the body."""
    owners: dict[str, list[str]] = {}
    for head in layout.others:
        for entry in head.entries:
            for name in (entry.tensor, entry.twin):
                if name is not None and head.architecture not in owners.setdefault(name, []):
                    owners[name].append(head.architecture)
    found = {name: f"belongs to {' or '.join(sorted(those))}" for name, those in owners.items()}
    optional = {"pooler": f"{layout.head.architecture} has no pooler"}
    for entry in layout.table.entries:
        if reason := optional.get(entry.leaves[0].split("/")[0]):
            found[layout.prefix + entry.tensor] = reason
    return found


def split(entry: Entry, tensor: np.ndarray) -> dict[str, np.ndarray]:
    """Return {path: leaf} of one stored tensor."""
    if entry.kind == "join":
        return dict(zip(entry.leaves, np.split(tensor, len(entry.leaves), axis=-1), strict=True))
    return {entry.leaves[0]: tensor.T if entry.kind == "transpose" else tensor}


def join(entry: Entry, leaves: Mapping[str, Any]) -> np.ndarray:
    """Return the stored tensor of its leaves; the inverse of `split`."""
    parts = [np.asarray(leaves[path]) for path in entry.leaves]
    if entry.kind == "join":
        return np.concatenate(parts, axis=-1)
    return np.ascontiguousarray(parts[0].T) if entry.kind == "transpose" else parts[0]


def written(shapes: Shapes, layout: Layout) -> dict[str, tuple[Entry, tuple[int, ...]]]:
    """Return {tensor: (its entry, its shape)} of all tensors to write, in the order of the tables.

    Errors: UserError where a leaf has no place in the class of transformers, or the class has a tensor more.
    """
    left = set(shapes)
    found: dict[str, tuple[Entry, tuple[int, ...]]] = {}
    for entry in layout.entries():
        if missing := [path for path in entry.leaves if path not in shapes]:
            # A head's matrix is not there where it is tied to the embeddings, and a pooler may be missing.
            if (layout.tied and missing == ["head/kernel"]) or missing[0].startswith("pooler/"):
                continue
            raise UserError(f"{layout.head.architecture} has {entry.tensor}; the model has no {missing[0]}")
        left -= set(entry.leaves)
        found[entry.tensor] = (entry, _stored_shape(entry, shapes))
        if entry.twin is not None and not layout.tied:
            found[entry.twin] = found[entry.tensor]
    if left:
        raise UserError(f"{layout.head.architecture} has no place for {', '.join(sorted(left))}")
    return found


def _stored_shape(entry: Entry, shapes: Shapes) -> tuple[int, ...]:
    shape = tuple(shapes[entry.leaves[0]])
    if entry.kind == "transpose":
        return shape[::-1]
    return (*shape[:-1], shape[-1] * len(entry.leaves)) if entry.kind == "join" else shape
