"""What the TPU's compiler says of real steps, on slices that are not there; docs/scaling.md has the tables.

Minutes each; `pip install 'lmx[tpu]'` brings the compiler. Without it these tests are skipped.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from typing import Any

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed: lmx[tpu]"
    ),
]

TOLD = """
import dataclasses, json, sys
from lmx.commands import _compiled
from lmx.core import config as config_
from lmx.costs import chips

name, topology, *changes = sys.argv[1:]
config = config_.load(name)
config_.override(config, dict(change.split("=", 1) for change in changes))
slice_ = chips.parsed(topology)
found = _compiled.step(_compiled.sized(config_.plain(config)), slice_, _compiled.devices(slice_))
fields = {one.name: getattr(found, one.name) for one in dataclasses.fields(found) if one.name != "messages"}
kinds = [[one.kind, one.count, one.size, one.group] for one in found.messages]
print(json.dumps({**fields, "memory": found.memory, "fits": found.fits, "messages": kinds}))
"""
"""In a process of its own: a test's process has eight CPU devices, and unoptimised compilation."""


def compiled(
    environment: dict[str, str], checkout: Any, name: str, topology: str, *changes: str
) -> dict[str, Any]:
    own = {name: value for name, value in environment.items() if name != "JAX_DISABLE_MOST_OPTIMIZATIONS"}
    done = subprocess.run(
        [sys.executable, "-c", TOLD, name, topology, *changes],
        capture_output=True, text=True, env=own, cwd=checkout, check=True, timeout=3000,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize(
    ("name", "topology", "size"),
    [
        ("pretrain/gpt2", "v5e:2x4", 64 * 8),
        ("pretrain/gpt2_xl", "v5e:2x4", 16 * 8),
        ("pretrain/gpt2_xl", "v5e:16x16", 8 * 256),
    ],
)
def test_what_fits(
    lmx_environment: dict[str, str], checkout: Any, name: str, topology: str, size: int
) -> None:
    """A v5e has 16 GB: 64 rows of 1,024 tokens of 124M parameters, 16 of 1.5 billion cut over 8 chips."""
    found = compiled(lmx_environment, checkout, name, topology, f"batch.size={size}")
    assert found["fits"] and found["memory"] < 0.95 * 16e9
    # 6 operations a parameter and token, the blocks once more for the backward pass (4 / 3), and attention's
    # own backward pass, which makes 11 products where 6 are needed: a tenth of the whole.
    assert 1.3 < found["operations"] / found["model"] < 1.5


MESHES = """
import sys
from lmx.commands import _compiled
from lmx.core import mesh
from lmx.costs import chips

name, value = sys.argv[2].split("=")
made = mesh.make(**{name: int(value)}, devices=_compiled.devices(chips.parsed(sys.argv[1])))
print(made.shape[name], len({device.id for device in made.devices.flat}))
"""


@pytest.mark.parametrize(
    ("words", "chips"),
    [("v6e:4x4 fsdp=8", 16), ("v6e:4x4 tensor=8", 16), ("v5p:4x4x4 fsdp=8", 64), ("v5e:1x1 fsdp=1", 1)],
)
def test_a_mesh_may_cut_the_axes_of_the_torus(
    lmx_environment: dict[str, str], checkout: Any, words: str, chips: int
) -> None:
    """No axis of the first three is 8 chips long."""
    topology, size = words.split()
    command = [sys.executable, "-c", MESHES, topology, size]
    done = subprocess.run(
        command, capture_output=True, text=True, env=lmx_environment, cwd=checkout, check=True
    )
    assert done.stdout.split() == [size.partition("=")[2], str(chips)]


BLOCK = 12 * 768**2 + 13 * 768
BERT = (30522 + 512 + 2 + 2) * 768 + BLOCK + 2 * (768**2 + 768) + 2 * 768 + 30522 + 2 * 769
"""Embeddings with their norm, one block, pooler, the heads; the table of tokens, which is a head, once."""


@pytest.mark.parametrize(
    ("name", "layers", "parameters"),
    [
        ("pretrain/gpt2", 12, 124_439_808),
        ("pretrain/bert_base", 1, BERT),
    ],
)
def test_a_data_parallel_step_reduces_a_handful_of_times(
    lmx_environment: dict[str, str], checkout: Any, name: str, layers: int, parameters: int
) -> None:
    changes = (f"model.layers={layers}", "batch.size=64", "execution.layers=unrolled", "execution.remat=none")
    found = compiled(lmx_environment, checkout, name, "v5e:2x4", *changes)
    assert {kind for kind, *_ in found["messages"]} == {"all-reduce"}
    large = [(count, size) for _, count, size, _ in found["messages"] if size > 10_000]
    assert sum(count for count, _ in large) <= 8
    # All gradients in f32, each once.
    assert sum(count * size for count, size in large) == pytest.approx(4 * parameters, rel=0.01)


def test_a_cut_step_gathers_and_scatters(lmx_environment: dict[str, str], checkout: Any) -> None:
    """No gradient of a matrix is reduced whole: the compiler scatters, by permutations beside the product."""
    changes = ("batch.size=64", "mesh.data=1", "mesh.fsdp=8")
    found = compiled(lmx_environment, checkout, "pretrain/gpt2", "v5e:2x4", *changes)
    kinds = {kind for kind, *_ in found["messages"]}
    assert "all-gather" in kinds and kinds & {"reduce-scatter", "collective-permute"}
    assert max(size for kind, _, size, _ in found["messages"] if kind == "all-reduce") < 1e6
