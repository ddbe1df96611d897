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

from lmx.commands._platform import no_devices
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
    except (RuntimeError, AssertionError) as error:
        return {"error": no_devices(error)}
    first = found[0]
    memory = (first.memory_stats() or {}) if first.platform != "cpu" else {}
    return {
        "backend": first.platform,
        "kind": first.device_kind,
        "count": len(found),
        "bytes": memory.get("bytes_limit"),
    }


def parameters(
    reference: str, changes: Mapping[str, str], workdir: Path, *, platform: str, counted: bool = True
) -> dict[str, Any]:
    """Return how many parameters a config's model has, by its shapes, or what it starts from; as "error",
    what `lmx train` would refuse of it before it reads data.

    platform: JAX's name of the devices that are to train it, "" where nobody knows. counted: whether as many
    are here; else the mesh is not checked. A start in the cloud is not asked for, nor what depends on it.
    Errors: UserError for a config of no known name, or one that cannot be built.
    """
    from lmx.core import config as config_

    config = config_.load(reference)
    config_.override(config, dict(changes))
    config_.check(config_.plain(config))
    given = config_.expanded(config_.plain(config))
    from lmx.commands import _build

    found = {}
    try:
        _check_as_train_does(given, workdir, platform, counted)
    except UserError as error:
        found = {"error": str(error)}
    if not config_.pretraining(given) or "name" not in given["model"]:
        return {**found, "start": str(given["start"])}
    if given["model"].get("vocab_size") is None:
        given["model"]["vocab_size"] = given["tokenizer"].get("size") or 50257
    import jax

    shapes = _build.shapes(_build.model(given))
    return {**found, "parameters": sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))}


def _check_as_train_does(config: Mapping[str, Any], workdir: Path, platform: str, counted: bool) -> None:
    from lmx.commands import _check, _check_examples
    from lmx.core import config as config_
    from lmx.core import execution

    if not counted:
        config = {**config, "mesh": {"data": 1, "fsdp": 1, "tensor": 1}}
    if not platform:
        config = {**config, "execution": {**config["execution"], "attention": "auto"}}
    remote = "://" in str(config["start"])
    with execution.on(execution.PLAIN, platform or None):
        if not config_.pretraining(config):
            if remote:
                _check_examples.shared(config)
            else:
                _check_examples.fields(config, workdir)
        elif remote and "name" not in config["model"]:
            _check.common(config)
        else:
            _check.fields({**config, "start": "scratch"} if remote else config, workdir)


def _parameters(reference: str, changes: str, workdir: str, count: str, platform: str) -> dict[str, Any]:
    import jax

    if int(count):
        jax.config.update("jax_num_cpu_devices", int(count))
    return parameters(
        reference, json.loads(changes), Path(workdir), platform=platform, counted=int(count) > 0
    )


def _main(words: list[str]) -> None:
    try:
        answer = devices() if words[0] == "devices" else _parameters(*words[1:])
    except UserError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer))


if __name__ == "__main__":
    _main(sys.argv[1:])
