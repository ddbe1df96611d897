"""Bad input: one line, exit code 2, nothing half written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import lmx
from lmx.__main__ import main
from lmx.runs import lock

from .conftest import Train, options


def refused(capsys: Any, code: int, *parts: str) -> str:
    """Check for exit code 2 and exactly one line of complaint that holds the parts."""
    said = capsys.readouterr().err.splitlines()
    complaint = [line for line in said if line.startswith("lmx ")]
    assert code == 2, said
    assert len(complaint) == 1, said
    assert complaint == said[-1:], "the complaint is not the last word"
    for part in parts:
        assert part in complaint[0]
    return complaint[0]


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"optim.rat": "1"}, ["optim.rat", "did you mean 'rate'"]),
        ({"optim.rate": "fast"}, ["config.optim.rate='fast'", "expected a number"]),
        ({"model.layers": "2.5"}, ["config.model.layers", "expected a whole number"]),
        ({"model": "3"}, ["holds keys"]),
        ({"model.name": "gtp2"}, ["no 'gtp2' in models", "did you mean 'gpt2'"]),
        ({"task.name": "casual_lm"}, ["did you mean 'causal_lm'"]),
        ({"task.name": "mine.nothing"}, ["no module 'mine'", "PYTHONPATH"]),
        ({"optim.name": "adamv"}, ["did you mean 'adam'"]),
        ({"optim.schedule": "cosin"}, ["did you mean 'cosine'"]),
        ({"total": "3 parsecs"}, ["config.total='3 parsecs'", "3 epochs"]),
        ({"total": "50%"}, ["config.total='50%'"]),
        ({"optim.warmup": "20 steps"}, ["optim.warmup is 20 steps, but the run has 12"]),
        ({"batch.length": "64"}, ["batch.length=64", "model.positions=32"]),
        ({"batch.size": "12", "mesh.data": "-1"}, ["batch.size=12", "8 devices", "nearest"]),
        ({"batch.size": "0"}, ["at least 1"]),
        ({"mesh.data": "99"}, ["mesh.data=99", "8 devices"]),
        ({"execution.attention": "cudnn"}, ["cudnn cannot drop weights", "model.dropout_attention=0"]),
        (
            {"execution.attention": "cudnn", "model.dropout_attention": "0"},
            ["cudnn is for GPUs; this is a cpu"],
        ),
        (
            {"execution.attention": "splash", "model.dropout_attention": "0"},
            ["splash takes rows of a multiple of 128 tokens; these have 32"],
        ),
        ({"model.vocab_size": "100"}, ["tokenizer has 300 ids", "model.vocab_size=100"]),
        ({"model.heads": "3"}, ["model.width=16", "model.heads=3"]),
        ({"data.name": "wikipedia"}, ["data.name='wikipedia'"]),
        ({"data.path": "None"}, ["data.path is not set"]),
        ({"start": "nowhere"}, ["nowhere: no such folder"]),
        ({"tokenizer.name": "bqe"}, ["did you mean 'bpe'"]),
        ({"tokenizer.path": "x"}, ["tokenizer.path is not read by tokenizer.name='bpe'"]),
        ({"data.name": "stdlib"}, ["is not read by data.name='stdlib'"]),
        ({"data.code": "True"}, ["data.code is for data.name='stdlib' only"]),
        ({"total": "0"}, ["at least one step"]),
        ({"total": "1.2.3 steps"}, ["config.total='1.2.3 steps'"]),
        ({"total": "1e400 steps"}, ["config.total='1e400 steps'"]),
        ({"save": "5 s"}, ["config.save='5 s'"]),
        ({"batch.size": "None"}, ["config.batch.size='None'", "expected a whole number"]),
        ({"batch.size": "4096"}, ["too little text for one batch"]),
        ({"seed": "-1"}, ["seed=-1"]),
        ({"model.mlp_width": "abc"}, ["model.mlp_width='abc'"]),
        ({"model.mlp_width": "0"}, ["model.mlp_width=0"]),
        ({"keep.best": "-1"}, ["keep.best=-1"]),
        ({"task.name": "json.decoder"}, ["'json.decoder' does not define attach"]),
        ({"task.name": ".x"}, ["no '.x' in tasks"]),
        ({"sample": "2 steps", "samples.tokens": "40"}, ["samples.tokens=40", "32 positions"]),
        ({"sample": "2 steps", "samples.temperature": "-1.0"}, ["samples.temperature=-1"]),
        ({"samples.prompts": "(1, 2)"}, ["samples.prompts: 1 is no text"]),
        ({"tokenizer.name": "file"}, ["tokenizer.path is not set"]),
        ({"tokenizer.size": "100"}, ["tokenizer.size=100", "at least 257"]),
        ({"tokenizer.name": "characters"}, ["data.boundary=True", "--config.data.boundary=False"]),
        ({"optim.rate": "0"}, ["optim.rate=0.0", "above 0"]),
        ({"optim.rate": "1e400"}, ["optim.rate=inf"]),
        ({"optim.decay": "-0.1"}, ["optim.decay=-0.1"]),
        ({"optim.b1": "1.0"}, ["optim.b1=1.0"]),
        ({"optim.b2": "-0.5"}, ["optim.b2=-0.5"]),
        ({"optim.epsilon": "0"}, ["optim.epsilon=0.0"]),
        ({"optim.clip": "0"}, ["optim.clip=0.0", "None for no clipping"]),
        ({"optim.end": "-0.1"}, ["optim.end=-0.1"]),
        ({"data.holdout": "2.0"}, ["data.holdout=2.0"]),
        ({"data.seed": "-1"}, ["data.seed=-1; expected a whole number from 0"]),
        ({"data.seed": "first"}, ["data.seed='first'; expected a whole number from 0"]),
    ],
)
def test_bad_values(
    train: Train, tmp_path: Path, capsys: Any, changes: dict[str, str], parts: list[str]
) -> None:
    late = changes.keys() & {"model.vocab_size", "samples.tokens"} or changes.get("batch.size") == "4096"
    if not late:  # what needs no text to be seen is refused before any is read
        changes = {"data.folder": str(tmp_path / "data"), **changes}
    refused(capsys, train(tmp_path / "run", **changes), *parts)
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "data").exists()


@pytest.mark.slow
def test_a_refused_start_binds_nobody(train: Train, tmp_path: Path, capsys: Any) -> None:
    refused(capsys, train(tmp_path / "run", **{"batch.size": "4096"}), "too little text")
    assert train(tmp_path / "run", total="1 steps") == 0


@pytest.mark.parametrize(
    ("platform", "told"),
    [("cuda", "no device of JAX_PLATFORMS=cuda is here"), ("nope", "Unable to initialize backend 'nope'")],
)
def test_devices_that_are_not_there(platform: str, told: str, run_lmx: Any, tmp_path: Path) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("there is a GPU here")
    words = ["train", "--config", "quickstart", "--workdir", str(tmp_path / "run")]
    done = run_lmx(*words, check=False, env={"JAX_PLATFORMS": platform})
    assert done.returncode == 2
    assert done.stderr.startswith(f"lmx train: JAX cannot start ({told}") and done.stderr.count("\n") == 1


def test_keys_that_no_base_has(tmp_path: Path, capsys: Any) -> None:
    """A config file may set anything; what nothing reads is refused before the folder is made."""
    head = "from lmx.core.config import inherit\n\n\ndef get_config():\n    c = inherit('base')\n    "
    for line, parts in (
        ("c.evalute = '1 steps'", ["'evalute'", "did you mean 'evaluate'"]),
        ("c.batch.acumulate = 4", ["'batch.acumulate'"]),
        ("c.data.holdotu = 0.2", ["did you mean 'holdout'"]),
        ("c.optm.rate = 1", ["get_config() failed", "optm"]),
        ("del c.batch", ["the config has no 'batch'"]),
    ):
        path = tmp_path / "mine.py"
        path.write_text(f"{head}{line}\n    return c\n")
        refused(capsys, main(["train", "--config", str(path), "--workdir", str(tmp_path / "w")]), *parts)
        assert not (tmp_path / "w").exists()
    for fields in ({"seed": 1}, {"model": {"name": "gpt2"}}):
        with pytest.raises(lmx.UserError, match="config has no"):
            lmx.train(fields, tmp_path / "w")
        with pytest.raises(lmx.UserError, match="config has no"):
            lmx.build(fields)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["trian"], ["did you mean 'train'"]),
        (["train", "--config", "quickstart"], ["--workdir", "lmx train --help"]),
        (["train", "--config", "quikstart", "--workdir", "w"], ["did you mean 'quickstart'"]),
        (["train", "--config", "no/such.py", "--workdir", "w"], ["no/such.py", "no such config file"]),
        (["train", "--config", "quickstart", "--wrokdir", "w"], ["--workdir"]),
        (["train", "--config", "quickstart", "--workdir", "w", "--config.seed"], ["needs a value"]),
        (["generate", "--checkpoint", "nowhere"], ["nowhere: no such folder"]),
        (["generate", "--checkpoint", "nowhere", "--temprature", "1"], ["did you mean '--temperature'"]),
        (["evaluate", "--checkpoint", "."], ["config.json"]),
        (["report", "--workdir", "nowhere"], ["nowhere"]),
        (["report", "--workdir", ""], ["--workdir", "expected the name of a folder"]),
        (
            ["train", "--config", "quickstart", "--workdir", "gs://bucket/run"],
            ["--workdir", "'gs://bucket/run' is an address", "mount the bucket"],
        ),
        (
            ["train", "--config", "quickstart", "--workdir", ""],
            ["--workdir", "expected the name of a folder"],
        ),
        (["prepare", "--config", "quickstart", "--workdir", " "], ["--workdir", "expected the name"]),
        (["evaluate", "--checkpoint", "w", "--batch", "0"], ["--batch", "at least 1"]),
        (["evaluate", "--checkpoint", "w", "--batch", "-3"], ["--batch", "at least 1"]),
        (["generate", "--checkpoint", "w", "--tokens", "0"], ["--tokens", "at least 1"]),
        (["generate", "--checkpoint", ""], ["no such folder"]),
        (["export-hf", "--checkpoint", "w", "--output", ""], ["--output", "expected the name of a folder"]),
        (["export-hf", "--checkpoint", "w", "--output", "."], ["--output", "a new folder"]),
        (["export-hf", "--checkpoint", "w", "--output", "/"], ["--output", "a new folder"]),
        (["prepare", "--config", "pretrain/from_text", "--workdir", "w"], ["data.path is not set"]),
        (
            ["train", "--config", "quickstart", "--workdir", "w", "--config.=5"],
            ["expected --config.KEY=VALUE"],
        ),
    ],
)
def test_bad_words(tmp_path: Path, monkeypatch: Any, capsys: Any, words: list[str], parts: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    refused(capsys, main(words), *parts)


def test_config_files_of_the_users(tmp_path: Path, capsys: Any) -> None:
    for text, part in (("x = 1\n", "no get_config"), ("def f(:\n", "SyntaxError"), ("import nope\n", "nope")):
        path = tmp_path / "mine.py"
        path.write_text(text)
        refused(
            capsys, main(["train", "--config", str(path), "--workdir", str(tmp_path / "w")]), str(path), part
        )


def test_missing_text(train: Train, tmp_path: Path, capsys: Any) -> None:
    gone = {"data.path": str(tmp_path / "gone.txt"), "data.folder": str(tmp_path / "data")}
    refused(capsys, train(tmp_path / "run", **gone), "gone.txt")
    assert not (tmp_path / "data").exists()


def test_a_wrong_path_is_no_reason_to_take_other_rows(train: Train, tmp_path: Path, capsys: Any) -> None:
    """Prepared rows stand in for a text that is gone only where a run has begun on them."""
    refused(capsys, train(tmp_path / "run", **{"data.path": str(tmp_path / "typo.txt")}), "typo.txt")


def test_too_little_text_says_how_much_is_needed(train: Train, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "short.txt").write_text("A few words only. " * 40)
    little = {"data.path": str(tmp_path / "short.txt"), "data.folder": str(tmp_path / "data")}
    said = refused(capsys, train(tmp_path / "run", **little), "too little text")
    assert any(character.isdigit() for character in said)


def test_workdir_that_is_a_file_or_cannot_be_written(train: Train, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "file").write_text("")
    refused(capsys, train(tmp_path / "file"), "cannot be written to")
    refused(capsys, train(Path("/proc/lmx")), "cannot be written to")


def test_workdir_in_use(train: Train, tmp_path: Path, capsys: Any) -> None:
    with lock.hold(tmp_path / "run"):
        refused(capsys, train(tmp_path / "run"), f"in use by pid {os.getpid()}")


def test_another_process_holds_the_lock_until_it_dies(tmp_path: Path) -> None:
    code = (
        "import time\nfrom pathlib import Path\nfrom lmx.runs import lock\n"
        f"with lock.hold(Path({str(tmp_path)!r})):\n    print('held', flush=True)\n    time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "held\n"
        with pytest.raises(lock.UserError, match=f"pid {owner.pid}"), lock.hold(tmp_path):
            pass
        owner.kill()
        owner.wait()
    with lock.hold(tmp_path):
        pass


def test_corrupt_shard_and_manifest(text: Path, rows: Path, tmp_path: Path, capsys: Any) -> None:
    data = tmp_path / "data"
    words = [
        "train",
        "--config",
        "pretrain/from_text",
        "--workdir",
        str(tmp_path / "run"),
        *options(text, data),
    ]
    shutil.copytree(rows, data)
    shard = next(data.glob("train-*.array_record"))
    damaged = bytearray(shard.read_bytes())
    damaged[len(damaged) // 3] ^= 1
    shard.write_bytes(damaged)
    refused(capsys, main(words), shard.name)
    (data / "manifest.json").write_text('{"version": 1')
    refused(capsys, main(words), "manifest.json")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_tokenizer_that_did_not_make_the_rows(text: Path, rows: Path, tmp_path: Path, capsys: Any) -> None:
    """Two tokens change places: the file stays a good tokenizer, but not the one of these rows."""
    data = tmp_path / "data"
    shutil.copytree(rows, data)
    file = data / "tokenizer" / "tokenizer.json"
    stored = json.loads(file.read_text())
    vocab = stored["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    file.write_text(json.dumps(stored))
    words = ["--config", "pretrain/from_text", "--workdir", str(tmp_path / "run"), *options(text, data)]
    refused(capsys, main(["train", *words]), "not the tokenizer that made the rows")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_foreign_folder_with_checkpoints(train: Train, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "run" / "checkpoints" / "5").mkdir(parents=True)
    refused(capsys, train(tmp_path / "run"), "without a config.json")


def test_a_run_whose_checkpoints_are_gone(train: Train, finished: Path, tmp_path: Path, capsys: Any) -> None:
    """To begin anew beside an export and a record of another training would mix the two."""
    shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    before = sorted(path.name for path in (tmp_path / "run").iterdir())
    refused(capsys, train(tmp_path / "run"), "run.json and export", "checkpoints are gone", "another workdir")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == before


def test_a_start_of_another_size_is_refused_by_field(
    train: Train, finished: Path, tmp_path: Path, capsys: Any
) -> None:
    """Before any text is read, from the configs alone, for runs and Hugging Face folders alike."""
    for start in (str(finished), f"{finished}@best", str(finished / "export")):
        other = {
            "start": start,
            "model.width": "32",
            "model.layers": "1",
            "data.folder": str(tmp_path / "data"),
        }
        said = refused(
            capsys, train(tmp_path / "run", **other), f"model.width=32 but {start} has 16", "layers=2"
        )
        assert "--config.model.width=16" in said
        assert "kernel" not in said
    assert not (tmp_path / "data").exists()


def test_a_start_with_another_vocabulary_names_few_leaves(
    train: Train, finished: Path, tmp_path: Path, capsys: Any
) -> None:
    other = {"start": str(finished), "tokenizer.size": "290", "data.folder": str(tmp_path / "data")}
    said = refused(capsys, train(tmp_path / "run", **other), "model.vocab_size=290", "has 300")
    assert len(said) < 400 + 2 * len(str(finished))


def test_a_run_that_has_saved_nothing_yet(finished: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "run").mkdir()
    shutil.copy(finished / "config.json", tmp_path / "run")
    refused(capsys, main(["generate", "--checkpoint", str(tmp_path / "run")]), "no checkpoint yet")


def test_a_damaged_newest_checkpoint_names_the_others(finished: Path, tmp_path: Path, capsys: Any) -> None:
    shutil.copytree(finished, tmp_path / "run")
    saved = tmp_path / "run" / "checkpoints" / "12" / "params"
    data = max((p for p in saved.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data.write_bytes(data.read_bytes()[:-1])
    refused(capsys, main(["generate", "--checkpoint", str(tmp_path / "run")]), "damaged", f"{tmp_path}/run@8")


def test_references_to_checkpoints(finished: Path, capsys: Any) -> None:
    wrong = (
        ("@99", "no checkpoint of step 99"),
        ("@newest", "expected @best or @STEP"),
        ("@", "nothing after"),
    )
    for reference, part in wrong:
        refused(capsys, main(["generate", "--checkpoint", f"{finished}{reference}"]), part)
    refused(capsys, main(["generate", "--checkpoint", f"{finished / 'export'}@best"]), "is not a run")
    refused(
        capsys,
        main(["export-hf", "--checkpoint", str(finished), "--output", str(finished)]),
        "exists already",
    )
    refused(capsys, main(["generate", "--checkpoint", str(finished / "run.json")]), "is a file")
    refused(
        capsys,
        main(["generate", "--checkpoint", str(finished), "--tokens", "500"]),
        "tokens=500",
        "32 positions",
    )
    long = ["--prompt", "a b c d e f g h i j k l m n o p q r s t u v w x y z " * 3]
    refused(capsys, main(["generate", "--checkpoint", str(finished), *long]), "prompts:", "shorten it")
    refused(capsys, main(["generate", "--checkpoint", str(finished), "--prompt", "\udcff"]), "UTF-8")
    refused(capsys, main(["generate", "--checkpoint", str(finished), "--tokens", "0"]), "at least 1")
    refused(
        capsys, main(["generate", "--checkpoint", str(finished), "--temperature", "-1"]), "temperature=-1"
    )
    refused(capsys, main(["evaluate", "--checkpoint", str(finished / "export")]), "--data FOLDER")


@pytest.mark.parametrize("more", [{}, {"log": "100 steps"}, {"log": "100 steps", "evaluate": "0 steps"}])
def test_divergence_stops_before_anything_of_it_is_saved(
    train: Train, tmp_path: Path, capsys: Any, more: dict[str, str]
) -> None:
    wild = {"optim.rate": "1e20", "optim.warmup": "0 steps", "optim.clip": "1e30", **more}
    said = refused(capsys, train(tmp_path / "run", **wild), "diverged", "start again with a lower optim.rate")
    assert "--config.start" not in said, "there is no checkpoint to start from"
    found = (tmp_path / "run" / "checkpoints").glob("*")
    assert not list(found)
