"""Instructions: which ids stand where, what is trained, what gives way, and generation from the same ids."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers

import lmx
from lmx import tokenizer
from lmx.batches import padded
from lmx.commands import _build
from lmx.core.errors import UserError
from lmx.core.types import IGNORED
from lmx.generation import greedy
from lmx.hf import settings
from lmx.models import gpt2
from lmx.tasks import _cross_entropy, causal_lm
from lmx.tasks import instruction as task

END = 126  # shown as ~
CONFIG = gpt2.Config(vocab_size=127, positions=64, width=16, layers=2, heads=2, init_range=0.3)
PLAIN, DIALOGUE = {"turns": False}, {"turns": True}


class Letters:
    """A tokenizer whose ids are ASCII codes, so that rows read as text; ~ is its end symbol."""

    eos_id = END

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        return [[ord(c) for c in text if c != "_"] for text in texts]

    def decode(self, ids: Sequence[int], skip_special: bool = False) -> str:
        return "".join(chr(i) for i in ids if not (skip_special and i == END))


def shown(feature: Any) -> tuple[str, str]:
    """The ids and the labels of a feature as text; what has no label is a dot."""
    labels = ["." if i == IGNORED else chr(i) for i in feature["labels"]]
    return "".join(map(chr, feature["input_ids"])), "".join(labels)


def rows(raw: dict[str, Any], length: int = 99, reading: Any = None, **options: Any) -> list[tuple[str, str]]:
    example = task.read(raw, **(reading or {}))
    facts = {"turns": "turns" in raw}
    return [
        shown(one)
        for one in task.encode([example], Letters(), facts=facts, length=length, **options).features
    ]


def asked(prompt: str, response: str) -> dict[str, Any]:
    return {"prompt": prompt, "response": response}


@pytest.fixture(scope="module")
def built() -> tuple[Any, Any]:
    model = task.attach(gpt2.build(CONFIG), CONFIG)
    return model, jax.jit(model.init)(jax.random.key(1))


# ------------------------------------------------------------------------------------------ rows and labels


@pytest.mark.parametrize(
    ("template", "ids", "labels"),
    [
        ("plain", "ab cd", ". cd~"),
        ("translation", "ab = cd", "... cd~"),
        ("summary", "ab\nTL;DR: cd", "........ cd~"),
        ("dialogue", "ab~cd", "..cd~"),
        ("{prompt}{response}", "abcd", ".cd~"),
        ("Q: {prompt} A: {response}", "Q: ab A: cd", "....... cd~"),
        ("Q:\n{prompt}\nA:\n{response}", "Q:\nab\nA:\ncd", "........cd~"),
    ],
)
def test_labels_are_the_response_moved_by_one_and_the_end(template: str, ids: str, labels: str) -> None:
    """The last label is the end symbol, which is no input; nothing of the prompt has a label."""
    assert rows(asked("ab", "cd"), template=template) == [(ids, labels)]


def test_a_dialogue_ends_every_turn_and_trains_the_last() -> None:
    assert rows({"turns": ["ab", "cd", "ef", "gh"]}) == [("ab~cd~ef~gh", "." * 8 + "gh~")]
    marked = rows({"turns": ["ab", "cd", "ef", "gh"]}, speakers=("U: ", "B: "))
    assert marked == [("U: ab~B: cd~U: ef~B: gh", "." * 19 + " gh~")]


def test_every_reply_of_the_second_speaker() -> None:
    second: dict[str, Any] = {"replies": "second", "reading": {"replies": "second"}}
    assert rows({"turns": ["ab", "cd", "ef", "gh"]}, **second) == [("ab~cd~ef~gh", "..cd~...gh~")]
    marked = rows({"turns": ["ab", "cd"]}, speakers=("U: ", "B: "), **second)
    assert marked == [("U: ab~B: cd", "....... cd~")]


def test_the_spaces_of_a_pattern_are_encoded_with_the_text_behind_them() -> None:
    """ "Q: " by itself would be a lone space before the prompt, which GPT-2 hardly ever saw."""
    text = tokenizer.train_bpe(["Q: how A: fine"] * 9, 300)
    example = task.read(asked("how", "fine"))
    found = task.encode([example], text, facts=PLAIN, length=99, template="Q: {prompt} A: {response}")
    wanted = [text.encode(piece) for piece in ("Q:", " how", " A:", " fine")]
    assert found.features[0]["input_ids"].tolist() == [i for ids in wanted for i in ids]
    assert len(wanted[1]) == len(wanted[3]) == 1
    assert found.features[0]["labels"].tolist()[-2:] == [*wanted[3], text.eos_id]


def test_the_boundary_does_not_move_with_the_response() -> None:
    """Joint text would be cut elsewhere: "hel" + "lo" is one token, and the prompt's ids are gone."""
    text = tokenizer.train_bpe(["hello hel lo"] * 9, 300)
    example = task.read(asked("hel", "lo"))
    (prompt,) = task.prompts(
        [example], text, facts=PLAIN, length=99, new_tokens=4, template="{prompt}{response}"
    )
    found = task.encode([example], text, facts=PLAIN, length=99, template="{prompt}{response}").features[0]
    assert found["input_ids"].tolist()[: len(prompt)] == prompt == text.encode("hel")
    assert text.encode("hello")[: len(prompt)] != prompt


