"""The commands on a finished run, and the Python face."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import lmx
from lmx.__main__ import main
from lmx.commands import _packed
from lmx.core import log, tree

from .conftest import Train


@pytest.mark.smoke
def test_a_run_leaves_all_it_promises(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert {
        "config.json",
        "run.json",
        "metrics.jsonl",
        "samples.jsonl",
        "report.html",
        "events",
        "export",
    } <= names
    assert not [path for path in finished.rglob("*") if "tmp" in path.name or "writing" in path.name]
    records = log.read_jsonl(finished / "metrics.jsonl")
    assert [r["step"] for r in records if r["kind"] == "train"] == [2, 4, 6, 8, 10, 12]
    held_out = [r for r in records if r["kind"] == "evaluation"]
    assert [r["step"] for r in held_out] == [4, 8, 12]
    assert held_out[-1]["loss"] < held_out[0]["loss"]
    for record in held_out:
        assert record["perplexity"] == pytest.approx(np.exp(record["loss"]))
    facts = json.loads((finished / "run.json").read_text())
    assert facts["steps"] == 12
    assert facts["tokens"] == 12 * 8 * 32
    assert facts["parameters"] == sum(leaf.size for leaf in tree.flatten(lmx.load(finished).params).values())


def test_bits_per_byte_is_the_cost_of_the_whole_text(finished: Path, rows: Path) -> None:
    """Nats per label times labels, over ln 2, over the bytes of the held-out text."""
    split = json.loads((rows / "manifest.json").read_text())["splits"]["validation"]
    last = [r for r in log.read_jsonl(finished / "metrics.jsonl") if r["kind"] == "evaluation"][-1]
    expected = last["loss"] * split["labels"] / np.log(2) / split["bytes"]
    assert last["bits_per_byte"] == pytest.approx(expected)


@pytest.mark.smoke
def test_evaluate_repeats_the_runs_figure(finished: Path, capsys: Any) -> None:
    last = [r for r in log.read_jsonl(finished / "metrics.jsonl") if r["kind"] == "evaluation"][-1]
    assert main(["evaluate", "--checkpoint", str(finished), "--batch", "16"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["step"] == 12
    assert found["loss"] == pytest.approx(last["loss"], rel=1e-6)
    assert found["bits_per_byte"] == pytest.approx(last["bits_per_byte"], rel=1e-6)


def test_an_evaluation_is_told_with_its_step(train: Any, tmp_path: Path, capsys: Any) -> None:
    """Before the first record, too, and with the devices that the mesh leaves idle."""
    changes = {"total": "4 steps", "evaluate": "2 steps", "log": "4 steps", "save": "4 steps"}
    assert train(tmp_path / "run", **changes) == 0
    said = capsys.readouterr().err
    assert "step 2/4  (evaluating)" in said
    assert "on 1 device (7 more are idle)" in said


@pytest.mark.smoke
def test_generate_is_a_function_of_its_seed(finished: Path, capsys: Any) -> None:
    def drawn(seed: str) -> str:
        words = [
            "--prompt",
            "The ",
            "--prompt",
            "If the",
            "--tokens",
            "6",
            "--temperature",
            "2",
            "--seed",
            seed,
        ]
        assert main(["generate", "--checkpoint", str(finished), *words]) == 0
        return capsys.readouterr().out

    assert drawn("1") == drawn("1") != drawn("2")
    assert drawn("1").startswith("The ")


@pytest.mark.smoke
def test_export_reads_back_as_the_run(finished: Path, tmp_path: Path) -> None:
    assert main(["export-hf", "--checkpoint", f"{finished}@best", "--output", str(tmp_path / "hf")]) == 0
    one, two = lmx.load(tmp_path / "hf"), lmx.load(f"{finished}@best")
    for path, leaf in tree.flatten(two.params).items():
        np.testing.assert_array_equal(tree.flatten(one.params)[path], leaf)
    assert one.config["model"] == two.config["model"]
    ids = {"input_ids": jnp.array([[5, 6, 7]])}
    np.testing.assert_array_equal(
        lmx.build(one.config).apply(one.params, ids)["logits"],
        lmx.build(two.config).apply(two.params, ids)["logits"],
    )
    assert lmx.generate(one, ["The "], tokens=4, seed=3) == lmx.generate(two, ["The "], tokens=4, seed=3)


def test_exported_folder_in_transformers(finished: Path) -> None:
    torch = pytest.importorskip("torch", reason="the parity extra is not installed")
    script = f"""
