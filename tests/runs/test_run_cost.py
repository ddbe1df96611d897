"""What runs tell about their cost, on a real tiny run: the ledger, counts by hand, bits unchanged."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import jax
import pytest

from lmx.__main__ import main
from lmx.core import log
from lmx.training import goodput

from .conftest import Train, digest, options

PER_STEP = 8 * 32 * (6 * (2 * (12 * 16 * 16 + 13 * 16) + 2 * 16 + 300 * 16) + 12 * 2 * 16 * 32)
"""Operations of a step of the tiny run: 6 N + 12 L D T for each of its 8 x 32 tokens."""


def facts(workdir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((workdir / "run.json").read_text())
    return found


def profiled(text: Path, rows: Path, workdir: Path, *words: str, **changes: str) -> int:
    given = ["--config", "pretrain/from_text", "--workdir", str(workdir), *words]
    return main(["train", *given, *options(text, rows, **changes)])


def test_a_run_tells_what_it_cost(finished: Path) -> None:
    found = facts(finished)
    assert found["flops_per_step"] == PER_STEP
    assert found["peak_flops"]["source"] == "measured"
    assert found["compiled_steps"] == 1
    assert found["compile_seconds"] > 0
    assert found["memory"]["of"] == "process"
    seconds = found["goodput"]["seconds"]
    assert {"steps", "starting", "compiling", "evaluating", "sampling", "saving"} <= seconds.keys()
    assert not {"again", "stopped", "profiling"} & seconds.keys()
    assert found["goodput"]["wall"] == pytest.approx(sum(seconds.values()), abs=0.01)
    assert found["goodput"]["wall"] == pytest.approx(found["seconds"], abs=0.5)
    assert found["goodput"]["share"] == pytest.approx(seconds["steps"] / found["goodput"]["wall"], abs=1e-3)


def test_each_record_has_its_share_of_the_peak(finished: Path) -> None:
    """How it is reckoned, `tests/unit/test_goodput.py` shows by a clock of its own."""
    records = [one for one in log.read_jsonl(finished / "metrics.jsonl") if one["kind"] == "train"]
    assert all(0 < record["mfu"] < 10 for record in records)
    assert all(0 < record["memory"] <= facts(finished)["memory"]["bytes"] for record in records)
    assert "MFU" in (finished / "report.html").read_text()
    assert "Where the time went" in (finished / "report.html").read_text()


def test_steps_lost_with_a_checkpoint_are_made_again(train: Train, finished: Path, tmp_path: Path) -> None:
    """As after a kill in the save at 12: the newest checkpoint is that of 8."""
    shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "12")
    for name in ("run.json", "export"):
        path = tmp_path / "run" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    lines = goodput.read(finished)
    at = max(one["seconds"].get("steps", 0) for one in lines if one["step"] == 8)
    lost = max(one["seconds"].get("steps", 0) for one in lines if one["step"] == 12) - at
    assert train(tmp_path / "run", sample="6 steps") == 0
    found = facts(tmp_path / "run")["goodput"]
    assert found["seconds"]["again"] == pytest.approx(lost, abs=0.002)
    assert found["seconds"]["stopped"] > 0
    assert found["starts"] == 2
    assert [one["start"] for one in goodput.read(tmp_path / "run")][: len(lines)] == [1] * len(lines)
    assert digest(tmp_path / "run") == digest(finished)


@pytest.mark.slow
def test_a_profile_can_be_read_and_a_stop_makes_two_starts(
    text: Path, rows: Path, train: Train, finished: Path, tmp_path: Path, signal_at: Any, capsys: Any
) -> None:
    signal_at(6, signal.SIGTERM)
    assert profiled(text, rows, tmp_path / "run", "--profile", "2") == 75
    first = facts(tmp_path / "run")["goodput"]
    assert f"profile: steps 4 to 5, in {tmp_path / 'run' / 'profile'}" in capsys.readouterr().err
    (trace,) = (tmp_path / "run" / "profile").rglob("*.xplane.pb")
    names = [
        event.name
        for plane in jax.profiler.ProfileData.from_file(str(trace)).planes
        for one in plane.lines
        for event in one.events
    ]
    assert names.count("train") == 2, "each traced step is marked"
    assert first["seconds"]["profiling"] > 0
    assert train(tmp_path / "run") == 0
    assert "goodput" in capsys.readouterr().err
    found = facts(tmp_path / "run")["goodput"]
    assert (first["starts"], found["starts"]) == (1, 2)
    assert "again" not in found["seconds"], "it was saved where it stopped"
    assert found["seconds"]["steps"] > first["seconds"]["steps"]
    assert digest(tmp_path / "run") == digest(finished)


def test_a_profile_is_of_one_run(text: Path, rows: Path, tmp_path: Path, capsys: Any) -> None:
    assert profiled(text, rows, tmp_path / "run", "--profile", "--seeds", "2") == 2
    assert "--profile traces a single run" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
