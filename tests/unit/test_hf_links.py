"""Folders of weights: which files are opened, through which links, and what an index may say."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save, save_file

from lmx.core.errors import UserError
from lmx.hf._open import open_folder
from lmx.hf._safetensors import quoted

NAME = "model.safetensors"
INDEX = "model.safetensors.index.json"
AGAIN = "fetch the file again"


def refused(folder: Path, fault: str, name: str = NAME) -> None:
    """Assert the whole message, and that no file stays open."""
    before = os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []
    with pytest.raises(UserError) as error:
        open_folder(folder)
    assert str(error.value) == f"{folder / name}: {fault}"
    assert before == (os.listdir("/proc/self/fd") if before else [])


SHARDS = {
    "model-00001-of-00002.safetensors": {"a": np.arange(6.0).reshape(2, 3), "b": np.arange(3)},
    "model-00002-of-00002.safetensors": {"c": np.ones(4, ml_dtypes.bfloat16)},
}
FIRST, SECOND = SHARDS
PLACES = {name: file for file, tensors in SHARDS.items() for name in tensors}


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    for file, tensors in SHARDS.items():
        save_file(tensors, tmp_path / file)
    reindex(tmp_path, PLACES)
    return tmp_path


def reindex(folder: Path, places: Any) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 80}, "weight_map": places}))


def test_shards_come_back(sharded: Path) -> None:
    with open_folder(sharded) as stored:
        assert stored.files == tuple(SHARDS)
        assert {name: spec.file for name, spec in stored.specs.items()} == PLACES
        for tensors in SHARDS.values():
            for name, tensor in tensors.items():
                np.testing.assert_array_equal(stored.read(name), tensor)


@pytest.mark.parametrize(
    "file",
    [
        "../outside.safetensors", "/etc/x.safetensors", "..\\x.safetensors", "a/b.safetensors", ".", "..", "",
        "C:x.safetensors", "x\0.safetensors", "x\n.safetensors", "x.bin", ".safetensors", "x.safetensors ",
        "x" * 250 + ".safetensors", 3, None, True, ["x.safetensors"], {},
    ],
)  # fmt: skip
def test_shard_names_that_are_no_plain_name(sharded: Path, file: Any) -> None:
    save_file({"c": np.ones(1)}, sharded.parent / "outside.safetensors")
    reindex(sharded, {**PLACES, "c": file})
    shown = quoted(file)
    refused(
        sharded,
        f"places 'c' in {shown}, expected the plain name of a .safetensors file in the same folder; {AGAIN}",
        INDEX,
    )


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", f"the index is not readable as JSON (Expecting value: line 1 column 1 (char 0)); {AGAIN}"),
        (
            rb'{"weight_map":{"a":"\ud800"}}',
            (
                "the index is not readable as JSON ('utf-8' codec can't encode character '\\ud800' in "
                f"position 22: surrogates not allowed); {AGAIN}"
            ),
        ),
        (b"[]", f"the index is JSON, but not an object; {AGAIN}"),
        (b'{"weight_map":{"a":"x","a":"x"}}', f"the index has the key 'a' twice; {AGAIN}"),
        (b"{}", f"weight_map is None, expected {{tensor: file}}; {AGAIN}"),
        (b'{"weight_map":{}}', f"weight_map is {{}}, expected {{tensor: file}}; {AGAIN}"),
        (b'{"weight_map":["a"]}', f"weight_map is ['a'], expected {{tensor: file}}; {AGAIN}"),
    ],
)
def test_indices_that_are_none(sharded: Path, content: bytes, fault: str) -> None:
    (sharded / INDEX).write_bytes(content)
    refused(sharded, fault, INDEX)


def test_an_index_that_is_too_large(sharded: Path) -> None:
    os.truncate(sharded / INDEX, 100_000_001)
    refused(sharded, f"100,000,001 bytes; expected an index of at most 100,000,000; {AGAIN}", INDEX)


def test_index_and_shards_that_disagree(sharded: Path) -> None:
    reindex(sharded, {**PLACES, "d": SECOND})
    refused(sharded, f"places 'd' in {SECOND}, which does not have it; {AGAIN}", INDEX)
    reindex(sharded, {**PLACES, "b": SECOND})
    refused(sharded, f"places 'b' in {SECOND}, but it is in {FIRST}; {AGAIN}", INDEX)
    reindex(sharded, {"a": FIRST, "c": SECOND})
    refused(sharded, f"does not name 'b', which is in {FIRST}; {AGAIN}", INDEX)
    reindex(sharded, {**PLACES, **{name: f"no-{name}.safetensors" for name in "defg"}})
    refused(
        sharded,
        "names 'no-d.safetensors', 'no-e.safetensors', 'no-f.safetensors' and 1 more, not in the folder; "
        "fetch what is missing",
        INDEX,
    )
    reindex(sharded, PLACES)
    save_file({**SHARDS[SECOND], "a": np.ones(2)}, sharded / SECOND)
    refused(sharded, f"'a' is in two shards, {FIRST} and {SECOND}; fetch both again", INDEX)


# ---------------------------------------------------------------------------------- links and other files


def linked(folder: Path, target: str) -> Path:
    """Return a folder whose only file is a link."""
    folder.mkdir(parents=True)
    (folder / NAME).symlink_to(target)
    return folder


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    save_file({"a": np.ones(2)}, tmp_path / "outside.safetensors")
    return tmp_path / "outside.safetensors"


@pytest.mark.parametrize("absolute", [False, True])
def test_links_that_leave_the_folder(tmp_path: Path, outside: Path, absolute: bool) -> None:
    folder = linked(tmp_path / "hf", str(outside) if absolute else "../outside.safetensors")
    refused(folder, f"is a link to {str(outside)!r}, outside the folder; put the file itself there")
    (folder / NAME).unlink()
    (folder / "x.safetensors").symlink_to(outside)
    reindex(folder, {"a": "x.safetensors"})
    refused(
        folder,
        f"is a link to {str(outside)!r}, outside the folder; put the file itself there",
        "x.safetensors",
    )
    (folder / INDEX).unlink()
    (folder / INDEX).symlink_to(outside)
    refused(folder, f"is a link to {str(outside)!r}, outside the folder; put the file itself there", INDEX)


def test_links_within_the_folder_and_to_the_folder(tmp_path: Path, outside: Path) -> None:
    folder = linked(tmp_path / "hf", "there/weights")
    (folder / "there").mkdir()
    os.rename(outside, folder / "there" / "weights")
    (tmp_path / "alias").symlink_to(folder)
    for place in (folder, tmp_path / "alias"):
        with open_folder(place) as stored:
            assert stored.read("a").tolist() == [1, 1]


def test_snapshots_of_the_hub_s_cache(tmp_path: Path, outside: Path) -> None:
    repo = tmp_path / "models--org--name"
    (repo / "blobs").mkdir(parents=True)
    blob = repo / "blobs" / "0a1b"
    os.rename(outside, blob)
    with open_folder(linked(repo / "snapshots" / "rev", "../../blobs/0a1b")) as stored:
        assert stored.read("a").tolist() == [1, 1]
    other = linked(tmp_path / "models--org--other" / "snapshots" / "rev", str(blob))
    said = f"is a link to {str(blob)!r}, outside the folder; put the file itself there"
    refused(other, said)
    for within in ("rev/sub", "rev/snapshots/rev"):  # below a snapshot, not one itself
        refused(linked(repo / "snapshots" / within, str(blob)), said)
    (tmp_path / "models--org--other" / "blobs").symlink_to(repo / "blobs")
    (other / NAME).unlink()
    (other / NAME).symlink_to("../../blobs/0a1b")
    refused(other, said)
    refused(linked(tmp_path / "name" / "snapshots" / "rev", str(blob)), said)
    shared = tmp_path / "blobs" / "0a" / "0a1b"  # the store that the models of one cache share
    shared.parent.mkdir(parents=True)
    os.rename(blob, shared)
    blob.symlink_to("../../blobs/0a/0a1b")
    refused(repo / "snapshots" / "rev", said.replace(str(blob), str(shared)))  # any folder of that name
    (tmp_path / "blobs" / ".huggingface-shared-blobs").write_text("1\n")
    with open_folder(repo / "snapshots" / "rev") as stored:
        assert stored.read("a").tolist() == [1, 1]
    nested = linked(repo / "snapshots/rev/models--x/snapshots/1", str(shared))
    refused(nested, said.replace(str(blob), str(shared)))
    blob.unlink()
    os.rename(shared, blob)
    refs = repo / "refs"
    os.rename(blob, refs)
    refused(linked(repo / "snapshots" / "two", "../../refs"), said.replace(str(blob), str(refs)))


def test_files_that_are_no_files(tmp_path: Path) -> None:
    folder = linked(tmp_path / "hf", "nowhere")
    refused(folder, "cannot be opened (No such file or directory)")
    (folder / NAME).unlink()
    (folder / NAME).symlink_to(NAME)
    with pytest.raises(UserError, match=rf"{NAME}: "):
        open_folder(folder)
    (folder / NAME).unlink()
    os.mkfifo(folder / NAME)
    refused(folder, "is not a regular file; put the file itself there")
    (folder / NAME).unlink()
    (folder / NAME).mkdir()
    refused(folder, "is not a regular file; put the file itself there")


def test_a_pipe_put_there_in_between_does_not_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file({"a": np.ones(2)}, tmp_path / NAME)
    before = os.lstat(tmp_path / NAME)
    (tmp_path / NAME).unlink()
    os.mkfifo(tmp_path / NAME)
    monkeypatch.setattr("lmx.hf._index.os.lstat", lambda *args, **kwargs: before)
    refused(tmp_path, "is not a regular file; put the file itself there")


def test_folders_without_weights(tmp_path: Path) -> None:
    looked = (
        "model.safetensors or model.safetensors.index.json, pytorch_model.bin or pytorch_model.bin.index.json"
    )

    def said(folder: Path) -> str:
        with pytest.raises(UserError) as error:
            open_folder(folder)
        return str(error.value).removeprefix(f"{folder}: ")

    assert said(tmp_path / "none") == "no such folder; name one that holds model.safetensors"
    (tmp_path / "config.json").touch()
    assert said(tmp_path / "config.json") == "no such folder; name one that holds model.safetensors"
    assert said(tmp_path) == f"no weights in it; expected {looked}"
    for name in ("tf_model.h5", "flax_model.msgpack", "x.gguf", "x.onnx", "x.pt"):
        (tmp_path / name).touch()
        assert (
            said(tmp_path) == f"has {name!r}, which lmx does not read, and none of {looked}; convert it first"
        )
        (tmp_path / name).unlink()
    (tmp_path / "a\n.gguf").touch()
    assert said(tmp_path).startswith("has 'a\\n.gguf', which")
    (tmp_path / FIRST).touch()
    assert said(tmp_path) == f"has {FIRST!r}, but none of {looked}; fetch the index, or rename the one file"


def test_which_files_win(sharded: Path) -> None:
    (sharded / "pytorch_model.bin").write_bytes(b"\x80 never looked at")
    with open_folder(sharded) as stored:
        assert stored.files == (FIRST, SECOND)
    save_file({"whole": np.ones(2)}, sharded / NAME)
    with open_folder(sharded) as stored:
        assert stored.files == (NAME,)


# ------------------------------------------------------------------------------------- hostile folders

WATCHED = """
import json, sys
from pathlib import Path
import numpy as np
from lmx.core.errors import UserError
from lmx.hf import _pickled
from lmx.hf._open import open_folder

