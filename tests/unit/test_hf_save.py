"""Writing Hugging Face folders: what was read comes back byte for byte, and each is whole or not there."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import lmx
from lmx.commands import _build, _hf
from lmx.core import tree
from lmx.core.types import Checkpoint
from lmx.hf import folder as folders

from . import _hf_folders as made
from .test_hf_pickled import archive, state, storage, tensor

SEQUENCE = {**made.BERT, "architectures": ["BertForSequenceClassification"], "num_labels": 3}
UNTIED = {"tie_word_embeddings": False}
TWIN = {"cls.predictions.decoder.bias": made.mlm()["cls.predictions.bias"]}
MIXED = {
    name: array.astype(np.float16 if "ln_" in name else np.float64 if "wpe" in name else np.float32)
    for name, array in made.gpt2().items()
}


@pytest.fixture(autouse=True)
def no_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Certificates without the model's outputs, which take a compilation each; tests/runs has them."""
    monkeypatch.setattr(_hf, "probed", lambda found, params: {})


def born(model: str, task: dict[str, Any], **fields: Any) -> Checkpoint:
    """A checkpoint that names what it must alone, as a run's config may."""
    sizes = {"vocab_size": made.V, "positions": made.P, "width": made.D, "layers": made.L, "heads": 2}
    config = {"model": {"name": model, "mlp_width": made.M, **sizes, **fields}, "task": task}
    shapes = tree.flatten(_build.shapes(_build.model(config)))
    values = made.random({path: leaf.shape for path, leaf in shapes.items()}, seed=5)
    return Checkpoint(
        tree.unflatten({path: jax.numpy.asarray(leaf) for path, leaf in values.items()}), config
    )


def config_of(path: Path) -> dict[str, Any]:
    return dict(json.loads((path / "config.json").read_text()))


@pytest.mark.parametrize("tied", [True, False])
def test_gpt2_as_transformers_has_it(tmp_path: Path, tied: bool) -> None:
    checkpoint = born("gpt2", {"name": "causal_lm"}, tie_embeddings=tied)
    lmx.save_hf(checkpoint, tmp_path / "hf")
    tensors = load_file(tmp_path / "hf" / "model.safetensors")
    assert {name: array.shape for name, array in tensors.items()} == {
        name: array.shape for name, array in made.gpt2(tied=tied).items()
    }
    found = made.leaves({name: array for name, array in tensors.items() if name != "lm_head.weight"})
    for path, leaf in found.items():
        np.testing.assert_array_equal(leaf, tree.flatten(checkpoint.params)[path], err_msg=path)
    config = config_of(tmp_path / "hf")
    assert config["architectures"] == ["GPT2LMHeadModel"]
    assert {key: config[key] for key in made.GPT2} == made.GPT2
    assert (config["tie_word_embeddings"], config["dtype"]) == (tied, "float32")
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (None, None, None)
    assert {path.name for path in (tmp_path / "hf").iterdir()} == {
        "README.md", "config.json", "conversion.json", "model.safetensors"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("config", "tensors"),
    [
        (made.GPT2, made.gpt2()),
        (made.GPT2 | UNTIED, made.gpt2(tied=False)),
        (made.GPT2, made.gpt2(rows=made.V + 5)),
        (made.GPT2, MIXED),
        (made.GPT2 | {"architectures": ["GPT2Model"]}, made.gpt2("")),
        (made.BERT, made.bert() | made.mlm()),
        (made.BERT | UNTIED, made.bert() | made.mlm(tied=False) | TWIN),
        (
            made.BERT | {"architectures": ["BertForPreTraining"]},
            made.bert(pooler=True) | made.mlm() | made.pairs(),
        ),
        (made.BERT | {"architectures": ["BertModel"]}, made.bert("", pooler=True)),
        (made.BERT | {"architectures": ["BertModel"]}, made.bert("")),
        (SEQUENCE, made.bert(pooler=True) | made.classifier(3)),
        (SEQUENCE | {"num_labels": 1}, made.bert(pooler=True) | made.classifier(1)),
        (
            made.GPT2 | {"architectures": ["GPT2ForSequenceClassification"], "num_labels": 3},
            made.gpt2() | made.classifier(3, "score"),
        ),
    ],
)  # fmt: skip
def test_bytes_come_back(tmp_path: Path, config: dict[str, Any], tensors: made.Tensors) -> None:
    source = made.folder(tmp_path / "source", config, tensors)
    lmx.save_hf(lmx.load(source), tmp_path / "again")
    name = "model.safetensors"
    assert (tmp_path / "again" / name).read_bytes() == (source / name).read_bytes()
    found = config_of(tmp_path / "again")
    sizes = {"vocab_size": next(iter(tensors.values())).shape[0]}
    kept = {key: value for key, value in config.items() if key != "num_labels"} | sizes
    assert {key: found[key] for key in kept} == kept
    lmx.save_hf(lmx.load(tmp_path / "again"), tmp_path / "third")
    for file in (name, "config.json", "conversion.json"):
        assert (tmp_path / "third" / file).read_bytes() == (tmp_path / "again" / file).read_bytes(), file


