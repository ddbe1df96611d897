"""Stopping at any step and going on gives the same bits as never stopping."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lmx import load
from lmx.core import log
from lmx.runs.checkpoints import Checkpoints

from .conftest import Train, digest, options


def losses(workdir: Path) -> list[tuple[int, float]]:
    records = log.read_jsonl(workdir / "metrics.jsonl")
    return [(r["step"], r["loss"]) for r in records if r["kind"] == "train"]


@pytest.mark.parametrize(
    ("step", "number"),
    [
        (1, signal.SIGTERM),
        pytest.param(5, signal.SIGINT, marks=pytest.mark.smoke),
        pytest.param(8, signal.SIGHUP, marks=pytest.mark.slow),
    ],
)
def test_a_signal_saves_and_the_same_command_goes_on(
    train: Train,
    finished: Path,
    tmp_path: Path,
    signal_at: Any,
    capsys: Any,
    step: int,
    number: signal.Signals,
) -> None:
    """Dropout is on, step 5 lies in the middle of an epoch and between two checkpoints, 8 at a checkpoint."""
    signal_at(step, number)
    assert train(tmp_path / "run") == 75
    said = capsys.readouterr().err
    assert f"stopped at step {step} of 12 and saved" in said
    assert f"lmx train --config pretrain/from_text --workdir {tmp_path / 'run'}" in said
    assert Checkpoints(tmp_path / "run" / "checkpoints").steps()[-1] == step
    assert train(tmp_path / "run") == 0
    assert f"resuming at step {step} of 12" in capsys.readouterr().err
    assert digest(tmp_path / "run") == digest(finished)
    # A window of the log that the stop cut in two has a mean of its own; the others are equal to the bit.
    before = dict(losses(finished))
    after = {s: loss for s, loss in losses(tmp_path / "run") if s in before and s not in (step, step + 1)}
    assert after == {s: before[s] for s in after}
    assert len(after) >= 5
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_run_again_says_done_and_changes_nothing(train: Train, finished: Path, capsys: Any) -> None:
    before = {p: p.stat().st_mtime_ns for p in (finished / "checkpoints").rglob("*") if p.is_file()}
    metrics = (finished / "metrics.jsonl").read_bytes()
    assert train(finished, export="True", sample="6 steps") == 0
    assert "done already, 12 steps" in capsys.readouterr().err
    assert {p: p.stat().st_mtime_ns for p in (finished / "checkpoints").rglob("*") if p.is_file()} == before
    assert (finished / "metrics.jsonl").read_bytes() == metrics


def test_another_config_is_refused_by_key(train: Train, finished: Path, capsys: Any) -> None:
    assert train(finished, **{"optim.rate": "3e-4", "model.layers": "3"}) == 2
    said = capsys.readouterr().err
    assert "model.layers (2 there, 3 now)" in said
    assert "optim.rate (0.01 there, 0.0003 now)" in said
    assert said.count("\n") == 1


@pytest.mark.slow
def test_a_run_goes_on_on_another_mesh(
    train: Train, finished: Path, tmp_path: Path, signal_at: Any, capsys: Any
) -> None:
    """Eight devices that copy the state, then a state cut over four: told, and the same but for rounding."""
    signal_at(5, signal.SIGTERM)
    assert train(tmp_path / "run", **{"mesh.data": "8"}) == 75
    cut = {"mesh.data": "2", "mesh.fsdp": "4", "execution.layers": "scanned"}
    capsys.readouterr()
    assert train(tmp_path / "run", **cut) == 0
    said = capsys.readouterr().err
    assert (
        "mesh.data (8 there, 2 now), mesh.fsdp (1 there, 4 now): the numbers stay, but for rounding" in said
    )
    assert "resuming at step 5 of 12" in said
    before, after = dict(losses(finished)), dict(losses(tmp_path / "run"))
    for step in (8, 10, 12):
        assert after[step] == pytest.approx(before[step], rel=1e-4)


def test_layers_that_a_checkpoint_holds_as_one_come_apart(
    train: Train, finished: Path, tmp_path: Path, signal_at: Any, capsys: Any
) -> None:
    """A loop over layers, then one after the other. Who reads the run never sees the loop."""
    signal_at(5, signal.SIGTERM)
    once = {"execution.layers": "scanned", "sample": "6 steps"}
    assert train(tmp_path / "run", **once) == 75
    names = json.loads((tmp_path / "run/checkpoints/5/facts/metadata").read_text())["leaves"]["params"]
    assert names["block/all/attn/query/kernel"] == "float32(2, 16, 16)"
    assert load(f"{tmp_path / 'run'}@5").params["block"]["1"]["attn"]["query"]["kernel"].shape == (16, 16)
    capsys.readouterr()
    assert train(tmp_path / "run") == 0
    assert "resuming at step 5 of 12" in capsys.readouterr().err
    before, after = dict(losses(finished)), dict(losses(tmp_path / "run"))
    for step in (8, 10, 12):
        assert after[step] == pytest.approx(before[step], rel=1e-4)
    one, other = (json.loads((folder / "run.json").read_text()) for folder in (finished, tmp_path / "run"))
    assert one["decayed"] == other["decayed"] and one["parameters"] == other["parameters"]


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_used(
    train: Train, finished: Path, tmp_path: Path, signal_at: Any, capsys: Any
) -> None:
    signal_at(9, signal.SIGTERM)
    assert train(tmp_path / "run") == 75
    newest = tmp_path / "run" / "checkpoints" / "9"
    data = max((p for p in (newest / "params").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    flipped = bytearray(data.read_bytes())
    flipped[len(flipped) // 2] ^= 16
    data.write_bytes(flipped)
    capsys.readouterr()
    assert train(tmp_path / "run") == 0
    said = capsys.readouterr().err
    assert "skipped: checkpoint" in said
    assert "resuming at step 8 of 12" in said
    assert digest(tmp_path / "run") == digest(finished)
    steps = [step for step, _ in losses(tmp_path / "run")]
    assert steps == sorted(set(steps)), "a step is recorded twice"


def test_a_damaged_checkpoint_whose_step_comes_again(
    train: Train, finished: Path, tmp_path: Path, signal_at: Any, capsys: Any
) -> None:
    """Steps 4 and 8 are there, 8 is damaged, and 8 will be saved again on the way to 12."""
    signal_at(9, signal.SIGTERM)
    assert train(tmp_path / "run", **{"keep.last": "3"}) == 75
    saved = tmp_path / "run" / "checkpoints"
    shutil.rmtree(saved / "9")
    data = max(
        (p for p in (saved / "8" / "params").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size
    )
    data.write_bytes(data.read_bytes()[:-1])
    capsys.readouterr()
    assert train(tmp_path / "run", **{"keep.last": "3"}) == 0
    said = capsys.readouterr().err
    assert "8.damaged" in said
    assert "resuming at step 4 of 12" in said
    assert digest(tmp_path / "run") == digest(finished)


def test_other_data_is_refused(train: Train, tmp_path: Path, signal_at: Any, capsys: Any) -> None:
    (tmp_path / "a.txt").write_text("The quick brown fox jumps over the lazy dog. " * 900)
    own = {"data.path": str(tmp_path / "a.txt"), "data.folder": str(tmp_path / "data"), "total": "4 steps"}
    signal_at(2, signal.SIGTERM)
    assert train(tmp_path / "run", **own) == 75
    shutil.rmtree(tmp_path / "data")
    (tmp_path / "a.txt").write_text("The quick brown cat jumps over the lazy dog. " * 900)
    capsys.readouterr()
    assert train(tmp_path / "run", **own) == 2
    assert "are not those that" in capsys.readouterr().err


def test_going_on_without_the_text(train: Train, tmp_path: Path, signal_at: Any, capsys: Any) -> None:
    (tmp_path / "a.txt").write_text("The quick brown fox jumps over the lazy dog. " * 900)
    own = {"data.path": str(tmp_path / "a.txt"), "data.folder": str(tmp_path / "data"), "total": "4 steps"}
    signal_at(2, signal.SIGTERM)
    assert train(tmp_path / "run", **own) == 75
    (tmp_path / "a.txt").unlink()
    assert train(tmp_path / "run", **own) == 0
    assert "is gone; going on with the rows" in capsys.readouterr().err


def test_run_json_is_made_again(train: Train, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "run.json").unlink()
    shutil.rmtree(tmp_path / "run" / "export")
    assert train(tmp_path / "run", export="True", sample="6 steps") == 0
    assert (tmp_path / "run" / "run.json").is_file()


def test_an_empty_folder_is_no_checkpoint(train: Train, finished: Path, tmp_path: Path, capsys: Any) -> None:
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "13").mkdir()
    assert train(tmp_path / "run", export="True", sample="6 steps") == 0
    said = capsys.readouterr().err
    assert "skipped: checkpoint" in said
    assert "done already, 12 steps" in said


KILLED = """
import os, signal, sys
from lmx.runs import checkpoints
from lmx.training import loop
from lmx.__main__ import main

