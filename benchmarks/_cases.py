"""The steps that are measured: sizes, batches, and lmx's own models of them; importing it is light."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

CLIP, B1, EPSILON = 1.0, 0.9, 1e-8
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """Sizes by their letters (lmx/core/types.py); positions of the model; steps in one round.

    rate, decay, b2: of AdamW.
    """

    V: int
    positions: int
    D: int
    L: int
    H: int
    B: int
    T: int
    rate: float
    decay: float
    b2: float
    round: int

    def matrices(self) -> int:
        """Return how many numbers the matrices hold that every token is multiplied with."""
        return 12 * self.L * self.D**2

    def flops(self) -> float:
        """Return those of one step: 6 a token for each of these numbers, and 12 L D T a token for the
        attention."""
        return self.B * self.T * (6 * self.matrices() + 12 * self.L * self.D * self.T)

    def batch(self, step: int, rows: int | None = None) -> Arrays:
        """Return one batch, drawn with the step; rows: B, where it is not the case's own."""
        raise NotImplementedError

    def sections(self) -> dict[str, Any]:
        """Return the sections `model` and `task` of lmx's config, without dropout."""
        raise NotImplementedError


class Gpt2(Case):
    """GPT-2 in pretraining: every token predicts the next."""

    def matrices(self) -> int:
        """Return those of the layers and of the logits."""
        return super().matrices() + self.V * self.D

    def batch(self, step: int, rows: int | None = None) -> Arrays:
        """Return `input_ids` (B, T)."""
        shape = (rows or self.B, self.T)
        return {"input_ids": np.random.default_rng(step).integers(0, self.V, shape).astype(np.int32)}

    def sections(self) -> dict[str, Any]:
        """Return the sections `model` and `task` of lmx's config, without dropout."""
        sizes = {"vocab_size": self.V, "positions": self.positions, "width": self.D}
        off = {f"dropout_{of}": 0.0 for of in ("embed", "attention", "residual")}
        model = {"name": "gpt2", **sizes, "layers": self.L, "heads": self.H, **off}
        return {"model": model, "task": {"name": "causal_lm"}}


class Bert(Case):
    """BERT in fine-tuning: one of two labels for each row, every row full."""

    def batch(self, step: int, rows: int | None = None) -> Arrays:
        """Return `input_ids`, `attention_mask`, `token_type_ids` (B, T) and `labels` (B,)."""
        draw, shape = np.random.default_rng(step), (rows or self.B, self.T)
        return {
            "input_ids": draw.integers(0, self.V, shape).astype(np.int32),
            "attention_mask": np.ones(shape, np.int32),
            "token_type_ids": np.zeros(shape, np.int32),
            "labels": draw.integers(0, 2, shape[0]).astype(np.int32),
        }

    def sections(self) -> dict[str, Any]:
        """Return the sections `model` and `task` of lmx's config, without dropout."""
        sizes = {"vocab_size": self.V, "positions": self.positions, "width": self.D, "mlp_width": 4 * self.D}
        off = {"dropout_hidden": 0.0, "dropout_attention": 0.0}
        model = {"name": "bert", **sizes, "layers": self.L, "heads": self.H, **off}
        return {"model": model, "task": {"name": "sequence_classification", "labels": 2, "dropout": 0.0}}


GPT2_SMALL = {"V": 65, "positions": 64, "D": 128, "L": 4, "H": 4}
GPT2_BASE = {"V": 50257, "positions": 1024, "D": 768, "L": 12, "H": 12}
BERT_SMALL = {"V": 1000, "positions": 64, "D": 128, "L": 2, "H": 2}
BERT_BASE = {"V": 30522, "positions": 512, "D": 768, "L": 12, "H": 12}
PRETRAINING = {"decay": 0.1, "b2": 0.95}
FINE_TUNING = {"decay": 0.01, "b2": 0.999}

CASES: Mapping[str, Case] = {
    "small": Gpt2(**GPT2_SMALL, B=12, T=64, rate=1e-3, **PRETRAINING, round=20),
    "124m": Gpt2(**GPT2_BASE, B=4, T=256, rate=1e-4, **PRETRAINING, round=1),
    "bert-small": Bert(**BERT_SMALL, B=8, T=32, rate=1e-3, **FINE_TUNING, round=20),
    "bert": Bert(**BERT_BASE, B=16, T=128, rate=5e-5, **FINE_TUNING, round=1),
}
"""`bert-small` is there to show within seconds that a script works."""


def write(case: Case, folder: Path) -> None:
    """Write lmx's start of a case, that of seed 0, as a Hugging Face folder for the other side."""
    import jax

    from lmx.commands import _build, _export
    from lmx.core import rng
    from lmx.core.types import Checkpoint

    params = jax.device_get(_build.model(case.sections()).init(rng.stream_key(0, 0, "init")))
    _export.write(Checkpoint(params, case.sections()), folder, certify=False)