def test_other_keys_come_back(tmp_path: Path) -> None:
    others = {
        "id2label": {"0": "no", "1": "maybe", "2": "yes"}, "label2id": {"no": 0, "maybe": 1, "yes": 2},
        "pad_token_id": 0, "summary_type": "cls_index", "summary_proj_to_labels": True,
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
        "use_cache": True, "gradient_checkpointing": False, "finetuning_task": "mnli", "unicode": "é北\u2028",
    }  # fmt: skip
    tensors = made.bert(pooler=True) | made.classifier(3)
    config = {key: value for key, value in SEQUENCE.items() if key != "num_labels"} | others
    source = made.folder(tmp_path / "source", config, tensors, _name_or_path="/home", torch_dtype="float32")
    lmx.save_hf(lmx.load(source), tmp_path / "again")
    found = config_of(tmp_path / "again")
    assert {key: found[key] for key in others} == others
    assert not {"num_labels", "_name_or_path", "torch_dtype", "problem_type"} & found.keys()
    assert lmx.load(tmp_path / "again").config["task"]["labels"] == 3


def test_generation_config_comes_back(tmp_path: Path) -> None:
    source = made.folder(tmp_path / "source", made.GPT2, made.gpt2(), eos_token_id=3, bos_token_id=2)
    lmx.save_hf(lmx.load(source), tmp_path / "a")
    assert json.loads((tmp_path / "a" / "generation_config.json").read_text()) == {
        "bos_token_id": 2, "eos_token_id": 3
    }  # fmt: skip
    own = {"_from_model_config": True, "eos_token_id": [3, 5], "temperature": 0.7, "top_k": 3}
    (source / "generation_config.json").write_text(json.dumps(own | {"transformers_version": "4.0"}))
    lmx.save_hf(lmx.load(source), tmp_path / "b")
    found = json.loads((tmp_path / "b" / "generation_config.json").read_text())
    assert found == own
    assert config_of(tmp_path / "b")["eos_token_id"] == 3


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_the_type_to_store(tmp_path: Path, dtype: str) -> None:
    source = made.folder(tmp_path / "source", made.GPT2, MIXED)
    lmx.save_hf(lmx.load(source), tmp_path / "x", dtype=dtype)
    again = lmx.load(tmp_path / "x")
    assert again.config["hf"] == {**again.config["hf"], "dtype": dtype, "types": {}}
    assert config_of(tmp_path / "x")["dtype"] == dtype
    found = tree.flatten(again.params)
    for path, leaf in made.leaves(made.gpt2()).items():
        np.testing.assert_array_equal(found[path], leaf, err_msg=path)


