"""Hugging Face folders as others write them, made by hand: small sizes, no torch, none of lmx's tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

Tensors = dict[str, np.ndarray]

# V, P, D and M differ, so that a transposed kernel has another shape.
V, P, D, L, M, TYPES = 19, 32, 8, 2, 12, 2

GPT2: dict[str, Any] = {
    "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": V, "n_positions": P,
    "n_embd": D, "n_layer": L, "n_head": 2, "n_inner": M,
}  # fmt: skip
BERT: dict[str, Any] = {
    "model_type": "bert", "architectures": ["BertForMaskedLM"], "vocab_size": V, "max_position_embeddings": P,
    "hidden_size": D, "num_hidden_layers": L, "num_attention_heads": 2, "intermediate_size": M,
}  # fmt: skip


def random(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> Tensors:
    """Tensors of f32 whose values are f16's and bfloat16's too: seven bits, so that every type keeps them."""
    draw = np.random.default_rng(seed)
    return {name: draw.integers(-64, 64, shape).astype(np.float32) / 64 for name, shape in shapes.items()}


def norm(name: str) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (D,), f"{name}.bias": (D,)}


def linear(name: str, outer: int, inner: int) -> dict[str, tuple[int, ...]]:
    """torch's Linear holds (out, in)."""
    return {f"{name}.weight": (outer, inner), f"{name}.bias": (outer,)}


def gpt2(prefix: str = "transformer.", *, tied: bool = True, rows: int = V) -> Tensors:
    """A GPT2LMHeadModel, or a bare GPT2Model with prefix ""; Conv1D holds (in, out)."""
    shapes: dict[str, tuple[int, ...]] = {"wte.weight": (rows, D), "wpe.weight": (P, D), **norm("ln_f")}
    for i in range(L):
        shapes |= norm(f"h.{i}.ln_1") | norm(f"h.{i}.ln_2")
        for name, outer, inner in (
            ("attn.c_attn", D, 3 * D),
            ("attn.c_proj", D, D),
            ("mlp.c_fc", D, M),
            ("mlp.c_proj", M, D),
        ):
            shapes |= {f"h.{i}.{name}.weight": (outer, inner), f"h.{i}.{name}.bias": (inner,)}
    found = random({prefix + name: shape for name, shape in shapes.items()})
    return found if tied else found | random({"lm_head.weight": (rows, D)}, seed=1)


def bert(prefix: str = "bert.", *, pooler: bool = False, rows: int = V) -> Tensors:
    """A BERT's body."""
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (rows, D),
        "embeddings.position_embeddings.weight": (P, D),
        "embeddings.token_type_embeddings.weight": (TYPES, D),
        **norm("embeddings.LayerNorm"),
    }
    for i in range(L):
        layer = f"encoder.layer.{i}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            shapes |= linear(f"{layer}.attention.{part}", D, D)
        shapes |= norm(f"{layer}.attention.output.LayerNorm") | norm(f"{layer}.output.LayerNorm")
        shapes |= linear(f"{layer}.intermediate.dense", M, D) | linear(f"{layer}.output.dense", D, M)
    shapes |= linear("pooler.dense", D, D) if pooler else {}
    return random({prefix + name: shape for name, shape in shapes.items()})


def mlm(*, tied: bool = True, bias: str = "bias", rows: int = V) -> Tensors:
    """The head of a BertForMaskedLM; bias: the one of the two names that its file has."""
    shapes = linear("cls.predictions.transform.dense", D, D) | norm("cls.predictions.transform.LayerNorm")
    shapes |= {f"cls.predictions.{bias}": (rows,)}
    shapes |= {} if tied else {"cls.predictions.decoder.weight": (rows, D)}
    return random(shapes, seed=2)


def pairs() -> Tensors:
    """The head that tells whether one sentence follows the other."""
    return random(linear("cls.seq_relationship", 2, D), seed=3)


def classifier(labels: int, name: str = "classifier") -> Tensors:
    """The head of a BertForSequenceClassification; GPT-2's is called `score` and has no bias."""
    shapes = linear(name, labels, D)
    return random({k: v for k, v in shapes.items() if name != "score" or k == "score.weight"}, seed=4)


def folder(path: Path, config: dict[str, Any], tensors: Tensors, **changes: Any) -> Path:
    """Write a folder; changes: keys of config.json, None (as Python's) to leave one out."""
    path.mkdir(parents=True, exist_ok=True)
    found = {key: value for key, value in {**config, **changes}.items() if value is not None}
    (path / "config.json").write_text(json.dumps(found))
    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    save_file(contiguous, path / "model.safetensors", metadata={"format": "pt"})
    return path


def leaves(tensors: Tensors) -> Tensors:
    """Where each tensor of a body lies in lmx, spelled out: {path: leaf}."""
    found: Tensors = {}
    for name, tensor in tensors.items():
        inner = name.removeprefix("transformer.").removeprefix("bert.")
        for layer in range(L):
            inner = inner.replace(f"h.{layer}.", f"block/{layer}/", 1) if inner[0] == "h" else inner
            inner = inner.replace(f"encoder.layer.{layer}.", f"block/{layer}/")
        if "c_attn" in inner:
            for part, piece in zip(("query", "key", "value"), np.split(tensor, 3, axis=-1), strict=True):
                found[_renamed(inner, f"attn/{part}")] = piece
        else:
            found[_renamed(inner)] = tensor.T if _is_linear(inner) else tensor
    return found


_PLACES = {
    "wte.weight": "embed/token/embedding", "wpe.weight": "embed/position/embedding",
    "embeddings.word_embeddings.weight": "embed/token/embedding",
    "embeddings.position_embeddings.weight": "embed/position/embedding",
    "embeddings.token_type_embeddings.weight": "embed/type/embedding",
}  # fmt: skip
_MODULES = {
    "ln_f": "final", "ln_1": "norm1", "ln_2": "norm2", "attn.c_proj": "attn/out", "mlp.c_fc": "mlp/up",
    "mlp.c_proj": "mlp/down", "attention.self.query": "attn/query", "attention.self.key": "attn/key",
    "attention.self.value": "attn/value", "attention.output.dense": "attn/out",
    "attention.output.LayerNorm": "norm1", "intermediate.dense": "mlp/up", "output.dense": "mlp/down",
    "output.LayerNorm": "norm2", "embeddings.LayerNorm": "embed/norm", "pooler.dense": "pooler",
}  # fmt: skip


def _is_linear(name: str) -> bool:
    return name.endswith((".query.weight", ".key.weight", ".value.weight", ".dense.weight"))


def _renamed(name: str, module: str | None = None) -> str:
    if name in _PLACES:
        return _PLACES[name]
    block, _, rest = name.rpartition("/")
    theirs, _, kind = rest.rpartition(".")
    ours = module or _MODULES[theirs]
    weight = "scale" if "norm" in ours or ours == "final" else "kernel"
    return f"{block}/{ours}/{'bias' if kind == 'bias' else weight}".removeprefix("/")
