"""What the rows of a split must be, whatever they were read from: ids, answers and tags that fit."""

from __future__ import annotations

from typing import Any

from lmx.core.errors import UserError
from lmx.sources._records import Held


def checked(held: Held) -> Held:
    """Return the rows. Errors: UserError for an id that two rows have, an answer that does not stand where it
    says, and tags that are not as many as the words; it says how many, and where the first one is.
    """
    for fields, check in ((("id",), _ids), (("context", "answers"), _answers), (("words", "tags"), _tags)):
        if all(field in held.fields for field in fields):
            check(held, *(held.values(field) for field in fields))
    return held


def _ids(held: Held, ids: list[Any]) -> None:
    first: dict[str, int] = {}
    again = []
    for index, value in enumerate(ids):
        if value is not None and first.setdefault(str(value), index) != index:
            again.append(index)
    if again:
        value = str(ids[again[0]])
        raise UserError(
            f"{held.where(again[0])}: id {value!r} is that of {held.where(first[value])} too "
            f"({_rows(again, held)} in all); give each row an id of its own, or leave them out "
            "with columns.id=None"
        )


def _answers(held: Held, contexts: list[Any], answers: list[Any]) -> None:
    wrong = [
        index
        for index, (context, found) in enumerate(zip(contexts, answers, strict=True))
        if isinstance(context, str) and not all(_stands(context, answer) for answer in found or ())
    ]
    if not wrong:
        return
    context, found = contexts[wrong[0]], answers[wrong[0]]
    answer = next(answer for answer in found if not _stands(context, answer))
    text, start = answer["text"], answer["start"]
    if text:
        there = context[max(start, 0) : max(start, 0) + len(text)]
        at = context.find(text)
        hint = f", but first at {at}" if at >= 0 else ", nor anywhere else in it"
        reason = f"{text[:40]!r} is not at character {start} of the context (there is {there[:40]!r}){hint}"
    else:
        reason = "an answer without text; a question without an answer has an empty list"
    raise UserError(
        f"{held.where(wrong[0])}: {reason} ({_rows(wrong, held)} are wrong); mend the starts, "
        "which count characters from 0"
    )


def _stands(context: str, answer: dict[str, Any]) -> bool:
    text, start = answer["text"], answer["start"]
    return bool(text) and start >= 0 and context.startswith(text, start)


def _tags(held: Held, words: list[Any], tags: list[Any]) -> None:
    wrong = [
        index
        for index, (these, those) in enumerate(zip(words, tags, strict=True))
        if isinstance(these, list) and isinstance(those, list) and len(these) != len(those)
    ]
    if wrong:
        raise UserError(
            f"{held.where(wrong[0])}: {len(tags[wrong[0]])} tags for {len(words[wrong[0]])} words "
            f"({_rows(wrong, held)} are wrong); give each word one tag"
        )


def _rows(some: list[int], held: Held) -> str:
    return f"{len(some):,} of {len(held):,} rows"
