"""What is refused, and in which words: one line that names the file, the line and a way out."""

import gzip
import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lmx.core.errors import UserError
from lmx.sources import table
from tests.unit._sources import ASKED, CLASSES, TAGGED, put, read, refusal

BAD_TEXT = {
    "empty": (b"", "{file}: is empty, expected examples"),
    "blank": (b"\xef\xbb\xbf \n\n", "{file}: holds only blank lines"),
    "nul": (b"text,label\na,1\nb\0,1\n", "{file}, line 3: a NUL byte"),
    "not utf-8": (b"text,label\na,1\n\xe9t\xe9,1\n", "{file}, line 3: not UTF-8 (byte 0xe9,"),
    "utf-16": ("text,label\na,1\n".encode("utf-16"), "{file}, line 1: is UTF-16"),
    "header only": (b"text,label\n\n", "{file}: holds a header and no rows"),
    "few cells": (b"text,label\na,1\n\nb\n", "{file}, line 4: 1 cell, but the header has 2; mend the row"),
    "many cells": (b"text,label\na,1,x\n", "{file}, line 2: 3 cells, but the header has 2"),
    "twice": (b"text,label,text\na,1,b\n", "{file}, line 1: two columns are called 'text'"),
    "missing": (
        b"text,lable,x\na,1,2\n",
        "no column 'label' for label (did you mean 'lable'?); there is: 'text', ",
    ),
    "no header": (
        b"a,1\nb,2\n",
        "(taken as the header; if it is an example, set header=False): no column 'text' for text; there is: ",
    ),
    "semicolon": (b"text;label\na;1\n", "line 1 (one column; is the delimiter ';'?): no column 'text'"),
    "unclosed": (b'text,label\na,1\n"b,1\nc,0\n', "{file}, line 3: a double quote opens a cell of this row"),
    "after": (b'text,label\n"a" b,1\n', "{file}, line 2: text after the double quote that closes a cell"),
    "return": (b"text,label\na\rb,1\n", "{file}, line 2: a carriage return"),
}


@pytest.mark.parametrize("name", BAD_TEXT)
def test_bad_csv(name: str, tmp_path: Path) -> None:
    data, said = BAD_TEXT[name]
    file = put(tmp_path / "bad.csv", data)
    assert said.format(file=file) in refusal(file)


def test_quotes_that_do_not_fit_are_told_apart(tmp_path: Path) -> None:
    file = put(tmp_path / "a.tsv", 'text\tlabel\n"a\nb"\t1\n')
    assert "line 2: 1 cell, but the header has 2; mend the row, or read with quoting=True" in refusal(file)
    file = put(tmp_path / "b.csv", 'text,label\n"a,1\nb",1,2\n')
    assert "line 2: 3 cells" in refusal(file) and "quoting=False" in refusal(file)


BAD_JSON = {
    "broken": (
        '{"text": "a", "label": 1}\n{"text": }\n',
        "line 2: broken JSON (Expecting value at column 10)",
    ),
    "deep": ("[" * 100_000 + "\n", "line 1: broken JSON"),
    "number": ('{"text": 1' + "0" * 5000 + "}\n", "line 1: broken JSON"),
    "list": ('["a", 1]\n', "line 1: expected an object of named values, found a list"),
    "null": ("null\n", "line 1: expected an object of named values, found null"),
    "lacks": (
        '{"text": "a", "label": 1}\n\n{"text": "a"}\n',
        "line 3: no column 'label' for label; there is: 'text'",
    ),
    "none": (
        '{"text": "a", "label": null}\n',
        "line 1: column 'label' is empty (null), but every row needs label",
    ),
    "nan": ('{"text": "a", "label": NaN}\n', "line 1: column 'label' is empty (null)"),
    "half": ('{"text": "\\ud83d", "label": 1}\n', "line 1: text holds half of a surrogate pair"),
}


@pytest.mark.parametrize("name", BAD_JSON)
def test_bad_jsonl(name: str, tmp_path: Path) -> None:
    lines, said = BAD_JSON[name]
    file = put(tmp_path / "bad.jsonl", lines)
    assert refusal(file).startswith(f"{file}, {said}")


def test_bad_json_and_squad(tmp_path: Path) -> None:
    file = put(tmp_path / "a.json", '{"data": []}')
    assert "found an object with 'data'; read SQuAD's layout with format='squad'" in refusal(file)
    assert "holds no question" in refusal(file, format="squad")
    put(file, '{"data": [{"paragraphs": [{"context": "c"}]}]}')
    assert "data[0].paragraphs[0]: expected an object with a list 'qas'" in refusal(file, format="squad")
    put(file, "[]")
    assert "the list is empty" in refusal(file)
    put(file, '[{"text": "a", "label": 1},\n{"text": "b"}]')
    assert f"{file}, row 2: no column 'label'" in refusal(file)
    put(file, "[1,\n2,,]")
    assert f"{file}, line 2: broken JSON" in refusal(file)


