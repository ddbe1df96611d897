"""Tables and texts in files: what is read from each format."""

import csv
import gzip
import json
import pickle
import time
from pathlib import Path

import pytest

from lmx.core.errors import UserError
from lmx.sources import table
from tests.unit._sources import ASKED, CLASSES, TAGGED, put, read, refusal


def test_csv_with_quotes_commas_and_lines_in_cells(tmp_path: Path) -> None:
    file = put(
        tmp_path / "a.csv", 'text,label\r\n"one, ""two""\nthree",0\r\n\r\n"\u2028four\x0c",1\r\nfive,0'
    )
    found = table.source("train", train=file, **CLASSES)
    assert [found[i] for i in range(3)] == [
        {"text": 'one, "two"\nthree', "label": "0"},
        {"text": "\u2028four\x0c", "label": "1"},
        {"text": "five", "label": "0"},
    ]
    # The first row goes over lines 2 and 3, line 4 is blank.
    assert [found.where(i) for i in range(3)] == [f"{file}, line {line}" for line in (2, 5, 6)]
    assert found.columns == ("text", "label")


def test_tsv_takes_quotes_as_text_and_csv_as_marks(tmp_path: Path) -> None:
    rows = 'text\tlabel\r\n"a" said b\t1\n\n"c\u2028d\x0c\t0\r\n'
    assert read(put(tmp_path / "a.tsv", rows)) == [
        {"text": '"a" said b', "label": "1"},
        {"text": '"c\u2028d\x0c', "label": "0"},
    ]
    found = table.source("train", train=tmp_path / "a.tsv", **CLASSES)
    assert found.where(1) == f"{tmp_path / 'a.tsv'}, line 4"
    plain = put(tmp_path / "b.tsv", 'text\tlabel\n"a\nb"\t1\n')
    assert read(plain, quoting=True) == [{"text": "a\nb", "label": "1"}]
    semicolons = put(tmp_path / "c.csv", "text;label\na,b;1\n")
    assert read(semicolons, delimiter=";") == [{"text": "a,b", "label": "1"}]


