"""Trees with named leaves: parameters addressed by path and chosen by pattern."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from lmx.core.errors import printable

Tree = dict[str, Any]


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return {path: leaf} in the order of the tree, paths joined by `/`.

    >>> flatten({"block": {"0": {"kernel": 1}}})
    {'block/0/kernel': 1}
    """
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping):
            flat.update(flatten(value, path + "/"))
        else:
            flat[path] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> Tree:
    """Return the nested dict of {path: leaf}; the inverse of `flatten`."""
    tree: Tree = {}
    for path, value in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return tree


def map_named(function: Callable[[str, Any], Any], tree: Mapping[str, Any]) -> Tree:
    """Return the tree with every leaf replaced by `function(path, leaf)`."""
    return unflatten({path: function(path, leaf) for path, leaf in flatten(tree).items()})


def mask(tree: Mapping[str, Any], pattern: str) -> Tree:
    """Return a tree of booleans: True where the whole path matches the regular expression."""
    compiled = re.compile(pattern)
    return map_named(lambda path, _: compiled.fullmatch(path) is not None, tree)


def split(tree: Mapping[str, Any], chosen: Mapping[str, Any]) -> tuple[Tree, Tree]:
    """Return (the leaves where `chosen`, a tree of booleans, is True; the others), each nested as before."""
    flags, flat = flatten(chosen), flatten(tree)
    yes = {path: leaf for path, leaf in flat.items() if flags[path]}
    return unflatten(yes), unflatten({path: leaf for path, leaf in flat.items() if path not in yes})


def merge(one: Mapping[str, Any], two: Mapping[str, Any]) -> Tree:
    """Return the tree with the leaves of both; the inverse of `split`."""
    return unflatten({**flatten(one), **flatten(two)})


def diff(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Compare {name: shape}; return one line per missing (-), surplus (+) or mis-shaped (!) name.

    The lines may be shown whatever the names are: they are as `printable` gives them, in the order of names.

    >>> diff({"a": (2,), "b": (3,)}, {"b": (4,), "c": (5,)})
    ['- a (2,)', '! b expected (3,), found (4,)', '+ c (5,)']
    """
    lines = []
    for name in sorted({*expected, *found}):
        shown = printable(name)
        if name not in found:
            lines.append(f"- {shown} {_sizes(expected[name])}")
        elif name not in expected:
            lines.append(f"+ {shown} {_sizes(found[name])}")
        elif tuple(expected[name]) != tuple(found[name]):
            lines.append(f"! {shown} expected {_sizes(expected[name])}, found {_sizes(found[name])}")
    return lines


def _sizes(shape: Sequence[int]) -> str:
    return f"{tuple(shape)}" if len(shape) <= 8 else f"({', '.join(map(str, shape[:8]))}, ...)"


def summary(lines: Sequence[str], most: int = 12) -> list[str]:
    """Return lines of `diff` for one message: those of many layers as one, at most `most`, then a count.

    Where there are more, each kind of line is among those that are shown.

    >>> summary(["- h.0.bias (2,)", "- h.1.bias (2,)", "- h.5.bias (2,)", "+ x.weight (3,)"])
    ['- h.{0,1,5}.bias (2,)', '+ x.weight (3,)']
    """
    groups: dict[str, list[tuple[str, str]]] = {}
    for line in lines:
        mark, _, rest = line.partition(" ")
        name, _, more = rest.partition(" ")
        layer = _LAYER.search(name)
        pattern = name if layer is None else f"{name[: layer.start()]}{{}}{name[layer.end() :]}"
        groups.setdefault(f"{mark} {pattern} {more}", []).append((layer[0] if layer else "", line))
    kinds: dict[str, list[str]] = {}
    for key in groups:
        kinds.setdefault(key[0], []).append(key)
    chosen = {key for keys in kinds.values() for key in keys[: most // 3]}
    for key in groups:
        if len(chosen) < most:
            chosen.add(key)
    shown = [_grouped(key, members) for key, members in groups.items() if key in chosen]
    left = sum(len(members) for key, members in groups.items() if key not in chosen)
    return [*shown, f"and {left:,} more"] if left else shown


_LAYER = re.compile(r"(?<=[./])[0-9]{1,9}(?=[./])")


def _grouped(pattern: str, members: Sequence[tuple[str, str]]) -> str:
    """Return one line for those that differ in the number of the layer alone."""
    numbers = sorted({int(number) for number, _ in members if number})
    if len(numbers) < 2:
        return members[0][1]
    ranges = list(_ranges(numbers))
    return pattern.replace("{}", "{" + ",".join(ranges[:8]) + (",..." if len(ranges) > 8 else "") + "}", 1)


def _ranges(numbers: Sequence[int]) -> Iterator[str]:
    """Yield the runs of ascending numbers.

    >>> list(_ranges([0, 1, 2, 5]))
    ['0..2', '5']
    """
    first = 0
    for i, number in enumerate(numbers):
        if i + 1 == len(numbers) or numbers[i + 1] != number + 1:
            run = numbers[first : i + 1]
            yield from (f"{run[0]}..{number}",) if len(run) > 2 else map(str, run)
            first = i + 1
