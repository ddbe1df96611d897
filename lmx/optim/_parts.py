"""An optimizer with a memory of its own for each part of the parameters, of which some rest in a step.

What rests is not seen by the optimizer at all: with a gradient of zeros, decay and momentum would move it.
And what an optimizer counts is counted for each part: Adam divides its moments by 1 - b^count, and those of a
head that moves in one step of ten have seen a tenth of the steps. By the count of all steps, the first move
of a head after many would be 0.1 / sqrt(0.001) = 3.2 times as long as it should be, its tenth 6.5 times.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import optax

from lmx.core import tree
from lmx.core.types import Array, Params

Part = Callable[[str], str]
"""A leaf's path -> the part that it belongs to."""


def groups(params: Params, part: Part) -> dict[str, list[str]]:
    """Return {part: the paths of its leaves}, for the leaves that are there."""
    found: dict[str, list[str]] = {}
    for path in tree.flatten(params):
        found.setdefault(part(path), []).append(path)
    return found


def only(state: Any, paths: list[str]) -> Any:
    """Return an optimizer's state, or parameters, with these leaves alone.

    Each dict in it mirrors the parameters, as those of optax do; what is no dict stays as it is.
    """

    def cut(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        return tree.unflatten({path: leaf for path, leaf in tree.flatten(node).items() if path in paths})

    return jax.tree.map(cut, state, is_leaf=lambda node: isinstance(node, dict))


def update(
    core: optax.GradientTransformation, part: Part, gradients: Params, state: Any, params: Params, made: Array
) -> tuple[Params, dict[str, Any]]:
    """Return (moves, state) of the parts that are there; the states of all others are given back as they are.

    made: the updates of all parts so far, by which learning rates go.
    """
    moves: dict[str, Any] = {}
    after = dict(state)
    for name, paths in groups(params, part).items():
        own = _scheduled(state[name], made)
        moved, after[name] = core.update(only(gradients, paths), own, only(params, paths))
        moves |= tree.flatten(moved)
    return tree.unflatten(moves), after


def _scheduled(state: Any, made: Array) -> Any:
    """Return the state with its learning rate at the run's own step."""

    def is_schedule(node: Any) -> bool:
        return isinstance(node, optax.ScaleByScheduleState)

    return jax.tree.map(
        lambda node: node._replace(count=made) if is_schedule(node) else node, state, is_leaf=is_schedule
    )
