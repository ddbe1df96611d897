"""BERT pretrained through the command line: pairs, longer rows, resuming, and going on with other text."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lmx
from lmx.__main__ import main
from lmx.core import config, log, rows, tree

from .conftest import digest

TINY = {
    "model.layers": "1", "model.width": "16", "model.heads": "2", "model.mlp_width": "16",
    "model.positions": "32", "tokenizer.size": "200", "batch.size": "16", "batch.length": "16",
    "total": "6 steps", "log": "1 steps", "evaluate": "3 steps", "save": "2 steps", "export": "False",
    "mesh.data": "1",
}  # fmt: skip
GROWING = {"long.last": "50%", "long.length": "32", "task.unit": "word"}


STILL = {"optim.rate": "1e-12", "optim.decay": "0.0"}  # trains, and moves nothing that a test would see


@pytest.fixture(scope="module")
def documents(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 documents of a few sentences each."""
    whole = text.read_text(encoding="ascii", errors="replace").split("\n\n")
    path = tmp_path_factory.mktemp("documents") / "documents.jsonl"
    rows = [{"text": "\n\n".join(whole[i::120])} for i in range(120)]
    path.write_text("".join(f"{log.json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def train(name: str, workdir: Path, fields: Mapping[str, Any]) -> int:
    words = [f"--config.{key}={value}" for key, value in fields.items()]
    return main(["train", "--config", name, "--workdir", str(workdir), *words])


@pytest.fixture(scope="module")
def pretrained(documents: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on pairs whose second half has longer rows; not to be changed."""
    folder = tmp_path_factory.mktemp("pretrained") / "run"
    fields = {**TINY, **GROWING, "data.path": documents, "export": "True", "keep.last": "4"}
    assert train("pretrain/encoder.py", folder, {}) == 2  # a base is no shipped config
    assert train("pretrain/bert_small", folder, fields) == 0
    return folder


def test_other_pairs_are_made_of_what_is_trained_on_alone(documents: Path, tmp_path: Path) -> None:
    """Held-out pairs in several versions would cost as much to judge as they weigh in no figure."""
    own = [f"--config.{name}={TINY[name]}" for name in ("tokenizer.size", "batch.length", "model.positions")]
    found = []
    for copies in (1, 3):
        folder = tmp_path / str(copies)
        words = ["--config", "pretrain/bert_small", "--workdir", str(folder), *own]
        paths = [f"--config.data.path={documents}", f"--config.data.copies={copies}"]
        assert main(["prepare", *words, *paths]) == 0
        found.append(rows.manifest(folder / "data")["splits"])
    once, thrice = found
    assert thrice["validation"] == once["validation"]
    assert thrice["train"]["rows"] == pytest.approx(3 * once["train"]["rows"], rel=0.05)


def test_what_a_run_leaves(pretrained: Path, capsys: Any) -> None:
    records = log.read_jsonl(pretrained / "metrics.jsonl")
    (last,) = (r for r in records if r["kind"] == "evaluation" and r["step"] == 6)
    assert last["loss"] == pytest.approx(last["masked_loss"] + last["next_loss"])
    assert 0 <= last["masked_accuracy"] < 0.5 and 0.2 < last["next_accuracy"] < 0.8
    manifests = [rows.manifest(pretrained / folder) for folder in ("data", "data-32")]
    assert [one["settings"]["length"] for one in manifests] == [16, 32]
    assert manifests[0]["tokenizer"]["sha256"] == manifests[1]["tokenizer"]["sha256"]
    pairs = manifests[0]["splits"]["train"]
    assert 0.4 < pairs["pairs"]["random"] / pairs["rows"] < 0.6
    # Judged again on the rows that it was judged on.
    capsys.readouterr()
    for where in ([], ["--data", str(pretrained / "data-32")]):
        assert main(["evaluate", "--checkpoint", str(pretrained), *where]) == 0
        found = log.json.loads(capsys.readouterr().out)
        assert found["loss"] == pytest.approx(last["loss"], rel=1e-6)
        assert found["next_accuracy"] == last["next_accuracy"]
    assert not (pretrained / "samples.jsonl").exists()


def test_the_export_is_a_bert_for_pretraining(pretrained: Path) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    model, told = transformers.BertForPreTraining.from_pretrained(
        pretrained / "export", output_loading_info=True
    )
    assert not told["missing_keys"] and not told["unexpected_keys"]
    text = transformers.AutoTokenizer.from_pretrained(pretrained / "export")
    given = text(["The statement is executed."], ["An object."], return_tensors="pt")
    with torch.no_grad():
        wanted = model.eval()(**given)
    found = lmx.load(pretrained)
    outputs = lmx.build(found.config).apply(
        found.params, {k: v.numpy().astype(np.int32) for k, v in given.items()}
    )
    np.testing.assert_allclose(outputs["logits"], wanted.prediction_logits.numpy(), atol=1e-5)
    np.testing.assert_allclose(outputs["next_logits"], wanted.seq_relationship_logits.numpy(), atol=1e-5)


@pytest.mark.parametrize("step", [2, 4])
def test_going_on_before_and_after_the_rows_grow(
    pretrained: Path, documents: Path, tmp_path: Path, step: int
) -> None:
    """What a kill at a checkpoint leaves is brought to the same end, bit for bit."""
    again = tmp_path / "run"
    shutil.copytree(pretrained, again)
    for path in (again / "checkpoints").iterdir():
        if path.name.isdigit() and int(path.name) > step:
            shutil.rmtree(path)
    shutil.rmtree(again / "export")
    fields = {**TINY, **GROWING, "data.path": documents, "export": "True", "keep.last": "4"}
    assert train("pretrain/bert_small", again, fields) == 0
    assert digest(again) == digest(pretrained)
    assert (
        log.read_jsonl(again / "metrics.jsonl")[-1]["loss"]
        == log.read_jsonl(pretrained / "metrics.jsonl")[-1]["loss"]
    )


@pytest.mark.parametrize("of", ["", "export"])
def test_going_on_with_hidden_tokens_alone(
    pretrained: Path, documents: Path, tmp_path: Path, of: str, capsys: Any
) -> None:
    """The body, the head of hidden tokens and the tokenizer are the start's; the pairs' head is left."""
    table = tmp_path / "task.tsv"
    table.write_text(
        "sentence\tlabel\n" + 'Don\'t "quote" me on it, said the statement.\t1\n' * 3 + "Another.\t0\n" * 60
    )
    lines = [f"Sentence {i} of the task's own text, which is not long.\t{i % 2}\n" for i in range(200)]
    table.write_text(table.read_text() + "".join(lines))
    small = {name: value for name, value in TINY.items() if not name.startswith(("model", "tokenizer"))}
    fields = {
        **small,
        "start": pretrained / of,
        "data.path": table,
        "data.field": "sentence",
        "total": "2 steps",
    }
    changed = {**fields, **STILL, "model.dropout_hidden": "0.2"}
    capsys.readouterr()
    assert train("pretrain/adapt_bert", tmp_path / "run", changed) == 0
    said = capsys.readouterr().err
    assert ("left out" in said) is (not of), said
    assert "started anew" not in said
    found, before = lmx.load(tmp_path / "run"), lmx.load(pretrained)
    assert found.config["model"]["dropout_hidden"] == 0.2 and found.config["model"]["pooler"] is False
    held = tree.flatten(before.params)
    for path, leaf in tree.flatten(found.params).items():
        assert np.allclose(leaf, held[path], rtol=0, atol=1e-9), path
    assert (
        rows.manifest(tmp_path / "run" / "data")["tokenizer"]["sha256"]
        == rows.manifest(pretrained / "data")["tokenizer"]["sha256"]
    )
    # Where the start is gone, a run that has begun goes on.
    pretrained.rename(gone := tmp_path / "elsewhere")
    try:
        assert train("pretrain/adapt_bert", tmp_path / "run", changed) == 0
        assert "done already" in capsys.readouterr().err
    finally:
        gone.rename(pretrained)


@pytest.mark.slow
def test_going_on_with_a_decoder(finished: Path, text: Path, tmp_path: Path, capsys: Any) -> None:
    small = {
        "batch.size": "8",
        "batch.length": "32",
        "total": "2 steps",
        "sample": "0 steps",
        "export": "False",
    }
    fields = {**small, "start": finished, "data.path": text, **STILL}
    assert train("pretrain/adapt_gpt2", tmp_path / "run", fields) == 0
    for one, two in zip(
        tree.flatten(lmx.load(tmp_path / "run").params).values(),
        tree.flatten(lmx.load(finished).params).values(),
        strict=True,
    ):
        assert np.allclose(one, two, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "name", [pytest.param(f"pretrain/bert_base{what}", marks=pytest.mark.slow) for what in ("", "_lamb")]
)
def test_a_shipped_config_runs(name: str, documents: Path, tmp_path: Path) -> None:
    shipped = config.load(name)
    assert shipped.batch.size * 128 % 512 == 0
    fields = {
        **TINY,
        "long.last": "0%",
        "data.path": documents,
        "total": "2 steps",
        "optim.warmup": "1 steps",
    }
    assert train(name, tmp_path / "run", fields) == 0


@pytest.mark.parametrize(
    ("name", "changes", "parts"),
    [
        ("bert_small", {"task.share": "1.5"}, ["task.share=1.5", "0.15"]),
        ("bert_small", {"task.unit": "words"}, ["task.unit='words'", "did you mean 'word'"]),
        ("bert_small", {"task.shear": "0.2"}, ["task.shear", "did you mean 'share'"]),
        ("bert_small", {"task.name": "causal_lm"}, ["inherit('base')"]),
        ("bert_small", {"tokenizer.name": "bpe"}, ["no tokenizer 'bpe'", "wordpiece"]),
        ("bert_small", {"tokenizer.size": "20"}, ["tokenizer.size=20", "raise it"]),
        ("bert_small", {"tokenizer.size": "3"}, ["tokenizer.size=3", "at least 16"]),
        ("bert_small", {"tokenizer.name": "start"}, ["config.start", "scratch"]),
        (
            "bert_small",
            {"long.last": "10%", "long.length": "16"},
            ["long.length=16", "more than batch.length=16"],
        ),
        ("bert_small", {"long.last": "10%", "long.length": "64"}, ["long.length=64", "model.positions=32"]),
        ("bert_small", {"long.last": "10%", "long.length": "24"}, ["long.length=24", "256 tokens"]),
        ("bert_small", {"long.last": "soon"}, ["config.long.last='soon'"]),
        ("bert_small", {"data.short": "2"}, ["data.short=2"]),
        (
            "bert_small",
            {"task.name": "masked_lm", "data.copies": "2"},
            ["data.copies=2", "copies=1"],
        ),
        ("bert_small", {"data.copies": "0"}, ["data.copies=0"]),
        ("bert_small", {"model.name": "gpt2"}, ["gpt2"]),
        ("adapt_bert", {}, ["config.start=None", "--config.start=FOLDER"]),
        ("adapt_gpt2", {}, ["config.start=None", "--config.start=FOLDER"]),
        ("from_text", {"task.name": "masked_lm"}, ["inherit('pretrain/encoder')"]),
    ],
)
def test_bad_input(
    name: str, changes: dict[str, str], parts: list[str], documents: Path, tmp_path: Path, capsys: Any
) -> None:
    small = {
        k: v for k, v in TINY.items() if name.startswith("bert") or not k.startswith(("model", "tokenizer"))
    }
    assert train(f"pretrain/{name}", tmp_path / "run", {**small, "data.path": documents, **changes}) == 2
    complaint = capsys.readouterr().err.splitlines()[-1]
    assert complaint.startswith("lmx "), complaint
    for part in parts:
        assert part in complaint
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_one_document_makes_no_pairs(text: Path, tmp_path: Path, capsys: Any) -> None:
    fields = {**TINY, "data.path": text}
    assert train("pretrain/bert_small", tmp_path / "run", fields) == 2
    assert "pairs need at least two" in capsys.readouterr().err.splitlines()[-1]


def test_a_table_without_the_column(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "task.csv").write_text('text,label\n"a, b",1\n')
    masked = {"task.name": "masked_lm", "data.copies": "1"}
    fields = {**TINY, **masked, "data.path": tmp_path / "task.csv", "data.field": "sentence"}
    assert train("pretrain/bert_small", tmp_path / "run", fields) == 2
    assert "it has: text, label" in capsys.readouterr().err.splitlines()[-1]
