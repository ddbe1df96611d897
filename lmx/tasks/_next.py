"""BERT's head for next-sentence prediction: two classes over the pooled output; 0 is the true next sentence.

Source: Devlin et al. 2018, section 3.1, task 2.
"""

from __future__ import annotations

from lmx.core import functions
from lmx.core.hf_table import Entry
from lmx.core.types import Array, Params

AXES = ((r"next/kernel", ("width", "label")), (r"next/bias", ("label",)))

ENTRIES = (
    Entry("cls.seq_relationship.weight", ("next/kernel",), "transpose"),
    Entry("cls.seq_relationship.bias", ("next/bias",)),
)


def shapes(width: int) -> dict[str, tuple[int, ...]]:
    """Return {path: shape} of the head's leaves."""
    return {"next/kernel": (width, 2), "next/bias": (2,)}


def predict(params: Params, pooled: Array) -> Array:
    """(B, D) -> logits (B, 2)."""
    return functions.dense(pooled, **params["next"])
