"""Sides of a benchmark, each in a process of its own that answers line by line, and the machine itself."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("jax", "flax", "optax", "torch", "transformers")


def threads() -> int:
    """Return how many cores each side may use: 2, where there are as many."""
    return min(2, os.cpu_count() or 1)


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a side: this checkout's lmx, the CPU alone, and whatever more is named."""
    here = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu", **more}


def hold_cores() -> None:
    """Hold this process to the cores that every side has."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: threads()])


def answer(start: Callable[[], Callable[[str], Any]]) -> None:
    """Start a side, say in JSON that it is ready, with its versions, and answer each line of stdin in JSON.

    Whatever else writes to stdout, as libraries do, writes to stderr.
    """
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)
        hold_cores()
        to = start()
        print(json.dumps(versions()), file=out, flush=True)
        for line in sys.stdin:
            print(json.dumps(to(line.strip())), file=out, flush=True)


class Process:
    """One side in a process of its own; its first answer, when it is ready, are its packages' versions."""

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def send(self, line: str) -> None:
        """Send a line, without waiting for the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def receive(self) -> Any:
        """Return the next answer."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the {self.name} side ended with exit code {self._process.wait()}")
        return json.loads(line)

    def ask(self, line: str) -> Any:
        """Send a line; return what is answered."""
        self.send(line)
        return self.receive()

    def end(self) -> None:
        """Tell the process to end."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def wait(self) -> None:
        """Wait for its end."""
        self._process.wait()


def close(processes: Sequence[Process]) -> None:
    """End processes together: those that have joined wait for one another."""
    for process in processes:
        process.end()
    for process in processes:
        process.wait()


def processor() -> str:
    """Return the name of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Return {package: version} of those that are installed."""
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def listed(versions: Mapping[str, str]) -> str:
    """Return versions as they stand below a table."""
    return ", ".join(f"{name} {number}" for name, number in versions.items())


def machine(packages: Sequence[str] = PACKAGES) -> str:
    """Return what the figures were measured on."""
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    cores = f"{processor()}, {threads()} of {os.cpu_count()} cores{load}"
    return f"{cores}; Python {platform.python_version()}, {listed(versions(packages))}"
