"""The Python face: wrong arguments are named in one line; paths may begin with ~; lines can be pasted."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lmx
from lmx.__main__ import main
from lmx.commands import _platform
from lmx.core import config
from lmx.core.types import Checkpoint

from .conftest import TINY, Train, options

NOTHING = Checkpoint({}, {"model": {}, "task": {}})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lmx.generate(NOTHING, "The"), r"prompts='The'; expected a list of texts"),
        (lambda: lmx.generate(NOTHING, []), r"prompts=\[\]; expected a list"),
        (lambda: lmx.generate(NOTHING, 3), r"prompts=3; expected a list"),
        (lambda: lmx.generate(NOTHING, ["a", 3]), r"prompts=\['a', 3\]; expected a list"),
        (lambda: lmx.generate(NOTHING, ["\udcff"]), r"prompts=.*UTF-8"),
        (lambda: lmx.generate(NOTHING, ["a"], tokens="4"), r"tokens='4'; expected a whole number"),
        (lambda: lmx.generate(NOTHING, ["a"], tokens=True), r"tokens=True; expected"),
        (lambda: lmx.generate(NOTHING, ["a"], temperature="hot"), r"temperature='hot'; expected a number"),
        (lambda: lmx.generate(NOTHING, ["a"], temperature=-1), r"temperature=-1; expected 0"),
        (lambda: lmx.generate(NOTHING, ["a"], top_k=1.5), r"top_k=1.5; expected"),
        (lambda: lmx.generate(NOTHING, ["a"], seed=-1), r"seed=-1; expected 0 to"),
        (lambda: lmx.generate("runs/mine", ["a"]), r"checkpoint='runs/mine'; expected .*lmx.load"),
        (lambda: lmx.save_hf("runs/mine", "x"), r"checkpoint='runs/mine'; expected a Checkpoint"),
        (lambda: lmx.save_hf(NOTHING, ""), r"folder=''"),
        (lambda: lmx.save_hf(NOTHING, "."), r"folder='.': exists already; expected the name of a new folder"),
        (lambda: lmx.save_hf(NOTHING, "/"), r"folder='/'"),
        (lambda: lmx.save_hf(NOTHING, "a/.."), r"folder='a/..'"),
        (lambda: lmx.save_hf(NOTHING, None), r"folder=None: expected the name of a folder"),
        (lambda: lmx.save_hf(NOTHING, "x", dtype=np.float32), r"dtype=.*expected a name"),
        (lambda: lmx.save_hf(NOTHING, "x", shard_size="5"), r"shard_size='5'; expected GB above 0"),
        (lambda: lmx.build("quickstart"), r"config='quickstart'; expected a dict or a ConfigDict"),
        (lambda: lmx.load(3), r"path=3; expected a path"),
        (lambda: lmx.load("x", dtype=object()), r"dtype=.*expected a name"),
        (lambda: lmx.load("x", task=3), r"task=3; expected"),
        (lambda: lmx.train(3, "w"), r"config=3; expected a ConfigDict"),
        (lambda: lmx.train("quickstart", ""), r"workdir='': expected the name of a folder"),
        (lambda: lmx.train("quickstart", 3), r"workdir=3: expected the name of a folder"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(call: Any, message: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(lmx.UserError, match=f"^{message}") as caught:
        call()
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_plain_config_has_the_types_of_the_base(tmp_path: Path) -> None:
    fields = config.plain(config.load("pretrain/from_text"))
    for section, key, value in (("batch", "size", "8"), ("data", "path", 3), ("keep", "best", True)):
        wrong = {**fields, section: {**fields[section], key: value}}
        with pytest.raises(lmx.UserError, match=rf"config\.{section}\.{key}={value!r}: expected"):
            lmx.train(wrong, tmp_path / "w")
    assert not (tmp_path / "w").exists()


@pytest.mark.slow
def test_paths_may_begin_with_a_tilde(
    text: Path, finished: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    shutil.copy(text, tmp_path / "a.txt")
    shutil.copytree(finished, tmp_path / "other")
    own = options(Path("~/a.txt"), Path("~/rows"), start="~/other", total="1 steps")
    for command in ("prepare", "train"):
        assert main([command, "--config", "pretrain/from_text", "--workdir", "~/run", *own]) == 0
    assert main(["generate", "--checkpoint", "~/run@1", "--tokens", "2"]) == 0
    assert main(["export-hf", "--checkpoint", "~/run", "--output", "~/hf"]) == 0
    assert {"rows", "run", "hf"} <= {path.name for path in tmp_path.iterdir()}
    assert "~" not in {path.name for path in tmp_path.iterdir()}
    tokenizer = {"tokenizer.name": "file", "tokenizer.path": "~/hf"}
    fields = config.load("pretrain/from_text")
    config.override(fields, {**TINY, "data.path": "~/a.txt", "total": "1 steps", **tokenizer})
    assert lmx.train(fields, "~/more").step == 1
    assert (tmp_path / "more" / "checkpoints" / "1").is_dir()


def test_two_spellings_of_one_duration_are_one_config(train: Train, finished: Path, capsys: Any) -> None:
    changes = {"export": "True", "sample": "6 steps", "total": "12steps", "save": "4", "evaluate": "4e0 step"}
    assert train(finished, **changes) == 0
    assert "done already" in capsys.readouterr().err


def test_two_prompts_are_parted_by_a_blank_line(finished: Path, capsys: Any) -> None:
    words = ["--prompt", "The", "--prompt", "If", "--tokens", "1", "--temperature", "0"]
    assert main(["generate", "--checkpoint", str(finished), *words]) == 0
    one, two = lmx.generate(lmx.load(finished), ["The", "If"], tokens=1, temperature=0.0)
    assert capsys.readouterr().out == f"The{one}\n\nIf{two}\n"


def test_evaluate_says_how_to_prepare_other_rows(
    finished: Path, tmp_path: Path, text: Path, capsys: Any
) -> None:
    words = ["--config", "pretrain/from_text", "--workdir", str(tmp_path), *options(text, tmp_path / "data")]
    assert main(["prepare", *words, "--config.tokenizer.size=290"]) == 0
    assert main(["evaluate", "--checkpoint", str(finished), "--data", str(tmp_path / "data")]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    path = said.partition("--config.tokenizer.path=")[2]
    again = ["--config.tokenizer.name=file", f"--config.tokenizer.path={path}"]
    assert main(["prepare", *words, *again, f"--config.data.folder={tmp_path / 'fitting'}"]) == 0
    assert main(["evaluate", "--checkpoint", str(finished), "--data", str(tmp_path / "fitting")]) == 0


def test_lines_to_paste_call_lmx_as_it_was_called(tmp_path: Path, monkeypatch: Any) -> None:
    own, other = tmp_path / "my env" / "lmx", tmp_path / "bin" / "lmx"
    for script in (own, other):
        script.parent.mkdir()
        script.write_text("#!/bin/sh\n")
        script.chmod(0o755)
    monkeypatch.setenv("PATH", str(other.parent))
    for called, expected in (
        (str(own), f"'{own}'"),  # not on PATH: what is there is another one
        (str(other), "lmx"),
        ("/site/lmx/__main__.py", f"{sys.executable} -m lmx"),
        ("/bin/pytest", "lmx"),
    ):
        monkeypatch.setattr(sys, "argv", [called])
        assert _platform.program() == expected