def test_paths(tmp_path: Path) -> None:
    file = put(tmp_path / "train.csv", "text,label\na,1\n")
    assert refusal(tmp_path / "trian.csv") == (
        f"{tmp_path / 'trian.csv'}: no such file (did you mean 'train.csv'?); give another path with train"
    )
    assert f"{tmp_path}: is a folder; name one of its files with train (train.csv)" in refusal(tmp_path)
    os.mkfifo(tmp_path / "pipe.csv")
    assert "is no regular file" in refusal(tmp_path / "pipe.csv")
    assert "train=[]; expected a file" in refusal([])
    assert "train={}; expected a file for each column" in refusal({})
    assert "train=7; expected a place" in refusal(7)
    assert "train=''; expected the path of a file" in refusal("")
    assert "train=[1]" not in refusal([file, None]) and "train=None; expected the path" in refusal(
        [file, None]
    )
    assert "its ending is not one of" in refusal(put(tmp_path / "a.xlsx", "x"))
    assert "its ending is not one of" in refusal(put(tmp_path / "a.parquet.gz", "x"))


def test_gzip(tmp_path: Path) -> None:
    whole = gzip.compress(b"text,label\na,1\n")
    assert read(put(tmp_path / "a.csv.gz", whole)) == [{"text": "a", "label": "1"}]
    assert "is not whole gzip data" in refusal(put(tmp_path / "b.csv.gz", whole[:-9]))
    assert "is not whole gzip data" in refusal(put(tmp_path / "c.csv.gz", "text,label\na,1\n"))


def test_a_gzip_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmx.sources._files._SMALL", 1 << 20)
    file = put(tmp_path / "a.csv.gz", gzip.compress(b"a" * (8 << 20)))
    tracemalloc.start()
    try:
        assert "unpack to more than" in refusal(file)
        assert tracemalloc.get_traced_memory()[1] < 6 << 20
    finally:
        tracemalloc.stop()


def test_options(tmp_path: Path) -> None:
    file = put(tmp_path / "a.jsonl", '{"text": "a", "label": 1}\n')
    assert refusal(file, format="jsnol") == (
        "format='jsnol' (did you mean 'jsonl'?); "
        "expected one of: csv, tsv, jsonl, json, parquet, squad, conll, lines"
    )
    for option in ({"header": True}, {"quoting": False}, {"delimiter": ";"}):
        assert "but train is jsonl; leave it out" in refusal(file, **option)
    assert "header='yes'; expected True or False" in refusal(file, header="yes")
    assert "expected one character" in refusal(file, delimiter="::")
    assert "but format='csv'; expected 'lines'" in refusal({"text": file}, format="csv")
    assert refusal(file, columns={"txt": "text"}) == (
        "columns.txt: no such field (did you mean 'text'?); the task has: id, text, text_pair, label"
    )
    for column in (1.5, True, -1, [], ["a", None]):
        assert "expected a column's name, its position" in refusal(file, columns={"text": column})
    assert "these rows have names, not positions" in refusal(file, columns={"text": 0})
    assert "no column 'txet' for text_pair (did you mean 'text'?)" in refusal(
        file, columns={"text_pair": "txet"}
    )
    with pytest.raises(UserError, match=r"no split 'dev'; there is: train, validation, test"):
        table.source("dev", train=file, **CLASSES)
    with pytest.raises(UserError, match=r"test is None: there is no such split"):
        table.source("test", train=file, **CLASSES)


def test_positions_that_cannot_be(tmp_path: Path) -> None:
    file = put(tmp_path / "a.csv", "a,1\n")
    assert "columns.label=2, but the columns are 0 to 1" in refusal(file, columns={"text": 0, "label": 2})
    assert "no column 'label', as the file is read without a header; give its position" in refusal(
        file, columns={"text": 0}
    )
    assert "no column 'pair' for text_pair" in refusal(
        put(file, "text,label\na,1\n"), columns={"text_pair": "pair"}
    )


def test_bad_conll(tmp_path: Path) -> None:
    file = put(tmp_path / "a.conll", "a O\n\nb\n")
    assert f"{file}, line 3: 1 columns, but line 1 has 2" in refusal(file, **TAGGED)
    assert "line 2: an empty column" in refusal(put(file, "a\tO\n\tO\n"), **TAGGED)
    assert "columns.tags=5" in refusal(put(file, "a O\n"), columns={"tags": 5}, **TAGGED)
    assert "holds no token" in refusal(put(file, "-DOCSTART- O\n"), **TAGGED)


