"""Rows: the codec, the reader, and damaged folders."""

import fcntl
import json
import pickle
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import Document, prepare
from data_prep.manifest import earlier
from data_prep.staging import staged, sweep
from lmx import tokenizer
from lmx.core.errors import UserError
from lmx.core.rows import canonical, decode_row, encode_row, manifest
from lmx.sources.rows import source


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows") / "data"
    documents = [
        Document(str(i), f"document number {i}: " + "abc " * (i % 9 + 1), "memory") for i in range(120)
    ]
    bpe = tokenizer.train_bpe([document.text for document in documents], 300)
    prepare(
        documents, folder=folder, make_tokenizer=lambda _: bpe, length=16, shard_rows=7, say=lambda _: None
    )
    return folder


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copy"))


@given(st.lists(st.lists(st.integers(0, 2**16 - 1), min_size=1, max_size=5), max_size=6), st.integers(0, 3))
@settings(deadline=None, max_examples=50)
def test_codec_round_trip(segments: list[list[int]], padding: int) -> None:
    tokens = [t for segment in segments for t in segment]
    record = encode_row(tokens, [len(segment) for segment in segments], 2)
    row = decode_row(record, len(tokens) + padding)
    zeros = [0] * padding
    assert row["tokens"].tolist() == tokens + zeros
    assert row["segment_ids"].tolist() == [i for i, s in enumerate(segments, 1) for _ in s] + zeros
    assert row["position_ids"].tolist() == [i for s in segments for i in range(len(s))] + zeros
    assert {value.dtype for value in row.values()} == {np.dtype(np.int32)}


def test_codec_bytes_are_fixed() -> None:
    assert encode_row([7, 260, 9], [2, 1], 2).hex() == "020200000200030000000200000001000000070004010900"
    assert decode_row(encode_row([70_000], [1], 4), 1)["tokens"].tolist() == [70_000]


@pytest.mark.parametrize(
    "record", [b"", b"\1\2", encode_row([1, 2, 3], [3], 2)[:-1], b"\2\3" + bytes(8), b"\1\2" + bytes(8)]
)
def test_codec_refuses(record: bytes) -> None:
    with pytest.raises(UserError):
        decode_row(record, 8)


def test_codec_refuses_a_longer_row() -> None:
    with pytest.raises(UserError, match="does not fit"):
        decode_row(encode_row([1, 2, 3], [3], 2), 2)


def test_canonical_json() -> None:
    assert canonical({"b": 1, "a": [True, "é"]}) == '{"a":[true,"é"],"b":1}'.encode()
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical(float("nan"))


def test_reading(made: Path) -> None:
    rows = source("train", folder=made)
    facts = manifest(made)["splits"]["train"]
    assert len(rows) == facts["rows"] > 14
    assert len(facts["shards"]) == -(-facts["rows"] // 7)
    labels = 0
    for index in range(len(rows)):
        row = rows[index]
        assert {name: (value.shape, value.dtype.name) for name, value in row.items()} == {
            **dict.fromkeys(("tokens", "segment_ids", "position_ids"), ((17,), "int32")),
            "label": ((), "int32"),
        }
        segments = row["segment_ids"]
        labels += int(((segments[1:] == segments[:-1]) & (segments[1:] > 0)).sum())
    assert labels == facts["labels"]
    with pytest.raises(IndexError):
        rows[len(rows)]
    with pytest.raises(IndexError):
        rows[-1]
    rows.close()
    assert rows[0]["tokens"].shape == (17,)


def test_several_at_once_are_those_one_by_one(made: Path) -> None:
    rows = source("train", folder=made)
    order = [8, 0, len(rows) - 1, 8, 7, 6]  # of several shards, out of order, one of them twice
    for found, index in zip(rows.take(order), order, strict=True):
        np.testing.assert_equal(found, rows[index])
    assert rows.take([]) == []
    with pytest.raises(IndexError, match=f"row {len(rows)} of {len(rows)}"):
        rows.take([0, len(rows)])


def test_pickle_and_threads(made: Path) -> None:
    rows = source("train", folder=made)
    expected = [rows[i]["tokens"].tolist() for i in range(len(rows))]
    again = pickle.loads(pickle.dumps(rows))
    order = [i % len(rows) for i in range(0, 7 * len(rows), 5)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: again[i]["tokens"].tolist(), order))
    assert found == [expected[i] for i in order]


def refused(folder: Path, match: str, split: str = "train", verify: bool = True) -> str:
    with pytest.raises(UserError, match=match) as error:
        source(split, folder=folder, verify=verify)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)
    return str(error.value)


def shard(folder: Path) -> Path:
    return sorted(folder.glob("train-*.array_record"))[1]


def test_one_flipped_bit_is_found(copy: Path) -> None:
    path = shard(copy)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    message = refused(copy, "sha256 differs")
    assert path.name in message
    assert "delete the folder" in message
    assert len(source("train", folder=copy, verify=False)) > 0  # the size alone does not tell


@pytest.mark.parametrize("verify", [True, False])
def test_short_and_missing_shards(copy: Path, verify: bool) -> None:
    path = shard(copy)
    path.write_bytes(path.read_bytes()[:-1])
    assert path.name in refused(copy, "bytes, the manifest says", verify=verify)
    path.unlink()
    assert path.name in refused(copy, "No such file", verify=verify)


