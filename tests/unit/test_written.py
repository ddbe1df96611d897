"""Responses that a model writes: options, metrics, how long prompts may be, and ids that are no text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import lmx
from lmx import tokenizer
from lmx.commands import _responses
from lmx.core import mesh, plugin
from lmx.core.errors import UserError
from lmx.generation import greedy
from lmx.tasks import instruction as task


def config(text: tokenizer.Tokenizer, *, positions: int = 48, length: int = 20, **options: Any) -> Any:
    sizes = dict(vocab_size=text.vocab_size + 3, positions=positions, width=8, layers=1, heads=1)
    return {
        "model": {"name": "gpt2", **sizes},
        "task": {"name": "instruction", **options},
        "facts": {"turns": False},
        "batch": {"size": 2, "length": length},
        "seed": 0,
    }


def responses(text: tokenizer.Tokenizer, **options: Any) -> _responses.Responses:
    given = config(text, **options)
    return _responses.Responses(given, task, text=text, model=lmx.build(given), mesh=mesh.make(1))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> tokenizer.Tokenizer:
    """A tokenizer whose `!` fills rows up."""
    folder = tmp_path_factory.mktemp("text")
    tokenizer.train_bpe(["ab"], 260).save(folder)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "pad_token": "!"}))
    return tokenizer.load(folder)


def test_a_prompt_is_no_longer_than_rows_were_and_leaves_room(text: tokenizer.Tokenizer) -> None:
    examples = [task.read({"prompt": "ab " * 30}), task.read({"prompt": "x"})]
    for positions, longest in ((48, 20), (24, 16)):
        made = responses(text, positions=positions, new_tokens=8)
        ids, counts = made.prompts(examples, 8)
        assert [len(one) for one in ids] == [longest, 1]
        assert counts == {"prompts cut": 1}


def test_ids_that_are_no_text_are_never_written(text: tokenizer.Tokenizer) -> None:
    """What fills rows up, and rows of the embedding beyond the tokenizer's ids, though they score highest."""
    made = responses(text, new_tokens=5)
    given = config(text)
    model = lmx.build(given)
    params = model.init(jax.random.key(0))
    high = 9 * jnp.ones(8)
    params["final"]["bias"] = high
    assert text.pad_id is not None
    for unwanted in (text.pad_id, text.vocab_size + 1):
        table = params["embed"]["token"]["embedding"].at[unwanted].set(high)
        favoured = {**params, "embed": {**params["embed"], "token": {"embedding": table}}}
        naive = greedy.generate(model, favoured, [[65]], jax.random.key(0), tokens=5, eos_id=text.eos_id)
        assert naive == [[unwanted] * 5]
        (said,), _ = made.write(favoured, [task.read({"prompt": "a"})])
        assert said["text"] != ""
        assert "!" not in said["text"]
        assert said["prompt"] == "a"


def test_what_is_banned_never_holds_the_end_symbol(tmp_path: Path) -> None:
    """GPT-2 begins and ends with one symbol, and fills up with it where no other is set."""
    plain = tokenizer.train_bpe(["ab"], 260)
    plain.save(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    end = json.loads(file.read_text())["eos_token"]
    same = {"pad_token": end, "bos_token": end, "unk_token": end}
    file.write_text(json.dumps({**json.loads(file.read_text()), **same}))
    text = tokenizer.load(tmp_path)
    assert text.pad_id == text.eos_id == text.bos_id
    assert responses(text)._banned() == [text.vocab_size, text.vocab_size + 1, text.vocab_size + 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"new_tokens": 0}, "task.new_tokens=0; expected a whole number of at least 1"),
        ({"new_tokens": 2.5}, "task.new_tokens=2.5; expected a whole number"),
        ({"limit": 0}, "task.limit=0"),
        ({"top_k": 0, "temperature": 1.0}, "task.top_k=0"),
        ({"top_k": 5}, "task.top_k=5 with task.temperature=0, which takes the likeliest; leave it out"),
        ({"temperature": -0.5}, "task.temperature=-0.5; expected 0"),
        ({"temperature": float("nan")}, "task.temperature=nan"),
        ({"temperature": True}, "task.temperature=True"),
        ({"temperature": "hot"}, "task.temperature='hot'"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as found:
        task.writing(**options)
    assert "\n" not in str(found.value)


def test_the_metrics_follow_the_template_and_the_language() -> None:
    def names(turns: bool, **options: Any) -> list[str]:
        return [name for name, _ in task.text_metrics(facts={"turns": turns}, **options)]

    assert names(True) == names(False, template="dialogue") == ["bleu", "distinct", "ended"]
    assert names(False) == names(False, template="Q {prompt} A {response}")
    assert names(False, template="summary") == ["rouge", "ended"]
    assert names(True, template="translation") == ["bleu", "ended"]
    said, wanted = [{"text": "他是学生", "ended": True}], [{"references": ["他是一个学生"]}]
    figures = {}
    for tokenize in ("13a", "zh"):
        found: dict[str, float] = {}
        for name, options in task.text_metrics(facts={"turns": True}, tokenize=tokenize):
            metric = plugin.find("lmx.metrics", name).metric(**options)
            found |= metric.finish(metric.sums(said, wanted))
        figures[tokenize] = found
    assert figures["zh"]["length_ratio"] == pytest.approx(4 / 6)  # characters
    assert figures["13a"]["length_ratio"] == 1.0  # one "word" each, which are never equal
    assert figures["13a"]["distinct_2"] == 0.0
    assert figures["zh"]["distinct_2"] == 1.0


def test_how_bleu_cuts_is_refused_where_no_metric_cuts() -> None:
    """A summary is scored by ROUGE alone: the option would be read by nothing."""
    with pytest.raises(UserError, match=r"task\.tokenize='zh' is BLEU's, but task\.template='summary'"):
        task.text_metrics(facts={"turns": False}, template="summary", tokenize="zh")
    named = dict(task.text_metrics(facts={"turns": True}, tokenize="zh"))
    assert named["bleu"] == {"tokenize": "zh"} and named["distinct"] == {"characters": True}
