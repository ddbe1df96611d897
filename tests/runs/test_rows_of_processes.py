"""Which rows of a batch each of two processes makes, and whose answer is whose, on meshes of any order."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from typing import Any

import pytest

# The devices of two processes, 0 1 and 2 3, as a torus may order them, and cut so that a group is of both.
MESHES = {"in order": ([0, 1, 2, 3], (4, 1, 1)), "in turns": ([0, 2, 1, 3], (4, 1, 1)),
          "a group of both": ([0, 2, 1, 3], (1, 2, 2)), "one for all": ([0, 1, 2, 3], (1, 1, 4))}  # fmt: skip
PROGRAM = """
import json, sys
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np
from lmx.core import processes
processes.join()
from jax.sharding import Mesh
from lmx import batches
from lmx.core import mesh as mesh_
from lmx.core.types import Model
from lmx.runs.checkpoints import Checkpoints
from lmx.training import evaluate, predict

class Source:
    def __len__(self): return 6
    def __getitem__(self, i): return {"x": np.array([i + 1], np.int32)}

model = Model(lambda key: {}, lambda p, b: {"y": b["input_ids"][:, 0]}, lambda p: p, lambda p: p)
said = {}
for name, (order, shape) in json.loads(sys.argv[1]).items():
    mesh = Mesh(np.array(jax.devices())[order].reshape(shape), mesh_.AXES)
    ids = np.arange(8, dtype=np.int32)[:, None]
    outputs, _ = predict.over(
        predict.build(model, ("y",), None, mesh=mesh), {}, [(np.arange(8), {"input_ids": ids})], mesh=mesh)
    count = evaluate.build(
        lambda p, b, r: (0, 0, {"sum": jnp.sum(b["input_ids"]), "rows": jnp.float32(len(b["input_ids"]))}),
        mesh=mesh)
    rows = batches.whole(Source(), size=8, encode=lambda r: {"input_ids": r["x"]},
                         places=mesh_.places(8, mesh))
    said[name] = {"predicted": [int(y) for y in outputs["y"]],
                  "sums": evaluate.over(count, {}, rows, mesh=mesh),
                  "places": mesh_.places(8, mesh).tolist()}
kept = Checkpoints(Path(sys.argv[2]))
a = jax.device_put(np.arange(8.0, dtype=np.float32), mesh_.replicated(mesh))
kept.save(1, {"a": a}, facts={"rank": None})
kept.wait()
here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
found, _, _ = kept.restore(1, {"a": jax.ShapeDtypeStruct((8,), np.float32, sharding=here)})
said["long"] = processes.shared("ä" * 5000 if processes.first() else "")
said["restored"] = np.asarray(mesh_.place(found, mesh)["a"]).tolist()
kept.close()
print("SAID", json.dumps(said), flush=True)
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory, lmx_environment: dict[str, str]) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("processes")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    words = [sys.executable, "-c", PROGRAM, json.dumps(MESHES), str(folder / "kept")]
    own = [
        {"LMX_COORDINATOR": address, "LMX_PROCESSES": "2", "LMX_PROCESS": str(index)} for index in range(2)
    ]
    all_ = [
        subprocess.Popen(
            words,
            env={**lmx_environment, **one, **flags},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for one in own
    ]
    found = []
    ended = [one.communicate(timeout=300) for one in all_]
    for one, (out, err) in zip(all_, ended, strict=True):
        assert one.returncode == 0, err[-3000:]
        found.append(json.loads(next(line for line in out.splitlines() if line.startswith("SAID "))[5:]))
    return found


@pytest.mark.parametrize("name", MESHES)
def test_each_answer_is_that_of_its_row(name: str, said: list[dict[str, Any]]) -> None:
    for one in said:
        assert one[name]["predicted"] == list(range(8))


@pytest.mark.parametrize("name", MESHES)
def test_each_row_counts_once(name: str, said: list[dict[str, Any]]) -> None:
    for one in said:
        assert one[name]["sums"] == {"sum": 1 + 2 + 3 + 4 + 5 + 6, "rows": 8.0}


def test_what_each_process_makes_by_hand(said: list[dict[str, Any]]) -> None:
    wanted = {
        "in order": ([0, 1, 2, 3], [4, 5, 6, 7]),
        "in turns": ([0, 1, 4, 5], [2, 3, 6, 7]),
        "a group of both": (list(range(8)), list(range(8))),
        "one for all": (list(range(8)), list(range(8))),
    }
    for name, places in wanted.items():
        assert tuple(one[name]["places"] for one in said) == places


def test_a_text_reaches_the_others_whole(said: list[dict[str, Any]]) -> None:
    assert [one["long"] for one in said] == ["ä" * 5000] * 2


def test_a_checkpoint_is_read_by_each_onto_its_own_device(said: list[dict[str, Any]]) -> None:
    """As a run that starts from another does, and what evaluates one."""
    for one in said:
        assert one["restored"] == [float(i) for i in range(8)]
