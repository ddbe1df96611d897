"""Trees with named leaves: parameters addressed by path and chosen by pattern."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

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

    >>> diff({"a": (2,), "b": (3,)}, {"b": (4,), "c": (5,)})
    ['- a (2,)', '! b expected (3,), found (4,)', '+ c (5,)']
    """
    lines = []
    for name in sorted({*expected, *found}):
        if name not in found:
            lines.append(f"- {name} {tuple(expected[name])}")
        elif name not in expected:
            lines.append(f"+ {name} {tuple(found[name])}")
        elif tuple(expected[name]) != tuple(found[name]):
            lines.append(f"! {name} expected {tuple(expected[name])}, found {tuple(found[name])}")
    return lines
