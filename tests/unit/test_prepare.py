"""Prepare: packing by hand, the split, the manifest, the same bytes again, and kills."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import Document, prepare, read
from data_prep.steps.pack import pack
from data_prep.steps.split import choose, split
from lmx import tokenizer
from lmx.core.rows import decode_row, encode_row, manifest
from lmx.sources.rows import source


def quiet(_: str) -> None:
    """Say nothing."""


def bpe(texts: Sequence[str]) -> tokenizer.Tokenizer:
    return tokenizer.train_bpe(texts, 300)


def numbered(count: int) -> list[Document]:
    return [
        Document(f"d{i}", f"Document {i} says: {'naïve words ' * (i % 5 + 1)}", "m") for i in range(count)
    ]


def files(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def rows(documents: list[list[int]], length: int) -> list[dict[str, list[int]]]:
    arrays = [np.array(ids, np.int64) for ids in documents]
    found = [decode_row(encode_row(*row, 2), length + 1) for row in pack(arrays, length=length)]
    assert all(row.pop("label") == 0 for row in found)
    return [{name: value.tolist() for name, value in row.items()} for row in found]


# --- Packing -------------------------------------------------------------------------------------------


def test_packing_by_hand() -> None:
    assert rows([[1, 2, 3], [4, 5, 6, 7]], 4) == [
        {"tokens": [1, 2, 3, 4, 5], "segment_ids": [1, 1, 1, 2, 2], "position_ids": [0, 1, 2, 0, 1]},
        {"tokens": [5, 6, 7, 0, 0], "segment_ids": [1, 1, 1, 0, 0], "position_ids": [0, 1, 2, 0, 0]},
    ]


def test_a_place_for_one_token_stays_padding() -> None:
    assert rows([[1, 2, 3, 4], [5, 6]], 4) == [
        {"tokens": [1, 2, 3, 4, 0], "segment_ids": [1, 1, 1, 1, 0], "position_ids": [0, 1, 2, 3, 0]},
        {"tokens": [5, 6, 0, 0, 0], "segment_ids": [1, 1, 0, 0, 0], "position_ids": [0, 1, 0, 0, 0]},
    ]


def test_a_document_that_fits_exactly_and_one_that_goes_on() -> None:
    assert [row["tokens"] for row in rows([[1, 2, 3]], 2)] == [[1, 2, 3]]
    assert [row["tokens"] for row in rows([[1, 2, 3, 4]], 2)] == [[1, 2, 3], [3, 4, 0]]
    assert [row["tokens"] for row in rows([[1, 2, 3, 4, 5, 6]], 1)] == [[i, i + 1] for i in range(1, 6)]


def test_documents_without_a_transition_leave_nothing() -> None:
    assert rows([[1], [], [2]], 4) == []
    assert [row["tokens"] for row in rows([[1], [2, 3], [], [4, 5]], 4)] == [[2, 3, 4, 5, 0]]


@given(st.lists(st.integers(0, 23), max_size=12), st.integers(1, 9))
@settings(deadline=None, max_examples=120)
def test_every_transition_once_and_none_between_documents(sizes: list[int], length: int) -> None:
    # Every token of the corpus is another number, so a transition tells where it is from.
    starts = np.cumsum([0, *sizes])
    documents = [list(range(start, start + size)) for start, size in zip(starts, sizes, strict=False)]
    found = []
    for row in rows(documents, length):
        for t in range(length):
            same = row["segment_ids"][t] == row["segment_ids"][t + 1] != 0
            if same:
                assert row["position_ids"][t + 1] == row["position_ids"][t] + 1
                found.append((row["tokens"][t], row["tokens"][t + 1]))
            else:
                assert row["position_ids"][t + 1] == 0
        assert row["segment_ids"][:2] == [1, 1], "a row without a label"
    assert found == [(i, i + 1) for document in documents for i in document[:-1]]


# --- The split -----------------------------------------------------------------------------------------


def test_auto_is_by_document_from_a_hundred_on() -> None:
    assert [choose("auto", n) for n in (0, 1, 99, 100)] == ["tail", "tail", "tail", "document"]


def test_the_tail_is_exactly_the_last_tenth() -> None:
    text = "".join(chr(97 + i % 26) for i in range(1_003_854))
    train, validation = split([Document("a", text, "m")], mode="tail", holdout=0.1)
    assert [len(d.text) for d in train + validation] == [903_468, 100_386]
    assert train[0].text + validation[0].text == text


def test_about_the_share_is_held_out_and_order_does_not_matter() -> None:
    documents = numbered(2000)
    train, validation = split(documents, mode="document", holdout=0.1, seed=3)
    assert 150 < len(validation) < 250
    assert sorted(d.id for d in train + validation) == sorted(d.id for d in documents)
    other = split(documents[::-1], mode="document", holdout=0.1, seed=3)[1]
    assert {d.id for d in other} == {d.id for d in validation}
    assert {d.id for d in split(documents, mode="document", holdout=0.1, seed=4)[1]} != {
        d.id for d in validation
    }


# --- The folder ----------------------------------------------------------------------------------------


def test_what_is_in_the_folder(tmp_path: Path) -> None:
    documents = [
        *numbered(150),
        Document("blank", " \r\n\x07", "m"),
        Document("again", numbered(1)[0].text, "m"),
    ]
    said: list[str] = []
    seen: list[str] = []

    def make(texts: Sequence[str]) -> tokenizer.Tokenizer:
        seen.extend(texts)
        return bpe(texts)

    folder = tmp_path / "deep" / "data"
    made = prepare(documents, folder=folder, make_tokenizer=make, length=12, shard_rows=100, say=said.append)
    assert made == manifest(folder)
    assert made["chosen_split"] == "document"
    assert "split: document" in " ".join(said)
    counts = made["counts"]
    assert counts["documents"] == {"in": 152, "kept": 150, "dropped": {"blank": 1, "duplicate": 1}}
    assert counts["characters"]["removed_by_cleaning"] == counts["bytes"]["removed_by_cleaning"] == 2
    parts = made["splits"]
    assert sum(part["documents"] for part in parts.values()) == 150
    assert parts["train"]["documents"] == len(seen)  # the tokenizer saw the train split and nothing else
    assert sum(part["text_bytes"] for part in parts.values()) == counts["bytes"]["kept"]
    expected = {"manifest.json", "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"}
    expected |= {shard["name"] for part in parts.values() for shard in part["shards"]}
    assert set(files(folder)) == expected
    many = len(parts["train"]["shards"])
    assert many > 1
    assert parts["train"]["shards"][0]["name"] == f"train-00000-of-{many:05d}.array_record"
    assert os.listdir(folder.parent) == ["data"]
    loaded = tokenizer.load(folder / "tokenizer")
    assert made["tokenizer"] == {"sha256": loaded.sha256, "vocab_size": 300, "eos_id": 299, "kind": "bpe"}


def together(folder: Path, split_name: str) -> list[list[int]]:
    """Return the documents again, from the rows."""
    found: list[list[int]] = []
    reader = source(split_name, folder=folder)
    for index in range(len(reader)):
        row = reader[index]
        for segment in range(1, row["segment_ids"].max() + 1):
            ids = row["tokens"][row["segment_ids"] == segment].tolist()
            if segment == 1 and index and found[-1][-1] == ids[0] and len(found[-1]) > 1 and ids[0] != 299:
                found[-1] += ids[1:]
            else:
                found.append(ids)
    return found


@pytest.mark.parametrize("boundary", [True, False])
def test_rows_hold_the_text_and_the_counts(tmp_path: Path, boundary: bool) -> None:
    documents = numbered(120)
    made = prepare(
        documents, folder=tmp_path / "d", make_tokenizer=bpe, length=16, boundary=boundary, say=quiet
    )
    loaded = tokenizer.load(tmp_path / "d/tokenizer")
    for name, held in zip(
        ("train", "validation"), split(documents, mode="document", holdout=0.1, seed=0), strict=True
    ):
        facts = made["splits"][name]
        ids = loaded.encode_many([d.text for d in held])
        edge = [299] if boundary else []
        whole = [[*edge, *one, *edge] for one in ids]
        assert facts["tokens"] == sum(map(len, whole))
        assert facts["labels"] == sum(len(one) - 1 for one in whole)
        first = 0 if boundary else sum(loaded.token_bytes(one[0]) for one in ids)
        assert facts["bytes"] == facts["text_bytes"] - first
        if boundary:
            assert together(tmp_path / "d", name) == whole


def test_no_boundary_needs_no_end_token(tmp_path: Path) -> None:
    made = prepare(
        [Document("a", "hello world, " * 60, "m")],
        folder=tmp_path / "d",
        make_tokenizer=tokenizer.characters,
        length=8,
        boundary=False,
        say=quiet,
    )
    train = made["splits"]["train"]
    assert made["chosen_split"] == "tail"
    assert (train["tokens"], train["labels"], train["bytes"], train["rows"]) == (702, 701, 701, 88)


def test_the_same_bytes_again_whatever_the_process(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.mkdir()
    for document in numbered(110):
        (text / f"{document.id}.txt").write_text(document.text)
    here = tmp_path / "here"
    prepare(read(text), folder=here, make_tokenizer=bpe, length=12, shard_rows=50, say=quiet)
    code = (
        "import sys; from data_prep import prepare, read; from lmx import tokenizer\n"
        "prepare(read(sys.argv[1]), folder=sys.argv[2], length=12, shard_rows=50,"
        " make_tokenizer=lambda t: tokenizer.train_bpe(t, 300))"
    )
    for seed in ("1", "2"):
        command = [sys.executable, "-c", code, str(text), str(tmp_path / seed)]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONHASHSEED": seed})
        assert files(tmp_path / seed) == files(here)


def test_prepared_already_and_prepared_otherwise(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.mkdir()
    for i in range(3):
        (text / f"{i}.txt").write_text(f"Text number {i}. " * 40)
    folder = tmp_path / "d"
    said: list[str] = []

    def run(make: Callable[[Sequence[str]], Any] = bpe, **kw: Any) -> dict[str, Any]:
        settings = kw.pop("settings", {"tokenizer": {"size": 300}})
        arguments: dict[str, Any] = {
            "folder": folder,
            "make_tokenizer": make,
            "length": 8,
            "say": said.append,
        }
        return prepare(read(text), settings=settings, **(arguments | kw))

    def refuse(_: Sequence[str]) -> Any:
        raise AssertionError("it was done again")

    made = run()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert run(refuse) == made
    assert said[-1] == f"prepared already: {folder}"
    changes: tuple[tuple[dict[str, Any], str], ...] = (
        ({"length": 9}, "length was 8, is 9"),
        ({"seed": 1, "holdout": 0.2}, "holdout was 0.1, is 0.2; seed was 0, is 1"),
        ({"settings": {"tokenizer": {"size": 400}}}, "tokenizer was {'size': 300}, is {'size': 400}"),
        ({"settings": {}}, "is 'not set'"),
    )
    for change, words in changes:
        with pytest.raises(Exception, match="was prepared otherwise") as error:
            run(refuse, **change)
        assert words in str(error.value)
    (text / "1.txt").write_text("other")
    (text / "2.txt").rename(text / "3.txt")
    with pytest.raises(
        Exception, match=r"1\.txt changed; the source 2\.txt is gone; the source 3\.txt is new"
    ):
        run(refuse)
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_the_fingerprint_is_of_the_rows(tmp_path: Path) -> None:
    def fingerprint(name: str, documents: list[Document], **kw: Any) -> str:
        arguments: dict[str, Any] = {
            "folder": tmp_path / name,
            "make_tokenizer": bpe,
            "length": 8,
            "say": quiet,
        } | kw
        return prepare(documents, **arguments)["fingerprint"]

    first = fingerprint("a", numbered(120))
    assert fingerprint("b", numbered(120), shard_rows=10) == first
    other = [fingerprint("c", numbered(120), length=9), fingerprint("d", numbered(121))]
    other += [fingerprint("e", numbered(120), seed=1), fingerprint("f", numbered(120), boundary=False)]
    assert len({first, *other}) == 5


# --- Kills ---------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from data_prep import Document, prepare
from data_prep import staging
from lmx import tokenizer
at = sys.argv[2]
def die(): os.kill(os.getpid(), signal.SIGKILL)
def half(folder):
    folder.mkdir()
    (folder / "tokenizer.json").write_text("{")
    die()
def say(line):
    if line.startswith(at): die()
def make(texts):
    made = tokenizer.train_bpe(texts, 300)
    if at == "save": made.save = half
    return made
if at == "rename": os.rename = lambda *_: die()
documents = [Document(str(i), f"Document {i} says something. " * 9, "m") for i in range(120)]
prepare(documents, folder=sys.argv[1], make_tokenizer=make, length=16, shard_rows=9, say=say)
"""


def killed(folder: Path, at: str) -> int:
    command = [sys.executable, "-c", KILLED, str(folder), at]
    return subprocess.run(command, capture_output=True, timeout=60).returncode


def test_kills_leave_nothing_and_change_nothing(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    assert killed(whole, "never") == 0
    folder = tmp_path / "killed" / "data"
    for at in ("train", "save", "rename"):
        assert killed(folder, at) == -signal.SIGKILL
        assert not folder.exists()
        (left,) = os.listdir(folder.parent)  # of this kill; what the one before left is gone
        assert left.startswith(".data.preparing-")
    strange = folder.parent / ".data.preparing-not-ours"
    strange.mkdir()
    assert killed(folder, "never") == 0
    assert sorted(os.listdir(folder.parent)) == [strange.name, "data"]
    assert files(folder) == files(whole)
    assert json.loads((folder / "manifest.json").read_text())["splits"]["train"]["rows"] > 9