SEEDS = {
    "a.csv": b'text,label\n"a ""b"", c",1\nd,0\n',
    "a.tsv": b'text\tlabel\n"a\t1\nd\t0\n',
    "a.jsonl": b'{"text": "a", "label": 1}\n{"text": "\\u00e9", "label": [1, {"a": null}]}\n',
    "a.json": b'[{"text": "a", "label": 1}, {"text": "b", "label": 0.5}]',
    "a.squad": b'{"data": [{"paragraphs": [{"context": "a b", "qas": [{"id": "1", "question": "?",'
    b' "answers": [{"text": "b", "answer_start": 2}]}]}]}]}',
    "a.conll": b"a O\nb B\n\nc O\n",
    "a.lines": b"a\nb\n\nc",
    "a.csv.gz": gzip.compress(b"text,label\na,1\n"),
}


@pytest.mark.parametrize("name", SEEDS)
@given(data=st.data())
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_files_are_read_or_refused(name: str, data: st.DataObject, tmp_path: Path) -> None:
    """Whatever the bytes are, nothing but rows or one line comes of them."""
    whole = bytearray(SEEDS[name])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole)))
        whole[at : at + data.draw(st.integers(0, 3))] = data.draw(
            st.sampled_from(
                [b"\n", b"\r", b'"', b",", b"\t", b"{", b"]", b"\0", b"\xff", b"null", b"-1", b"\\u"]
            )
        )
    kind = name.removesuffix(".gz").split(".")[1]
    options = {"squad": ASKED, "conll": TAGGED, "lines": {"fields": ["text"], "required": ["text"]}}
    file = put(tmp_path / name, bytes(whole))
    said = str(file)
    try:
        assert read(file, format=kind, **options.get(kind, CLASSES))
    except UserError as error:
        said = str(error)
    assert said.startswith(str(file)) and "\n" not in said


# ----------------------------------------------------------------------- what holds for every format


def test_tags_are_as_many_as_words(tmp_path: Path) -> None:
    rows = [
        {"words": ["a"], "tags": ["O"]},
        {"words": ["a", "b"], "tags": ["O"]},
        {"words": [], "tags": ["O"]},
    ]
    file = put(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    assert refusal(file, **TAGGED) == (
        f"{file}, line 2: 1 tags for 2 words (2 of 3 rows are wrong); give each word one tag"
    )


def test_ids_are_unique(tmp_path: Path) -> None:
    first = put(tmp_path / "a.csv", "id,text,label\n7,a,0\n8,b,0\n")
    second = put(tmp_path / "b.csv", "id,text,label\n9,a,0\n7,c,0\n8,c,0\n")
    assert refusal([first, second]) == (
        f"{second}, line 3: id '7' is that of {first}, line 2 too (2 of 5 rows in all); "
        "give each row an id of its own, or leave them out with columns.id=None"
    )


def answered(tmp_path: Path, *answers: Any) -> Path:
    rows = [{"question": "?", "context": "Ann saw Bob.", "answers": each} for each in answers]
    return put(tmp_path / "answers.jsonl", "\n".join(map(json.dumps, rows)))


def test_answers_stand_where_they_say(tmp_path: Path) -> None:
    good: list[Any] = [{"text": "Bob", "start": 8}]
    file = answered(tmp_path, good, [{"text": "Bob", "start": 7}], [{"text": "Ann", "start": -12}])
    assert refusal(file, **ASKED) == (
        f"{file}, line 2: 'Bob' is not at character 7 of the context (there is ' Bo'), but first at 8 "
        "(2 of 3 rows are wrong); mend the starts, which count characters from 0"
    )
    assert "nor anywhere else in it" in refusal(answered(tmp_path, [{"text": "Eve", "start": 0}]), **ASKED)
    assert "an answer without text" in refusal(answered(tmp_path, [{"text": "", "start": 0}]), **ASKED)
    columns = {"text": ["Bob", "Ann"], "answer_start": [8, 0]}
    both = [{"text": "Bob", "start": 8}, {"text": "Ann", "start": 0}]
    found = read(answered(tmp_path, good, columns, [], [{"text": "Ann", "answer_start": 0}]), **ASKED)
    assert [row["answers"] for row in found] == [good, both, [], both[1:]]


@pytest.mark.parametrize(
    "answers",
    [
        "Bob",
        {"text": ["Bob"]},
        {"text": ["Bob"], "answer_start": []},
        [{"text": "Bob"}],
        [["Bob", 8]],
        [{"text": "Bob", "start": "8"}],
        8,
    ],
)
def test_answers_of_another_shape(answers: Any, tmp_path: Path) -> None:
    assert f"{answered(tmp_path, answers)}, line 1: answers " in refusal(answered(tmp_path, answers), **ASKED)
