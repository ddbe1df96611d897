"""What a process of its own finds out for `lmx doctor`: JAX may crash, hang, or take the accelerator.

python -m lmx.commands._asked devices
python -m lmx.commands._asked parameters CONFIG '{"model.layers": "2"}' WORKDIR DEVICES PLATFORM
"""

from __future__ import annotations

import importlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
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


def parameters(
    reference: str, changes: Mapping[str, str], workdir: Path, *, platform: str | None
) -> dict[str, Any]:
    """Return how many parameters a config's model has, by its shapes, or what it starts from; as "error",
    what `lmx train` would refuse of it before it reads data. A start in the cloud is not asked for.

    platform: JAX's name of the devices that are to train it, of which there must be as many here; None where
    nobody knows how many there are: then the config is not checked. Errors: UserError for a config of no
    known name, or one that cannot be built.
    """
    from lmx.core import config as config_

    config = config_.load(reference)
    config_.override(config, dict(changes))
    config_.check(config_.plain(config))
    given = config_.expanded(config_.plain(config))
    from lmx.commands import _build, _check, _check_examples
    from lmx.core import execution

    remote, pretraining, found = "://" in str(given["start"]), config_.pretraining(given), {}
    try:
        with execution.on(execution.PLAIN, platform):
            if platform is not None and not pretraining:
                _check_examples.shared(given)
            elif platform is not None and not remote:
                _check.fields(given, workdir)
    except UserError as error:
        found = {"error": str(error)}
    if not pretraining or "name" not in given["model"]:
        return {**found, "start": str(given["start"])}
    if given["model"].get("vocab_size") is None:
        given["model"]["vocab_size"] = given["tokenizer"].get("size") or 50257
    import jax

    shapes = _build.shapes(_build.model(given))
    return {**found, "parameters": sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))}


def _parameters(reference: str, changes: str, workdir: str, count: str, platform: str) -> dict[str, Any]:
    import jax

    if int(count):
        jax.config.update("jax_num_cpu_devices", int(count))
    return parameters(
        reference, json.loads(changes), Path(workdir), platform=platform if int(count) else None
    )


def _main(words: list[str]) -> None:
    try:
        answer = devices() if words[0] == "devices" else _parameters(*words[1:])
    except UserError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer))


if __name__ == "__main__":
    _main(sys.argv[1:])
