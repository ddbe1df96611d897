"""Trees, plugins, meshes, keys."""

from __future__ import annotations

import subprocess
import sys

import jax
import numpy as np
import pytest

from lmx.core import mesh, plugin, rng, tree
from lmx.core.errors import UserError, did_you_mean

pytestmark = pytest.mark.smoke
TREE = {"block": {"0": {"kernel": 1, "bias": 2}, "10": {"kernel": 3}}, "final": 4}


def test_flatten_and_unflatten_are_inverse() -> None:
    flat = {"block/0/kernel": 1, "block/0/bias": 2, "block/10/kernel": 3, "final": 4}
    assert tree.flatten(TREE) == flat
    assert tree.unflatten(flat) == TREE


def test_mask_matches_whole_paths() -> None:
    assert tree.flatten(tree.mask(TREE, r"block/\d+/kernel")) == {
        "block/0/kernel": True, "block/0/bias": False, "block/10/kernel": True, "final": False,
    }  # fmt: skip
    assert not any(tree.flatten(tree.mask(TREE, "kernel")).values())


def test_split_and_merge_are_inverse() -> None:
    chosen, rest = tree.split(TREE, tree.mask(TREE, ".*kernel"))
    assert chosen == {"block": {"0": {"kernel": 1}, "10": {"kernel": 3}}}
    assert rest == {"block": {"0": {"bias": 2}}, "final": 4}
    assert tree.merge(chosen, rest) == TREE


def test_diff_tells_all_at_once() -> None:
    lines = tree.diff({"a": (2,), "b": (3, 1), "same": (1,)}, {"b": (1, 3), "c": (5,), "same": (1,)})
    assert lines == ["- a (2,)", "! b expected (3, 1), found (1, 3)", "+ c (5,)"]


def test_plugins_are_found_by_file_name_and_by_dotted_name() -> None:
    assert "gpt2" in plugin.names("lmx.models")
    assert not any(name.startswith("_") for name in plugin.names("lmx.models"))
    assert plugin.find("lmx.tasks", "causal_lm").__name__ == "lmx.tasks.causal_lm"
    assert plugin.find("lmx.tasks", "json.decoder").__name__ == "json.decoder"
    with pytest.raises(UserError, match=r"no 'causal_ml' in tasks \(did you mean 'causal_lm'\?\)"):
        plugin.find("lmx.tasks", "causal_ml")


def test_did_you_mean_says_nothing_where_nothing_is_near() -> None:
    assert did_you_mean("zebra", ["causal_lm"]) == ""


def test_a_batch_lies_on_the_mesh_by_example() -> None:
    devices = mesh.make(4)
    rows = np.arange(16, dtype=np.int32).reshape(8, 2)
    placed = mesh.put({"input_ids": rows}, devices)["input_ids"]
    assert [shard.data.shape for shard in placed.addressable_shards] == [(2, 2)] * 4
    np.testing.assert_array_equal(placed, rows)


def test_each_part_of_a_batch_divides() -> None:
    mesh.check_batch(16, mesh.make(8), parts=2)
    told = r"batch.size=8 in batch.parts=2 does not divide over 8 devices; the nearest that does is 16"
    with pytest.raises(UserError, match=told):
        mesh.check_batch(8, mesh.make(8), parts=2)


@pytest.mark.parametrize(("size", "nearest"), [(12, 16), (3, 8), (20, 16)])
def test_a_batch_that_does_not_divide_names_the_nearest_that_does(size: int, nearest: int) -> None:
    with pytest.raises(UserError, match=f"8 devices; the nearest that does is {nearest}"):
        mesh.check_batch(size, mesh.make(8))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (0, "expected sizes of at least 1"),
        (-2, "expected sizes of at least 1"),
        (9, "does not fit 8 devices"),
    ],
)
def test_a_mesh_that_does_not_fit_the_devices(data: int, told: str) -> None:
    with pytest.raises(UserError, match=rf"mesh\.data={data}, .*{told}"):
        mesh.make(data)


def test_keys_do_not_depend_on_the_process() -> None:
    """`hash` of a text is salted per process; ours is not."""
    code = (
        "import jax; from lmx.core import rng; "
        "print(jax.random.key_data(rng.leaf_key(rng.stream_key(1, 2, 'dropout'), 'a/b')).tolist())"
    )
    found = set()
    for seed in ("0", "1", "77"):
        done = subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        found.add(done.stdout.strip())
    here = jax.random.key_data(rng.leaf_key(rng.stream_key(1, 2, "dropout"), "a/b")).tolist()
    assert found == {str(here)}
