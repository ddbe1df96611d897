"""Parameters looked at before they are written: all leaves there, of the right shapes, floats, finite."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from lmx.core import tree
from lmx.core.errors import UserError, printable
from lmx.hf.types import FLOATS


def check(params: Any, shapes: Mapping[str, Any]) -> dict[str, Any]:
    """Return {path: leaf} of the parameters.

    shapes: the tree of the model's leaves, each with its `shape`. Errors: UserError, one line that reads as a
    diff, where one is missing, surplus, of another shape, no array of floats, or deleted.
    """
    if not isinstance(params, Mapping):
        raise UserError(
            f"the checkpoint's params are of type {type(params).__name__}; expected a nested dict of arrays"
        )
    found, expected = tree.flatten(params), tree.flatten(shapes)
    arrays = {path: leaf for path, leaf in found.items() if isinstance(leaf, (jax.Array, np.ndarray))}
    kinds = {path: _fault(leaf) for path, leaf in found.items() if path in expected}
    known = {path: leaf.shape for path, leaf in expected.items()}
    others = {path: arrays[path].shape if path in arrays else () for path in found.keys() - known.keys()}
    held = {
        path: known[path] if path not in arrays else arrays[path].shape
        for path in known.keys() & found.keys()
    }
    lines = tree.diff(known, {**others, **held})
    lines += [f"! {printable(path)} {fault}" for path, fault in kinds.items() if fault]
    if lines:
        raise UserError(
            "the checkpoint's params are not those of its config (- missing, + surplus, ! other): "
            f"{'; '.join(tree.summary(lines))}"
        )
    return found


def _fault(leaf: Any) -> str:
    """Return what keeps a leaf from being written, or nothing."""
    floats = f"expected an array of one of {', '.join(FLOATS)}"
    if not isinstance(leaf, (jax.Array, np.ndarray)):
        return f"is of type {type(leaf).__name__}, {floats}"
    if isinstance(leaf, jax.core.Tracer):
        return "is an array within jit; save outside"
    if isinstance(leaf, jax.Array) and leaf.is_deleted():
        return "was deleted (donated to a compiled function, say); keep a copy"
    return "" if str(leaf.dtype) in FLOATS else f"is {leaf.dtype}, {floats}"


def nonfinite(leaves: Mapping[str, Any], *, allow: bool) -> list[str]:
    """Return the paths of the leaves that hold NaN or infinite values.

    Errors: UserError naming them, unless they are allowed.
    """
    counts = {path: count for path, leaf in leaves.items() if (count := _count(np.asarray(leaf)))}
    if counts and not allow:
        lines = [f"{path} ({count:,} values)" for path, count in counts.items()]
        more = f" and {len(lines) - 3} more" if len(lines) > 3 else ""
        raise UserError(
            f"NaN or infinite: {', '.join(lines[:3])}{more}; expected finite weights (--allow-nonfinite, or "
            "allow_nonfinite=True, writes them all the same)"
        )
    return list(counts)


def _count(array: np.ndarray) -> int:
    """Return how many values are NaN or infinite; a sum of them is not finite, and takes no memory."""
    with np.errstate(over="ignore", invalid="ignore"):
        total = np.sum(array, dtype=np.promote_types(array.dtype, np.float32))
    return 0 if np.isfinite(total) else int(array.size - np.count_nonzero(np.isfinite(array)))
