"""GPT-2 against torch: logits, gradients, updates, the exported folder."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmx import load, optim, save_hf
from lmx.core import mesh, tree
from lmx.core.errors import UserError
from lmx.core.types import Checkpoint, Model, Params
from lmx.hf import convert
from lmx.models import gpt2
from lmx.tasks import causal_lm
from lmx.training import state, step

torch = pytest.importorskip("torch", reason="the parity extra is not installed: pip install '.[parity]'")

HEAD = causal_lm.HF["gpt2"]

# Odd, non-square shapes: a transposed kernel or a wrong third of c_attn cannot hide.
CASES: dict[str, dict[str, Any]] = {
    "plain": dict(vocab_size=37, positions=19, width=15, layers=2, heads=3, mlp_width=23),
    "one_layer": dict(vocab_size=11, positions=8, width=6, layers=1, heads=1, activation="gelu"),
    "relu_untied": dict(
        vocab_size=53, positions=17, width=20, layers=3, heads=5, activation="relu", tie_embeddings=False
    ),
    "by_layer": dict(vocab_size=29, positions=21, width=14, layers=4, heads=7, scale_attention_by_layer=True),
    "unscaled": dict(
        vocab_size=29, positions=21, width=14, layers=2, heads=2, scale_attention=False, norm_epsilon=1e-2
    ),
    "upcast": dict(
        vocab_size=31,
        positions=13,
        width=21,
        layers=3,
        heads=3,
        upcast_attention=True,
        scale_attention_by_layer=True,
    ),
    "upcast_unscaled": dict(
        vocab_size=31, positions=13, width=21, layers=2, heads=3, upcast_attention=True, scale_attention=False
    ),
}


@pytest.fixture(autouse=True)
def quiet_torch() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's and transformers' own deprecations are not ours to mend
        yield


def build(case: str, **changes: Any) -> tuple[gpt2.Config, Model, Params]:
    """A model whose outputs are of order 1 and whose attention is far from uniform."""
    fields = {
        "dropout_embed": 0.0,
        "dropout_attention": 0.0,
        "dropout_residual": 0.0,
        **CASES[case],
        **changes,
    }
    config = gpt2.Config(init_range=0.4, **fields)
    model = causal_lm.attach(gpt2.build(config), config)
    draw = np.random.default_rng(7)
    params = tree.map_named(
        lambda path, leaf: leaf + jnp.asarray(draw.normal(0.05, 0.1, leaf.shape), jnp.float32),
        jax.jit(model.init)(jax.random.key(5)),
    )
    return config, model, params


def in_torch(config: gpt2.Config, params: Params) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    theirs = {hf: getattr(config, own) for own, hf in gpt2.HF.fields}
    peer = GPT2LMHeadModel(GPT2Config(**theirs, attn_implementation="eager")).eval()
    stored = convert.to_tensors(params, gpt2.HF, HEAD, config.layers)
    missing, surplus = peer.load_state_dict({n: torch.tensor(t) for n, t in stored.items()}, strict=False)
    assert not surplus
    assert set(missing) <= {"lm_head.weight"}
    peer.tie_weights()
    return peer


def tokens(config: gpt2.Config, rows: int = 3) -> np.ndarray:
    return np.random.default_rng(1).integers(0, config.vocab_size, (rows, config.positions - 1))


def close(ours: Any, theirs: Any, tolerance: float) -> None:
    theirs = theirs.detach().numpy() if isinstance(theirs, torch.Tensor) else np.asarray(theirs)
    limit = tolerance * max(1.0, float(np.abs(theirs).max()))
    np.testing.assert_allclose(np.asarray(ours), theirs, atol=limit, rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_logits_and_hidden_states(case: str) -> None:
    config, model, params = build(case)
    ids = tokens(config)
    peer = in_torch(config, params)(torch.tensor(ids), output_hidden_states=True, output_attentions=True)
    taps = {name: (lambda x, layer: (x, x)) for name in ("embed", "block", "final", "attn/weights")}
    ours = jax.jit(lambda p, x: model.apply(p, {"input_ids": x}, taps=taps))(
        params, jnp.asarray(ids, jnp.int32)
    )
    close(ours["logits"], peer.logits, 1e-5)
    assert float(jnp.abs(ours["logits"]).max()) > 1, "outputs too small to tell anything"
    close(ours["taps"]["embed"], peer.hidden_states[0], 1e-5)
    for layer in range(config.layers - 1):
        close(ours["taps"]["block"][layer], peer.hidden_states[layer + 1], 1e-5)
    close(ours["taps"]["final"], peer.hidden_states[-1], 1e-5)
    for layer in range(config.layers):
        close(ours["taps"]["attn/weights"][layer], peer.attentions[layer], 1e-5)
    plain = model.apply(params, {"input_ids": jnp.asarray(ids, jnp.int32)})["logits"]
    close(plain, peer.logits, 1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_rows(side: str) -> None:
    config, model, params = build("plain")
    ids, mask = tokens(config), np.ones((3, 18), np.int64)
    for row, pad in enumerate((0, 4, 9)):
        mask[row, :pad] = 0
    mask = mask if side == "left" else mask[:, ::-1].copy()
    positions = np.maximum(np.cumsum(mask, 1) - 1, 0)
    peer = in_torch(config, params)(
        torch.tensor(ids), attention_mask=torch.tensor(mask), position_ids=torch.tensor(positions)
    )
    batch = {"input_ids": jnp.asarray(ids, jnp.int32), "attention_mask": jnp.asarray(mask, jnp.int32)}
    ours, real = np.asarray(model.apply(params, batch)["logits"]), mask.astype(bool)
    close(ours[real], peer.logits.detach().numpy()[real], 1e-5)


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients(case: str) -> None:
    config, model, params = build(case)
    ids = tokens(config)
    peer = in_torch(config, params)
    loss = peer(torch.tensor(ids), labels=torch.tensor(ids)).loss
    loss.backward()
    objective = causal_lm.objective(model)

    def mean(p: Params) -> jax.Array:
        total, count, _ = objective(p, {"input_ids": jnp.asarray(ids, jnp.int32)}, None)
        return total / count

    value, gradients = jax.jit(jax.value_and_grad(mean))(params)
    close(value, loss, 1e-5)
    stored = convert.to_tensors(gradients, gpt2.HF, HEAD, config.layers)
    theirs = {name: p.grad.numpy() for name, p in peer.named_parameters() if p.grad is not None}
    assert set(stored) == set(theirs)
    for name, gradient in theirs.items():
        largest = float(np.abs(gradient).max())
        np.testing.assert_allclose(stored[name], gradient, atol=1e-4 * largest + 1e-7, rtol=0, err_msg=name)


def test_updates_equal_those_of_torch_adamw() -> None:
    """Five steps with clipping, decay on matrices, warm-up and cosine: equal losses and parameters."""
    config, model, params = build("plain", tie_embeddings=False)
    peer = in_torch(config, params)
    matrices = [p for p in peer.parameters() if p.ndim >= 2]
    vectors = [p for p in peer.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    theirs = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), eps=1e-8)
    rate = optim.schedule("cosine", rate=1e-2, warmup=2, total=5, end=0.1)
    ours = optim.build("adamw", rate, decay=0.1, clip=1.0, b1=0.9, b2=0.95, epsilon=1e-8)
    devices = mesh.make(data=1)
    now = state.start(model, ours, seed=0, mesh=devices, params=params)
    update = step.build(model, causal_lm.objective(model), ours, seed=0, mesh=devices)
    for count in range(5):
        ids = np.random.default_rng(count).integers(0, 37, (4, 18))
        loss = peer(torch.tensor(ids), labels=torch.tensor(ids)).loss
        theirs.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(peer.parameters(), 1.0)
        for group in theirs.param_groups:
            group["lr"] = float(rate(jnp.int32(count)))
        theirs.step()
        now, sums = update(now, mesh.put({"input_ids": ids.astype(np.int32)}, devices))
        close(sums["loss"] / sums["tokens"], loss, 1e-5)
        close(sums["grad_norm"], norm, 1e-4)
    stored = convert.to_tensors(now.params, gpt2.HF, HEAD, config.layers)
    for name, parameter in peer.state_dict().items():
        # Softmax does not see the key's bias: its gradient is rounding, which Adam scales up to a full step.
        seen = np.r_[0:15, 30:45] if name.endswith("c_attn.bias") else slice(None)
        close(stored[name][..., seen], parameter[..., seen], 1e-4)


def test_exported_folder_opens_in_torch_and_comes_back(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    config, model, params = build("relu_untied")
    fields = {"name": "gpt2", **config.__dict__}
    save_hf(Checkpoint(params, {"model": fields, "task": {"name": "causal_lm"}}), tmp_path / "hf")
    peer, info = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ids = tokens(config)
    close(
        model.apply(params, {"input_ids": jnp.asarray(ids, jnp.int32)})["logits"],
        peer(torch.tensor(ids)).logits,
        1e-5,
    )
    back = load(tmp_path / "hf")
    assert back.config["model"] == fields
    for path, leaf in tree.flatten(params).items():
        np.testing.assert_array_equal(tree.flatten(back.params)[path], leaf, err_msg=path)


@pytest.mark.parametrize("tied", [True, False])
def test_folder_saved_by_torch_is_read(tmp_path: Path, tied: bool) -> None:
    config, model, params = build("plain", tie_embeddings=tied)
    peer = in_torch(config, params)
    peer.save_pretrained(tmp_path / "hf")
    found = load(tmp_path / "hf")
    ids = tokens(config)
    logits = model.apply(found.params, {"input_ids": jnp.asarray(ids, jnp.int32)})["logits"]
    close(logits, peer(torch.tensor(ids)).logits, 1e-5)


def test_cross_attention_is_refused(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    small = GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=11, n_positions=8, add_cross_attention=True)
    GPT2LMHeadModel(small).save_pretrained(tmp_path / "hf")
    with pytest.raises(UserError, match="add_cross_attention=True is not supported"):
        load(tmp_path / "hf")
