"""Instructions, dialogues, summaries, translations: a response to a prompt, by a decoder.

The loss counts the response alone, with the end symbol that a model must learn to stop.

Source: Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training", section 3.3 (tasks
as one text); for dialogues Zhang et al. 2020, "DialoGPT", section 3.1, whose code ends every turn with
the end symbol.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lmx.core.errors import UserError
from lmx.core.examples import Encoded, Example, Feature, Field
from lmx.core.types import IGNORED, Array, Batch, Model, Outputs, Params, Sums, Taps
from lmx.tasks import _cross_entropy, _examples, _heads, _templates, _turns, _written, causal_lm
from lmx.tasks._written import TEXT_METRICS as TEXT_METRICS
from lmx.tasks._written import decode_texts as decode_texts
from lmx.tasks._written import text_metrics as text_metrics
from lmx.tasks._written import writing as writing

FIELDS = (
    Field("id", required=False),
    Field("prompt", required=False),
    Field("turns", required=False),
    Field("response", target=True, required=False),
    Field("references", target=True, required=False),
)
"""Either prompt or turns; `read` says what they may be."""

PER_TOKEN = ("input_ids", "labels")
OUTPUTS = ("nats",)
METRICS: tuple[tuple[str, dict[str, Any]], ...] = (("perplexity", {}),)
SCORE = "loss"

REPLIES = ("last", "second")

AXES = causal_lm.AXES
HF = causal_lm.HF
"""Model -> the head's place in a Hugging Face folder: that of causal_lm, as which such a folder is read."""


def attach(body: Model, config: causal_lm.Decoder) -> Model:
    """Return the body with `logits`, as in causal_lm, and `nats` (B,): -log p of each row's labels, summed in
    f32; 0 where the batch has none."""
    whole = causal_lm.attach(body, config)

    def apply(
        params: Params,
        batch: Batch,
        *,
        rng: Array | None = None,
        train: bool = False,
        taps: Taps | None = None,
        cache: Any = None,
    ) -> Outputs:
        outputs = whole.apply(params, batch, rng=rng, train=train, taps=taps, cache=cache)
        if "labels" not in batch:
            return {**outputs, "nats": jnp.zeros(batch["input_ids"].shape[:1], jnp.float32)}
        return {**outputs, "nats": _nats(params, outputs["hidden"], batch["labels"])}

    return dataclasses.replace(whole, apply=apply)


