"""What a process of its own finds out for `lmx doctor`: JAX may crash, hang, or take the accelerator.

python -m lmx.commands._asked devices
python -m lmx.commands._asked parameters CONFIG '{"model.layers": "2"}'
"""

from __future__ import annotations

import importlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from lmx.core.errors import UserError, one_line

SECONDS = 120.0
"""How long JAX may take to answer. A slice of several machines may only answer when all of them ask."""


def asked(*words: str, cpu: bool = False, seconds: float = SECONDS) -> dict[str, Any]:
    """Return what a process of these words answers; {"error": why} where it crashes or does not answer.

    cpu: leave accelerators alone.
    """
    environment = os.environ | ({"JAX_PLATFORMS": "cpu"} if cpu else {})
    command = [sys.executable, "-m", "lmx.commands._asked", *words]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, errors="replace", timeout=seconds
        )
    except subprocess.TimeoutExpired:
        return {"error": f"no answer within {seconds:.0f} s"}
    except OSError as error:
        return {"error": one_line(error)}
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
        return answer if isinstance(answer, dict) else {"error": f"{answer!r} is no answer"}
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return {"error": f"it ended with code {done.returncode}: {last[:200]}"}


def devices() -> dict[str, Any]:
    """Return which backend JAX starts, its devices, and the bytes of one; errors of the imports by name."""
    for name in ("jax", "flax.nnx", "optax", "orbax.checkpoint"):
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever a broken installation may raise
            return {"broken": name, "error": f"{type(error).__name__}: {one_line(error)}"}
    import jax

    try:
        found = jax.local_devices()
    except RuntimeError as error:
        return {"error": one_line(error)}
    first = found[0]
    memory = (first.memory_stats() or {}) if first.platform != "cpu" else {}
    return {
        "backend": first.platform,
        "kind": first.device_kind,
        "count": len(found),
        "bytes": memory.get("bytes_limit"),
    }


def parameters(reference: str, changes: Mapping[str, str]) -> dict[str, Any]:
    """Return how many parameters a config's model has, by its shapes.

    Errors: UserError for a config that is wrong, or whose model comes with its start.
    """
    from lmx.core import config as config_

    config = config_.load(reference)
    config_.override(config, dict(changes))
    plain: dict[str, Any] = config_.plain(config)
    if not config_.pretraining(plain):
        return {"start": str(plain.get("start"))}
    import jax

    from lmx.commands import _build

    if plain["model"].get("vocab_size") is None:
        plain["model"]["vocab_size"] = plain["tokenizer"].get("size") or 50257
    shapes = _build.shapes(_build.model(plain))
    return {"parameters": sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))}


def _main(words: list[str]) -> None:
    try:
        answer = devices() if words[0] == "devices" else parameters(words[1], json.loads(words[2]))
    except UserError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer))


if __name__ == "__main__":
    _main(sys.argv[1:])
