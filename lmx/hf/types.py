"""The types of stored tensors, by name."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from lmx.core.errors import UserError

FLOATS = ("float16", "bfloat16", "float32", "float64")
"""What weights may be stored as, and read as."""


def cast(tensor: np.ndarray, name: str, what: str) -> np.ndarray:
    """Return the tensor in the type of that name. Errors: UserError where a finite value becomes infinite."""
    dtype = named_type(name)
    if tensor.dtype == dtype:
        return tensor
    with np.errstate(over="ignore", invalid="ignore"):
        found = tensor.astype(dtype)
    if dtype.itemsize < tensor.dtype.itemsize and np.isinf(found).sum() > np.isinf(tensor).sum():
        raise UserError(f"{what} has values beyond {name}; use float32")
    return found


def named_type(name: str) -> np.dtype[Any]:
    """Return numpy's type of that name, ml_dtypes' for bfloat16. Errors: UserError where it is no float."""
    if name not in FLOATS:
        raise UserError(f"dtype={name!r}; expected one of {', '.join(FLOATS)}")
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)
