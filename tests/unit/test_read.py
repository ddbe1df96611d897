"""Reading: files and folders to documents, in an order that does not depend on the machine."""

import gzip
import hashlib
import json
from pathlib import Path

import pytest

from data_prep import Document, gathered, read
from lmx.core.errors import UserError


def put(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


def found(path: Path, **kw: str) -> list[tuple[str, str]]:
    return [(document.id, document.text) for document in read(path, **kw)]


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.TXT", "a.txt.gz", "a", "a.py"])
def test_one_file_is_one_document_whatever_its_name(tmp_path: Path, name: str) -> None:
    text = "first\r\nnaïve\n\nlast, without an end"
    assert found(put(tmp_path / name, text)) == [(name, text)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_a_jsonl_row_is_one_document(tmp_path: Path, name: str) -> None:
    rows = ['{"text": "one\\ntwo", "id": 4}', "", '{"text": "a\u2028b \\ud83d\\ude00"}', '{"text": ""}\r']
    path = put(tmp_path / name, "\ufeff" + "\n".join(rows))
    assert found(path) == [(f"{name}:1", "one\ntwo"), (f"{name}:3", "a\u2028b 😀"), (f"{name}:4", "")]


def test_the_field_can_be_named(tmp_path: Path) -> None:
    assert found(put(tmp_path / "a.jsonl", '{"body": "x"}'), text="body") == [("a.jsonl:1", "x")]


def test_a_folder_is_walked_in_sorted_order(tmp_path: Path) -> None:
    names = ["b.txt", "a/z.md", "a/b/c.txt.gz", "a-first.txt", "Z.txt", "a/rows.jsonl"]
    for name in names:
        put(tmp_path / name, json.dumps({"text": name}) if "jsonl" in name else name)
    for left_out in (".hidden.txt", ".git/x.txt", "image.png", "notes.rst"):
        put(tmp_path / left_out, b"\0")
    corpus = read(tmp_path)
    assert [source.path for source in corpus.sources] == sorted(names)
    assert [document.text for document in corpus] == sorted(names)
    assert [document.source for document in corpus] == sorted(names)
    assert list(corpus) == list(corpus)  # it can be read again
    (note,) = corpus.notes
    assert note.endswith(".jsonl.gz: 2 hidden, 1 .png, 1 .rst")


def test_a_folder_without_text_says_what_it_has(tmp_path: Path) -> None:
    for name in ("a.pdf", "b.PDF", "README"):
        put(tmp_path / name, "x")
    with pytest.raises(UserError, match=r"looked for \.txt, .*; there is: 2 \.pdf, 1 no ending"):
        read(tmp_path)
    put(tmp_path / "only" / "a.txt", "x")
    assert read(tmp_path / "only").notes == ()


def test_sources_are_the_bytes_of_the_files(tmp_path: Path) -> None:
    path = put(tmp_path / "a.txt.gz", "hello")
    data = path.read_bytes()
    (source,) = read(path).sources
    assert (source.path, source.bytes, source.sha256) == (
        "a.txt.gz",
        len(data),
        hashlib.sha256(data).hexdigest(),
    )


def test_a_blank_file_in_a_folder_is_a_blank_document(tmp_path: Path) -> None:
    put(tmp_path / "a.txt", "")
    put(tmp_path / "b.txt", "text")
    assert found(tmp_path) == [("a.txt", ""), ("b.txt", "text")]


def test_a_file_that_changes_in_between_is_refused(tmp_path: Path) -> None:
    corpus = read(put(tmp_path / "a.txt", "before"))
    put(tmp_path / "a.txt", "after!")
    with pytest.raises(UserError, match=r"a\.txt: changed while"):
        list(corpus)


def test_documents_in_memory() -> None:
    one, two = Document("a", "x", "memory"), Document("b", "yz", "memory")
    corpus = gathered(iter([one, two]))
    assert list(corpus) == list(corpus) == [one, two]
    assert corpus.sources == gathered([one, two]).sources != gathered([two, one]).sources
    assert corpus.sources[0].bytes == 3
