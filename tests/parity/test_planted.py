"""The gate of the parity tests catches the mistakes that are easily made in a BERT or a GPT-2."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the parity extra is not installed: pip install '.[parity]'")

import jax.numpy as jnp
import transformers

from lmx.core import tree
from lmx.core.types import Checkpoint
from tests.parity import _draws as draws
from tests.parity import _peers as peers

NAMES = {"bert": "BertForTokenClassification", "gpt2": "GPT2ForTokenClassification"}

# Every kernel of a block is square, so that a transposed one fits.
BERT = {
    "vocab_size": 31,
    "hidden_size": 12,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "max_position_embeddings": 11,
    "type_vocab_size": 2,
    "pad_token_id": 4,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "attn_implementation": "eager",
}
GPT2 = {
    "vocab_size": 31,
    "n_embd": 12,
    "n_inner": 12,
    "n_layer": 2,
    "n_head": 3,
    "n_positions": 11,
    "pad_token_id": 4,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "scale_attn_by_inverse_layer_idx": True,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "resid_pdrop": 0.0,
    "classifier_dropout": 0.0,
    "attn_implementation": "eager",
}

ALIASES = {
    "n_embd": "hidden_size",
    "n_head": "num_attention_heads",
    "n_layer": "num_hidden_layers",
    "n_positions": "max_position_embeddings",
}

Side = tuple[Checkpoint, draws.Arrays]


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[Any, ...]]]:
    """{family: (case, lmx's checkpoint, batch, transformers' outputs and gradients)}.

    The embeddings are as small as in published weights, about 0.04: of inputs of order 1 no layer norm shows
    its epsilon.
    """
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    found = {}
    for family, sizes in (("bert", BERT), ("gpt2", GPT2)):
        case = draws.CASES[NAMES[family]]
        model = draws.draw_model(case, sizes, 1)
        for name, parameter in model.named_parameters():
            if ("embeddings" in name and "Norm" not in name) or "wte" in name or "wpe" in name:
                parameter.data *= 0.06
        folder = tmp_path_factory.mktemp(family) / "model"
        model.save_pretrained(folder)
        batch = draws.draw_batch(case, model.config, 1)
        outputs, gradients = peers.theirs(case, model, batch)
        found[family] = (case, peers.read(folder), batch, outputs, gradients)
    yield found
    transformers.logging.set_verbosity(verbosity)


def model_with(**fields: Any) -> Callable[[Checkpoint, draws.Arrays], Side]:
    """Another config of the model."""

    def plant(found: Checkpoint, batch: draws.Arrays) -> Side:
        model = found.config["model"]
        assert all(model[name] != value for name, value in fields.items())
        return Checkpoint(found.params, {**found.config, "model": {**model, **fields}}), batch

    return plant


def leaf(path: str, change: Callable[[Any], Any]) -> Callable[[Checkpoint, draws.Arrays], Side]:
    """Another value of one leaf."""

    def plant(found: Checkpoint, batch: draws.Arrays) -> Side:
        leaves = tree.flatten(found.params)
        leaves[path] = change(leaves[path])
        return Checkpoint(tree.unflatten(leaves), found.config), batch

    return plant


def exchanged(one: str, other: str) -> Callable[[Checkpoint, draws.Arrays], Side]:
    """Two leaves in each other's place."""

    def plant(found: Checkpoint, batch: draws.Arrays) -> Side:
        leaves = tree.flatten(found.params)
        leaves[one], leaves[other] = leaves[other], leaves[one]
        return Checkpoint(tree.unflatten(leaves), found.config), batch

    return plant


def without(name: str) -> Callable[[Checkpoint, draws.Arrays], Side]:
    """A batch that lacks an array."""
    return lambda found, batch: (found, {key: x for key, x in batch.items() if key != name})


ATTENTION = ("query", "key", "value", "out")

PLANTS: dict[str, Callable[[Checkpoint, draws.Arrays], Side]] = {
    "bert: epsilon 1e-6, flax's": model_with(norm_epsilon=1e-6),
    "bert: epsilon 1e-5, torch's": model_with(norm_epsilon=1e-5),
    "bert: tanh GELU, jax's": model_with(activation="gelu_new"),
    "bert: no padding mask": without("attention_mask"),
    "bert: no segments": without("token_type_ids"),
    "bert: no segment embedding": leaf("embed/type/embedding", jnp.zeros_like),
    "bert: no norm of the embeddings' scale": leaf("embed/norm/scale", jnp.ones_like),
    **{f"bert: {name} transposed": leaf(f"block/1/attn/{name}/kernel", jnp.transpose) for name in ATTENTION},
    **{
        f"bert: {name} transposed": leaf(f"block/0/mlp/{name}/kernel", jnp.transpose)
        for name in ("up", "down")
    },
    "gpt2: epsilon 1e-6, flax's": model_with(norm_epsilon=1e-6),
    "gpt2: epsilon 1e-12, BERT's": model_with(norm_epsilon=1e-12),
    "gpt2: erf GELU": model_with(activation="gelu"),
    "gpt2: no padding mask": without("attention_mask"),
    "gpt2: no scale by layer": model_with(scale_attention_by_layer=False),
    "gpt2: no scale": model_with(scale_attention=False),
    "gpt2: query and key exchanged": exchanged("block/0/attn/query/kernel", "block/0/attn/key/kernel"),
    "gpt2: norms exchanged": exchanged("block/0/norm1/scale", "block/0/norm2/scale"),
    **{f"gpt2: {name} transposed": leaf(f"block/1/attn/{name}/kernel", jnp.transpose) for name in ATTENTION},
    **{
        f"gpt2: {name} transposed": leaf(f"block/0/mlp/{name}/kernel", jnp.transpose)
        for name in ("up", "down")
    },
}


