"""A folder as large as GPT-2 XL's: what reading and writing it take beyond the weights themselves."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

GB = 10**9


@pytest.mark.slow
def test_xl_is_read_and_written_within_a_gigabyte_more(
    checkout: Path, lmx_environment: dict[str, str], tmp_path: Path
) -> None:
    if shutil.disk_usage(tmp_path).free < 16 * GB:
        pytest.skip("needs 16 GB of free disk")
    script = checkout / "benchmarks" / "hf_io.py"
    spec = importlib.util.spec_from_file_location("hf_io", script)
    assert spec is not None
    assert spec.loader is not None
    bench: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    bench.make(tmp_path / "xl", "xl")
    size = (tmp_path / "xl" / "model.safetensors").stat().st_size
    assert 6.2 * GB < size < 6.3 * GB
    words = ["--folder", str(tmp_path / "xl"), "--side", "lmx", "--out", str(tmp_path / "out")]
    command = [sys.executable, str(script), *words]
    done = subprocess.run(command, env=lmx_environment, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["load_peak"] < size + GB
    assert found["save_peak"] < GB
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 4 * 1_557_611_200
    assert len(set(index["weight_map"].values())) == 2
    shutil.rmtree(tmp_path / "xl")
    shutil.rmtree(tmp_path / "out")
