"""What a hostile review of imports and exports found, each with the test that would have shown it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lmx
from lmx import tokenizer
from lmx.__main__ import main
from lmx.commands import _hf
from lmx.core import tree
from lmx.hf import certificate as certificates
from lmx.hf import oracle, probe
from lmx.tokenizer import _probe
from tests.unit import _hf_folders as made

from ._certified import certificate, complaint, digests, said, small_bert
from .conftest import options


@pytest.fixture(autouse=True)
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oracle, "present", lambda: False)


def classifier(folder: Path, **changes: Any) -> Path:
    config = {**made.BERT, "architectures": ["BertForSequenceClassification"], "num_labels": 3, **changes}
    return made.folder(folder, config, made.bert(pooler=True) | made.classifier(3))


def test_the_judge_imports_nothing_from_where_lmx_was_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("torch", "numpy", "transformers", "safetensors"):
        (tmp_path / f"{name}.py").write_text(
            f"open({str(tmp_path / 'ran')!r}, 'w')\nraise SystemExit('foreign')"
        )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([".", ""]))
    with pytest.raises(lmx.UserError) as error:
        oracle.judge(tmp_path / "nothing", "GPT2Model", {"input_ids": np.zeros((1, 2), np.int32)})
    assert "foreign" not in str(error.value)
    assert not (tmp_path / "ran").exists()


def test_a_foreign_tokenizer_is_tried_elsewhere_before_any_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    folder = made.folder(tmp_path / "gpt2", made.GPT2, made.gpt2())
    tokenizer.characters(["aa bb"]).save(folder)
    found = lmx.load(folder)
    (tmp_path / "text.txt").write_text("aa bb " * 500)
    monkeypatch.setattr(_probe, "_SECONDS", 0.01)
    with pytest.raises(lmx.UserError, match="took more than"):
        lmx.generate(found, ["aa"])
    with pytest.raises(lmx.UserError, match="took more than"):
        lmx.save_hf(found, tmp_path / "out")
    file = {"tokenizer.name": "file", "tokenizer.path": str(folder), "data.boundary": "False"}
    words = options(tmp_path / "text.txt", tmp_path / "rows", **file)
    assert main(["train", "--config", "pretrain/from_text", "--workdir", str(tmp_path / "run"), *words]) == 2
    assert "took more than" in capsys.readouterr().err


def test_only_what_has_an_axis_of_time_is_masked() -> None:
    mask = np.ones((2, 16), np.int32)
    mask[1, 12:] = 0
    wrong = np.zeros((2, 16), np.float32)
    wrong[1, 12:] = 99
    zeros = np.zeros((2, 16), np.float32)
    found = oracle.differences(
        {"logits": zeros, "start_logits": zeros}, {"logits": wrong, "start_logits": wrong}, mask
    )
    assert found == {"logits": (99.0, 1.0), "start_logits": (0.0, 0.0)}


@pytest.mark.parametrize(
    ("batch", "said"), [({}, "torch gave no output"), ({"hidden": 0}, "output hidden differs")]
)
def test_a_verdict_about_nothing_is_none(
    batch: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """torch finite and lmx not, or no output in common."""
    weights = made.bert(pooler=True) | made.classifier(3)
    weights["bert.encoder.layer.0.output.dense.bias"][:] = np.nan
    config = {**made.BERT, "architectures": ["BertForSequenceClassification"], "num_labels": 3}
    source = made.folder(tmp_path / "source", config, weights)
    words = ["import-hf", "--source", str(source), "--allow-nonfinite", "--output", str(tmp_path / "in")]
    assert main(words) == 0
    capsys.readouterr()
    answer = {name: np.zeros((2, 16, made.D), np.float32) for name in batch}
    monkeypatch.setattr(oracle, "present", lambda: True)
    monkeypatch.setattr(oracle, "judge", lambda *_, **__: answer)
    assert said in complaint(capsys, ["verify", str(tmp_path / "in")])


@pytest.mark.slow
def test_a_run_from_a_half_precision_import_trains_in_full_and_resumes(
    text: Path, rows: Path, tmp_path: Path, finished: Path, capsys: Any
) -> None:
    half = ["import-hf", "--source", str(finished / "export"), "--dtype", "bfloat16"]
    assert main([*half, "--output", str(tmp_path / "half")]) == 0
    words = ["train", "--config", "pretrain/from_text", "--workdir", str(tmp_path / "run")]
    changes = {"start": str(tmp_path / "half"), "total": "4 steps", "save": "2 steps", "evaluate": "0 steps"}
    words += options(text, rows, **changes)
    assert main(words) == 0
    leaves = tree.flatten(lmx.load(tmp_path / "run").params).values()
    assert {str(leaf.dtype) for leaf in leaves} == {"float32"}
    capsys.readouterr()
    assert main(words) == 0
    assert "done already" in "".join(capsys.readouterr())


def test_another_task_s_head_is_not_taken_for_its_own(tmp_path: Path, capsys: Any) -> None:
    names = {"id2label": {"0": "NEG", "1": "NEU", "2": "POS"}, "label2id": {"NEG": 0, "NEU": 1, "POS": 2}}
    source = classifier(tmp_path / "source", **names)
    stored = np.asarray(lmx.load(source).params["head"]["kernel"])
    for task, why in (
        ({"name": "token_classification", "labels": 3}, "the head of another task"),
        ({"name": "sequence_regression"}, "the head of another task"),
        ({"name": "multiple_choice"}, "the head of another task"),
        ({"name": "sequence_classification", "labels": 5}, "the head for another number of labels"),
    ):
        found = _hf.read(source, task=task)
        assert {"head/kernel", "head/bias"} <= set(found.plan.fresh), task
        assert found.plan.dropped["classifier.weight"] == why
        kernel = found.checkpoint.params["head"]["kernel"]
        assert kernel.shape != stored.shape or not np.array_equal(kernel, stored)
        assert "id2label" not in found.checkpoint.config["hf"]["config"]
    same = _hf.read(source, task={"name": "sequence_classification", "labels": 3})
    np.testing.assert_array_equal(same.checkpoint.params["head"]["kernel"], stored)
    assert same.checkpoint.config["hf"]["config"]["id2label"] == names["id2label"]


def test_a_fresh_head_in_a_half_precision_folder_keeps_its_own_type(tmp_path: Path) -> None:
    half = {name: tensor.astype(np.float16) for name, tensor in made.bert(pooler=True).items()}
    source = made.folder(tmp_path / "source", {**made.BERT, "architectures": ["BertModel"]}, half)
    found = lmx.load(source, task={"name": "sequence_classification", "labels": 3})
    lmx.save_hf(found, tmp_path / "again")
    again = lmx.load(tmp_path / "again").params["head"]["kernel"]
    np.testing.assert_array_equal(again, found.params["head"]["kernel"])


def test_links_of_tokenizers_stay_inside(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "secret").write_text("hunter2")
    for number, name in enumerate(("chat_template.jinja", "vocab.txt", "tokenizer_config.json")):
        source = small_bert(tmp_path / f"source{number}")
        (source / name).unlink(missing_ok=True)
        (source / name).symlink_to(tmp_path / "secret")
        words = ["export-hf", "--checkpoint", str(source), "--output", str(tmp_path / "out")]
        said = complaint(capsys, words)
        assert f"{name}: is a link to" in said
        assert "hunter2" not in said
        assert not (tmp_path / "out").exists()


def test_a_config_that_is_a_pipe_is_not_waited_for(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "in").mkdir()
    os.mkfifo(tmp_path / "in" / "config.json")
    for command in ("generate", "export-hf"):
        more = ["--output", str(tmp_path / "out")] if command == "export-hf" else []
        said = complaint(capsys, [command, "--checkpoint", str(tmp_path / "in"), *more])
        assert "config.json: is not a regular file" in said


def test_what_is_no_file_is_seen(tmp_path: Path, capsys: Any) -> None:
    source = small_bert(tmp_path / "source")
    assert main(["import-hf", "--source", str(source), "--output", str(tmp_path / "in")]) == 0
    (tmp_path / "elsewhere").mkdir()
    capsys.readouterr()
    for name, make in (
        ("1_Pooling", lambda path: path.symlink_to(tmp_path / "elsewhere")),
        ("pipe", os.mkfifo),
        ("gone", lambda path: path.symlink_to(tmp_path / "nothing")),
    ):
        make(tmp_path / "in" / name)
        assert f"+ file {name}" in complaint(capsys, ["verify", str(tmp_path / "in")])
        (tmp_path / "in" / name).unlink()
    assert main(["verify", str(tmp_path / "in")]) == 0


def test_double_precision_is_said_to_be_lost(tmp_path: Path) -> None:
    tensors = {name: tensor.astype(np.float64) + 1e-12 for name, tensor in made.gpt2().items()}
    found = _hf.read(made.folder(tmp_path / "source", made.GPT2, tensors))
    assert "float64 weights were read as float32, and lose what that cannot hold" in found.notes


def test_the_certificate_speaks_of_what_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The source is rewritten after its tensors were read."""
    source = small_bert(tmp_path / "source")
    kernel = np.asarray(lmx.load(source).params["head"]["kernel"])
    plain = certificates.of_source

    def later(folder: Path) -> dict[str, str]:
        made.folder(
            source,
            json.loads((source / "config.json").read_text()),
            made.bert(pooler=True) | made.classifier(3),
        )
        return plain(folder)

    monkeypatch.setattr(certificates, "of_source", later)
    assert main(["import-hf", "--source", str(source), "--output", str(tmp_path / "in")]) == 0
    said = certificate(tmp_path / "in")["source"]["tensors"]["classifier.weight"]["sha256"]
    assert said == hashlib.sha256(np.ascontiguousarray(kernel.T).tobytes()).hexdigest()


