"""Shares of train, fingerprints and overlaps: which examples are the same, and which side they are on."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmx import sources
from lmx.core.errors import UserError
from lmx.core.examples import Records
from lmx.sources import memory, table
from lmx.tasks import instruction

FIELDS: dict[str, Any] = {"fields": ["id", "text", "label"], "required": ["text"]}


def taken(split: str, rows: Any, **options: Any) -> Records:
    return memory.source(split, train=rows, **FIELDS, **options)


def texts(found: Records) -> list[str]:
    return [found[index]["text"] for index in range(len(found))]


def refusal(split: str, rows: Any, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        taken(split, rows, **options)
    return str(caught.value)


def number(text: str) -> float:
    """Return where an example that asks a text is, from 0 to 1, computed here from the description."""
    digest = hashlib.sha256(json.dumps({"text": text}, separators=(",", ":")).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def test_the_cut_is_by_hash() -> None:
    rows = [f"text {i}" for i in range(1000)]
    options = {"validation": "10%", "test": "12.5%"}
    found = {split: texts(taken(split, rows, **options)) for split in ("train", "validation", "test")}
    assert found["test"] == [text for text in rows if number(text) < 0.125]
    assert found["validation"] == [text for text in rows if number(text) >= 0.9]
    assert sorted([*found["train"], *found["validation"], *found["test"]]) == sorted(rows)
    # Four standard deviations of a binomial count: 38 of 100 and 42 of 125.
    assert abs(len(found["validation"]) - 100) < 38 and abs(len(found["test"]) - 125) < 42


def test_rows_keep_their_places_when_cut() -> None:
    rows = [f"text {i}" for i in range(50)]
    found = taken("validation", rows, validation="20%")
    assert [found.where(i) for i in range(len(found))] == [
        f"train[{rows.index(text)}]" for text in texts(found)
    ]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.text(max_size=5), min_size=40, max_size=80), st.randoms())
def test_order_other_rows_and_larger_shares_change_no_side(rows: list[str], random: Any) -> None:
    more = [f"{text} more" for text in rows] + rows[::-1] + [f"text {i}" for i in range(60)]
    random.shuffle(more)
    rows = rows + [f"text {i}" for i in range(60)]
    mine = set(texts(taken("validation", rows, validation="20%")))
    theirs = set(texts(taken("validation", more, validation="20%", test="30%")))
    assert mine == theirs & set(rows)
    assert mine <= set(texts(taken("validation", rows, validation="40%")))


def test_what_asks_the_same_is_on_one_side() -> None:
    """Ids and labels differ, and still no question is on both sides."""
    rows = [{"id": i, "text": f"text {i % 40}", "label": i % 3} for i in range(400)]
    parts = {split: taken(split, rows, validation="30%") for split in ("train", "validation")}
    assert sources.overlap(parts["train"], parts["validation"]) == 0
    assert sum(map(len, parts.values())) == 400
    assert all(len(part) % 10 == 0 for part in parts.values())


def test_a_group_is_never_parted() -> None:
    rows = [{"text": f"text {i}", "topic": i % 20} for i in range(400)]
    topics = {}
    for split in ("train", "validation"):
        found = taken(split, rows, validation="30%", group="topic")
        assert set(found[0]) == {"text"}
        topics[split] = {int(text.split()[1]) % 20 for text in texts(found)}
    assert topics["train"] & topics["validation"] == set()
    assert topics["train"] | topics["validation"] == set(range(20))
    assert "no column 'topc' for group of a share (did you mean 'topic'?)" in refusal(
        "train", rows, validation="30%", group="topc"
    )
    assert "neither validation nor test is a share" in refusal("train", rows, group="topic")


@pytest.mark.parametrize("share", ["0%", "100%", "-5%", "101%", "+100.5 %"])
def test_shares_out_of_range(share: str) -> None:
    assert f"test={share!r}; expected more than 0% and less than 100% of train" == refusal(
        "test", ["a"], test=share
    )


def test_shares_that_cannot_be() -> None:
    rows = ["a", "b"]
    assert "leave nothing to train on" in refusal("train", rows, validation="50%", test="50 %")
    assert "expected a place, or a share of train such as '10%'" in refusal("train", rows, validation=0.1)
    assert "only validation and test can be a share" in refusal("train", "10%")
    assert "is a share of train, but train is None" in refusal("validation", None, validation="10%")
    assert refusal("validation", rows, validation=".5%") == (
        "validation is empty: none of the 2 rows of train falls into it (validation .5%); "
        "take another share, or files of its own"
    )
    assert "train is empty" in refusal("train", rows, validation="99.9%")


def test_a_share_beside_a_file(tmp_path: Path) -> None:
    train, test = tmp_path / "a.csv", tmp_path / "b.csv"
    train.write_text("text\n" + "".join(f"text {i}\n" for i in range(100)))
    test.write_text("text\ntext 1\ntext 200\n")
    options: dict[str, Any] = {"train": train, "test": test, "validation": "10%", **FIELDS}
    found = {split: table.source(split, **options) for split in ("train", "validation", "test")}
    assert len(found["train"]) + len(found["validation"]) == 100 and len(found["test"]) == 2
    both = sources.overlap(found["train"], found["test"]) + sources.overlap(
        found["validation"], found["test"]
    )
    assert both == 1


def test_overlap_counts_rows_of_the_other_whatever_their_targets() -> None:
    train = taken("train", [{"text": "a", "label": 0, "id": 1}, {"text": "b", "label": 0, "id": 2}])
    other = [{"text": "a", "label": 1, "id": 9}, {"text": "a", "id": 8}, {"text": "A", "label": 0, "id": 1}]
    assert sources.overlap(train, taken("train", other)) == 2
    assert sources.overlap(train, train) == 2


def test_a_response_is_a_target() -> None:
    fields = {"fields": ["prompt", "response"], "required": ["prompt"]}
    parts = [[{"prompt": "a", "response": "b"}], [{"prompt": "a", "response": "c"}, {"prompt": "b"}]]
    train, other = (memory.source("train", train=rows, **fields) for rows in parts)
    assert sources.overlap(train, other) == 1


def test_a_dialogue_asks_all_but_its_reply() -> None:
    """However its turns came: only the task can tell of one text where they begin."""
    told = instruction.read({"turns": "Hi. | Hello. | Bye. | See you."}, separator="|")
    other = [
        {"turns": ["Hi.", "Hello.", "Bye.", "Ciao."]},
        {"turns": ["Hi.", "Hello.", "Bye."], "references": ["Ciao.", "See you."]},
        {"turns": ["Hi.", "Hello.", "Yes."], "references": ["Ciao."]},
        {"turns": ["Hi.", "Hello."]},
    ]
    read = [instruction.read(one) for one in other]
    assert [sources.overlap([told], [one]) for one in read] == [1, 1, 0, 0]
    assert [sources.overlap([told], [one]) for one in other] == [1, 1, 0, 0]
    second = instruction.read({"turns": ["Hi.", "Hello.", "Bye."]}, replies="second")  # its end is left out
    assert sources.overlap([second], [instruction.read({"turns": ["Hi.", "Yo."]}, replies="second")]) == 1


def test_fingerprint() -> None:
    rows = [{"text": "é", "label": 0}, {"label": 1.5, "text": "b", "more": 1}]
    by_hand = b'{"label":0,"text":"\\u00e9"}\n{"label":1.5,"text":"b"}\n'
    assert sources.fingerprint(taken("train", rows)) == hashlib.sha256(by_hand).hexdigest()
    different = [
        rows[::-1],
        rows[:1],
        [{**rows[0], "label": "0"}, rows[1]],
        [*rows, rows[0]],
        [{**rows[0], "id": 1}, rows[1]],
    ]
    prints = [sources.fingerprint(taken("train", each)) for each in different]
    assert len({*prints, hashlib.sha256(by_hand).hexdigest()}) == 6
