"""Rows of a Python program: texts, dicts and frames of any make."""

from typing import Any

import numpy as np
import pytest

from lmx.core.errors import UserError
from lmx.sources import memory

FIELDS: dict[str, Any] = {"fields": ["text", "label"], "required": ["text"]}


def read(rows: Any, **options: Any) -> list[dict[str, Any]]:
    found = memory.source("train", train=rows, **{**FIELDS, **options})
    return [dict(found[index]) for index in range(len(found))]


def refusal(rows: Any, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        read(rows, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_texts_and_dicts() -> None:
    assert read(["a", "b"]) == [{"text": "a"}, {"text": "b"}]
    assert read(iter(("a",))) == [{"text": "a"}]
    assert read(["a"], fields=["prompt"], required=["prompt"], columns={"prompt": "text"}) == [
        {"prompt": "a"}
    ]
    rows = [{"sentence": "a", "label": 1, "more": object()}, {"sentence": "b"}]
    assert read(rows, columns={"text": "sentence"}) == [{"text": "a", "label": 1}, {"text": "b"}]


def test_rows_may_change_afterwards() -> None:
    rows = [{"text": ["a"]}]
    found = memory.source("train", train=rows, **FIELDS)
    rows[0]["text"].append("b")
    assert found[0] == {"text": ["a"]}


def test_numpy_becomes_plain() -> None:
    rows = [{"text": np.str_("a"), "label": np.int64(3)}, {"text": b"\xc3\xa9", "label": np.arange(2.0)}]
    found = read(rows)
    assert found == [{"text": "a", "label": 3}, {"text": "é", "label": [0.0, 1.0]}]
    assert [type(row["label"]) for row in found] == [int, list] and type(found[0]["text"]) is str
    assert read(np.array(["a", "b"])) == [{"text": "a"}, {"text": "b"}]


class Frame:
    """What a pandas frame answers, without pandas."""

    def to_dict(self, orient: str) -> list[dict[str, Any]]:
        assert orient == "records"
        return [{"text": "a", "label": float("nan")}, {"text": "b", "label": 2.0}]


class Table:
    """What a pyarrow table answers."""

    def to_pylist(self) -> list[dict[str, Any]]:
        return [{"text": "a", "label": None}, {"text": "b", "label": 2.0}]


def test_frames() -> None:
    wanted = [{"text": "a"}, {"text": "b", "label": 2.0}]
    assert read(Frame()) == read(Table()) == wanted


@pytest.mark.parametrize("library", ["pandas", "pyarrow", "datasets"])
def test_real_frames(library: str) -> None:
    module = pytest.importorskip(library)
    columns = {"text": ["a", "b"], "label": [1, 2]}
    make = {"pandas": lambda: module.DataFrame(columns), "pyarrow": lambda: module.table(columns)}
    frame = make.get(library, lambda: module.Dataset.from_dict(columns))()
    assert read(frame) == [{"text": "a", "label": 1}, {"text": "b", "label": 2}]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("a text", "train is one str; expected a list of texts or of dicts"),
        ({"text": "a"}, "train is one dict"),
        (object(), "train is of type object; expected a list of texts, a list of dicts, or a data frame"),
        ([], "train holds no rows"),
        (["a", 1], "train[1] is of type int; expected a text or a dict"),
        ([("a", 1)], "train[0] is of type tuple"),
        ([{"text": "a"}, {"txet": "b"}], "train[1]: no column 'text' for text (did you mean 'txet'?)"),
        ([{"text": "a", 1: 2}], "train[0]: a column is called 1"),
        ([{"text": None}], "train[0]: column 'text' is empty (null)"),
        (
            [{"text": object()}],
            "train[0]: text is of type object, expected text, a number, or a list or dict",
        ),
        ([{"text": b"\xff"}], "train[0]: text holds bytes that are not UTF-8"),
        ([{"text": "\ud800"}], "train[0]: text holds half of a surrogate pair"),
    ],
)
def test_bad_rows(rows: Any, said: str) -> None:
    assert refusal(rows).startswith(said)
