"""Extractive question answering: where in the text the answer begins and where it ends.

A question without an answer points at the row's first token: [CLS] in a BERT. A GPT-2's first token is the
question's, which sees nothing behind it: its logits are the same for every context, so that only those of the
spans can tell whether there is an answer; use a BERT for such data.

Source: Devlin et al. 2018, sections 4.2 and 4.3 (questions without an answer).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from lmx.core.errors import UserError
from lmx.core.examples import Encoded, Encoder, Example, Feature, Field, Row
from lmx.core.hf_table import Entry, HeadTable
from lmx.core.types import IGNORED, Array, Batch, Model, Outputs, Params, Sums
from lmx.tasks import _examples, _heads, _spans, _tokens

FIELDS = (
    Field("id", required=False),
    Field("question"),
    Field("context"),
    Field("answers", target=True),
)
PER_TOKEN = ("input_ids", "token_type_ids", "char_start", "char_end")
OUTPUTS = ("start_logits", "end_logits")
METRICS: tuple[tuple[str, dict[str, Any]], ...] = (("squad", {}),)
SCORE = "f1"

NULL = 0
"""The token that says "no answer": the row's first."""

AXES = ((r"head/kernel", ("width", "edge")), (r"head/bias", ("edge",)))

_ENTRIES = (
    Entry("qa_outputs.weight", ("head/kernel",), "transpose"),
    Entry("qa_outputs.bias", ("head/bias",)),
)

HF = {
    "gpt2": HeadTable("GPT2ForQuestionAnswering", _ENTRIES, labels=2),
    "bert": HeadTable("BertForQuestionAnswering", _ENTRIES, model={"pooler": False}, labels=2),
}
"""Model -> the head's place in a Hugging Face folder."""


def attach(body: Model, config: _heads.Sized) -> Model:
    """Return the body with `start_logits` and `end_logits` (B, T): two dense outputs a token."""

    def head(params: Params, outputs: Outputs, batch: Batch, drop: _heads.Dropout) -> Outputs:
        edges = _heads.dense(params, outputs["hidden"])
        return {"start_logits": edges[..., 0], "end_logits": edges[..., 1]}

    return _heads.attach(body, _heads.dense_shapes(config.width, 2), config.init_range, 0.0, head)


def loss(outputs: Outputs, batch: Batch, *, padding: bool = True) -> tuple[Array, Array, Sums]:
    """Mean of the start's and the end's cross-entropy: (its sum, the count of answers, metric sums).

    `start_positions` and `end_positions` (B,): places in the row; one outside it, on either side (an answer
    that was cut away), counts nothing, and its other edge half. transformers means each edge by itself, which
    is the same where answers are cut away whole, and takes a negative place for the first. padding: the
    softmax goes over padding too, as in transformers; False leaves out what `attention_mask` marks, so that
    the loss of a row does not depend on those beside it.
    """
    masked = not padding and "attention_mask" in batch
    sums = []
    for name in ("start", "end"):
        logits, at = outputs[f"{name}_logits"], batch[f"{name}_positions"]
        if masked:
            logits = jnp.where(batch["attention_mask"] != 0, logits, jnp.finfo(logits.dtype).min)
        within = (at >= 0) & (at < logits.shape[1])
        sums.append(_heads.negative_log(logits, jnp.where(within, at, IGNORED)))
    total, count = ((one + two) / 2 for one, two in zip(*sums, strict=True))
    return total, count, {"loss": total, "answers": count}


def read(example: Example) -> Example:
    """Return the example checked: `question`, `context` and, where there are any, `answers`.

    answers: a list of {"text", "start" (or "answer_start")}, start in characters of the context, [] for a
    question without an answer; or one such mapping of two lists, as in Hugging Face's files of SQuAD.
    Errors: UserError for anything else, and for an answer that does not stand at its start.
    """
    found = {name: _examples.text(example, name) for name in ("question", "context")}
    if "answers" not in example:
        return {**_examples.base(example), **found}
    answers = [_answer(one, i, found["context"]) for i, one in enumerate(_listed(example["answers"]))]
    return {**_examples.base(example), **found, "answers": answers}