def _nats(params: Params, hidden: Array, labels: Array) -> Array:
    """(B, T, D) and labels (B, T) -> (B,): -log p of the labels; few logits exist at a time."""
    size, time, _ = hidden.shape
    vocab = jax.eval_shape(causal_lm.project, params, hidden).shape[-1]
    chunks = min(time, -(-size * time * vocab // _cross_entropy.CHUNK))
    padding = -time % chunks
    hidden = jnp.pad(hidden, ((0, 0), (0, padding), (0, 0))).reshape(size, chunks, -1, hidden.shape[-1])
    labels = jnp.pad(labels, ((0, 0), (0, padding)), constant_values=IGNORED).reshape(size, chunks, -1)

    def part(given: tuple[Array, Array]) -> Array:
        states, wanted = given
        logits = causal_lm.project(params, states).astype(jnp.float32)
        real = wanted != IGNORED
        picked = jnp.take_along_axis(logits, jnp.where(real, wanted, 0)[..., None], axis=-1)[..., 0]
        return jnp.sum(jnp.where(real, jax.nn.logsumexp(logits, axis=-1) - picked, 0), axis=-1)

    return jnp.sum(jax.lax.map(part, (hidden.swapaxes(0, 1), labels.swapaxes(0, 1))), axis=0)


def loss(outputs: Outputs, batch: Batch) -> tuple[Array, Array, Sums]:
    """Cross-entropy in nats of the responses' tokens: (its sum, how many there are, metric sums).

    Errors: UserError for a batch without labels, which would be a loss of the prompts.
    """
    if "labels" not in batch:
        raise UserError("the batch has no labels; expected examples with a response")
    return causal_lm.loss(outputs, batch)


def read(
    example: Example, *, separator: str | None = None, replies: str = "last", answered: bool = True
) -> Example:
    """Return the example checked: (`prompt` or `turns`), and `response` and `references` where it has any.

    prompt: a text, or a list of sentences, which a space joins (empty ones are nothing). response: a text, or
    a list of which the first is trained on and all are references. references: a text or a list, in place of
    those.
    turns: a list of texts, of two speakers who take turns, or one text that `separator` parts (which may end
    it, too). Without a `response` beside it, the last turn is the response, or with answered=False there is
    none: the dialogue awaits it. replies: "last", whoever speaks, or "second", every turn of the second
    speaker; a turn of the first one behind those is left out, and `encode` counts it.
    The space around texts is removed. Errors: UserError for anything else, and for empty texts.

    >>> read({"turns": "Hi! | Hello. | Bye.", "id": 7}, separator="|", replies="second")
    {'id': 7, 'turns': ['Hi!'], 'response': 'Hello.', 'references': ['Hello.'], 'left_out': 1}
    """
    _examples.choice("replies", replies, REPLIES)
    _heads.switch("answered", answered)
    if separator is not None and (not isinstance(separator, str) or not separator.strip()):
        raise UserError(f"task.separator={separator!r}; expected a text that parts turns, such as '__eou__'")
    given = [name for name in ("prompt", "turns") if example.get(name) is not None]
    if len(given) != 1:
        raise UserError(
            f"an example with {' and '.join(given) or 'neither prompt nor turns'}; expected one of the two: "
            "name its column, data.columns.prompt or data.columns.turns"
        )
    found = _examples.base(example)
    told = {name: _turns.texts(example, name) for name in ("response", "references")}
    if given == ["prompt"]:
        found["prompt"] = _turns.prompt(example["prompt"])
    else:
        turns, left_out = _turns.turns(example["turns"], separator), 0
        if answered and not any(told.values()):
            last = len(turns) - 1 if replies == "last" else len(turns) // 2 * 2 - 1
            if last < 1:
                raise UserError(
                    f"turns={_examples.shown(turns)}; expected at least two, the last of which answers; "
                    "leave the row out, or set task.answered=False to have it answered"
                )
            turns, told["response"], left_out = turns[:last], [turns[last]], len(turns) - 1 - last
        found["turns"] = turns
    if any(told.values()):
        found["response"] = (told["response"] or told["references"])[0]
        found["references"] = told["references"] or told["response"]
    return {**found, "left_out": left_out} if given == ["turns"] and left_out else found


def learn(examples: Sequence[Example], *, separator: str | None = None) -> dict[str, Any]:
    """Return `turns`: whether the training split has dialogues.

    Errors: UserError where a response lacks, and for a `separator` of turns, as `read` has it, without any.
    """
    _examples.targets(examples, "response")
    turns = any("turns" in example for example in examples)
    if separator is not None and not turns:
        raise UserError(f"task.separator={separator!r} parts turns, but the examples have none; leave it out")
    return {"turns": turns}


def head(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return nothing: the head has an output for each id of the vocabulary."""
    return {}


def encode(
    examples: Sequence[Example],
    tokenizer: _templates.Writer,
    *,
    facts: Mapping[str, Any],
    length: int,
    template: str | None = None,
    history: int | None = None,
    speakers: Sequence[str] | None = None,
    replies: str = "last",
    cut: str | None = None,
) -> Encoded:
    """Return each example as ids of prompt and response, with labels on the response and its end symbol.

    Labels are moved by one already, as `causal_lm.loss` takes them. Worked example,
    "{prompt} = {response}", where "Hallo" is [5, 6], " =" is [7], " Hello" is [8, 3] and the end symbol 9:

        input_ids  [   5,    6, 7, 8, 3]
        labels     [-100, -100, 8, 3, 9]

    template: "plain" (prompt, space, response), "summary" (a line that begins with TL;DR: between them),
    "translation" (" =" between them), "dialogue" (the end symbol after every turn), or a pattern such as
    "Q: {prompt} A: {response}"; None is "dialogue" if the training split has turns, else "plain". The spaces
    before a text are encoded with it. history: the most turns kept before a response. speakers: what stands
    before the turns of the asking and of the answering side, such as ("User: ", "Bot: "); it has no loss.
    replies: "last" trains the response, "second" all turns of its speaker, in as many rows as it takes.

    length: the most ids of a row. Where they are more, old turns give way first, whole; then the prompt,
    which keeps one id: its start ("left"; dialogues, plain prompts) or its end ("right"; summaries and
    translations), unless `cut` says otherwise. A response is cut only if it is too long even so, and loses
    the end symbol with its end, for the text has not ended.

    Counts: _COUNTS; `responses lost` have no feature. Errors: UserError for bad options, a tokenizer without
    an end symbol, and a template that leaves no room."""
    _examples.choice("replies", replies, REPLIES)
    form = _form(examples, facts, template, history, speakers, cut)
    many = replies != "last"
    if many and not form.dialogue:
        raise UserError(f"task.replies={replies!r} is for dialogues; leave it out")
    told = _examples.has(examples, "response")
    counts = dict.fromkeys(_COUNTS, 0)
    counts["turns behind the last reply"] = sum(example.get("left_out", 0) for example in examples)
    features: list[Feature] = []
    origin: list[int] = []
    room = length + told  # labels are the ids moved by one, so that the last id is no input
    for index, turns in enumerate(_templates.encoded(tokenizer, form, _dialogues(examples))):
        if told and not turns[-1].text:
            counts["responses lost"] += 1
            continue
        with _advised(f"length={length}", "raise batch.length, or shorten the template"):
            found = list(
                _templates.windows(turns, room, history=history, side=form.side, every=told and many)
            )
        counts["prompts cut"] += sum(window.prompt_cut for window in found)
        counts["responses cut"] += sum(window.response_cut for window in found)
        counts["turns left out"] += found[-1].first
        counts["dialogues in several rows"] += len(found) > 1
        features += [_feature(window, told) for window in found]
        origin += [index] * len(found)
    return Encoded(features, origin, counts)


@contextmanager
def _advised(given: str, advice: str) -> Iterator[None]:
    """Make a UserError about room say what was given, and what to do."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{given}: {error}; {advice}") from error


_COUNTS = (
    "prompts cut",
    "responses cut",
    "turns left out",
    "responses lost",
    "dialogues in several rows",
    "turns behind the last reply",
)


def _form(
    examples: Sequence[Example],
    facts: Mapping[str, Any],
    template: str | None,
    history: int | None,
    speakers: Sequence[str] | None,
    cut: str | None,
) -> _templates.Template:
    """Return the template, its options checked against it and the examples."""
    name = ("dialogue" if facts["turns"] else "plain") if template is None else template
    form = _templates.make(name, speakers=speakers, side=cut)
    if history is not None:
        _heads.count("history", history, 1)
        if not form.dialogue:
            raise UserError(f"task.history is for dialogues, and task.template={name!r}; leave it out")
    if not form.dialogue and any("turns" in example for example in examples):
        raise UserError(f"task.template={name!r}, but examples have turns; expected 'dialogue'")
    return form


def _dialogues(examples: Sequence[Example], *, open: bool = False) -> list[list[str | None]]:
    """Return the turns of each example, last the response: None where it has none, or is to be generated."""
    return [
        [
            *(example["turns"] if "turns" in example else [example["prompt"]]),
            None if open else example.get("response"),
        ]
        for example in examples
    ]


def _feature(window: _templates.Window, told: bool) -> dict[str, np.ndarray]:
    ids = np.array(window.ids, np.int32)
    if not told:
        return {"input_ids": ids}
    return {"input_ids": ids[:-1], "labels": np.where(window.trained, ids, IGNORED)[1:].astype(np.int32)}


def decode(
    examples: Sequence[Example],
    encoded: Encoded,
    outputs: Mapping[str, Sequence[np.ndarray]],
    *,
    facts: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Return `loss` (nats) and `tokens` of each example's responses, as the model is told what came before.

    Both are 0 for an example without a response, or one that was lost. Generated texts are for
    `decode_texts`. Errors: UserError where the outputs are not finite.
    """
    found = [{"loss": 0.0, "tokens": 0} for _ in examples]
    for feature, index, nats in zip(encoded.features, encoded.origin, outputs["nats"], strict=True):
        if not np.isfinite(nats):
            raise UserError("the model's loss is no finite number (NaN or infinite); did training diverge?")
        found[index]["loss"] += float(nats)
        found[index]["tokens"] += int(np.sum(feature["labels"] != IGNORED)) if "labels" in feature else 0
    return found


def losses(
    examples: Sequence[Example],
    encoded: Encoded,
    outputs: Mapping[str, Sequence[np.ndarray]],
    *,
    facts: Mapping[str, Any],
) -> list[float]:
    """Return -log p of each example's responses, in nats per token; NaN where there is none."""
    nats, tokens = np.zeros(len(examples)), np.zeros(len(examples))
    for feature, index, found in zip(encoded.features, encoded.origin, outputs["nats"], strict=True):
        nats[index] += float(found)
        tokens[index] += np.sum(feature["labels"] != IGNORED)
    return [float(n / t) if t else math.nan for n, t in zip(nats, tokens, strict=True)]


def references(examples: Sequence[Example], *, facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the `references` of each example: texts that would be right."""
    return [{"references": list(one)} for one in _examples.targets(examples, "references")]


def prompts(
    examples: Sequence[Example],
    tokenizer: _templates.Writer,
    *,
    facts: Mapping[str, Any],
    length: int,
    new_tokens: int = _written.NEW_TOKENS,
    template: str | None = None,
    history: int | None = None,
    speakers: Sequence[str] | None = None,
    cut: str | None = None,
    counts: dict[str, int] | None = None,
) -> list[list[int]]:
    """Return the ids from which to generate each example's response: those that stand before it in `encode`.

    length: the most ids that the model takes, of which `new_tokens` are left free. Generate with the
    tokenizer's `eos_id`. counts: takes what was cut, `prompts cut` and `turns left out`. The rest: as in
    `encode`. Errors: UserError as there, and where there is no room.
    """
    _heads.count("new_tokens", new_tokens, 1)
    form = _form(examples, facts, template, history, speakers, cut)
    with _advised(f"length={length} with {new_tokens} new_tokens", "ask for fewer"):
        found = [
            _templates.newest(turns, length - new_tokens, history=history, side=form.side)
            for turns in _templates.encoded(tokenizer, form, _dialogues(examples, open=True))
        ]
    if counts is not None:
        counts["prompts cut"] = sum(window.prompt_cut for window in found)
        counts["turns left out"] = sum(window.first for window in found)
    return [window.ids for window in found]