import warnings, numpy as np, torch
warnings.simplefilter("ignore")
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained({str(finished / "export")!r})
tokenizer = AutoTokenizer.from_pretrained({str(finished / "export")!r})
ids = tokenizer("Return a new list.", return_tensors="pt")["input_ids"]
assert tokenizer.decode(ids[0]) == "Return a new list."
np.savez({str(finished / "logits.npz")!r}, ids=ids.numpy(), logits=model(ids).logits.detach().numpy())
"""
    del torch
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
    with np.load(finished / "logits.npz") as theirs:
        ids, logits = theirs["ids"], theirs["logits"]
    found = lmx.load(finished)
    ours = lmx.build(found.config).apply(found.params, {"input_ids": jnp.asarray(ids, jnp.int32)})["logits"]
    np.testing.assert_allclose(ours, logits, atol=1e-5 * max(1, np.abs(logits).max()), rtol=0)


def test_report_is_written_again(finished: Path, tmp_path: Path, capsys: Any) -> None:
    before = (finished / "report.html").read_bytes()
    assert main(["report", "--workdir", str(finished)]) == 0
    assert str(finished / "report.html") in capsys.readouterr().out
    assert (finished / "report.html").read_bytes() == before


def test_start_from_a_run_begins_with_its_parameters(
    train: Train, finished: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    """One step at rate 0 (the first of a warm-up) leaves them as they were, held as one and apart again."""
    changes = {"start": str(finished), "total": "1 steps", "optim.warmup": "1 steps"}
    changes |= {"execution.layers": "scanned", "export": "True"}
    assert train(tmp_path / "run", **changes) == 0
    assert (tmp_path / "run" / "export" / "model.safetensors").is_file()
    one, two = lmx.load(tmp_path / "run"), lmx.load(finished)
    for path, leaf in tree.flatten(two.params).items():
        np.testing.assert_array_equal(tree.flatten(one.params)[path], leaf, err_msg=path)


def test_train_from_python(text: Path, tmp_path: Path) -> None:
    from lmx.core import config

    from .conftest import TINY

    fields = config.load("pretrain/from_text")
    often = {"total": "3 steps", "evaluate": "1 steps", "save": "1 steps", "keep.restore": "True"}
    worse = {"optim.warmup": "3 steps", "optim.rate": "1"}  # by the third step it is worse
    as_one = {"execution.layers": "scanned"}  # held so, and given away apart
    config.override(fields, {**TINY, "data.path": str(text), **often, **worse, **as_one})
    found = lmx.train(fields, tmp_path / "run")
    assert found.step == 2
    assert (tmp_path / "run" / "data" / "manifest.json").is_file()
    (tmp_path / "run").rename(tmp_path / "m@ved")  # a run may be moved: its rows and tokenizer go with it
    moved = lmx.load(tmp_path / "m@ved")
    assert tree.flatten(found.params).keys() == tree.flatten(moved.params).keys()
    for path, leaf in tree.flatten(found.params).items():
        np.testing.assert_array_equal(tree.flatten(moved.params)[path], leaf)
    assert len(lmx.generate(moved, ["A"], tokens=3)) == 1
    assert main(["evaluate", "--checkpoint", str(tmp_path / "m@ved")]) == 0
    found = moved
    lmx.save_hf(found, tmp_path / "hf")
    assert (tmp_path / "hf" / "model.safetensors").is_file()
    with pytest.raises(lmx.UserError, match="exists already"):
        lmx.save_hf(found, tmp_path / "hf")


def test_samples_come_from_the_average(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What writes them is what the checkpoint gives to who opens it, not what trains on."""
    seen, plain = [], _packed.Packed.samples

    def samples(self: Any, params: Any, step: int) -> list[tuple[str, str]]:
        seen.append({path: np.asarray(leaf) for path, leaf in tree.flatten(params).items()})
        return plain(self, params, step)

    monkeypatch.setattr(_packed.Packed, "samples", samples)
    changes = {"optim.average": "0.9", "total": "4 steps", "sample": "4 steps"}
    assert train(tmp_path / "run", **changes) == 0
    assert train(tmp_path / "plain", **{**changes, "optim.average": "None"}) == 0
    for path, leaf in tree.flatten(lmx.load(tmp_path / "run").params).items():
        np.testing.assert_array_equal(seen[0][path], leaf, err_msg=path)
    assert any(not np.array_equal(seen[0][path], seen[1][path]) for path in seen[0])