def test_a_shard_that_is_no_array_record(copy: Path) -> None:
    path = sorted(copy.glob("train-*.array_record"))[0]
    path.write_bytes(bytes(path.stat().st_size))
    rows = source("train", folder=copy, verify=False)
    with pytest.raises(UserError, match="delete the folder"):
        rows[0]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("", "manifest is broken"),
        ("{", "manifest is broken"),
        ("[]", "manifest version None"),
        ('{"version": 99}', "manifest version 99"),
        ('{"version": 2}', "no counts, fingerprint, settings"),
    ],
)
def test_broken_manifest(copy: Path, content: str, match: str) -> None:
    (copy / "manifest.json").write_text(content)
    assert "delete" in refused(copy, match)


@pytest.mark.parametrize(
    ("where", "value", "reason"),
    [
        ("version", True, "manifest version True"),
        ("settings", [], "settings: expected an object, found a list"),
        ("settings", {}, "no settings.layout, settings.length"),
        ("settings.length", 16.0, "settings.length: expected an integer, found a fraction"),
        ("settings.length", -2, "settings.length: expected at least 0, found -2"),
        ("sources", {}, "sources: expected a list, found an object"),
        ("sources", [1], "sources[0]: expected an object, found an integer"),
        ("sources.0.path", None, "sources[0].path: expected a string, found null"),
        ("sources", [{"path": "a"}], "no sources[0].bytes, sources[0].sha256"),
        ("counts", 3, "counts: expected an object, found an integer"),
        ("splits", [], "splits: expected an object, found a list"),
        ("splits", {}, "no splits.train, splits.validation"),
        ("splits.validation", 1, "splits.validation: expected an object, found an integer"),
        ("splits.more", "x", "splits.more: expected an object, found a string"),
        ("splits.train.tokens", "9", "splits.train.tokens: expected an integer, found a string"),
        ("splits.train.labels", True, "splits.train.labels: expected an integer, found a boolean"),
        ("splits.train.shards", {}, "splits.train.shards: expected a list, found an object"),
        ("splits.train.shards.1", "x", "splits.train.shards[1]: expected an object, found a string"),
        ("splits.train.shards.0", {"name": "x", "rows": 1, "bytes": 2}, "no splits.train.shards[0].sha256"),
        ("tokenizer", {}, "no tokenizer.sha256, tokenizer.vocab_size"),
        ("tokenizer.vocab_size", None, "tokenizer.vocab_size: expected an integer, found null"),
        ("fingerprint", 5, "fingerprint: expected a string, found an integer"),
    ],
)
def test_manifest_of_the_wrong_shape(copy: Path, where: str, value: Any, reason: str) -> None:
    """Valid JSON, wrong shape: the field is named, by the reader and where data is prepared again."""
    path = copy / "manifest.json"
    found = json.loads(path.read_text())
    *above, last = (int(key) if key.isdigit() else key for key in where.split("."))
    inner = found
    for key in above:
        inner = inner[key]
    inner[last] = value
    path.write_text(json.dumps(found))
    for read in (manifest, lambda folder: earlier(folder, {"length": 16}, [])):
        with pytest.raises(UserError, match=re.escape(reason)) as error:
            read(copy)
        assert str(error.value).startswith(f"{path}: ")
        assert f"delete {copy} and prepare the data again" in str(error.value)
        assert "\n" not in str(error.value)


def test_manifest_without_one_field(copy: Path) -> None:
    whole = manifest(copy)
    for split in ("train", "validation"):
        for field in ("documents", "bytes", "tokens", "labels", "rows", "shards"):
            broken = json.loads(json.dumps(whole))
            del broken["splits"][split][field]
            (copy / "manifest.json").write_text(json.dumps(broken))
            refused(copy, rf"\(no splits\.{split}\.{field}\)")


def test_manifest_with_a_hole_or_a_path(copy: Path) -> None:
    whole = manifest(copy)
    for change in ("bytes", "name"):
        broken = json.loads(json.dumps(whole))
        if change == "bytes":
            del broken["splits"]["train"]["shards"][0]["bytes"]
        else:
            broken["splits"]["train"]["shards"][0]["name"] = (
                "../" + whole["splits"]["train"]["shards"][0]["name"]
            )
        (copy / "manifest.json").write_text(json.dumps(broken))
        refused(copy, "manifest is broken" if change == "bytes" else "no plain file name")


def test_missing_folder_and_split(made: Path, tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "prepare the data first")
    refused(made, "did you mean 'validation'", split="validatoin")


def test_a_sweep_never_takes_a_folder_at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may sweep at any moment: here just before, and just after, the tag is locked."""
    lock, swept = fcntl.flock, []

    def swept_around(file: Any, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        swept.extend(sweep(tmp_path / "data"))
        lock(file, how)
        swept.extend(sweep(tmp_path / "data"))

    monkeypatch.setattr(fcntl, "flock", swept_around)
    with staged(tmp_path / "data") as out:
        swept.extend(sweep(tmp_path / "data"))
        (out / "file").write_text("whole")
    assert swept == []
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert (tmp_path / "data" / "file").read_text() == "whole"


def test_an_unknown_character_names_a_remedy() -> None:
    with pytest.raises(UserError, match=r"'z' \(character 1 of the text\) has no id") as error:
        tokenizer.characters(["abc"]).encode("az")
    said = str(error.value)
    assert "the 3 known characters" in said
    assert "tokenizer.name=bpe" in said
    assert "add the character to the training text" in said
    assert "  " not in said