def test_an_end_symbol_spelled_out_in_a_text_is_text() -> None:
    text = tokenizer.train_bpe(["say <|endoftext|> now"] * 9, 300)
    example = task.read({"turns": ["say <|endoftext|>", "<|endoftext|> now"]})
    found = task.encode([example], text, facts=DIALOGUE, length=99).features[0]
    whole = [*found["input_ids"].tolist(), int(found["labels"][-1])]
    assert whole.count(text.eos_id) == 2


# ------------------------------------------------------------------------------------------ what gives way


def encoded(raw: Any, length: int, **options: Any) -> tuple[list[tuple[str, str]], dict[str, int]]:
    found = task.encode(
        [task.read(raw)], Letters(), facts={"turns": "turns" in raw}, length=length, **options
    )
    return [shown(one) for one in found.features], {name: n for name, n in found.counts.items() if n}


def test_a_dialogue_loses_its_oldest_turns_whole() -> None:
    raw = {"turns": ["ab", "cd", "ef", "gh"]}
    assert encoded(raw, 11) == ([("ab~cd~ef~gh", "........gh~")], {})
    assert encoded(raw, 10) == ([("cd~ef~gh", ".....gh~")], {"turns left out": 1})
    assert encoded(raw, 5) == ([("ef~gh", "..gh~")], {"turns left out": 2})
    assert encoded(raw, 4) == ([("f~gh", ".gh~")], {"turns left out": 2, "prompts cut": 1})
    assert encoded(raw, 99, history=1) == ([("ef~gh", "..gh~")], {"turns left out": 2})
    assert encoded(raw, 99, history=2)[0] == [("cd~ef~gh", ".....gh~")]


def test_a_prompt_gives_way_before_its_response() -> None:
    raw = asked("abcdef", "xyz")
    assert encoded(raw, 8, template="plain") == ([("cdef xyz", "... xyz~")], {"prompts cut": 1})
    assert encoded(raw, 8, template="plain", cut="right")[0] == [("abcd xyz", "... xyz~")]
    assert encoded(raw, 9, template="translation") == ([("abc = xyz", ".... xyz~")], {"prompts cut": 1})
    assert encoded(raw, 9, template="translation", cut="left")[0] == [("def = xyz", ".... xyz~")]
    assert encoded(raw, 5, template="plain") == ([("f xyz", " xyz~")], {"prompts cut": 1})


def test_a_response_is_cut_only_if_it_alone_is_too_long_and_then_has_no_end() -> None:
    raw = asked("abcdef", "xyz")
    assert encoded(raw, 4, template="plain") == (
        [("f xy", " xyz")],
        {"prompts cut": 1, "responses cut": 1},
    )
    assert encoded(asked("a", "xyz"), 5, template="plain")[1] == {}
    with pytest.raises(
        UserError, match=r"^length=4: a template of 7 ids leaves no room .*; raise batch\.length"
    ):
        encoded(raw, 4, template="summary")


