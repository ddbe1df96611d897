"""The benchmarks run, in their smallest cases, and both of their sides compute the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

STEPS = [["pretrain_step.py", "--case", "small"], ["finetune_step.py", "--case", "bert-small"]]


def table(checkout: Path, environment: dict[str, str], script: str, *words: str) -> list[list[str]]:
    """Run a benchmark; return the cells of its table's rows, heads first."""
    command = [sys.executable, str(checkout / "benchmarks" / script), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("|")]
    return [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("words", STEPS, ids=lambda words: words[0])
def test_steps_start_with_the_same_losses(
    words: list[str], checkout: Path, lmx_environment: dict[str, str]
) -> None:
    pytest.importorskip("torch")
    *_, said = table(checkout, lmx_environment, *words, "--repeats", "1")
    assert "first losses differ by" in said[1]
    assert float(said[1].split()[4].rstrip(";")) <= 1e-5


@pytest.mark.slow
def test_scaling_gives_the_losses_of_one_device(checkout: Path, lmx_environment: dict[str, str]) -> None:
    found = table(checkout, lmx_environment, "scaling.py", "--most", "2", "--repeats", "1")
    settings = [["12", "1", "1"], ["24", "1", "1"], ["24", "2", "1"], ["24", "2", "2"]]
    assert [row[:3] for row in found[2:]] == settings
    assert all(float(row[3]) > 0 for row in found[2:])


@pytest.mark.slow
def test_loading_outruns_the_step(checkout: Path, lmx_environment: dict[str, str]) -> None:
    found = table(checkout, lmx_environment, "data_loading.py", "--case", "small", "--rounds", "1")
    made, taken = float(found[-1][1]), float(found[-1][2])
    assert made > 5 * taken > 0


@pytest.mark.slow
def test_the_host_is_measured(checkout: Path, lmx_environment: dict[str, str]) -> None:
    found = table(checkout, lmx_environment, "host_time.py", "--case", "small", "--rounds", "1")
    tenth, call, whole = (float(found[-1][place]) for place in (3, 4, 6))
    assert whole == pytest.approx(tenth + call, abs=0.02)
    assert 0 < tenth < float(found[-1][2])
