"""From process start to the first training step of a prepared quickstart, cold and with the compile cache.

    python benchmarks/startup.py --repeats 3

The data is prepared by a run that is not timed. Each start then has a fresh workdir: cold with an empty
compile cache, warm with the cache that a cold start left. The clock starts before the process does and stops
when the first step reaches metrics.jsonl; the run is then told to stop.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def command(workdir: Path, data: Path) -> list[str]:
    """Return the quickstart's command, with a record of every step."""
    changes = {"log": "1 steps", "evaluate": "100%", "data.folder": str(data)}
    start = [sys.executable, "-m", "lmx", "train", "--config", "quickstart", "--workdir", str(workdir)]
    return start + [f"--config.{key}={text}" for key, text in changes.items()]


def environment(cache: Path) -> dict[str, str]:
    """Return the environment of a start: this checkout's lmx, the given cache of compiled programs."""
    here = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, "JAX_COMPILATION_CACHE_DIR": str(cache)}


def first_step(workdir: Path, data: Path, cache: Path) -> float:
    """Start a run; return the seconds until its first step was recorded."""
    began = time.perf_counter()
    with subprocess.Popen(
        command(workdir, data),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(cache),
    ) as process:
        while not recorded(workdir / "metrics.jsonl"):
            if process.poll() is not None:
                raise SystemExit(f"exit code {process.returncode} of: {' '.join(command(workdir, data))}")
            time.sleep(0.02)
        seconds = time.perf_counter() - began
        process.terminate()
    return seconds


def recorded(path: Path) -> bool:
    """Say whether a training step is in the file."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return False
    return any("loss" in json.loads(line) for line in lines if line.endswith("}"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="starts of each kind (default: 3)")
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        first_step(root / "prepare", root / "data", root / "cache")
        cold, warm = [], []
        for number in range(repeats):
            cache = root / f"cache{number}"
            cold.append(first_step(root / f"cold{number}", root / "data", cache))
            warm.append(first_step(root / f"warm{number}", root / "data", cache))
    print("| start | s, median | s, best |\n| --- | --- | --- |")
    for name, seconds in (("cold", cold), ("warm", warm)):
        print(f"| {name} | {statistics.median(seconds):.1f} | {min(seconds):.1f} |")


if __name__ == "__main__":
    main()
