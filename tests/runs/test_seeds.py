"""`lmx train --seeds K`: whole runs in folders of their own; what they share, and how far they spread."""

from __future__ import annotations

import json
import shlex
import signal
import statistics
from pathlib import Path
from typing import Any

import pytest

from lmx.__main__ import main
from lmx.training import loop

from . import test_fine_tune as tuned
from .conftest import TINY, digest

start, data, words = tuned.start, tuned.data, tuned.words  # two of them are fixtures

SMALL: dict[str, Any] = {
    "total": "6 steps", "evaluate": "3 steps", "save": "3 steps", "optim.rate": "3e-3", "export": False,
    "data.validation": "25%", "seed": 5,
}  # fmt: skip


def seeded(start: Path, data: Path, workdir: Path, count: Any = 3, **changes: Any) -> list[str]:
    return [*words(start, data, workdir, **{**SMALL, **changes}), "--seeds", str(count)]


@pytest.fixture(scope="module")
def spread(start: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("seeds") / "runs"
    assert main(seeded(start, data, folder)) == 0
    return folder


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_spread_is_that_of_the_runs(spread: Path) -> None:
    found = json.loads((spread / "seeds.json").read_text())
    assert (found["seeds"], found["done"]) == (3, 3)
    assert [run["seed"] for run in found["runs"]] == [5, 6, 7]
    wholes = [json.loads((Path(run["workdir"]) / "metrics.json").read_text()) for run in found["runs"]]
    each = [whole["figures"] for whole in wholes]
    assert found["figures"].keys() == each[0].keys() >= {"accuracy", "f1_macro", "loss"}
    for run, figures in zip(found["runs"], each, strict=True):
        assert Path(run["workdir"]) == spread / f"seed-{run['seed']}"
        assert run["figures"] == pytest.approx(figures, abs=1e-6)
        best = json.loads((Path(run["workdir"]) / "run.json").read_text())["best"]
        assert run["step"] == best["step"], "what the run gives away"
    for name, one in found["figures"].items():
        values = [run["figures"][name] for run in found["runs"]]
        assert one["mean"] == pytest.approx(statistics.fmean(values))
        assert one["deviation"] == pytest.approx(statistics.stdev(values))
        assert (one["min"], one["max"]) == (min(values), max(values))
    assert found["figures"]["loss"]["deviation"] > 0, "the seed moves something"


def test_all_seeds_hold_the_same_examples_out(spread: Path) -> None:
    runs = [json.loads((spread / f"seed-{seed}" / "run.json").read_text()) for seed in (5, 6, 7)]
    assert len({run["data"]["fingerprint"] for run in runs}) == 1
    assert runs[0]["data"]["examples"]["validation"] > 20
    held = [lines(spread / f"seed-{seed}" / "predictions.jsonl") for seed in (5, 6, 7)]
    assert len({json.dumps([row["reference"] for row in rows]) for rows in held}) == 1
    assert len({digest(spread / f"seed-{seed}") for seed in (5, 6, 7)}) == 3


def test_a_seed_is_the_run_of_that_seed(spread: Path, start: Path, data: Path, tmp_path: Path) -> None:
    assert main(words(start, data, tmp_path / "run", **{**SMALL, "seed": 6})) == 0
    assert digest(tmp_path / "run") == digest(spread / "seed-6")


def test_the_page_shows_each_seed_and_is_written_again(
    spread: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (spread / "report.html").read_text()
    found = json.loads((spread / "seeds.json").read_text())
    for one in (found["figures"]["accuracy"], found["figures"]["loss"]):
        assert all(f">{one[row]:.4f}<" in text for row in ("mean", "deviation", "min", "max"))
    assert 'href="seed-7/report.html"' in text
    (spread / "report.html").unlink()
    assert main(["report", "--workdir", str(spread)]) == 0
    assert (spread / "report.html").read_text() == text


def test_done_seeds_are_left_alone_and_more_may_follow(
    spread: Path, start: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = []
    plain = loop.run

    def run(*args: Any, **more: Any) -> Any:
        made.append(1)
        return plain(*args, **more)

    monkeypatch.setattr(loop, "run", run)
    before = (spread / "seeds.json").read_bytes()
    assert main(seeded(start, data, spread)) == 0
    said = capsys.readouterr()
    assert "seed 6: done already" in said.err
    found = json.loads(before)["figures"]["accuracy"]
    assert f"{found['mean']:.4f} ± {found['deviation']:.4f}" in said.out
    assert (spread / "seeds.json").read_bytes() == before
    assert main(seeded(start, data, spread, **{"optim.rate": "1e-3"})) == 2
    assert "optim.rate (0.003 there, 0.001 now)" in capsys.readouterr().err
    assert not made
    assert main(seeded(start, data, spread, 4)) == 0
    assert len(made) == 1
    assert json.loads((spread / "seeds.json").read_text())["done"] == 4
    assert main(seeded(start, data, spread)) == 0  # for the other tests


@pytest.mark.slow
def test_stopped_seeds_go_on_to_the_same_bits(
    spread: Path, start: Path, data: Path, tmp_path: Path, signal_at: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "runs"
    signal_at(4, signal.SIGTERM)  # in the first seed
    given = seeded(start, data, folder, 2)
    assert main(given) == 75
    said = capsys.readouterr().err.strip().splitlines()
    again = shlex.split(said[-1])
    assert again[-len(given) :][:2] == given[:2] or again[again.index("train") :][:2] == given[:2]
    assert again[again.index("--seeds") + 1] == "2"
    assert not (folder / "seeds.json").exists()
    assert main(again[again.index("train") :]) == 0
    assert json.loads((folder / "seeds.json").read_text())["done"] == 2
    for seed in (5, 6):
        assert digest(folder / f"seed-{seed}") == digest(spread / f"seed-{seed}")


@pytest.mark.slow
def test_a_text_is_split_and_prepared_once(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = {**TINY, "data.path": text, "total": "4 steps", "evaluate": "4 steps", "data.split": "document"}
    fields |= {"data.holdout": 0.3, "save": "4 steps"}
    given = ["train", "--config", "pretrain/from_text", "--workdir", str(tmp_path / "runs"), "--seeds", "2"]
    given += [f"--config.{name}={value}" for name, value in fields.items()]
    lesser = "\n".join(f"line {n}: " + "word " * 60 for n in range(300))
    path = tmp_path / "many.jsonl"
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lesser.split("\n")))
    assert main([*given, f"--config.data.path={path}"]) == 0
    said = capsys.readouterr().err
    assert said.count("held out: ") == 1
    one, two = (
        json.loads((tmp_path / "runs" / name / "data" / "manifest.json").read_text())
        for name in ("seed-0", "seed-1")
    )
    assert one == two
    found = json.loads((tmp_path / "runs" / "seeds.json").read_text())
    assert found["figures"].keys() == {"loss", "perplexity", "bits_per_byte"}
    assert found["runs"][0]["figures"]["loss"] != found["runs"][1]["figures"]["loss"]
    config = json.loads((tmp_path / "runs" / "seed-1" / "config.json").read_text())
    assert (config["seed"], config["data"]["seed"]) == (1, 0)


@pytest.mark.parametrize(
    ("count", "changes", "told"),
    [
        (0, {}, "--seeds: '0': expected a whole number of at least 1"),
        (-1, {}, "--seeds: '-1': expected a whole number of at least 1"),
        ("two", {}, "--seeds: 'two': expected a whole number of at least 1"),
        (3, {"seed": 2**32 - 2}, "--seeds 3 from seed=4294967294 on; expected seeds from 0 to 4294967295"),
        (2, {"task.labells": 2}, "task.labells"),
    ],
)
def test_wrong_seeds_are_refused_in_one_line(
    start: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    count: Any,
    changes: dict[str, Any],
    told: str,
) -> None:
    assert main(seeded(start, data, tmp_path / "runs", count, **changes)) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert told in line
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("count", ["2", "auto"])
def test_several_seeds_are_for_one_process(
    start: Path,
    data: Path,
    tmp_path: Path,
    count: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Before any process is waited for."""
    for name, value in (("PROCESSES", count), ("PROCESS", "0"), ("COORDINATOR", "localhost:9")):
        monkeypatch.setenv(f"LMX_{name}", value)
    assert main(seeded(start, data, tmp_path / "runs", 2)) == 2
    assert "--seeds makes one run after another, each in one process" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_folder_holds_one_run_or_several(
    spread: Path, start: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    (tmp_path / "config.json").write_text("{}")
    assert main(seeded(start, data, tmp_path, 2)) == 2
    assert "holds config.json of a run of one seed" in capsys.readouterr().err
    assert main(words(start, data, spread, **SMALL)) == 2
    assert "holds the runs of several seeds; repeat --seeds" in capsys.readouterr().err
