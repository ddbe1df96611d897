"""lmx: pretrain, fine-tune and customise language models in JAX.

The public face. Everything is imported at first use, so `import lmx` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lmx.core.version import VERSION

if TYPE_CHECKING:
    from lmx.commands._face import build, fine_tune, generate, load, save_hf, train
    from lmx.core.errors import UserError
    from lmx.core.types import Batch, Checkpoint, Metric, Model, Objective, Params

__version__ = VERSION

__all__ = [
    "Batch",
    "Checkpoint",
    "Metric",
    "Model",
    "Objective",
    "Params",
    "UserError",
    "build",
    "fine_tune",
    "generate",
    "load",
    "save_hf",
    "train",
]

_HOMES = {
    **dict.fromkeys(("build", "fine_tune", "generate", "load", "save_hf", "train"), "lmx.commands._face"),
    **dict.fromkeys(("Batch", "Checkpoint", "Metric", "Model", "Objective", "Params"), "lmx.core.types"),
    "UserError": "lmx.core.errors",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lmx' has no attribute {name!r}; there is: {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
