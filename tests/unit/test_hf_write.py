"""Safetensors files that lmx writes: the library's bytes, in one file or in shards, one tensor at a time."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from huggingface_hub import split_state_dict_into_shards_factory
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import deserialize
from safetensors.numpy import load_file, save

from lmx.hf._open import open_folder
from lmx.hf._safetensors import TYPES
from lmx.hf._write import write_tensors
from lmx.hf.stored import Spec

NAME = "model.safetensors"
INDEX = "model.safetensors.index.json"


def plan(tensors: dict[str, np.ndarray]) -> list[tuple[str, Spec]]:
    return [(name, Spec(tensor.dtype.name, tensor.shape, "")) for name, tensor in tensors.items()]


def write(folder: Path, tensors: dict[str, np.ndarray], shard_bytes: int = 10**9) -> dict[str, str]:
    folder.mkdir(exist_ok=True)
    return write_tensors(folder, plan(tensors), tensors.__getitem__, shard_bytes=shard_bytes)


def digests(tensors: dict[str, np.ndarray]) -> dict[str, str]:
    return {name: hashlib.sha256(tensor.tobytes()).hexdigest() for name, tensor in tensors.items()}


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=8).filter(lambda n: n != "__metadata__")
kinds = st.tuples(st.sampled_from(list(TYPES.values())), st.lists(st.integers(0, 3), max_size=3))


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(names, kinds, max_size=8), st.randoms(use_true_random=False))
def test_the_bytes_are_the_library_s(
    tmp_path_factory: pytest.TempPathFactory, wanted: dict[str, Any], random: Any
) -> None:
    folder = tmp_path_factory.mktemp("written")
    tensors = {
        name: np.frombuffer(random.randbytes(math.prod(shape) * dtype.itemsize), np.uint8)
        .__and__(1 if dtype == np.bool_ else 255)
        .astype(np.uint8)
        .view(dtype)
        .reshape(shape)
        for name, (dtype, shape) in wanted.items()
    }
    assert write(folder, tensors) == digests(tensors)
    content = (folder / NAME).read_bytes()
    assert content == save(tensors, metadata={"format": "pt"})
    assert {name: bytes(entry["data"]) for name, entry in deserialize(content)} == {
        name: tensor.tobytes() for name, tensor in tensors.items()
    }
    with open_folder(folder) as stored:
        for name, tensor in tensors.items():
            assert stored.read(name).tobytes() == tensor.tobytes()


def test_views_scalars_and_empty_tensors(tmp_path: Path) -> None:
    base = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    tensors = {
        "transposed": base.T,
        "strided": base[:, ::2, ::-1],
        "scalar": np.array(0.1, np.float32),
        "empty": base[:, :0],
        "half": base.astype(ml_dtypes.bfloat16),
    }
    assert write(tmp_path / "hf", tensors) == digests(tensors)
    dense = {name: tensor.copy(order="C") for name, tensor in tensors.items()}
    assert (tmp_path / "hf" / NAME).read_bytes() == save(dense, metadata={"format": "pt"})


def test_shards_by_hand(tmp_path: Path) -> None:
    sizes = {"a": 4, "b": 4, "c": 20, "d": 2, "e": 1, "f": 10}  # floats of 4 bytes; 40 bytes a shard
    tensors = {name: np.arange(size, dtype=np.float32) for name, size in sizes.items()}
    assert write(tmp_path / "hf", tensors, shard_bytes=40) == digests(tensors)
    files = [f"model-0000{number}-of-00004.safetensors" for number in (1, 2, 3, 4)]
    assert sorted(os.listdir(tmp_path / "hf")) == [*files, INDEX]
    places = {"a": files[1], "b": files[1], "c": files[0], "d": files[1], "e": files[2], "f": files[3]}
    expected = {"metadata": {"total_size": 164}, "weight_map": places}
    assert json.loads((tmp_path / "hf" / INDEX).read_text()) == expected


@pytest.mark.parametrize("shard_bytes", [1, 40, 100, 300, 1000, 10**6])
def test_shards_are_those_of_the_hub(tmp_path: Path, shard_bytes: int) -> None:
    rng = np.random.default_rng(0)
    tensors = {
        f"{'xyz'[index % 3]}.{index}": rng.standard_normal(size).astype(np.float32)
        for index, size in enumerate(rng.integers(0, 80, 60))
    }
    write(tmp_path / "hf", tensors, shard_bytes)
    theirs = split_state_dict_into_shards_factory(
        tensors,
        get_storage_size=lambda tensor: tensor.nbytes,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=shard_bytes,
    )
    with open_folder(tmp_path / "hf") as stored:
        assert {name: spec.file for name, spec in stored.specs.items()} == theirs.tensor_to_filename
    assert (tmp_path / "hf" / INDEX).exists() == theirs.is_sharded
    if theirs.is_sharded:
        index = {"metadata": theirs.metadata, "weight_map": theirs.tensor_to_filename}
        text = json.dumps(index, indent=2, sort_keys=True) + "\n"
        assert (tmp_path / "hf" / INDEX).read_text() == text
    for file, held in theirs.filename_to_tensors.items():
        found = load_file(tmp_path / "hf" / file)
        assert found.keys() == set(held)
        for name in held:
            np.testing.assert_array_equal(found[name], tensors[name])


def test_one_tensor_at_a_time(tmp_path: Path) -> None:
    sizes = {f"{number}": (50, number + 1) for number in range(20)}
    living: list[weakref.ref[np.ndarray]] = []
    asked: list[str] = []

    def make(name: str) -> np.ndarray:
        assert not any(reference() is not None for reference in living)
        asked.append(name)
        tensor = np.ones(sizes[name], np.float32)
        living.append(weakref.ref(tensor))
        return tensor

    wanted = [(name, Spec("float32", shape, "")) for name, shape in sizes.items()]
    write_tensors(tmp_path, wanted, make, shard_bytes=10_000)
    assert sorted(asked) == sorted(sizes)


@pytest.mark.parametrize("shard_bytes", [4, 10**6])
def test_files_reach_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard_bytes: int) -> None:
    synced: dict[int, int] = {}
    fsync = os.fsync

    def syncing(file: int) -> None:
        fsync(file)
        synced[os.fstat(file).st_ino] = os.fstat(file).st_size

    monkeypatch.setattr(os, "fsync", syncing)
    write(tmp_path, {"a": np.ones(3), "b": np.ones(2)}, shard_bytes)
    assert synced == {path.stat().st_ino: path.stat().st_size for path in tmp_path.iterdir()}


def test_what_the_disk_says_passes_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = {"a": np.ones(3)}
    with pytest.raises(FileNotFoundError):
        write_tensors(tmp_path / "none", plan(tensors), tensors.__getitem__, shard_bytes=100)
    (tmp_path / NAME).write_text("there already")
    with pytest.raises(FileExistsError):
        write(tmp_path, tensors)
    assert (tmp_path / NAME).read_text() == "there already"

    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        write(tmp_path / "hf", tensors)


@pytest.mark.parametrize(
    "made",
    [
        lambda: np.ones(3, np.float64),
        lambda: np.ones((1, 3), np.float32),
        lambda: np.ones(3, ">f4"),
    ],
)
def test_other_than_announced(tmp_path: Path, made: Callable[[], np.ndarray]) -> None:
    with pytest.raises(AssertionError, match="announced as"):
        write_tensors(tmp_path, [("a", Spec("float32", (3,), ""))], lambda name: made(), shard_bytes=100)


def test_names_that_cannot_be(tmp_path: Path) -> None:
    spec = Spec("float32", (), "")
    for names in (["a", "a"], ["__metadata__"]):
        with pytest.raises(AssertionError):
            write_tensors(
                tmp_path, [(n, spec) for n in names], lambda name: np.zeros((), np.float32), shard_bytes=9
            )