where, argv = sys.argv[1], sys.argv[2:]
kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
if where == "in_save":
    save = checkpoints.Checkpoints.save
    def dying(self, step, *args, **kwargs):
        save(self, step, *args, **kwargs)
        if step == 8:
            kill()
    checkpoints.Checkpoints.save = dying
else:
    put, count = loop.mesh_.put, [0]
    def dying(*args):
        count[0] += 1
        if count[0] == int(where):
            kill()
        return put(*args)
    loop.mesh_.put = dying
main(argv)
"""


@pytest.mark.slow
@pytest.mark.sample
def test_a_killed_run_ends_in_the_same_bits(
    text: Path, rows: Path, tmp_path: Path, lmx_environment: dict[str, str]
) -> None:
    """SIGKILL at a step and inside a save, on one device, then to the end; against a run left alone."""
    words = ["train", "--config", "pretrain/from_text", *options(text, rows)]

    def start(workdir: Path, where: str) -> int:
        command = [sys.executable, "-c", KILLED, where, *words, "--workdir", str(workdir)]
        done = subprocess.run(command, env=lmx_environment, capture_output=True, text=True, timeout=300)
        print(done.stderr)  # shown where the test fails
        return done.returncode

    assert start(tmp_path / "alone", "0") == 0
    for where in ("7", "in_save"):
        assert start(tmp_path / "killed", where) == -signal.SIGKILL
    assert start(tmp_path / "killed", "0") == 0
    assert digest(tmp_path / "killed") == digest(tmp_path / "alone")
    assert losses(tmp_path / "killed")[-1] == losses(tmp_path / "alone")[-1]
    assert os.listdir(tmp_path / "killed" / "checkpoints")
