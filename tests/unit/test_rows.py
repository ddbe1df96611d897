"""Rows: the codec, the reader, and damaged folders."""

import json
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import Document, prepare
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
    assert encode_row([7, 260, 9], [2, 1], 2).hex() == "01020200030000000200000001000000070004010900"
    assert decode_row(encode_row([70_000], [1], 4), 1)["tokens"].tolist() == [70_000]


@pytest.mark.parametrize(
    "record", [b"", b"\1\2", encode_row([1, 2, 3], [3], 2)[:-1], b"\1\3" + bytes(6), b"\2\2" + bytes(6)]
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
        assert {name: (value.shape, value.dtype.name) for name, value in row.items()} == dict.fromkeys(
            ("tokens", "segment_ids", "position_ids"), ((17,), "int32")
        )
        segments = row["segment_ids"]
        labels += int(((segments[1:] == segments[:-1]) & (segments[1:] > 0)).sum())
    assert labels == facts["labels"]
    with pytest.raises(IndexError):
        rows[len(rows)]
    with pytest.raises(IndexError):
        rows[-1]
    rows.close()
    assert rows[0]["tokens"].shape == (17,)


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
        ('{"version": 1}', "no fingerprint, settings"),
    ],
)
def test_broken_manifest(copy: Path, content: str, match: str) -> None:
    (copy / "manifest.json").write_text(content)
    assert "delete" in refused(copy, match)


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