def test_types_that_are_refused(tmp_path: Path) -> None:
    checkpoint = born("gpt2", {"name": "causal_lm"})
    for dtype in ("int8", "fp16", ""):
        with pytest.raises(lmx.UserError) as error:
            lmx.save_hf(checkpoint, tmp_path / "x", dtype=dtype)
        assert str(error.value) == f"dtype={dtype!r}; expected one of float16, bfloat16, float32, float64"
    checkpoint.params["final"]["bias"] += 1e5
    with pytest.raises(lmx.UserError, match=r"^transformer\.ln_f\.bias has values beyond float16; use f"):
        lmx.save_hf(checkpoint, tmp_path / "x", dtype="float16")
    assert list(tmp_path.iterdir()) == []


ALL = [(model, task) for model in ("gpt2", "bert") for task in _build.tables(model)[1]]


@pytest.mark.parametrize(("model", "task"), ALL)
def test_every_task_is_read_back_as_certified(tmp_path: Path, model: str, task: str) -> None:
    """The defaults that a run's config leaves out are spelled out on both sides, or `verify` cries wolf."""
    checkpoint = born(model, {"name": task})
    lmx.save_hf(checkpoint, tmp_path / "hf")
    found = lmx.load(tmp_path / "hf")
    certified = json.loads((tmp_path / "hf" / "conversion.json").read_text())
    assert _hf.sections(found.config) == certified["config"]
    assert config_of(tmp_path / "hf")["architectures"] == [_build.tables(model)[1][task].architecture]
    for path, leaf in tree.flatten(checkpoint.params).items():
        np.testing.assert_array_equal(tree.flatten(found.params)[path], leaf, err_msg=path)


@pytest.mark.parametrize(
    ("model", "task", "fields", "reason"),
    [
        (
            "bert",
            {"name": "sequence_classification", "bias": False},
            {},
            "BertForSequenceClassification has classifier.bias; the model has no head/bias",
        ),
        (
            "gpt2",
            {"name": "sequence_classification", "bias": True},
            {},
            "GPT2ForSequenceClassification has task.bias=False, not True",
        ),
        ("bert", {"name": "masked_lm"}, {"pooler": True}, "BertForMaskedLM has model.pooler=False, not True"),
    ],
)
def test_what_the_class_has_not(
    tmp_path: Path, model: str, task: dict[str, Any], fields: dict[str, Any], reason: str
) -> None:
    with pytest.raises(lmx.UserError) as error:
        lmx.save_hf(born(model, task, **fields), tmp_path / "hf")
    assert str(error.value) == reason
    assert list(tmp_path.iterdir()) == []


def test_shards(tmp_path: Path) -> None:
    source = made.folder(tmp_path / "source", made.BERT, made.bert() | made.mlm())
    whole = load_file(source / "model.safetensors")
    parts = [dict(list(whole.items())[i::3]) for i in range(3)]
    places = {}
    for i, part in enumerate(parts, 1):
        save_file(part, source / f"model-{i}-of-3.safetensors", metadata={"format": "pt"})
        places |= dict.fromkeys(part, f"model-{i}-of-3.safetensors")
    (source / "model.safetensors").rename(tmp_path / "whole")
    index = source / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    lmx.save_hf(lmx.load(source), tmp_path / "one")
    assert (tmp_path / "one" / "model.safetensors").read_bytes() == (tmp_path / "whole").read_bytes()
    lmx.save_hf(lmx.load(source), tmp_path / "many", shard_size=1e-6)  # 1,000 bytes
    files = sorted(path.name for path in (tmp_path / "many").glob("*.safetensors"))
    assert len(files) > 3
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    lmx.save_hf(lmx.load(tmp_path / "many"), tmp_path / "back")
    assert (tmp_path / "back" / "model.safetensors").read_bytes() == (tmp_path / "whole").read_bytes()
    (source / "model-2-of-3.safetensors").unlink()
    with pytest.raises(lmx.UserError) as error:
        lmx.load(source)
    missing = "names 'model-2-of-3.safetensors', not in the folder; fetch what is missing"
    assert str(error.value) == f"{index}: {missing}"


