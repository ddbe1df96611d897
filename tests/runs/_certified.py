"""What the tests of certificates share: folders to start from, digests by another road, the one complaint."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmx.__main__ import main
from tests.unit import _hf_folders as made

BERT = {**made.BERT, "architectures": ["BertForSequenceClassification"], "num_labels": 3}
WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] the cat sat on mat ##s a dog".split()


def noisy(tensors: made.Tensors) -> made.Tensors:
    """Values that no half-precision type holds."""
    draw = np.random.default_rng(7)
    return {name: t + draw.normal(scale=0.01, size=t.shape).astype(np.float32) for name, t in tensors.items()}


def small_bert(folder: Path) -> Path:
    """A classifier with a tokenizer."""
    made.folder(folder, BERT, noisy(made.bert(pooler=True) | made.classifier(3)))
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return folder


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digests(folder: Path) -> dict[str, str]:
    """Of all files but the certificate, by another road than lmx's."""
    found = {}
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place) / name
            found[str(path.relative_to(folder))] = sha256(path)
    return {name: digest for name, digest in found.items() if name != "conversion.json"}


def of(tensors: made.Tensors) -> dict[str, Any]:
    return {
        name: {
            "dtype": tensor.dtype.name,
            "shape": list(tensor.shape),
            "sha256": hashlib.sha256(tensor.tobytes()).hexdigest(),
        }
        for name, tensor in tensors.items()
    }


def certificate(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "conversion.json").read_text()))


def seal(content: dict[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in content.items() if key != "seal"}
    return {**rest, "seal": hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()}


def store(folder: Path, content: dict[str, Any]) -> None:
    """A certificate with a seal that fits, in lmx's own text."""
    text = json.dumps(seal(content), indent=2, sort_keys=True)
    (folder / "conversion.json").write_text(text + "\n")


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def complaint(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    """The one line on stderr of a command that is refused, without the command's name."""
    capsys.readouterr()
    assert main(words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0].removeprefix(f"lmx {words[0]}: ")
