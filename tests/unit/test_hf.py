"""Hugging Face folders: the variants met in the wild, and folders that are refused."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

import lmx
from lmx.core import tree
from lmx.core.types import Checkpoint

FIELDS = {
    "name": "gpt2", "vocab_size": 17, "positions": 9, "width": 10, "layers": 2, "heads": 2, "mlp_width": 13,
}  # fmt: skip
CONFIG = {"model": FIELDS, "task": {"name": "causal_lm"}}


@pytest.fixture(params=["tied", "untied"], scope="module")
def checkpoint(request: pytest.FixtureRequest) -> Checkpoint:
    config = {**CONFIG, "model": {**FIELDS, "tie_embeddings": request.param == "tied"}}
    return Checkpoint(jax.jit(lmx.build(config).init)(jax.random.key(1)), config)


@pytest.fixture(scope="module")
def written(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written") / "hf"
    lmx.save_hf(checkpoint, folder)
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    shutil.copytree(written, tmp_path / "hf")
    return tmp_path / "hf"


def same(one: Any, two: Any) -> None:
    for path, leaf in tree.flatten(two).items():
        np.testing.assert_array_equal(tree.flatten(one)[path], leaf, err_msg=path)


def rewrite(folder: Path, change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]) -> None:
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors")


def reconfigure(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_names_and_config_are_those_of_transformers(checkpoint: Checkpoint, folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    assert tensors["transformer.h.1.attn.c_attn.weight"].shape == (10, 30)
    assert tensors["transformer.h.1.mlp.c_fc.weight"].shape == (10, 13)
    assert ("lm_head.weight" in tensors) == (not checkpoint.config["model"]["tie_embeddings"])
    assert len(tensors) == 4 + 12 * 2 + (not checkpoint.config["model"]["tie_embeddings"])
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["GPT2LMHeadModel"]
    assert (config["n_embd"], config["n_inner"], config["n_positions"]) == (10, 13, 9)
    third = tensors["transformer.h.0.attn.c_attn.weight"][:, 10:20]
    np.testing.assert_array_equal(third, checkpoint.params["block"]["0"]["attn"]["key"]["kernel"])


def test_bytes_come_back(checkpoint: Checkpoint, folder: Path, tmp_path: Path) -> None:
    same(lmx.load(folder).params, checkpoint.params)
    lmx.save_hf(lmx.load(folder), tmp_path / "again")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_names_without_a_prefix_and_old_buffers(checkpoint: Checkpoint, folder: Path) -> None:
    """The hub's first `gpt2` has bare names, and the causal mask stored with every layer."""

    def bare(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
        buffers = {f"h.{i}.attn.bias": np.tril(np.ones((1, 1, 9, 9), np.float32)) for i in range(2)}
        return {**found, **buffers, "h.0.attn.masked_bias": np.float32([-1e4])}

    rewrite(folder, bare)
    same(lmx.load(folder).params, checkpoint.params)


@pytest.mark.parametrize("checkpoint", ["tied"], indirect=True, scope="module")
def test_a_stored_copy_of_a_tied_head(folder: Path, checkpoint: Checkpoint) -> None:
    rewrite(folder, lambda t: {**t, "lm_head.weight": t["transformer.wte.weight"].copy()})
    same(lmx.load(folder).params, checkpoint.params)
    rewrite(folder, lambda t: {**t, "lm_head.weight": t["lm_head.weight"] + 1})
    with pytest.raises(lmx.UserError, match=r"lm_head\.weight is tied .* differ"):
        lmx.load(folder)


def test_every_mismatch_is_told_at_once(folder: Path) -> None:
    def broken(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        del tensors["transformer.ln_f.bias"]
        tensors["transformer.h.0.mlp.c_fc.weight"] = tensors["transformer.h.0.mlp.c_fc.weight"].T.copy()
        return {**tensors, "classifier.weight": np.zeros((2, 10), np.float32)}

    rewrite(folder, broken)
    with pytest.raises(lmx.UserError) as error:
        lmx.load(folder)
    said = str(error.value)
    assert "- transformer.ln_f.bias (10,)" in said
    assert "! transformer.h.0.mlp.c_fc.weight expected (10, 13), found (13, 10)" in said
    assert "+ classifier.weight (2, 10)" in said
    assert str(folder / "model.safetensors") in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llama"}, r"model_type=.llama.; lmx reads: gpt2"),
        (
            {"architectures": ["GPT2ForSequenceClassification"]},
            "architecture 'GPT2ForSequenceClassification'",
        ),
        ({"n_layer": -1}, r"model\.layers=-1"),
        ({"n_head": True}, r"model\.heads=True"),
        ({"activation_function": "gelu_newer"}, "did you mean 'gelu_new'"),
        ({"n_layer": 3}, r"- transformer\.h\.2"),
        ({"add_cross_attention": True}, "add_cross_attention=True is not supported"),
    ],
)
def test_configs_that_are_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    reconfigure(folder, **changes)
    with pytest.raises(lmx.UserError, match=message):
        lmx.load(folder)