def _listed(given: Any) -> list[Any]:
    """Return answers as a list, however they came."""
    if isinstance(given, Mapping):
        columns = {name: list(values) for name, values in given.items()}
        if len({len(values) for values in columns.values()}) > 1:
            raise UserError(f"answers={_examples.shown(given)}; expected as many texts as starts")
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    given = given.tolist() if isinstance(given, np.ndarray) else given
    if not isinstance(given, (list, tuple)):
        raise UserError(
            f"answers={_examples.shown(given)}; expected a list of text and start, [] for no answer"
        )
    return list(given)


def _answer(given: Any, index: int, context: str) -> dict[str, Any]:
    text, start = None, None
    if isinstance(given, Mapping):
        text, start = given.get("text"), given.get("start", given.get("answer_start"))
    if not isinstance(text, str) or not isinstance(start, (int, np.integer)) or isinstance(start, bool):
        raise UserError(
            f"answers[{index}]={_examples.shown(given)}; expected a text and a whole number start"
        )
    start = int(start)
    if not text.strip():
        raise UserError(f"answers[{index}] is empty; a question without an answer has answers=[]")
    there = context[start : start + len(text)] if start >= 0 else ""
    if there != text:
        raise UserError(
            f"answers[{index}] is {_examples.shown(text)}, but at character {start} of the context there is "
            f"{_examples.shown(there)}; {_where(text, start, context)}"
        )
    return {"text": text, "start": start}


def _where(text: str, start: int, context: str) -> str:
    """Return what may have gone wrong with a start."""
    for code, width, unit in (("utf-8", 1, "bytes"), ("utf-16-le", 2, "units of UTF-16")):
        whole, part = (one.encode(code, "surrogatepass") for one in (context, text))
        if start >= 0 and whole[start * width :].startswith(part):
            return f"it is there counted in {unit}; expected characters"
    near = context.find(text)
    return f"the first such text is at {near}" if near >= 0 else "the context has no such text"


def learn(examples: Sequence[Example]) -> dict[str, Any]:
    """Return `unanswerable`: whether the training split has questions without an answer.

    Errors: UserError where examples have no `answers`, or no question has one.
    """
    answers = _examples.targets(examples, "answers")
    if not any(answers):
        raise UserError("no question of the training split has an answer; is this the column of the answers?")
    return {"unanswerable": not all(answers)}


