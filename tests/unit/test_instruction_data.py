"""Instructions: what examples may look like, which are refused, and real data."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmx import tokenizer
from lmx.core import plugin
from lmx.core.errors import UserError
from lmx.core.types import IGNORED
from lmx.sources import table
from lmx.tasks import instruction as task


@pytest.mark.parametrize(
    ("raw", "options", "wanted"),
    [
        (
            {"prompt": ["One. ", "", "Two."], "response": ["a", "b"], "id": 3},
            {},
            {"id": 3, "prompt": "One. Two.", "response": "a", "references": ["a", "b"]},
        ),
        ({"prompt": " x\n", "references": ["r"]}, {}, {"prompt": "x", "response": "r", "references": ["r"]}),
        (
            {"prompt": "x", "response": "a", "references": np.array(["r", "s"])},
            {},
            {"prompt": "x", "response": "a", "references": ["r", "s"]},
        ),
        ({"prompt": "x"}, {}, {"prompt": "x"}),
        (
            {"turns": ["a", "b", "c"]},
            {},
            {"turns": ["a", "b"], "response": "c", "references": ["c"]},
        ),
        (
            {"turns": "a __eou__ b __eou__ c __eou__"},
            {"separator": "__eou__", "replies": "second"},
            {"turns": ["a"], "response": "b", "references": ["b"], "left_out": 1},
        ),
        (
            {"turns": "a __eou__ b"},
            {"separator": "__eou__"},
            {"turns": ["a"], "response": "b", "references": ["b"]},
        ),
        ({"turns": ["a"], "response": "b"}, {}, {"turns": ["a"], "response": "b", "references": ["b"]}),
        ({"turns": ["a"]}, {"answered": False}, {"turns": ["a"]}),
    ],
)
def test_what_an_example_may_look_like(
    raw: dict[str, Any], options: dict[str, Any], wanted: dict[str, Any]
) -> None:
    assert task.read(raw, **options) == wanted


@pytest.mark.parametrize(
    ("raw", "options", "message"),
    [
        ({"text": "x"}, {}, "neither prompt nor turns; .*data.columns.prompt"),
        ({"prompt": "x", "turns": ["x"]}, {}, "prompt and turns; expected one"),
        ({"prompt": " "}, {}, "prompt is empty"),
        ({"prompt": ["", ""]}, {}, "prompt is empty"),
        ({"prompt": 3}, {}, "prompt=3; expected a text"),
        ({"prompt": ["a", 3]}, {}, r"prompt=\['a', 3\]; expected a text"),
        ({"prompt": "x", "response": ""}, {}, "response is empty"),
        ({"prompt": "x", "response": []}, {}, r"response=\[\]; expected a text, or a list"),
        ({"prompt": "x", "response": ["a", None]}, {}, r"response\[1\]=None; expected a text"),
        ({"turns": "a|b"}, {}, r"turns='a\|b'; expected a list, or task\.separator"),
        ({"turns": "a||b"}, {"separator": "|"}, r"turns\[1\] is empty"),
        ({"turns": ["a"]}, {}, "expected at least two, .*task.answered=False"),
        ({"turns": ["a"]}, {"replies": "second"}, "expected at least two"),
        ({"turns": ["a", "b"]}, {"replies": "sekond"}, r"task.replies='sekond' \(did you mean 'second'\?\)"),
        ({"turns": ["a", "b"]}, {"answered": 1}, "task.answered=1; expected True or False"),
        ({"turns": ["a", "b"]}, {"separator": " "}, "task.separator=' '; expected a text"),
    ],
)
def test_bad_examples_are_refused_in_one_line(
    raw: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as found:
        task.read(raw, **options)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"template": "sumary"},
            r"task.template='sumary' \(did you mean 'summary'\?\); expected plain, dial",
        ),
        ({"template": "{prompt}"}, "a pattern that ends with the response"),
        ({"template": "{prompt} {response}."}, "ends with the response"),
        ({"template": "{response} {prompt} {response}"}, "ends with the response"),
        ({"template": 3}, "task.template=3"),
        ({"speakers": ("A", "B")}, "task.speakers is for dialogues, and task.template='plain'"),
        ({"speakers": "AB", "template": "dialogue"}, "task.speakers='AB'; expected two texts"),
        ({"history": 2}, "task.history is for dialogues"),
        ({"history": 0, "template": "dialogue"}, "task.history=0; expected .* at least 1"),
        ({"replies": "second"}, "task.replies='second' is for dialogues"),
        ({"replies": "all", "template": "dialogue"}, "task.replies='all'; expected last or second"),
        ({"cut": "rigth"}, r"task.cut='rigth' \(did you mean 'right'\?\)"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    text = tokenizer.train_bpe(["some text"], 260)
    example = task.read({"prompt": "some", "response": "text"})
    with pytest.raises(UserError, match=message) as found:
        task.encode([example], text, facts={"turns": False}, length=32, **options)
    assert "\n" not in str(found.value)


def test_turns_and_end_symbols_must_fit_the_template_and_the_tokenizer() -> None:
    example = task.read({"turns": ["ab", "ba"]})
    text = tokenizer.train_bpe(["ab"], 260)
    with pytest.raises(
        UserError, match=r"task\.template='plain', but examples have turns; expected 'dialogue'"
    ):
        task.encode([example], text, facts={"turns": True}, length=32, template="plain")
    with pytest.raises(UserError, match="the tokenizer has no end symbol"):
        task.encode([example], tokenizer.characters(["ab"]), facts={"turns": True}, length=32)
    with pytest.raises(UserError, match="example 2 has no response, but others have"):
        task.encode([example, {"turns": ["a"]}], text, facts={"turns": True}, length=32)


def test_facts_tell_that_there_are_dialogues() -> None:
    two = [task.read({"turns": ["ab", "ba"]}), task.read({"prompt": "a", "response": "b"})]
    assert task.learn(two) == {"turns": True}
    assert task.learn(two[1:]) == {"turns": False}
    assert task.references(two, facts={}) == [{"references": ["ba"]}, {"references": ["b"]}]
    with pytest.raises(UserError, match=r"has no response; fill it in, or name its column"):
        task.learn([task.read({"prompt": "a"})])
    with pytest.raises(UserError, match=r"task\.separator='\|' parts turns, but the examples have none"):
        task.learn([task.read({"prompt": "a", "response": "b"})], separator="|")


def test_the_metrics_of_texts_exist_and_score_a_perfect_text() -> None:
    words = "a b c d e"
    for template, metrics in task.TEXT_METRICS.items():
        assert metrics, template
        for name, options in metrics:
            made = plugin.find("lmx.metrics", name).metric(**options)
            sums = made.sums([{"text": words, "ended": True}], [{"references": [words]}])
            assert max(made.finish(sums).values()) in (1.0, pytest.approx(100.0))


# ------------------------------------------------------------------------------------------ real data


def texts(path: Path, many: int) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return file.read().split("\n")[:many]


def test_dialogues_at_length_128(shared_data: Path) -> None:
    """1,000 dialogues of xdailydialog: what is left out is counted, and every reply trained once."""
    found = table.source(
        "train",
        fields=[field.name for field in task.FIELDS],
        required=[],
        columns={"turns": 0},
        train=str(shared_data / "xdailydialog" / "en-train1k.tsv"),
    )
    whole = [
        [turn.strip() for turn in found[i]["turns"].split("__eou__") if turn.strip()] for i in range(1000)
    ]
    text = tokenizer.train_bpe([turn for turns in whole for turn in turns], 1000)
    sizes = [[len(ids) + 1 for ids in text.encode_many(turns)] for turns in whole]
    last = [task.read(found[i], separator="__eou__") for i in range(1000)]
    facts = task.learn(last)
    encoded = task.encode(last, text, facts=facts, length=128)
    # Counted anew: turns from the end, as long as they go into 129 ids; the one before the reply is kept.
    fits = [max(2, int(np.sum(np.cumsum(size[::-1]) <= 129))) for size in sizes]
    assert encoded.counts["turns left out"] == sum(len(s) - f for s, f in zip(sizes, fits, strict=True))
    assert encoded.counts["turns left out"] == 2056
    assert encoded.counts["prompts cut"] == sum(sum(size[-2:]) > 129 for size in sizes) == 6
    labels = sum(int(np.sum(one["labels"] != IGNORED)) for one in encoded.features)
    assert labels == sum(size[-1] for size in sizes) == 16_086
    second = [task.read(found[i], separator="__eou__", replies="second") for i in range(1000)]
    encoded = task.encode(second, text, facts=facts, length=128, replies="second")
    assert encoded.counts["turns behind the last reply"] == sum(len(turns) % 2 for turns in whole)
    ends = sum(int(np.sum(one["labels"] == text.eos_id)) for one in encoded.features)
    assert ends + encoded.counts["responses cut"] == sum(len(turns) // 2 for turns in whole)
    assert max(len(one["input_ids"]) for one in encoded.features) <= 128


def test_summaries_at_length_128(shared_data: Path) -> None:
    lines = texts(shared_data / "scitldr_a" / "train.jsonl.gz", 1992)
    raw = [json.loads(line) for line in lines]
    examples = [task.read({"prompt": one["source"], "response": one["target"]}) for one in raw]
    text = tokenizer.train_bpe([one["prompt"] for one in examples], 1000)
    encoded = task.encode(examples, text, facts=task.learn(examples), length=128, template="summary")
    mark = len(text.encode("\nTL;DR:"))
    sizes = [[len(text.encode(one[k])) for k in ("prompt", "response")] for one in examples]
    replies = [len(text.encode(f" {one['response']}")) + 1 for one in examples]
    wholes = [p + mark + r for (p, _), r in zip(sizes, replies, strict=True)]
    assert encoded.counts["prompts cut"] == sum(whole > 129 for whole in wholes) == 1989
    assert encoded.counts["responses cut"] == sum(r + mark + 1 > 129 for r in replies) == 4
    start = text.encode(examples[0]["prompt"])[:20]
    assert encoded.features[0]["input_ids"].tolist()[:20] == start  # the document's end gave way


def test_translations_at_length_128_and_48(shared_data: Path) -> None:
    german, english = (texts(shared_data / "multi30k" / f"train.{name}.gz", 4000) for name in ("de", "en"))
    text = tokenizer.train_bpe([*german, *english], 1000)
    pairs = zip(german, english, strict=True)
    examples = [task.read({"prompt": one, "response": two}) for one, two in pairs]
    sizes = [
        len(text.encode(one["prompt"])) + len(text.encode(" =")) + len(text.encode(f" {one['response']}")) + 1
        for one in examples
    ]
    for length, wanted in ((128, 3), (48, 1563)):
        facts = task.learn(examples)
        encoded = task.encode(examples, text, facts=facts, length=length, template="translation")
        assert encoded.counts["prompts cut"] == sum(size > length + 1 for size in sizes) == wanted
