"""What `save_hf` refuses before it writes: leaves that are not the config's, no floats, or not finite."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lmx
from lmx.commands import _hf
from lmx.core import tree
from lmx.core.types import Checkpoint
from lmx.hf import leaves

from . import _hf_folders as made
from .test_hf_save import born

DIFF = "the checkpoint's params are not those of its config (- missing, + surplus, ! other): "
FLOATS = "expected an array of one of float16, bfloat16, float32, float64"
EMBEDDING = "embed/token/embedding"


@pytest.fixture(autouse=True)
def no_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_hf, "probed", lambda found, params: {})


@pytest.fixture
def checkpoint() -> Checkpoint:
    """A classifier of three labels."""
    return born("bert", {"name": "sequence_classification", "labels": 3})


def put(checkpoint: Checkpoint, **changed: Any) -> Checkpoint:
    """The checkpoint with other leaves (`__` for `/`), those that are `...` left out."""
    named = {path.replace("__", "/"): leaf for path, leaf in changed.items()}
    flat = {**tree.flatten(checkpoint.params), **named}
    kept = {path: leaf for path, leaf in flat.items() if leaf is not ...}
    return dataclasses.replace(checkpoint, params=tree.unflatten(kept))


def refused(checkpoint: Checkpoint, where: Path, message: str, **options: Any) -> None:
    with pytest.raises(lmx.UserError) as error:
        lmx.save_hf(checkpoint, where / "new" / "hf", **options)
    assert str(error.value) == message
    assert list(where.iterdir()) == []


@pytest.mark.parametrize(
    ("changed", "lines"),
    [
        ({"embed__token__embedding": np.zeros((5, 8))}, f"! {EMBEDDING} expected (19, 8), found (5, 8)"),
        ({"head__kernel": jnp.zeros((8, 5))}, "! head/kernel expected (8, 3), found (8, 5)"),
        (
            {"block__1__attn__query__kernel": jnp.zeros((8, 6))},
            "! block/1/attn/query/kernel expected (8, 8), found (8, 6)",
        ),
        ({"head__kernel": ..., "head__bias": ...}, "- head/bias (3,); - head/kernel (8, 3)"),
        ({"other__kernel": jnp.zeros((2, 3))}, "+ other/kernel (2, 3)"),
        ({"embed__token__embedding": jnp.zeros((19, 8), int)}, f"! {EMBEDDING} is int32, {FLOATS}"),
        ({"embed__token__embedding": np.zeros((19, 8), complex)}, f"! {EMBEDDING} is complex128, {FLOATS}"),
        ({"head__bias": np.zeros(3, bool)}, f"! head/bias is bool, {FLOATS}"),
        ({"head__bias": np.array(["a", "b", "c"])}, f"! head/bias is <U1, {FLOATS}"),
        ({"head__bias": None}, f"! head/bias is of type NoneType, {FLOATS}"),
        ({"head__bias": [0.0, 0.0, 0.0]}, f"! head/bias is of type list, {FLOATS}"),
        ({"head__bias": 0.5}, f"! head/bias is of type float, {FLOATS}"),
        ({"head__bias": "abc"}, f"! head/bias is of type str, {FLOATS}"),
    ],
)
def test_leaves_that_are_not_the_config_s(
    checkpoint: Checkpoint, tmp_path: Path, changed: dict[str, Any], lines: str
) -> None:
    refused(put(checkpoint, **changed), tmp_path, DIFF + lines)


def test_a_config_that_has_other_labels(checkpoint: Checkpoint, tmp_path: Path) -> None:
    checkpoint.config["task"]["labels"] = 4
    lines = "! head/bias expected (4,), found (3,); ! head/kernel expected (8, 4), found (8, 3)"
    refused(checkpoint, tmp_path, DIFF + lines)


def test_a_leaf_that_was_donated(checkpoint: Checkpoint, tmp_path: Path) -> None:
    checkpoint.params["head"]["bias"].delete()
    lines = "! head/bias was deleted (donated to a compiled function, say); keep a copy"
    refused(checkpoint, tmp_path, DIFF + lines)


def test_within_jit(checkpoint: Checkpoint, tmp_path: Path) -> None:
    @jax.jit
    def traced(bias: Any) -> Any:
        refused(put(checkpoint, head__bias=bias), tmp_path, f"{DIFF}! head/bias {why}")
        return bias

    why = "is an array within jit; save outside"
    traced(jnp.zeros(3))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("config", None, "config=None; expected a dict or a ConfigDict"),
        (
            "config",
            {},
            "the config has no model.name; expected sections `model` and `task`, each with a name",
        ),
        (
            "config",
            {"model": {"name": "bert"}},
            "the config has no task.name; expected sections `model` and `task`, each with a name",
        ),
        ("params", None, "the checkpoint's params are of type NoneType; expected a nested dict of arrays"),
        ("params", [1], "the checkpoint's params are of type list; expected a nested dict of arrays"),
    ],
)
def test_what_is_no_checkpoint(
    checkpoint: Checkpoint, tmp_path: Path, field: str, value: Any, message: str
) -> None:
    if value == {"model": {"name": "bert"}}:
        value = {"model": checkpoint.config["model"]}
    refused(dataclasses.replace(checkpoint, **{field: value}), tmp_path, message)


def test_a_config_with_an_hf_that_is_none_of_lmx(checkpoint: Checkpoint, tmp_path: Path) -> None:
    checkpoint.config["hf"] = [1]
    refused(checkpoint, tmp_path, "config.hf is of type list; expected a dict, as lmx.load gives it")


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers(checkpoint: Checkpoint, tmp_path: Path, kind: str, value: float) -> None:
    bias = np.zeros(3).astype(jnp.dtype(kind))
    bias[1] = value
    wrong = put(checkpoint, head__bias=bias)
    told = "NaN or infinite: head/bias (1 values); expected finite weights (--allow-nonfinite, or "
    refused(wrong, tmp_path, told + "allow_nonfinite=True, writes them all the same)")
    lmx.save_hf(wrong, tmp_path / "hf", allow_nonfinite=True)
    assert json.loads((tmp_path / "hf" / "conversion.json").read_text())["nonfinite"] == ["head/bias"]
    again = lmx.load(tmp_path / "hf", allow_nonfinite=True)
    np.testing.assert_array_equal(again.params["head"]["bias"], bias.astype(np.float32))


def test_sums_that_overflow_are_finite_weights(checkpoint: Checkpoint, tmp_path: Path) -> None:
    large = put(checkpoint, head__bias=np.full(3, np.finfo(np.float32).max))
    assert leaves.nonfinite(tree.flatten(large.params), allow=False) == []
    lmx.save_hf(large, tmp_path / "hf")
    assert json.loads((tmp_path / "hf" / "conversion.json").read_text())["nonfinite"] == []
    refused_value = "allow_nonfinite=1; expected True or False"
    with pytest.raises(lmx.UserError, match=refused_value):
        lmx.save_hf(large, tmp_path / "x", allow_nonfinite=1)  # type: ignore[arg-type]


@pytest.mark.parametrize(("stored", "read"), [("float16", "float16"), ("float32", "float32")])
def test_signalling_nans_come_back_bit_by_bit(tmp_path: Path, stored: str, read: str) -> None:
    """Where the type is the same in the file and in memory; a cast makes NaN quiet, as IEEE 754 says."""
    tensors = {name: tensor.astype(stored) for name, tensor in made.gpt2().items()}
    signalling = {"float16": 0x7C01, "float32": 0x7F800001}[stored]
    for name in ("transformer.ln_f.bias", "transformer.wte.weight", "transformer.h.1.attn.c_attn.weight"):
        bits = tensors[name].view(f"u{tensors[name].itemsize}")
        bits.flat[3] = signalling
    source = made.folder(tmp_path / "source", made.GPT2, tensors)
    lmx.save_hf(lmx.load(source, dtype=read, allow_nonfinite=True), tmp_path / "x", allow_nonfinite=True)
    name = "model.safetensors"
    assert (tmp_path / "x" / name).read_bytes() == (source / name).read_bytes()


@pytest.mark.parametrize("size", [0, -1, 1e-10, 1e-30, 1.1e9, 1e300, np.inf, np.nan, "5", True, None])
def test_sizes_of_shards_that_are_refused(checkpoint: Checkpoint, tmp_path: Path, size: Any) -> None:
    told = "expected GB above 0, from 1e-9 (a file for each tensor) to 1e9, a GB being 10^9 bytes"
    refused(checkpoint, tmp_path, f"shard_size={size!r}; {told}", shard_size=size)