def test_torch_files_made_without_torch(tmp_path: Path) -> None:
    tensors = made.gpt2()
    pickled, members = {}, {}
    for i, (name, array) in enumerate(tensors.items()):
        strides = [stride // 4 for stride in array.strides]
        pickled[name] = tensor(array.shape, strides, of=storage(array.size, key=str(i)))
        members[f"data/{i}"] = array.tobytes()
    source = made.folder(tmp_path / "source", made.GPT2, {})
    (source / "model.safetensors").unlink()
    (source / "pytorch_model.bin").write_bytes(archive(state(**pickled), members))
    lmx.save_hf(lmx.load(source), tmp_path / "again")
    made.folder(tmp_path / "expected", made.GPT2, tensors)
    written = (tmp_path / "again" / "model.safetensors").read_bytes()
    assert written == (tmp_path / "expected" / "model.safetensors").read_bytes()


@pytest.mark.slow  # importing torch takes seconds; tests/unit/test_hf_pickled.py holds its bytes
def test_torch_files_made_by_torch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    tensors = made.bert() | made.mlm()
    values = {name: torch.from_numpy(array) for name, array in tensors.items()}
    values["cls.predictions.decoder.weight"] = values["bert.embeddings.word_embeddings.weight"]  # shared
    source = made.folder(tmp_path / "source", made.BERT, {})
    (source / "model.safetensors").unlink()
    torch.save(values, source / "pytorch_model.bin")
    lmx.save_hf(lmx.load(source), tmp_path / "again")
    expected = made.folder(tmp_path / "expected", made.BERT, tensors)
    written = (tmp_path / "again" / "model.safetensors").read_bytes()
    assert written == (expected / "model.safetensors").read_bytes()


@pytest.mark.parametrize("death", [KeyboardInterrupt(), MemoryError(), lmx.UserError("bad")])
def test_a_death_while_writing_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, death: BaseException
) -> None:
    def dying(*args: Any, **kwargs: Any) -> None:
        assert [path.name[:15] for path in tmp_path.iterdir()] == ["hf.lmx-writing-"]
        raise death

    checkpoint = born("gpt2", {"name": "causal_lm"})
    monkeypatch.setattr(folders, "write_tensors", dying)
    with pytest.raises(type(death)):
        lmx.save_hf(checkpoint, tmp_path / "hf")
    assert list(tmp_path.iterdir()) == []


def test_files_reach_the_disk_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: set[int] = set()
    fsync, replace = os.fsync, os.replace

    def syncing(file: int) -> None:
        synced.add(os.fstat(file).st_ino)
        fsync(file)

    def replacing(source: Path, target: Path) -> None:
        found = {path.stat().st_ino for path in Path(source).rglob("*") if path.is_file()}
        assert len(found) == 4
        assert found <= synced
        replace(source, target)

    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(os, "replace", replacing)
    lmx.save_hf(born("gpt2", {"name": "causal_lm"}), tmp_path / "hf")
    assert (tmp_path / "hf" / "model.safetensors").stat().st_ino in synced


def test_places_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = born("gpt2", {"name": "causal_lm"})

    def refused(folder: Path, reason: str) -> None:
        with pytest.raises(lmx.UserError) as error:
            lmx.save_hf(checkpoint, folder)
        assert str(error.value) == f"{folder}{reason}"

    refused(Path("/proc/x"), ": cannot be written (No such file or directory)")
    (tmp_path / "file").touch()
    refused(tmp_path / "file" / "hf", ": cannot be written (Not a directory)")
    refused(tmp_path / "file", " exists already; name another folder, or remove it first")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    refused(tmp_path / "link", " exists already; name another folder, or remove it first")

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(folders, "write_tensors", full)
    refused(tmp_path / "hf", ": cannot be written (No space left on device)")
    assert {path.name for path in tmp_path.iterdir()} == {"file", "link"}


def test_a_folder_that_is_copied_is_read_as_the_first(tmp_path: Path) -> None:
    source = made.folder(tmp_path / "source", made.GPT2, made.gpt2())
    shutil.copytree(source, tmp_path / "copy")
    one, two = lmx.load(source), lmx.load(tmp_path / "copy")
    assert one.config == two.config
    assert (one.folder, one.step) == (None, None)
