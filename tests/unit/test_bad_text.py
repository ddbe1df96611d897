"""Bad input: one line that names the file and what is wrong, and nothing left behind."""

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep import Document, gathered, prepare, read
from lmx import tokenizer
from lmx.core.errors import UserError

GOOD = "A line of good text.\n" * 50


def quiet(_: str) -> None:
    """Say nothing."""


def run(path: Path, folder: Path, **kw: object) -> None:
    arguments = {"make_tokenizer": lambda texts: tokenizer.train_bpe(texts, 300), "length": 8, "say": quiet}
    prepare(read(path), folder=folder, **(arguments | kw))  # type: ignore[arg-type]


def refused(tmp_path: Path, path: Path, *words: str, **kw: object) -> str:
    folder = tmp_path / "prepared" / "data"
    with pytest.raises(UserError) as error:
        run(path, folder, **kw)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message
    assert not folder.exists()
    assert not folder.parent.exists() or os.listdir(folder.parent) == []
    return message


def test_the_good_text_is_good(tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text(GOOD)
    run(tmp_path / "good.txt", tmp_path / "data")


FILES = {
    "empty": (b"", "is empty"),
    "blank": (b" \n\t\r\n\n", "holds only blank lines"),
    "only a mark": (b"\xef\xbb\xbf\n", "holds only blank lines"),
    "NUL": (b"one\ntwo\nth\0ree\n", "line 3, byte 10: a NUL byte"),
    "binary": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "line 3, byte 8: a NUL byte; is this a binary file?"),
    "Latin-1": ("good\ncafé\n".encode("latin-1"), "line 2, byte 8: not UTF-8 (byte 0xe9"),
    "cut": ("good\ncafé".encode()[:-1], "line 2, byte 8: not UTF-8 (byte 0xc3, unexpected end of data)"),
    "surrogate": (b"a\n\xed\xa0\x80\n", "line 2, byte 2: not UTF-8"),
    "UTF-16": ("hello\n".encode("utf-16"), "line 1, byte 0: is UTF-16"),
}


@pytest.mark.parametrize("case", FILES)
@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".txt.gz"])
def test_a_file_that_is_no_text(tmp_path: Path, case: str, suffix: str) -> None:
    data, reason = FILES[case]
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(gzip.compress(data, mtime=0) if suffix.endswith(".gz") else data)
    refused(tmp_path, path, str(path), reason)


@pytest.mark.parametrize("case", ["NUL", "Latin-1", "UTF-16"])
def test_a_bad_file_among_good_ones_is_named(tmp_path: Path, case: str) -> None:
    folder = tmp_path / "text"
    folder.mkdir()
    (folder / "a.txt").write_text(GOOD)
    (folder / "b.txt").write_bytes(FILES[case][0])
    refused(tmp_path, folder, str(folder / "b.txt"), FILES[case][1])


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{oops", "line 2: broken JSON"),
        ("[" * 10_000, "line 2: broken JSON"),
        ("[1]", "line 2: expected an object, found list"),
        ("null", "line 2: expected an object, found NoneType"),
        ('{"body": "x", "id": 1}', "line 2: no field 'text'; it has: body, id"),
        ("{}", "line 2: no field 'text'; it has: nothing"),
        ('{"text": 7}', "line 2: field 'text' is int, expected a string"),
        ('{"text": null}', "line 2: field 'text' is NoneType"),
        ('{"text": "\\ud800"}', "line 2: field 'text' holds half of a surrogate pair"),
    ],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_bad_rows(tmp_path: Path, row: str, reason: str, suffix: str) -> None:
    data = f'{{"text": "good"}}\n{row}\n'.encode()
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(gzip.compress(data, mtime=0) if suffix.endswith(".gz") else data)
    refused(tmp_path, path, f"{path}, {reason}")


@pytest.mark.parametrize(
    "data",
    [b"no gzip at all", gzip.compress(GOOD.encode(), mtime=0)[:-9], gzip.compress(b"x" * 99, mtime=0)[:5]],
)
def test_broken_gzip(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.txt.gz"
    path.write_bytes(data)
    refused(tmp_path, path, str(path), "not whole gzip data")


def test_missing_path(tmp_path: Path) -> None:
    refused(tmp_path, tmp_path / "nowhere.txt", "nowhere.txt: no such file or folder")
    (tmp_path / "file").write_text(GOOD)
    refused(tmp_path, tmp_path / "file" / "below", "cannot be read (Not a directory)")
    refused(tmp_path, Path(f"{tmp_path}/nul\0"), "cannot be read")


def test_a_folder_without_text(tmp_path: Path) -> None:
    folder = tmp_path / "text"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"\0")
    refused(tmp_path, folder, str(folder), "no text in this folder", ".txt", ".jsonl.gz")


