"""Checkpoints: what is kept, what is refused, and digests that see any flipped bit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmx.core import mesh
from lmx.core.errors import UserError
from lmx.runs import digests
from lmx.runs.checkpoints import Checkpoints, abstract

PARAMS = {"a": {"kernel": jnp.arange(12, dtype=jnp.float32).reshape(3, 4)}, "b": jnp.ones(3)}
MOMENTS = (jnp.int32(3), {"a": jnp.zeros((3, 4))})


def filled(folder: Path, losses: dict[int, float | None], **options: Any) -> Checkpoints:
    kept = Checkpoints(folder, **options)
    for step, loss in losses.items():
        kept.save(
            step, jax.tree.map(lambda x, by=step: x + by, PARAMS), MOMENTS, facts={"rank": loss, "config": {}}
        )
    kept.wait()
    return kept


def test_the_last_and_the_best_are_kept(tmp_path: Path) -> None:
    losses = {1: 3.0, 2: 1.0, 3: 2.0, 4: None, 5: 2.5, 6: 2.4}
    kept = filled(tmp_path / "two", losses, keep_last=2, keep_best=1)
    assert kept.steps() == [2, 5, 6]
    assert kept.best() == 2
    kept.close()
    again = Checkpoints(tmp_path / "two", keep_last=2, keep_best=1)
    again.save(7, PARAMS, MOMENTS, facts={"rank": 2.2, "config": {}})
    again.close()
    assert again.steps() == [2, 6, 7], "the best is known after a restart, too"


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    kept = filled(tmp_path, {4: 0.5})
    params, moments, facts = kept.restore(4, abstract(PARAMS), abstract(MOMENTS))
    np.testing.assert_array_equal(params["a"]["kernel"], PARAMS["a"]["kernel"] + 4)
    assert int(moments[0]) == 3
    assert facts["rank"] == 0.5
    only, nothing, _ = kept.restore(4, abstract(PARAMS))
    np.testing.assert_array_equal(only["b"], PARAMS["b"] + 4)
    assert nothing is None
    kept.close()


@pytest.mark.parametrize("item", ["params", "optimizer", "facts"])
def test_any_damaged_file_is_named(tmp_path: Path, item: str) -> None:
    kept = filled(tmp_path, {4: 0.5})
    for path in sorted(p for p in (tmp_path / "4" / item).rglob("*") if p.is_file() and p.stat().st_size):
        whole = path.read_bytes()
        for broken in (whole[: len(whole) // 2], bytes([whole[0] ^ 1]) + whole[1:], b""):
            path.write_bytes(broken)
            with pytest.raises(UserError, match=rf"4: .*{path.name} is damaged"):
                kept.restore(4, abstract(PARAMS), abstract(MOMENTS))
        path.unlink()
        with pytest.raises(UserError, match=f"{path.name} is missing"):
            kept.restore(4, abstract(PARAMS), abstract(MOMENTS))
        path.write_bytes(whole)
    kept.restore(4, abstract(PARAMS), abstract(MOMENTS))
    kept.close()


def test_values_are_verified_without_a_list_of_files(tmp_path: Path) -> None:
    """A process killed right after the rename leaves no list; the digest of the values is in the facts."""
    kept = filled(tmp_path, {4: 0.5, 5: 0.4})
    for step in (4, 5):
        (tmp_path / str(step) / digests.FILES).unlink()
    shutil.rmtree(tmp_path / "5" / "params")
    shutil.copytree(tmp_path / "4" / "params", tmp_path / "5" / "params")  # whole, but of another step
    with pytest.raises(UserError, match="5: params are damaged"):
        kept.restore(5, abstract(PARAMS), abstract(MOMENTS))
    said: list[str] = []
    found = kept.restore_newest(abstract(PARAMS), abstract(MOMENTS), say=said.append)
    assert found is not None
    assert found[2]["step"] == 4
    assert said == [
        f"skipped: checkpoint {tmp_path / '5'}: params are damaged (digest differs)",
        f"set aside: {tmp_path / '5.damaged'}",
    ]
    assert kept.steps() == [4]
    kept.save(5, PARAMS, MOMENTS, facts={"rank": 0.3})  # its step can be saved again
    kept.wait()
    assert kept.steps() == [4, 5]
    kept.close()


def test_reading_neither_deletes_nor_writes(tmp_path: Path) -> None:
    kept = filled(tmp_path, {1: 3.0, 2: 1.0, 3: 2.0, 4: 4.0}, keep_last=4, keep_best=4)
    kept.close()
    (tmp_path / "3" / digests.FILES).unlink()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    reader = Checkpoints(tmp_path, keep_last=1, keep_best=0)
    reader.restore(2, abstract(PARAMS))
    assert reader.best() == 2
    reader.close()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before


def test_nothing_readable_is_an_error_and_nothing_at_all_is_none(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "new").restore_newest(PARAMS, MOMENTS, say=print) is None
    (tmp_path / "run" / "7").mkdir(parents=True)
    with pytest.raises(UserError, match="none of the 1 checkpoints"):
        Checkpoints(tmp_path / "run").restore_newest(abstract(PARAMS), abstract(MOMENTS), say=lambda _: None)
    assert (tmp_path / "run" / "7").is_dir(), "put aside, it would let the next start begin anew"


@pytest.mark.parametrize(
    "wanted",
    [
        {"a": {"kernel": jnp.zeros((4, 3))}, "b": jnp.ones(3)},
        {"a": {"kernel": jnp.zeros((3, 4))}},
        {"a": {"kernel": jnp.zeros((3, 4))}, "b": jnp.ones(3), "c": jnp.ones(1)},
        {"a": {"kernel": jnp.zeros((3, 4), jnp.int32)}, "b": jnp.ones(3)},
    ],
    ids=["shape", "surplus", "missing", "type"],
)
def test_another_structure_is_refused(tmp_path: Path, wanted: Any) -> None:
    kept = filled(tmp_path, {4: 0.5})
    with pytest.raises(UserError, match=r"params are not those wanted .*[-+!] "):
        kept.restore(4, abstract(wanted), abstract(MOMENTS))
    kept.close()


@pytest.mark.parametrize("dtype", ["float32", "int32", "uint16", "int8", "bool", "bfloat16"])
def test_digest_sees_any_flipped_bit(dtype: str) -> None:
    size = 2 if dtype == "bool" else 8 * jnp.dtype(dtype).itemsize
    array = np.array([0, 1, 1, 0, 1]).astype(jnp.dtype(dtype))
    before = digests.of_arrays({"x": jnp.asarray(array)})
    if dtype == "bool":
        flips = [np.logical_xor(array, np.arange(5) == i) for i in range(5)]
    else:
        raw = array.view(f"u{array.dtype.itemsize}")
        one = raw.dtype.type(1)
        flips = [
            np.where(np.arange(5) == i, raw ^ (one << raw.dtype.type(bit)), raw)
            .astype(raw.dtype)
            .view(array.dtype)
            for i in range(5)
            for bit in range(size)
        ]
    for flipped in flips:
        assert digests.of_arrays({"x": jnp.asarray(flipped)}) != before


def test_digest_tells_places_and_names_apart_but_not_meshes() -> None:
    x = jnp.arange(16, dtype=jnp.float32)
    assert digests.of_arrays({"x": x}) != digests.of_arrays({"x": x[::-1]})
    assert digests.of_arrays({"x": x, "y": -x}) != digests.of_arrays({"x": -x, "y": x})
    spread = jax.device_put(x, mesh.by_example(mesh.make(8)))
    assert digests.of_arrays({"x": spread}) == digests.of_arrays({"x": x})


def test_facts_are_sealed(tmp_path: Path) -> None:
    kept = filled(tmp_path, {4: 0.5})
    path = next(p for p in (tmp_path / "4" / "facts").rglob("*") if p.is_file() and b"rank" in p.read_bytes())
    (tmp_path / "4" / digests.FILES).unlink()
    facts = json.loads(path.read_text())
    path.write_text(json.dumps({**facts, "rank": 0.1}))
    with pytest.raises(UserError, match="facts are damaged"):
        kept.facts(4)
    kept.close()
