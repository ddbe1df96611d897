"""Responses that a model writes: how many tokens, drawn how, and by which metrics their texts are scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lmx.core.errors import UserError
from lmx.core.examples import Example
from lmx.tasks import _heads, _templates

NEW_TOKENS = 64

TEXT_METRICS: Mapping[str, tuple[tuple[str, dict[str, Any]], ...]] = {
    "plain": (("bleu", {}), ("rouge", {"sentences": True}), ("distinct", {})),
    "dialogue": (("bleu", {}), ("distinct", {})),
    "summary": (("rouge", {"stemmer": True, "sentences": True}),),
    "translation": (("bleu", {}),),
}
"""Template -> the metrics of generated texts; a pattern of the user's own has those of "plain"."""

UNSPACED = ("zh", "char")
"""How BLEU cuts texts of languages that are written without spaces."""


@dataclass(frozen=True)
class Writing:
    """How responses are generated; the fields are those of `writing`."""

    new_tokens: int
    temperature: float
    top_k: int | None
    limit: int | None


def writing(
    *,
    new_tokens: int = NEW_TOKENS,
    temperature: float = 0.0,
    top_k: int | None = None,
    limit: int | None = None,
) -> Writing:
    """Return how responses are generated when a model is evaluated, checked.

    new_tokens: the most of a response. temperature: 0 takes the likeliest token, more draws. top_k: draw
    among the k likeliest only. limit: the first so many examples of a split have a response generated, None
    for all. Errors: UserError for values out of range.
    """
    _heads.count("new_tokens", new_tokens, 1)
    for name, value in (("top_k", top_k), ("limit", limit)):
        if value is not None:
            _heads.count(name, value, 1)
    number = isinstance(temperature, (int, float)) and not isinstance(temperature, bool)
    if not (number and 0 <= temperature < float("inf")):
        raise UserError(f"task.temperature={temperature!r}; expected 0 (the likeliest token) or more")
    if top_k is not None and not temperature:
        raise UserError(
            f"task.top_k={top_k} with task.temperature=0, which takes the likeliest; leave it out"
        )
    return Writing(new_tokens, float(temperature), top_k, limit)


def text_metrics(
    *, facts: Mapping[str, Any], template: str | None = None, tokenize: str = "13a"
) -> tuple[tuple[str, dict[str, Any]], ...]:
    """Return (name on the metrics' shelf, its options) of each metric of the responses' texts.

    template: as in `encode`. tokenize: how BLEU cuts texts into words; "zh" and "char" count distinct
    characters, too, instead of words. Errors: UserError for `tokenize` where no metric cuts texts into words.
    """
    name = ("dialogue" if facts["turns"] else "plain") if template is None else template
    added: dict[str, dict[str, Any]] = {
        "bleu": {"tokenize": tokenize},
        "distinct": {"characters": tokenize in UNSPACED},
    }
    chosen = TEXT_METRICS.get(name, TEXT_METRICS["plain"])
    if tokenize != "13a" and not any(each in added for each, _ in chosen):
        scored = ", ".join(each for each, _ in chosen)
        raise UserError(
            f"task.tokenize={tokenize!r} is BLEU's, but task.template={name!r} is scored by {scored}; leave "
            "it out"
        )
    return (*((each, {**given, **added.get(each, {})}) for each, given in chosen), ("ended", {}))


def decode_texts(
    token_lists: Sequence[Sequence[int]],
    tokenizer: _templates.Writer,
    examples: Sequence[Example],
    *,
    new_tokens: int | None = None,
) -> list[dict[str, Any]]:
    """Return `text` and `ended` of each generated response, one of each example.

    token_lists: new ids without the prompt's; they are cut at the end symbol, and the space around the text
    is removed. ended: whether the response ended by itself. new_tokens: the most that the decoder gave; it
    leaves the end symbol out, so that fewer than these say that there was one.
    Errors: UserError where there are not as many lists as examples.
    """
    if len(token_lists) != len(examples):
        raise UserError(f"{len(token_lists)} responses for {len(examples)} examples; expected one of each")
    stop = _templates.end(tokenizer)
    found = []
    for tokens in token_lists:
        ids = list(tokens)
        ended = stop in ids or (new_tokens is not None and len(ids) < new_tokens)
        ids = ids[: ids.index(stop)] if stop in ids else ids
        found.append({"text": tokenizer.decode(ids, skip_special=True).strip(), "ended": ended})
    return found
