"""How many parameters the known sizes have, from their configs alone: no weight is made."""

from __future__ import annotations

import math
import resource
import sys
from typing import Any

import jax
import pytest

from lmx.commands import _build

GPT2 = {
    "gpt2": (dict(), 124_439_808),
    "gpt2-medium": (dict(width=1024, layers=24, heads=16), 354_823_168),
    "gpt2-large": (dict(width=1280, layers=36, heads=20), 774_030_080),
    "gpt2-xl": (dict(width=1600, layers=48, heads=25), 1_557_611_200),
    "distilgpt2": (dict(layers=6), 81_912_576),
}

LARGE = dict(width=1024, layers=24, heads=16, mlp_width=4096)

BERT = {
    "bert-base-uncased": (dict(), 109_482_240),
    "bert-base-cased": (dict(vocab_size=28996), 108_310_272),
    "bert-large-uncased": (LARGE, 335_141_888),
    "bert-large-cased": (dict(LARGE, vocab_size=28996), 333_579_264),
    "bert-base-chinese": (dict(vocab_size=21128), 102_267_648),
    "bert-base-multilingual-cased": (dict(vocab_size=119547), 177_853_440),
    "bert-tiny": (dict(width=128, layers=2, heads=2, mlp_width=512), 4_385_920),
    "bert-mini": (dict(width=256, layers=4, heads=4, mlp_width=1024), 11_170_560),
    "bert-small": (dict(width=512, layers=4, heads=8, mlp_width=2048), 28_763_648),
    "bert-medium": (dict(width=512, layers=8, heads=8, mlp_width=2048), 41_373_184),
    "MiniLM-L6-H384": (dict(width=384, layers=6, heads=12, mlp_width=1536), 22_713_216),
}

HEADS = {  # on bert-base-uncased
    "masked_lm": (dict(), 109_514_298),
    "bert_pretraining": (dict(), 110_106_428),
    "sequence_classification": (dict(labels=2), 109_483_778),
    "token_classification": (dict(labels=9), 108_898_569),
    "question_answering": (dict(), 108_893_186),
}

MEGABYTES = 200


def count(model: dict[str, Any], task: dict[str, Any]) -> int:
    shapes = _build.shapes(_build.model({"model": model, "task": task}))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


def peak_bytes() -> int:
    """Return the most memory that this process has ever held."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@pytest.mark.parametrize("task", ["causal_lm", "features"])
@pytest.mark.parametrize("name", GPT2)
def test_gpt2(name: str, task: str) -> None:
    """The head is tied to the embeddings, and adds nothing."""
    fields, expected = GPT2[name]
    before = peak_bytes()
    assert count({"name": "gpt2", **fields}, {"name": task}) == expected
    assert peak_bytes() - before < MEGABYTES * 10**6


@pytest.mark.parametrize("name", BERT)
def test_bert_with_its_pooler(name: str) -> None:
    fields, expected = BERT[name]
    before = peak_bytes()
    assert count({"name": "bert", **fields}, {"name": "features"}) == expected
    assert peak_bytes() - before < MEGABYTES * 10**6


@pytest.mark.parametrize("task", HEADS)
def test_heads_on_bert_base(task: str) -> None:
    options, expected = HEADS[task]
    assert count({"name": "bert"}, {"name": task, **options}) == expected


@pytest.mark.parametrize(("layers", "tensors"), [(12, 148), (24, 292), (36, 436), (48, 580)])
def test_tensors_of_a_gpt2_folder(layers: int, tensors: int) -> None:
    """transformers stores query, key and value as one."""
    table, _ = _build.tables("gpt2")
    assert sum(layers if "{}" in entry.tensor else 1 for entry in table.entries) == tensors


def test_an_untied_head_is_a_matrix_of_its_own() -> None:
    assert (
        count({"name": "gpt2", "tie_embeddings": False}, {"name": "causal_lm"}) == 124_439_808 + 50257 * 768
    )