def test_every_reply_is_trained_once_however_short_the_rows() -> None:
    turns = [f"{letter}{letter}" for letter in "abcdefghi"]  # the last one is the first speaker's
    example = task.read({"turns": turns}, replies="second")
    replies = sorted("bb~dd~ff~hh~")
    for length, many in ((99, 1), (11, 2), (8, 4), (5, 4)):
        found = task.encode([example], Letters(), facts=DIALOGUE, length=length, replies="second")
        labels = "".join(shown(one)[1] for one in found.features)
        assert sorted(labels.replace(".", "")) == replies, length
        assert all(len(one["input_ids"]) <= length for one in found.features)
        assert found.origin == [0] * many
        counts = {"turns behind the last reply": 1, "dialogues in several rows": int(many > 1)}
        assert {name: found.counts[name] for name in counts} == counts
        assert found.counts["turns left out"] == found.counts["responses cut"] == 0
        for ids, own in map(shown, found.features):
            assert own.startswith("."), f"{ids}: a reply to nothing"


def test_an_example_whose_response_is_lost_is_counted_and_left_out() -> None:
    examples = [task.read(asked("a", response)) for response in ("b", "_", "c")]
    found = task.encode(examples, Letters(), facts=PLAIN, length=9, template="{prompt}{response}")
    assert found.origin == [0, 2]
    assert found.counts["responses lost"] == 1
    told = task.decode(examples, found, {"nats": [np.float32(1), np.float32(2)]}, facts=PLAIN)
    assert told == [{"loss": 1.0, "tokens": 2}, {"loss": 0.0, "tokens": 0}, {"loss": 2.0, "tokens": 2}]


# ------------------------------------------------------------------------------------------ loss


RAW = [asked("abc", "xy"), asked("d", "efghi"), asked("mnopqrs", "t")]


def batch(raw: Sequence[dict[str, Any]], **options: Any) -> tuple[Any, dict[str, Any]]:
    examples = [task.read(one) for one in raw]
    found = task.encode(examples, Letters(), facts={"turns": "turns" in raw[0]}, length=40, **options)
    made = padded(found.features, per_token=task.PER_TOKEN, filler=END, multiple=16, longest=48)
    return found, {name: jnp.asarray(array) for name, array in made.items()}


def one_by_one(model: Any, params: Any, prompt: str, response: str) -> float:
    """-log p of the response's tokens, each from a forward pass of its own over what is before it."""
    total, ids = 0.0, [ord(c) for c in prompt]
    for token in [*map(ord, response), END]:
        # Filled up on the right, which no token looks at, so that one compilation serves all lengths.
        whole = forward(model)(params, jnp.array([ids + [0] * (48 - len(ids))]))["logits"]
        row = np.asarray(whole[0, len(ids) - 1], np.float64)
        total += float(np.log(np.sum(np.exp(row - row.max()))) + row.max() - row[token])
        ids.append(token)
    return total


@lru_cache
def forward(model: Any) -> Any:
    return jax.jit(lambda params, ids: model.apply(params, {"input_ids": ids}))


def test_the_loss_is_that_of_the_responses_tokens_one_by_one(built: tuple[Any, Any]) -> None:
    model, params = built
    found, given = batch(RAW, template="plain")
    wanted = [one_by_one(model, params, one["prompt"], f" {one['response']}") for one in RAW]
    outputs = jax.jit(model.apply)(params, given)
    total, count, _ = task.loss(outputs, given)
    np.testing.assert_allclose(total, sum(wanted), rtol=1e-5)
    assert float(count) == sum(len(one["response"]) + 2 for one in RAW)  # the space and the end symbol
    np.testing.assert_allclose(outputs["nats"], wanted, rtol=1e-5)
    told = task.decode(RAW, found, {"nats": list(np.asarray(outputs["nats"]))}, facts=PLAIN)
    assert [one["tokens"] for one in told] == [4, 7, 3]
    np.testing.assert_allclose([one["loss"] for one in told], wanted, rtol=1e-5)
    every = causal_lm.loss(outputs, {k: v for k, v in given.items() if k != "labels"})  # the prompts, too
    assert float(every[1]) > float(count)


