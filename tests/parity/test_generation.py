"""Greedy texts of a batch of prompts against transformers' generate, which pads them on the left as well."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the parity extra is not installed: pip install '.[parity]'")

import jax
import torch
import transformers

import lmx
from lmx.generation import greedy

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's and transformers' are not ours to mend

TOKENS = 12


def test_prompts_of_many_lengths_go_on_as_in_transformers(tmp_path: Path) -> None:
    """7 prompts of 1 to 19 ids, in batches of 4; the end symbol is one that some of them reach."""
    torch.manual_seed(0)
    sizes = dict(vocab_size=61, n_positions=40, n_embd=24, n_layer=2, n_head=3, initializer_range=0.4)
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes)).eval()
    theirs.save_pretrained(tmp_path / "gpt2")
    found = lmx.load(tmp_path / "gpt2")
    draw = np.random.default_rng(3)
    prompts = [draw.integers(1, 61, size).tolist() for size in (3, 19, 1, 8, 8, 14, 5)]
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(one)) + one for one in prompts])
    real = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in prompts])

    def written(end: int | None) -> list[list[int]]:
        settings = transformers.GenerationConfig(
            max_new_tokens=TOKENS, do_sample=False, pad_token_id=0, eos_token_id=end
        )
        with torch.no_grad():
            new = theirs.generate(input_ids=ids, attention_mask=real, generation_config=settings)
        rows = new[:, longest:].tolist()
        return [row[: row.index(end)] if end in row else row for row in rows]

    free = written(None)
    assert len({tuple(row) for row in free}) == len(prompts), "texts that tell prompts apart"
    end = free[1][5]
    model = lmx.build(found.config)
    for stop, wanted in ((None, free), (end, written(end))):
        ours = greedy.generate(
            model, found.params, prompts, jax.random.key(0), tokens=TOKENS, eos_id=stop, size=4
        )
        assert ours == wanted
    assert any(len(row) < TOKENS for row in wanted)
    assert any(len(row) == TOKENS for row in wanted)