def test_a_folder_of_blank_files(tmp_path: Path) -> None:
    folder = tmp_path / "text"
    folder.mkdir()
    for name in ("a.txt", "b.md"):
        (folder / name).write_text(" \n")
    (folder / "c.jsonl").write_text('{"text": "\\u0000 \\t"}\n')
    refused(tmp_path, folder, "no text: all of the 3 documents are blank")


@pytest.mark.parametrize("inside", [False, True])
def test_pipes_devices_and_dangling_links(tmp_path: Path, inside: bool) -> None:
    folder = tmp_path / "text"
    folder.mkdir()
    pipe = folder / "pipe.txt"
    os.mkfifo(pipe)
    refused(tmp_path, folder if inside else pipe, str(pipe), "neither a file nor a folder")
    pipe.unlink()
    pipe.symlink_to("/dev/null")
    refused(tmp_path, folder if inside else pipe, str(pipe), "neither a file nor a folder")
    pipe.unlink()
    pipe.symlink_to(folder / "gone")
    refused(tmp_path, folder if inside else pipe, str(pipe), "no such file")
    pipe.unlink()
    pipe.symlink_to(pipe)
    refused(tmp_path, folder if inside else pipe, str(pipe), "cannot be read")


@pytest.mark.parametrize(
    ("kw", "words"),
    [
        ({"length": 10_000}, ("the train split has", "takes 10001")),
        ({"length": 400}, ("the validation split has", "takes 401", "raise data.holdout")),
        ({"length": 0}, ("length=0",)),
        ({"shard_rows": 0}, ("shard_rows=0",)),
        ({"holdout": 0.0}, ("holdout=0.0",)),
        ({"holdout": 1.0}, ("holdout=1.0",)),
        ({"split": "tails"}, ("split='tails'", "auto, document or tail")),
        ({"make_tokenizer": tokenizer.characters}, ("boundary=True needs a tokenizer with an end token",)),
        ({"split": "document"}, ("split",)),
    ],
)
def test_what_cannot_be_prepared(tmp_path: Path, kw: dict[str, object], words: tuple[str, ...]) -> None:
    path = tmp_path / "good.txt"
    path.write_text(GOOD * 2)
    refused(tmp_path, path, *words, **kw)


def test_too_little_text_says_how_much_there_is(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"validation split has 9 tokens, .* of batch\.length=9 takes 10"):
        prepare(
            gathered([Document("a", "abcdefghij" * 9, "m")]),
            folder=tmp_path / "data",
            make_tokenizer=tokenizer.characters,
            length=9,
            boundary=False,
            say=quiet,
        )
    assert os.listdir(tmp_path) == []


def test_a_character_that_only_the_held_out_part_has(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("plain text " * 90 + "Ω")
    refused(tmp_path, path, "'Ω'", "has no id", make_tokenizer=tokenizer.characters, boundary=False)


def occupied(folder: Path) -> None:
    folder.mkdir()
    (folder / "thesis.tex").write_text("mine")


def a_file(folder: Path) -> None:
    folder.write_text("mine")


def broken(folder: Path) -> None:
    folder.mkdir()
    (folder / "manifest.json").write_text('{"version": 2}')


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (occupied, "holds no prepared data"),
        (a_file, "holds no prepared data"),
        (broken, "manifest is broken"),
    ],
)
def test_a_folder_that_holds_something_else(
    tmp_path: Path, make: Callable[[Path], None], reason: str
) -> None:
    text, folder = tmp_path / "good.txt", tmp_path / "data"
    text.write_text(GOOD)
    make(folder)
    before = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else folder.read_text()
    with pytest.raises(UserError, match=reason) as error:
        run(text, folder)
    assert str(folder) in str(error.value)
    assert before == (sorted(p.name for p in folder.iterdir()) if folder.is_dir() else folder.read_text())


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    text = tmp_path / "good.txt"
    text.write_text(GOOD)
    with pytest.raises(UserError, match="cannot be written") as error:
        run(text, text / "data")
    assert "\n" not in str(error.value)


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    text, folder = tmp_path / "good.txt", tmp_path / "data"
    text.write_text(GOOD)
    folder.mkdir()
    run(text, folder)
    assert (folder / "manifest.json").is_file()