def test_without_labels_there_is_no_loss_rather_than_one_of_the_prompts(built: tuple[Any, Any]) -> None:
    bare = {"input_ids": jnp.array([[5, 6, 7]])}
    outputs = built[0].apply(built[1], bare)
    assert outputs["nats"].tolist() == [0.0]
    with pytest.raises(UserError, match="no labels"):
        task.loss(outputs, bare)


def test_all_replies_in_one_row_cost_what_they_cost_one_by_one(built: tuple[Any, Any]) -> None:
    model, params = built
    example = task.read({"turns": ["ab", "cd", "ef", "gh"]}, replies="second")
    features = task.encode([example], Letters(), facts=DIALOGUE, length=40, replies="second").features
    nats = model.apply(params, {k: jnp.asarray(v)[None] for k, v in features[0].items()})["nats"]
    wanted = sum(one_by_one(model, params, *one) for one in (("ab~", "cd"), ("ab~cd~ef~", "gh")))
    np.testing.assert_allclose(nats[0], wanted, rtol=1e-5)


def test_few_logits_at_a_time_give_the_same_nats(
    built: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, params = built
    _, given = batch(RAW, template="plain")
    whole = model.apply(params, given)["nats"]
    for chunk in (3 * 127 * 5, 1):  # five places of three rows; one, of 16
        monkeypatch.setattr(_cross_entropy, "CHUNK", chunk)
        np.testing.assert_allclose(model.apply(params, given)["nats"], whole, rtol=1e-6)


def test_the_loss_is_that_of_transformers(tmp_path: Path) -> None:
    """Their labels are the ids, -100 on the prompt, moved inside; a folder is read as this task."""
    torch = pytest.importorskip("torch", reason="the parity extra is not installed: pip install '.[parity]'")
    torch.manual_seed(0)
    small = transformers.GPT2Config(vocab_size=127, n_positions=64, n_embd=16, n_layer=2, n_head=2)
    theirs = transformers.GPT2LMHeadModel(small).eval()
    theirs.save_pretrained(tmp_path / "gpt2")
    found = lmx.load(tmp_path / "gpt2", task="instruction")
    model = lmx.build(found.config)
    _, given = batch(RAW, template="plain")
    total, _, _ = task.loss(model.apply(found.params, given), given)
    wanted = 0.0
    for one in RAW:
        prompt, response = map(ord, one["prompt"]), [*map(ord, f" {one['response']}"), END]
        ids = torch.tensor([[*prompt, *response]])
        labels = ids.clone()
        labels[:, : len(one["prompt"])] = IGNORED
        with torch.no_grad():
            wanted += float(theirs(input_ids=ids, labels=labels).loss) * len(response)
    np.testing.assert_allclose(total, wanted, rtol=1e-5)
    assert lmx.load(tmp_path / "gpt2").config["task"]["name"] == "causal_lm"


def test_a_folder_is_read_as_a_language_model_and_an_encoder_is_refused() -> None:
    heads = _build.tables("gpt2")[1]
    assert heads["instruction"].architecture == "GPT2LMHeadModel"
    assert settings.choose({"architectures": ["GPT2LMHeadModel"]}, heads, Path("x")) == "causal_lm"
    sizes = {"vocab_size": 30, "width": 8, "layers": 1, "heads": 2}
    with pytest.raises(UserError, match=r"'instruction' has no head for model\.name='bert'; it has: gpt2"):
        _build.model({"model": {"name": "bert", **sizes}, "task": {"name": "instruction"}})


# ------------------------------------------------------------------------------------------ generation


def test_prompts_are_what_stands_before_the_response_with_room_for_it() -> None:
    examples = [task.read(one) for one in RAW]
    counts: dict[str, int] = {}
    options: dict[str, Any] = {"facts": PLAIN, "template": "translation", "counts": counts}
    found = task.prompts(examples, Letters(), length=20, new_tokens=8, **options)
    assert ["".join(map(chr, ids)) for ids in found] == ["abc =", "d =", "mnopqrs ="]
    assert counts == {"prompts cut": 0, "turns left out": 0}
    found = task.prompts(examples, Letters(), length=14, new_tokens=8, **options)
    assert ["".join(map(chr, ids)) for ids in found] == ["abc =", "d =", "mnop ="]
    assert counts["prompts cut"] == 1
    (ids,) = task.prompts(
        [task.read({"turns": ["ab", "cd", "ef"]}, answered=False)],
        Letters(),
        facts=DIALOGUE,
        length=24,
        new_tokens=8,
        speakers=("U: ", "B: "),
        counts=counts,
    )
    assert "".join(map(chr, ids)) == "B: cd~U: ef~B:"
    assert counts == {"prompts cut": 0, "turns left out": 1}
    with pytest.raises(UserError, match="length=10 with 8 new_tokens: a template of 2 ids leaves no room"):
        task.prompts(examples, Letters(), length=10, new_tokens=8, **options)


def test_prompts_of_many_lengths_go_on_as_they_do_alone(built: tuple[Any, Any]) -> None:
    """The decoder fills up on the left: positions must count from each prompt's own start."""
    key = jax.random.key(0)
    examples = [task.read(one) for one in RAW]
    found = task.prompts(examples, Letters(), facts=PLAIN, length=40, new_tokens=9)
    assert len({len(ids) for ids in found}) == 3
    together = greedy.generate(*built, found, key, tokens=9, eos_id=END)
    assert together == [greedy.generate(*built, [ids], key, tokens=9, eos_id=END)[0] for ids in found]


def test_a_model_that_has_learned_its_responses_writes_them_and_ends(built: tuple[Any, Any]) -> None:
    """From the loss to the text: a wrong shift, an untrained end or other ids in generation would show."""
    model, params = built
    raw = [asked("abc", "xy"), asked("abd", "xyzw"), asked("q", "r s")]
    _, given = batch(raw, template="translation")
    evaluate = jax.value_and_grad(lambda p: task.loss(model.apply(p, given), given)[0])

    @jax.jit
    def step(state: Any, i: Any) -> Any:
        params, mean, square = state
        _, slope = evaluate(params)
        mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, slope)
        square = jax.tree.map(lambda s, g: 0.95 * s + 0.05 * g * g, square, slope)
        rate = 0.01 * jnp.minimum(1.0, (i + 1) / 10)
        return (
            jax.tree.map(lambda p, m, s: p - rate * m / (jnp.sqrt(s) + 1e-8), params, mean, square),
            mean,
            square,
        )

    zeros = jax.tree.map(jnp.zeros_like, params)
    state = (params, zeros, zeros)
    for i in range(80):
        state = step(state, jnp.float32(i))
    examples = [task.read(one) for one in raw]
    found = task.prompts(examples, Letters(), facts=PLAIN, length=40, new_tokens=6, template="translation")
    new = greedy.generate(model, state[0], found, jax.random.key(0), tokens=6, eos_id=END)
    told = task.decode_texts(new, Letters(), examples, new_tokens=6)
    assert told == [{"text": one["response"], "ended": True} for one in raw]
    new = greedy.generate(model, state[0], found, jax.random.key(0), tokens=3, eos_id=END)
    told = task.decode_texts(new, Letters(), examples, new_tokens=3)  # a space and two letters
    assert [one["ended"] for one in told] == [False, False, False]


def test_texts_are_cut_at_the_end_symbol() -> None:
    lists = [[32, 97, 98], [97, END, 98, 99], [97, 98, 99, 100], []]
    examples = [task.read(RAW[0])] * 4
    told = task.decode_texts(lists, Letters(), examples, new_tokens=4)
    assert [one["text"] for one in told] == ["ab", "a", "abcd", ""]
    assert [one["ended"] for one in told] == [True, True, False, True]
    assert [one["ended"] for one in task.decode_texts(lists, Letters(), examples)] == [
        False,
        True,
        False,
        False,
    ]
    with pytest.raises(UserError, match="4 responses for 3 examples"):
        task.decode_texts(lists, Letters(), examples[:3])
