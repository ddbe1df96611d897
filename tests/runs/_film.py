"""What small runs of fine-tuning start from: a random BERT that knows the words of short film reviews."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax

import lmx

GOOD, BAD = "fine great lovely warm".split(), "awful dull broken cold".split()
WORDS = [*"[PAD] [UNK] [CLS] [SEP] [MASK] the film was and it".split(), *GOOD, *BAD]
CONFIG: dict[str, Any] = {
    "model": dict(
        name="bert", vocab_size=len(WORDS), positions=32, width=16, layers=1, heads=2, mlp_width=32
    ),
    "task": {"name": "features"},
}


def saved(root: Path) -> Path:
    """Write a Hugging Face folder of a random BERT with its tokenizer, and return where."""
    (root / "vocab.txt").write_text("\n".join(WORDS))
    (root / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    params = lmx.build(CONFIG).init(jax.random.key(0))
    lmx.save_hf(lmx.Checkpoint(params, CONFIG, folder=str(root)), root / "bert")
    return root / "bert"
