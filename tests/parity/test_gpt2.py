"""GPT-2 against torch beyond the forward pass of short rows: long rows, positions, updates."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the parity extra is not installed: pip install '.[parity]'")

import jax.numpy as jnp
import torch
import transformers

from lmx import optim
from lmx.commands import _build
from lmx.core import mesh, tree
from lmx.core.types import Checkpoint
from lmx.tasks import causal_lm
from lmx.training import state, step
from tests.parity import _draws as draws
from tests.parity import _peers as peers

CASE = draws.CASES["GPT2LMHeadModel"]

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's and transformers' are not ours to mend


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    yield
    transformers.logging.set_verbosity(verbosity)


def both(folder: Path, seed: int, **sizes: Any) -> tuple[Any, Checkpoint]:
    """The model of transformers, and lmx's of the same folder."""
    model = draws.draw_model(CASE, {**draws.draw_sizes("gpt2", seed), **sizes}, seed)
    model.save_pretrained(folder / "hf")
    return model, peers.read(folder / "hf")


@pytest.mark.parametrize("upcast", [False, True])
def test_long_rows(tmp_path: Path, upcast: bool) -> None:
    """Of rows this long, lmx cuts the attention into blocks, forward and backward."""
    sizes = dict(n_positions=193, n_layer=2, reorder_and_upcast_attn=upcast, scale_attn_weights=True)
    model, found = both(tmp_path, 3, **sizes)
    batch = draws.draw_batch(CASE, model.config, 3)
    assert batch["input_ids"].shape == (6, 192)
    outputs, gradients = peers.theirs(CASE, model, batch)
    mine, leaves = peers.ours(CASE, found, batch, options=peers.QUICK)
    peers.gate(peers.seen(CASE, batch, mine), peers.seen(CASE, batch, outputs), 1e-5)
    names = {name for name, _ in model.named_parameters()}
    peers.gate_gradients(peers.in_tensors(found, leaves, names), gradients, 1e-4, gradients)


def test_positions_count_real_tokens(tmp_path: Path) -> None:
    """Where a batch names no positions, they are those that transformers must be told."""
    model, found = both(tmp_path, 3)
    batch = draws.draw_batch(CASE, model.config, 3)
    outputs, _ = peers.theirs(CASE, model, batch, gradients=False)
    del batch["position_ids"]
    mine, _ = peers.ours(CASE, found, batch, gradients=False, options=peers.QUICK)
    peers.gate(peers.seen(CASE, batch, mine), peers.seen(CASE, batch, outputs), 1e-5)


def test_updates_equal_those_of_torch_adamw(tmp_path: Path) -> None:
    """Five steps with clipping, decay on matrices, warm-up and cosine: equal losses and parameters."""
    peer, found = both(tmp_path, 3, tie_word_embeddings=False, scale_attn_weights=True)
    width, vocab, time = peer.config.n_embd, peer.config.vocab_size, peer.config.n_positions
    matrices = [p for p in peer.parameters() if p.ndim >= 2]
    vectors = [p for p in peer.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    theirs = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), eps=1e-8)
    rate = optim.schedule("cosine", rate=1e-2, warmup=2, total=5, end=0.1)
    ours = optim.build("adamw", rate, decay=0.1, clip=1.0, b1=0.9, b2=0.95, epsilon=1e-8)
    devices, model = mesh.make(data=1), _build.model(found.config)
    now = state.start(model, ours, seed=0, mesh=devices, params=found.params)
    update = step.build(model, causal_lm.objective(model), ours, seed=0, mesh=devices)
    for count in range(5):
        ids = np.random.default_rng(count).integers(0, vocab, (4, time))
        loss = peer(torch.tensor(ids), labels=torch.tensor(ids)).loss
        theirs.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(peer.parameters(), 1.0)
        for group in theirs.param_groups:
            group["lr"] = float(rate(jnp.int32(count)))
        theirs.step()
        now, sums = update(now, mesh.put({"input_ids": ids.astype(np.int32)}, devices))
        np.testing.assert_allclose(float(sums["loss"] / sums["tokens"]), loss.item(), rtol=1e-5)
        np.testing.assert_allclose(float(sums["grad_norm"]), norm.item(), rtol=1e-4)
    leaves = {path: np.asarray(leaf) for path, leaf in tree.flatten(now.params).items()}
    expected = {name: p.detach().numpy() for name, p in peer.named_parameters()}
    stored = peers.in_tensors(found, leaves, set(expected))
    assert stored.keys() == expected.keys()
    for name, parameter in expected.items():
        # Softmax does not see the key's bias: its gradient is rounding, which Adam scales up to a full step.
        seen = np.r_[0:width, 2 * width : 3 * width] if name.endswith("c_attn.bias") else slice(None)
        limit = 1e-4 * max(1.0, float(np.abs(parameter).max()))
        error = np.abs(stored[name][..., seen] - parameter[..., seen]).max()
        assert error <= limit, (name, error)
