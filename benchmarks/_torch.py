"""What the torch sides share; importing it needs no torch."""

from __future__ import annotations

from typing import Any


def groups(model: Any, decay: float) -> list[dict[str, Any]]:
    """Return a model's parameters for AdamW: matrices and tables with decay, biases and norms without."""
    return [
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": decay},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