def test_damaged_files_are_named(folder: Path) -> None:
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    for broken in (whole[:-50], whole[:20], b"", b"PK\x03\x04 a pickle"):
        path.write_bytes(broken)
        with pytest.raises(lmx.UserError, match=r"model\.safetensors"):
            lmx.load(folder)
    path.unlink()
    with pytest.raises(lmx.UserError, match=r"no model\.safetensors"):
        lmx.load(folder)
    (folder / "config.json").write_text("[1")
    with pytest.raises(lmx.UserError, match=r"config\.json: not readable as JSON"):
        lmx.load(folder)
    with pytest.raises(lmx.UserError, match="no such folder"):
        lmx.load(folder / "nowhere")


def test_half_precision_is_widened_exactly(checkpoint: Checkpoint, folder: Path) -> None:
    rewrite(folder, lambda t: {name: tensor.astype(np.float16) for name, tensor in t.items()})
    found = lmx.load(folder).params
    expected = jax.tree.map(lambda x: x.astype(jnp.float16).astype(jnp.float32), checkpoint.params)
    same(found, expected)


def test_a_kill_while_writing_leaves_no_folder(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: Any
) -> None:
    from lmx.hf import folder as hf

    def dying(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(hf, "save_file", dying)
    with pytest.raises(KeyboardInterrupt):
        lmx.save_hf(checkpoint, tmp_path / "hf")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    lmx.save_hf(checkpoint, tmp_path / "hf")
    assert {path.name for path in tmp_path.iterdir()} == {"hf"}


def test_files_reach_the_disk_before_the_rename(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: Any
) -> None:
    synced: set[int] = set()
    fsync, replace = os.fsync, os.replace

    def syncing(file: int) -> None:
        synced.add(os.fstat(file).st_ino)
        fsync(file)

    def replacing(source: Path, target: Path) -> None:
        assert {path.stat().st_ino for path in Path(source).iterdir()} <= synced
        replace(source, target)

    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(os, "replace", replacing)
    lmx.save_hf(checkpoint, tmp_path / "hf")
    assert (tmp_path / "hf" / "model.safetensors").stat().st_ino in synced


def test_places_that_cannot_be_written(checkpoint: Checkpoint, tmp_path: Path, monkeypatch: Any) -> None:
    from lmx.hf import folder as hf

    def refused(folder: Path, reason: str) -> None:
        with pytest.raises(lmx.UserError) as error:
            lmx.save_hf(checkpoint, folder)
        assert str(error.value) == f"{folder}: cannot be written ({reason})"

    refused(Path("/proc/x"), "No such file or directory")
    (tmp_path / "file").touch()
    refused(tmp_path / "file" / "hf", "Not a directory")
    for error, reason in (
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (SafetensorError("I/O error: no space"), "I/O error: no space"),
    ):

        def full(*args: Any, error: Exception = error, **kwargs: Any) -> None:
            raise error

        monkeypatch.setattr(hf, "save_file", full)
        refused(tmp_path / "hf", reason)
    assert {path.name for path in tmp_path.iterdir()} == {"file"}