def compare(side: tuple[Any, ...], found: Checkpoint, batch: draws.Arrays) -> None:
    """The gate; what it sees of transformers is of the batch as it was."""
    case, _, whole, outputs, _ = side
    mine, _ = peers.ours(case, found, batch, gradients=False, options=peers.QUICK)
    peers.gate(peers.seen(case, whole, mine), peers.seen(case, whole, outputs), 1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", NAMES)
def test_nothing_planted_passes(sides: dict[str, tuple[Any, ...]], family: str) -> None:
    compare(sides[family], *sides[family][1:3])


@pytest.mark.filterwarnings("ignore")
def test_fields_by_their_other_names(sides: dict[str, tuple[Any, ...]], tmp_path: Path) -> None:
    """A GPT-2 whose config.json names its sizes as BERT's does: what transformers makes of the folder.

    12 heads, which the absence of n_head means, divide the width as well, with other numbers.
    """
    case, _, batch, outputs, _ = sides["gpt2"]
    assert dict(transformers.GPT2Config.attribute_map) == {other: name for name, other in ALIASES.items()}
    assert dict(transformers.BertConfig.attribute_map) == {}
    model = draws.draw_model(case, GPT2, 1)
    for name, parameter in model.named_parameters():
        if "wte" in name or "wpe" in name:
            parameter.data *= 0.06
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config = {ALIASES.get(name, name): value for name, value in config.items()}
    (tmp_path / "config.json").write_text(json.dumps(config))
    theirs = type(model).from_pretrained(tmp_path, attn_implementation="eager")
    seen = peers.theirs(case, theirs, batch, gradients=False)[0]
    peers.gate(peers.seen(case, batch, seen), peers.seen(case, batch, outputs), 1e-6)
    found = peers.read(tmp_path)
    assert found.config["model"]["heads"] == 3
    compare((case, found, batch, seen, {}), found, batch)
    with pytest.raises(peers.DiffersError, match=r"expected \(52, 3, 10\)"):
        compare((case, found, batch, seen, {}), *model_with(heads=12)(found, batch))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PLANTS)
def test_planted_mistake_is_caught(sides: dict[str, tuple[Any, ...]], name: str) -> None:
    side = sides[name.split(":")[0]]
    with pytest.raises(peers.DiffersError, match="further off than"):
        compare(side, *PLANTS[name](*side[1:3]))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", NAMES)
def test_planted_gradient_is_caught(sides: dict[str, tuple[Any, ...]], family: str) -> None:
    """One tensor's gradient a thousandth too large, lost, missing, or where there should be none."""
    gradients = sides[family][-1]
    assert peers.gate_gradients(gradients, gradients, 1e-4, gradients) == 0
    for name in (name for name in gradients if "key.bias" not in name):
        for change in (1.001, 0.0, -1.0):
            with pytest.raises(peers.DiffersError):
                peers.gate_gradients(
                    {**gradients, name: gradients[name] * change}, gradients, 1e-4, gradients
                )
        rest = {key: x for key, x in gradients.items() if key != name}
        with pytest.raises(peers.DiffersError):
            peers.gate_gradients(rest, gradients, 1e-4, gradients)
        with pytest.raises(peers.DiffersError):
            peers.gate_gradients(gradients, rest, 1e-4, rest)


@pytest.mark.parametrize("change", ["missing", "surplus", "NaN", "shape", "type"])
def test_the_gate_sees_more_than_numbers(change: str, tmp_path: Path) -> None:
    right = {"logits": np.ones((2, 3), np.float32), "loss": np.float32(1) * np.ones((), np.float32)}
    assert peers.gate(right, right, 1e-5) == 0
    wrong = {
        "missing": {"loss": right["loss"]},
        "surplus": {**right, "hidden": right["logits"]},
        "NaN": {**right, "logits": right["logits"] * np.float32("nan")},
        "shape": {**right, "logits": right["logits"][:1]},
        "type": {**right, "logits": right["logits"].astype(np.float64)},
    }[change]
    with pytest.raises(peers.DiffersError):
        peers.gate(wrong, right, 1e-5)
