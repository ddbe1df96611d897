"""Doctor: what this machine lacks to train on it, one line a check, with what to do."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lmx.commands import _asked, _health, _machine, _platform
from lmx.commands._health import FAIL, Finding
from lmx.core import place
from lmx.core.errors import UserError


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare --config and --workdir."""
    parser.add_argument("--config", help="what is to be trained, for memory and disk; default: GPT-2 124M")
    parser.add_argument("--workdir", default="runs", help="where its run is to lie; default: runs")
    parser.epilog = "with --config any field of it: --config.model.layers=24"


def run(options: argparse.Namespace, overrides: Mapping[str, str]) -> int:
    """Print a line for each check; 1 where one of them fails."""
    if overrides and options.config is None:
        raise UserError(f"--config.{next(iter(overrides))} changes a config; name it: --config quickstart")
    failed = False
    for finding in examine(options.config, overrides, options.workdir):
        print(finding.line(), flush=True)
        failed = failed or finding.level == FAIL
    return 1 if failed else 0


def examine(config: str | None, overrides: Mapping[str, str], workdir: str) -> Iterator[Finding]:
    """Yield what each check finds, in the order in which they are worth reading."""
    began = time.time() - time.monotonic()
    packages = _machine.installed((*_health.LEAST, "jaxlib", *_health.PLUGINS))
    asked = {name: _machine.requirements(name) for name in _health.LEAST}
    files = _machine.tpu_files()
    taken = _machine.open_in(files) if files else {}
    answer = _asked.asked("devices", cpu=bool(taken))
    folder = Path(workdir).expanduser()
    checks = {
        "python": lambda: _health.python(sys.version_info[:3]),
        "versions": lambda: _health.versions(packages, asked, answer),
        "plugin": lambda: _health.plugin(packages, asked["jax"]),
        "processes": _health.processes,
        "held": lambda: _health.holders(files, taken, _machine.foreign_lockfile()),
        "accelerator": lambda: _health.accelerator(
            _machine.hardware(), answer, os.environ.get("JAX_PLATFORMS", ""), taken=bool(taken)
        ),
    }
    for subject, check in checks.items():
        yield _health.checked(subject, check)
    size = _health.DEFAULT
    if config is not None:
        size, finding = _sized(config, overrides, folder, {} if taken else answer)
        yield finding
    remote = "://" in workdir
    where = Path() if remote else folder
    rest = {
        "memory": lambda: _health.memory(size, _machine.available_memory(), answer),
        "disk": lambda: _health.disk(size, where),
        "workdir": lambda: _health.bucket(workdir) if remote else _health.workdir(folder),
        "cache": lambda: _health.cache(_platform.cache_folder()),
        "clock": lambda: _health.clock(
            time.time(),
            _machine.newest(Path(__file__).parent, where),
            time.time() - time.monotonic() - began,
        ),
    }
    for subject, check in rest.items():
        yield _health.checked(subject, check)


def _sized(
    config: str, overrides: Mapping[str, str], workdir: Path, devices: Mapping[str, Any]
) -> tuple[_health.Size, Finding]:
    """Return how large the config's model is, and what is to be said of the config.

    devices: what `_asked.devices` answered; each process of the run is taken to have as many.
    """
    try:
        processes = place.found().count  # 0 where only the cluster knows
    except UserError:
        processes = 1
    count, platform = devices.get("count", 0) * processes, devices.get("backend", "")
    words = (config, json.dumps(dict(overrides)), str(workdir), str(count), platform)
    answer: dict[str, Any] = _asked.asked("parameters", *words, cpu=True)
    size = _health.Size(answer["parameters"], config) if "parameters" in answer else _health.DEFAULT
    if "error" in answer:
        return size, Finding(FAIL, "config", f"{config}: {answer['error']}")
    if "start" in answer:
        found = f"{config}: its model comes with {answer['start']}; memory and disk are those of GPT-2 124M"
        return size, Finding(_health.OK, "config", found)
    more = "" if count else "; its mesh is not checked, for it is not known how many devices there will be"
    return size, Finding(_health.OK, "config", f"{config}: {size.parameters:,} parameters{more}")
