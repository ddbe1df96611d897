"""Tensors go straight to their shards: on 8 simulated devices, one tensor at a time on the host."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

import lmx
from lmx.core import mesh, tree

CONFIG = {
    "model": dict(name="gpt2", vocab_size=32, positions=8, width=16, layers=1, heads=2),
    "task": {"name": "causal_lm"},
}


def test_a_folder_is_read_into_shards(tmp_path: Path) -> None:
    params = lmx.build(CONFIG).init(jax.random.key(0))
    lmx.save_hf(lmx.Checkpoint(params, CONFIG), tmp_path / "hf")
    devices = mesh.make(8)

    def rows(path: str, shape: tuple[int, ...]) -> NamedSharding:
        return NamedSharding(devices, PartitionSpec("data" if len(shape) == 2 else None))

    found = tree.flatten(lmx.load(tmp_path / "hf", sharding=rows).params)
    for path, leaf in tree.flatten(params).items():
        np.testing.assert_array_equal(found[path], leaf, err_msg=path)
        held = {shard.data.shape for shard in found[path].addressable_shards}
        first = leaf.shape[0] // 8 if leaf.ndim == 2 else leaf.shape[0]
        assert held == {(first, *leaf.shape[1:])}, path
        assert len(found[path].sharding.device_set) == 8
    lmx.save_hf(lmx.Checkpoint(tree.unflatten(found), CONFIG), tmp_path / "again")
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("hf", "again"))
    assert one == two
