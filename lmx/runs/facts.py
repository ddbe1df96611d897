"""What a run is made of: versions, devices, size; written to run.json, shown in the report."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from lmx.core import log, tree
from lmx.core.version import VERSION


def environment() -> dict[str, Any]:
    """Return versions, platform and devices; environment variables by an allow-list, never a dump."""
    devices = jax.devices()
    packages = {
        name: version(name)
        for name in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    }
    flags = {
        name: os.environ[name]
        for name in ("XLA_FLAGS", "JAX_PLATFORMS", "LIBTPU_INIT_ARGS")
        if name in os.environ
    }
    return {
        "lmx": VERSION,
        **packages,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": len(devices),
        "device_kind": devices[0].device_kind,
        "processes": jax.process_count(),
        "cores": os.cpu_count(),
        "flags": flags,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def size(params: Mapping[str, Any]) -> dict[str, int]:
    """Return the number of parameters, with and without the position embeddings."""
    counts = {path: leaf.size for path, leaf in tree.flatten(params).items()}
    positions = sum(count for path, count in counts.items() if "/position/" in path)
    return {
        "parameters": sum(counts.values()),
        "parameters_without_positions": sum(counts.values()) - positions,
    }


def write(workdir: Path, facts: Mapping[str, Any]) -> None:
    """Write run.json, whole or not at all."""
    text = json.dumps(facts, indent=2, sort_keys=True, default=str)
    log.write_whole(workdir / "run.json", (text + "\n").encode())
