"""Every benchmark tells how it is run, has its section in the README, and counts what it says it counts."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
SCRIPTS = sorted(path for path in FOLDER.glob("*.py") if not path.name.startswith("_"))
SECTIONS = re.findall(r"^## (\S+)$", (FOLDER / "README.md").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_benchmark_tells_how_it_is_run(script: Path, lmx_environment: dict[str, str]) -> None:
    assert script.name in SECTIONS
    command = [sys.executable, str(script), "--help"]
    done = subprocess.run(command, env=lmx_environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


def test_the_readme_names_benchmarks_that_exist() -> None:
    assert {path.name for path in SCRIPTS} == set(SECTIONS)


def test_matrices_are_gpt2s_parameters_but_positions_biases_and_norms(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """124,439,808 parameters is what Hugging Face tells of `gpt2`."""
    monkeypatch.syspath_prepend(str(FOLDER))
    cases: Any = importlib.import_module("_cases")
    case = cases.CASES["124m"]
    positions, biases_and_norms = 1024 * 768, 12 * 13 * 768 + 2 * 768
    assert case.matrices() == 124_439_808 - positions - biases_and_norms
    attention = 12 * 12 * 768 * 256  # a token's scores and mixing, forwards and twice backwards: 3 x 4 L D T
    assert case.flops() == 4 * 256 * (6 * case.matrices() + attention)