seen = []
sys.addaudithook(lambda event, values: seen.append((event, str(values[0]) if values else "")))
outcomes = {}
for folder in sys.argv[1:]:
    del seen[:]
    try:
        with open_folder(Path(folder)) as stored:
            said = "read " + ",".join(name for name in stored.specs if stored.read(name).size)
    except UserError as error:
        said = str(error)
    outcomes[folder] = [said, list(seen)]
print(json.dumps(outcomes))
"""
HARMLESS = {"open", "os.listdir", "object.__getattr__", "object.__setattr__"}


class Hostile:
    """Runs a program where it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, ("touch canary",)


def test_hostile_folders_open_nothing_outside_and_run_nothing(
    tmp_path: Path, outside: Path, lmx_environment: dict[str, str]
) -> None:
    bomb = pickle.dumps(Hostile())
    contents: dict[str, dict[str, bytes]] = {
        "pickle": {NAME: bomb},
        "polyglot": {NAME: save({"a": np.ones(2)}) + bomb},
        "bin": {"pytorch_model.bin": bomb},
        "traversal": {INDEX: b'{"weight_map":{"a":"../outside.safetensors"}}'},
        "absolute": {INDEX: json.dumps({"weight_map": {"a": str(outside)}}).encode()},
        "twice": {NAME: b"<html>", "pytorch_model.bin": bomb},
    }
    for case, files in contents.items():
        (tmp_path / case).mkdir()
        for name, content in files.items():
            (tmp_path / case / name).write_bytes(content)
    linked(tmp_path / "link", "../outside.safetensors")
    folders = [str(tmp_path / case) for case in (*contents, "link")]
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, *folders],
        cwd=tmp_path, env=lmx_environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    outcomes = json.loads(done.stdout)
    assert list(outcomes) == folders
    for folder, (said, events) in outcomes.items():
        assert said.startswith(folder), said
        assert {event for event, _ in events} <= HARMLESS
        opened = [path for event, path in events if event in ("open", "os.listdir")]
        assert all(path.startswith(folder + "/") for path in opened), opened
        assert len(opened) == (0 if folder.endswith("link") else 1)  # each file once
    assert not (tmp_path / "canary").exists()