def test_a_cell_may_be_longer_than_the_csv_module_allows(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    assert len(read(put(tmp_path / "a.csv", f"text,label\n{'x' * 200_000},1\n"))[0]["text"]) == 200_000
    assert csv.field_size_limit() == before == 131_072


def test_positions_where_there_is_no_header(tmp_path: Path) -> None:
    file = put(tmp_path / "a.tsv", "one\ttwo\t1\nthree\tfour\t0\n")
    found = read(file, columns={"text": 0, "label": 2})
    assert found == [{"text": "one", "label": "1"}, {"text": "three", "label": "0"}]
    assert read(file, columns={"text": 0, "label": 2}, header=True) == found[1:]
    assert read(file, columns={"text": [1, 0], "label": 2})[0] == {"text": ["two", "one"], "label": "1"}
    assert (
        table.source("train", train=file, columns={"text": 0, "label": 2}, **CLASSES)
        .where(0)
        .endswith("line 1")
    )


def test_jsonl_keeps_types_and_leads_into_objects(tmp_path: Path) -> None:
    rows = [
        {"text": "a\u2028b", "meta": {"label": 3, "x": {"y": [1.5, None]}}, "dotted.name": True},
        {"text": "", "meta": {"label": 0, "x": {"y": []}}, "dotted.name": False, "id": None},
    ]
    lines = "\ufeff" + "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    columns = {"label": "meta.label", "text_pair": "meta.x.y", "id": "dotted.name"}
    wanted = [
        {"text": "a\u2028b", "label": 3, "text_pair": [1.5, None], "id": True},
        {"text": "", "label": 0, "text_pair": [], "id": False},
    ]
    for name, data in (("a.jsonl", lines.encode()), ("a.JSONL.gz", gzip.compress(lines.encode()))):
        found = table.source("train", train=put(tmp_path / name, data), columns=columns, **CLASSES)
        assert [found[0], found[1]] == wanted
        assert found.where(1) == f"{tmp_path / name}, line 3"
        assert found.columns == ("text", "meta", "dotted.name", "id")
    assert read(put(tmp_path / "a.json", json.dumps(rows)), columns=columns) == wanted


def test_several_columns_make_a_list(tmp_path: Path) -> None:
    file = put(tmp_path / "a.jsonl", '{"a": "x", "b": "y", "right": 1}\n')
    options = {"fields": ["text", "choices", "label"], "required": ["choices"]}
    columns = {"choices": ["a", "b"], "label": "right"}
    assert read(file, columns=columns, **options) == [{"choices": ["x", "y"], "label": 1}]
    assert "no column 'c' for choices" in refusal(file, columns={"choices": ["a", "c"]}, **options)


def test_several_files_are_one_split(tmp_path: Path) -> None:
    first = put(tmp_path / "a.csv", "text,label\na,0\n")
    second = put(tmp_path / "b.tsv", "label\ttext\tid\n1\tb\t7\n")
    found = table.source("train", train=[first, str(second)], **CLASSES)
    assert [found[0], found[1]] == [{"text": "a", "label": "0"}, {"text": "b", "label": "1", "id": "7"}]
    assert [found.where(0), found.where(1)] == [f"{first}, line 2", f"{second}, line 2"]
    assert found.columns == ("text", "label", "id")
    copy = pickle.loads(pickle.dumps(found))
    assert [copy[1], copy.where(1)] == [found[1], found.where(1)]
    for index in (2, -1):
        with pytest.raises(IndexError):
            found[index]


def test_squad_layout_of_both_versions(tmp_path: Path) -> None:
    qas = [
        {"id": "1", "question": "who?", "answers": [{"text": "\U0001f600 Ann", "answer_start": 3}]},
        {"id": "2", "question": "why?", "is_impossible": True, "plausible_answers": [1]},
        {"id": "3", "question": "when?"},
    ]
    context = "it \U0001f600 Ann"
    whole = {
        "version": "v2.0",
        "data": [{"title": "T", "paragraphs": [{"context": context, "qas": qas}, {"qas": []}]}],
    }
    options = {**ASKED, "fields": [*ASKED["fields"], "title"], "format": "squad"}
    file = put(tmp_path / "dev.json", json.dumps(whole))
    found = table.source("train", train=file, **options)
    assert found[0] == {
        "id": "1",
        "question": "who?",
        "context": context,
        "answers": [{"text": "\U0001f600 Ann", "start": 3}],  # characters, not bytes and not UTF-16 units
        "title": "T",
    }
    assert found[1]["answers"] == [] and "answers" not in found[2]
    assert found.where(2) == f"{file}, question 3"
    assert "answers" in refusal(file, **{**options, "required": ["answers"]})


def test_conll_with_blanks_tabs_and_more_columns(tmp_path: Path) -> None:
    conll2003 = "-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n \n\nPeter NNP B-NP B-PER"
    file = put(tmp_path / "a.conll", conll2003)
    found = table.source("train", train=file, **TAGGED)
    assert [found[0], found[1]] == [
        {"words": ["EU", "rejects"], "tags": ["B-ORG", "O"]},
        {"words": ["Peter"], "tags": ["B-PER"]},
    ]
    assert [found.where(0), found.where(1)] == [f"{file}, line 3", f"{file}, line 7"]
    assert read(file, columns={"tags": 1}, **TAGGED)[0]["tags"] == ["NNP", "VBZ"]
    # A word of two parts and a no-break space do not part columns where a tab does.
    tabs = put(tmp_path / "b.txt", "New York\tB\n\xa0\tO\n# \tO\r\n")
    assert read(tabs, format="conll", **TAGGED) == [
        {"words": ["New York", "\xa0", "# "], "tags": ["B", "O", "O"]}
    ]
    words = put(tmp_path / "c.conll", "a\nb\n")
    assert read(words, fields=["words", "tags"], required=["words"]) == [{"words": ["a", "b"]}]
    assert "no column for tags" in refusal(words, **TAGGED)


def test_parallel_lines(tmp_path: Path) -> None:
    english = put(tmp_path / "a.en", "one\r\n\nthree\u2028\x0c\n")
    german = put(tmp_path / "a.de.gz", gzip.compress(b"eins\nzwei\ndrei"))
    options = {"fields": ["prompt", "response"], "required": ["prompt", "response"]}
    files = {"en": english, "response": german}
    found = table.source("train", train=files, columns={"prompt": "en"}, **options)
    assert [found[i] for i in range(3)] == [
        {"prompt": "one", "response": "eins"},
        {"prompt": "", "response": "zwei"},  # left out, it would shift all that follows
        {"prompt": "three\u2028\x0c", "response": "drei"},
    ]
    assert found.where(1) == f"{english} and {german}, line 2"
    alone = read(english, format="lines", fields=["text"], required=["text"])
    assert [row["text"] for row in alone] == ["one", "", "three\u2028\x0c"]
    put(german, gzip.compress(b"eins\nzwei\n"))
    assert refusal(files, columns={"prompt": "en"}, **options) == (
        f"{english} has 3 lines, {german} has 2 lines; parallel files need equally many, one example a line"
    )


def test_a_column_of_none_is_not_read(tmp_path: Path) -> None:
    file = put(tmp_path / "a.csv", "id,text,label\n1,a,0\n1,b,1\n")
    assert "id '1' is that of" in refusal(file)
    assert read(file, columns={"id": None})[1] == {"text": "b", "label": "1"}
    assert refusal(file, columns={"text": None}) == (
        "columns.text=None, but every row needs text; name its column"
    )


def test_a_hundred_thousand_rows_within_two_seconds(tmp_path: Path) -> None:
    rows = "".join(f'"text, number {i} with some words to be read",{i % 2}\n' for i in range(100_000))
    file = put(tmp_path / "a.csv", "text,label\n" + rows)
    start = time.process_time()
    assert len(table.source("train", train=file, **CLASSES)) == 100_000
    assert time.process_time() - start < 2


def test_a_file_of_a_field_that_is_none(tmp_path: Path) -> None:
    """A typing error in a field of parallel files; the split may well be empty for want of it."""
    files = {"promt": put(tmp_path / "a.de", "ein\n"), "response": put(tmp_path / "a.en", "one\n")}
    fields = {"fields": ("prompt", "response"), "required": ()}
    with pytest.raises(UserError) as caught:
        table.source("train", train=files, validation="30%", **fields)
    told = "train.promt: no field is read from it (did you mean 'prompt'?); there is: prompt, response"
    assert str(caught.value) == told


def test_an_ending_that_says_otherwise(tmp_path: Path) -> None:
    file = put(tmp_path / "a.jsonl", '{"text": "a", "label": 1}\n')
    said = refusal(file, format="conll")
    assert said == f"{file}: ends as jsonl, but is read as conll; set format=jsonl, or rename the file"
