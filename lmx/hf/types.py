"""The types of stored tensors, by name."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from lmx.core.errors import UserError

FLOATS = ("float16", "bfloat16", "float32", "float64")
"""What weights may be stored as, and read as."""


def cast(tensor: np.ndarray, name: str, what: str) -> np.ndarray:
    """Return the tensor in the type of that name.

    what: the tensor, for messages. Errors: UserError where a finite value becomes infinite.
    """
    dtype = named_type(name)
    if tensor.dtype == dtype:
        return tensor
    with np.errstate(over="ignore", invalid="ignore"):
        found = tensor.astype(dtype)
    own = tensor.dtype.name
    shorter = own in FLOATS and _limits(name).max < _limits(own).max  # bfloat16 and float16 are of one width
    if shorter and np.count_nonzero(np.isinf(found)) > np.count_nonzero(np.isinf(tensor)):
        raise UserError(f"{what} has values beyond {name}; use {own}")
    return found


def narrower(kind: str, dtype: str) -> bool:
    """Return whether the type `dtype` cannot hold every value of the float type `kind`.

    False where `kind` is no float. Errors: UserError where `dtype` is none.

    >>> narrower("float32", "bfloat16"), narrower("bfloat16", "float16"), narrower("float16", "float32")
    (True, True, False)
    """
    named_type(dtype)
    if kind not in FLOATS:
        return False
    one, other = _limits(kind), _limits(dtype)
    return bool(other.max < one.max or other.nmant < one.nmant)


def _limits(name: str) -> Any:
    return ml_dtypes.finfo(named_type(name))


def named_type(name: str) -> np.dtype[Any]:
    """Return numpy's type of that name, ml_dtypes' for bfloat16. Errors: UserError where it is no float."""
    if name not in FLOATS:
        raise UserError(f"dtype={name!r}; expected one of {', '.join(FLOATS)}")
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)