def test_one_id_is_no_padding() -> None:
    assert probe.batch(1, 16, None)["attention_mask"].all()
    assert not probe.batch(2, 16, None)["attention_mask"].all()


def test_names_from_a_foreign_config_are_shown_safely(tmp_path: Path) -> None:
    source = classifier(tmp_path / "source", **{"_\x1b[2J\nlmx: all good": 1})
    notes = "".join(_hf.read(source).notes)
    assert "\n" not in notes
    assert "\x1b" not in notes
    assert r"_\x1b[2J\nlmx: all good" in notes


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    small_bert(tmp_path / "source")
    words = ["--checkpoint", str(tmp_path / "source"), "--output", str(tmp_path / "out")]
    assert main(["export-hf", *words]) == 0
    return tmp_path / "out"


def test_what_git_keeps_is_left_and_said(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    count = len(digests(exported))
    (exported / ".git" / "refs").mkdir(parents=True)
    (exported / ".git" / "config").touch()
    capsys.readouterr()
    assert main(["verify", str(exported)]) == 0
    assert said(capsys)[0] == f"files: {count} unchanged, by SHA-256; .git not looked at"
    (exported / "more" / ".git").mkdir(parents=True)
    assert "+ file more/.git/;" in complaint(capsys, ["verify", str(exported)])


def test_a_certificate_elsewhere_is_none(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, other = exported / "conversion.json", tmp_path / "elsewhere.json"
    path.rename(other)
    path.symlink_to(other)
    told = complaint(capsys, ["verify", str(exported)])
    assert told.startswith(f"{path}: is a link to {str(other)!r}, outside the folder")
    path.unlink()
    os.mkfifo(path)
    assert "is not a regular file" in complaint(capsys, ["verify", str(exported)])


def test_names_that_are_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = small_bert(tmp_path / "source")
    try:
        (source / os.fsdecode(b"caf\xe9.txt")).touch()
    except OSError:
        pytest.skip("the file system takes UTF-8 alone")
    out = tmp_path / "in"
    assert main(["import-hf", "--source", str(source), "--output", str(out)]) == 0
    assert r"caf\xe9.txt" in certificate(out)["source"]["files"]
    assert main(["verify", str(out)]) == 0
    (out / os.fsdecode(b"\xff\x1b")).touch()
    assert r"+ file \xff\x1b;" in complaint(capsys, ["verify", str(out)])


def test_messages_of_the_judge_name_the_user_s_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(words: list[str], **options: Any) -> Any:
        return subprocess.CompletedProcess(words, 1, "", f"OSError: {tmp_path.resolve()} is not for me")

    monkeypatch.setattr(oracle.subprocess, "run", failing)
    with pytest.raises(lmx.UserError) as error:
        oracle.judge(tmp_path, "GPT2Model", {}, said="my/model")
    told = "my/model: transformers cannot open it as GPT2Model: OSError: my/model is not for me"
    assert str(error.value) == told


@pytest.mark.slow
def test_how_a_config_wants_to_be_called_is_nothing_to_the_judge(tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("torch")
    keys = {"return_dict": False, "torchscript": True, "output_attentions": True}
    source = classifier(tmp_path / "source", chunk_size_feed_forward=3, output_hidden_states=True, **keys)
    found = lmx.load(source)
    batch = _hf.probe_batch(found.config)
    theirs = oracle.judge(source, "BertForSequenceClassification", batch)
    ours = probe.run(lmx.build(found.config), found.params, batch)
    gaps = oracle.differences(ours, theirs, batch["attention_mask"])
    assert set(gaps) == {"hidden", "logits"}
    assert all(relative < 1e-5 for _, relative in gaps.values())


@pytest.mark.parametrize("text", ["2XB", "GB", "1,5", "1_0x", "", "-", "5 5"])
def test_sizes_of_shards_that_are_no_numbers(text: str, tmp_path: Path, capsys: Any) -> None:
    words = ["export-hf", "--checkpoint", "x", "--output", str(tmp_path / "out"), f"--shard-size={text}"]
    expected = (
        "a number of GB (10^9 bytes), such as 2, or one with a unit: 2GB, 500MB; see lmx export-hf --help"
    )
    assert complaint(capsys, words) == f"argument --shard-size: {text!r}; expected {expected}"


def test_sizes_of_shards(tmp_path: Path, capsys: Any) -> None:
    source = small_bert(tmp_path / "source")
    words = ["export-hf", "--checkpoint", str(source), "--output"]
    files = {}
    for number, text in enumerate(("2e-6", "2KB", "2 kb", "0.002MB", "2000B", "2e-6 GB", "2GB", "1B")):
        assert main([*words, str(tmp_path / str(number)), "--shard-size", text]) == 0
        files[text] = sorted(path.name for path in (tmp_path / str(number)).glob("*.safetensors"))
    cut = [files.pop(text) for text in ("2GB", "1B")]
    assert (len(cut[0]), len(cut[1])) == (1, 41)
    assert {len(names) for names in files.values()} == {len(files["2KB"])}
    assert 1 < len(files["2KB"]) < 41
    told = "expected GB above 0, from 1e-9 (a file for each tensor) to 1e9, a GB being 10^9 bytes"
    for text, number in (("inf", "inf"), ("1e300", "1e+300"), ("1e-10", "1e-10")):
        said = complaint(capsys, [*words, str(tmp_path / "x"), "--shard-size", text])
        assert said == f"shard_size={number}; {told}"