def head(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return nothing: the head has two outputs whatever the data."""
    return {}


def encode(
    examples: Sequence[Example],
    tokenizer: Encoder,
    *,
    facts: Mapping[str, Any],
    length: int,
    stride: int | None = None,
    question_length: int | None = None,
    max_answer: int = 30,
) -> Encoded:
    """Return each example's windows: question and a part of the context, [CLS] Q [SEP] C [SEP] in a BERT.

    length: the most tokens of a row. stride: how many tokens of the context neighbouring windows share; by
    default a third of `length`. (In google's BERT `doc_stride` is the step from one window to the next.)
    question_length: the tokens after which a question is cut. max_answer: the most tokens that `decode`
    gives; longer answers are counted.

    Arrays: `input_ids`, `token_type_ids`, `char_start` and `char_end` (T,): the characters of the context
    that a token stands for, -1 for all others; `start_positions` and `end_positions` (): the first and last
    token of the first answer, or 0 and 0 in a window that does not hold it whole.

    Worked example, "Where?", "In Rome." and the answer Rome at 3:

        tokens       [CLS] where     ? [SEP]    in  rome     . [SEP]
        char_start      -1    -1    -1    -1     0     3     7    -1
        char_end        -1    -1    -1    -1     2     7     8    -1       start_positions = end_positions = 5

    Counts: `windows without their answer`; `answers in no window`, which were lost; `answers inside a token`,
    of which the tokens hold more; `answers longer than max_answer`; `questions cut`.
    Errors: UserError for a question that leaves no room for a window.
    """
    stride = length // 3 if stride is None else stride
    _heads.count("stride", stride, 0)
    _heads.count("max_answer", max_answer, 1)
    told = _examples.has(examples, "answers")
    counts = dict.fromkeys(_COUNTS, 0)
    questions = [example["question"] for example in examples]
    if question_length is not None:
        _heads.count("question_length", question_length, 1)
        cut = [
            _cut(text, row, question_length)
            for text, row in zip(questions, _tokens.whole(tokenizer, questions), strict=True)
        ]
        counts["questions cut"] = sum(one != two for one, two in zip(questions, cut, strict=True))
        questions = cut
    contexts = [example["context"] for example in examples]
    _check_room(tokenizer, questions, contexts, length=length, stride=stride)
    features: list[Feature] = []
    origin: list[int] = []
    every = _tokens.rows(tokenizer, questions, contexts, length=length, stride=stride, cut="second")
    for index, (example, rows) in enumerate(zip(examples, every, strict=True)):
        context = _spans.Text(example["context"])
        windows = [context.window(row.offsets, row.text == 1) for row in rows]
        arrays = [_feature(row, window) for row, window in zip(rows, windows, strict=True)]
        if told:
            for array, edges in zip(arrays, _positions(example, windows, counts, max_answer), strict=True):
                array["start_positions"], array["end_positions"] = (np.array(at, np.int32) for at in edges)
        features += arrays
        origin += [index] * len(rows)
    return Encoded(features, origin, counts)


_COUNTS = (
    "windows without their answer",
    "answers in no window",
    "answers inside a token",
    "answers longer than max_answer",
    "questions cut",
)


def _cut(question: str, row: Row, most: int) -> str:
    return question if len(row.ids) <= most else question[: int(row.offsets[most - 1, 1])]


def _check_room(
    tokenizer: Encoder, questions: Sequence[str], contexts: Sequence[str], *, length: int, stride: int
) -> None:
    """Raise UserError for a question that leaves less than a window for a context that needs one."""
    special = len(tokenizer.rows([""], [""], length=length)[0][0].ids)
    distinct = list(dict.fromkeys(questions))
    tokens = dict(zip(distinct, _tokens.sizes(tokenizer, distinct), strict=True))
    long = [i for i, text in enumerate(questions) if special + tokens[text] + stride + 1 > length]
    sizes = _tokens.sizes(tokenizer, [contexts[i] for i in long])
    for index, size in zip(long, sizes, strict=True):
        asked = tokens[questions[index]]
        left = max(0, length - special - asked)
        if size > left:
            raise UserError(
                f"example {index + 1}: its question of {asked} tokens leaves {left} of length={length} for "
                f"the context of {size}, and windows that share stride={stride} need {stride + 1}; "
                "raise batch.length, lower task.stride, or cut questions with task.question_length"
            )


def _feature(row: Row, window: _spans.Window) -> dict[str, np.ndarray]:
    return {**_examples.feature(row), "char_start": window.starts, "char_end": window.ends}


def _positions(
    example: Example, windows: Sequence[_spans.Window], counts: dict[str, int], most: int
) -> list[tuple[int, int]]:
    """Return the first and the last token of the first answer in each window, and count what befell it."""
    if not example["answers"]:
        return [(NULL, NULL)] * len(windows)
    answer = example["answers"][0]
    placed = _spans.place(windows, answer["start"], answer["start"] + len(answer["text"]))
    held = [tokens for tokens in placed.tokens if tokens is not None]
    counts["windows without their answer"] += len(windows) - len(held)
    counts["answers in no window"] += not held
    counts["answers inside a token"] += not placed.whole
    counts["answers longer than max_answer"] += any(last - first >= most for first, last in held)
    return [tokens or (NULL, NULL) for tokens in placed.tokens]


def decode(
    examples: Sequence[Example],
    encoded: Encoded,
    outputs: Mapping[str, Sequence[np.ndarray]],
    *,
    facts: Mapping[str, Any],
    max_answer: int = 30,
    n_best: int = 20,
    no_answer_threshold: float | None = None,
) -> list[dict[str, Any]]:
    """Return the best answer of each example over all its windows, as it stands in the context.

    outputs: `start_logits` and `end_logits`, (T,) for each feature. max_answer: the most tokens of an answer.
    n_best: how many `candidates` to give. Where the training split had questions without an answer, "no
    answer" is a candidate more, and the answer is "" if its score is above the best span's by more than
    no_answer_threshold (0 by default).

    A prediction holds `answer`, its `score` (start's logit + end's, the larger where several windows hold
    it), its `probability` (softmax over the candidates' scores), `null_score` (that of the row's first token,
    the lowest of all windows) and `candidates`, the best first, each with `answer`, `start` and `end`
    (characters of the context; None for no answer), `score` and `probability`.

    Errors: UserError for logits that are no numbers, and for a threshold where nothing could pass it.
    """
    _heads.count("max_answer", max_answer, 1)
    _heads.count("n_best", n_best, 1)
    if no_answer_threshold is not None and not facts["unanswerable"]:
        raise UserError(
            f"task.no_answer_threshold={no_answer_threshold!r}, but every question of the training split has "
            "an answer; leave it out"
        )
    found: list[dict[tuple[int, int], float]] = [{} for _ in examples]
    null = [np.inf] * len(examples)
    logits = (outputs[name] for name in OUTPUTS)
    for feature, index, *edges in zip(encoded.features, encoded.origin, *logits, strict=True):
        start, end = (_tokens.real(edge, feature, "logits") for edge in edges)
        null[index] = min(null[index], float(start[NULL] + end[NULL]))
        window = _spans.Window(feature["char_start"], feature["char_end"])
        for span, score in _spans.best(window, start, end, most=max_answer, many=n_best).items():
            found[index][span] = max(score, found[index].get(span, -np.inf))
    threshold = (no_answer_threshold or 0.0) if facts["unanswerable"] else None
    return [
        _prediction(example["context"], spans, score, n_best, threshold)
        for example, spans, score in zip(examples, found, null, strict=True)
    ]


def _prediction(
    context: str, spans: Mapping[tuple[int, int], float], null: float, many: int, threshold: float | None
) -> dict[str, Any]:
    """Return the prediction of one example. threshold: None where there is always an answer."""
    order = sorted(spans, key=lambda span: (-spans[span], span))[:many]
    candidates: list[dict[str, Any]] = [
        {"answer": context[start:end], "start": start, "end": end, "score": spans[start, end]}
        for start, end in order
    ]
    nothing: dict[str, Any] = {"answer": "", "start": None, "end": None, "score": null}
    chosen = candidates[0] if candidates else nothing
    if threshold is not None and null - chosen["score"] > threshold:
        chosen = nothing
    if threshold is not None or not candidates:  # a context without a token has no other answer
        candidates = sorted([*candidates, nothing], key=lambda one: -one["score"])
    weights = np.exp(np.array([one["score"] for one in candidates]) - candidates[0]["score"])
    for one, share in zip(candidates, weights / weights.sum(), strict=True):
        one["probability"] = float(share)
    return {
        **{name: chosen[name] for name in ("answer", "score", "probability")},
        "null_score": null,
        "candidates": candidates,
    }


def losses(
    examples: Sequence[Example],
    encoded: Encoded,
    outputs: Mapping[str, Sequence[np.ndarray]],
    *,
    facts: Mapping[str, Any],
) -> list[float]:
    """Return -log p of each example's start and end together, in nats, the mean of its windows: of the first
    token in those that do not hold the answer, as in training. The softmax leaves padding out."""
    found: list[list[float]] = [[] for _ in examples]
    logits = (outputs[name] for name in OUTPUTS)
    for feature, index, *edges in zip(encoded.features, encoded.origin, *logits, strict=True):
        start, end = (_tokens.real(edge, feature, "logits") for edge in edges)
        places = int(feature["start_positions"]), int(feature["end_positions"])
        found[index].append(_examples.nats(start, places[0]) + _examples.nats(end, places[1]))
    return [float(np.mean(those)) for those in found]


def references(examples: Sequence[Example], *, facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the right `answers` of each example, [] where there is none."""
    return [{"answers": [answer["text"] for answer in example["answers"]]} for example in examples]
