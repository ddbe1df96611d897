"""No head at all: the body's hidden states and its pooled output, for feature extraction and probing."""

from __future__ import annotations

from typing import Any

from lmx.core.hf_table import HeadTable
from lmx.core.types import Model

AXES = ()

HF = {
    "gpt2": HeadTable("GPT2Model", bare=True),
    "bert": HeadTable("BertModel", bare=True, optional={"pooler": "pooler.dense.weight"}),
}
"""Model -> the bare class; a BertModel has a pooler or not, as its file has."""


def attach(body: Model, config: Any) -> Model:
    """Return the body as it is: `hidden` (B, T, D) and, where the model makes one, `pooled` (B, D)."""
    return body
