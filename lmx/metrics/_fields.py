"""What metrics read from predictions and references, checked before anything is counted."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, TypeAlias

from lmx.core.errors import UserError, did_you_mean, printable

Examples: TypeAlias = Sequence[Mapping[str, Any]]
"""Predictions or references: one dict per example."""

Label: TypeAlias = str | int
"""The name of a class, or its number where it has no name."""


def is_text(value: Any) -> bool:
    """Return whether a value is a str."""
    return isinstance(value, str)


def is_label(value: Any) -> bool:
    """Return whether a value names a class: a str, an integer or a boolean."""
    return isinstance(value, str | Integral)


def is_number(value: Any) -> bool:
    """Return whether a value is one real number, NaN and infinities included."""
    return isinstance(value, Real) and not isinstance(value, bool)


def is_finite(value: Any) -> bool:
    """Return whether a value is one finite real number."""
    return is_number(value) and math.isfinite(value)


def all_of(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Return a check that a value is a list (or tuple) whose every member passes `check`."""
    return lambda value: isinstance(value, list | tuple) and all(check(member) for member in value)


def column(examples: Examples, name: str, *, side: str, check: Callable[[Any], bool], what: str) -> list[Any]:
    """Return one field of every example.

    side: "prediction" or "reference", for messages. check: whether a value will do. what: what it should be.

    Raises UserError where the field is missing or its value will not do, naming the example (from 0).
    """
    found = []
    for index, example in enumerate(examples):
        if name not in example:
            has = ", ".join(printable(repr(key)) for key in list(example)[:10]) or "nothing"
            hint = did_you_mean(name, map(str, example))
            raise UserError(f"{side} {index} has no {name!r}{hint}; it has {has}; expected {what}")
        value = example[name]
        if not check(value):
            raise UserError(f"{side} {index}: {name!r} is {printable(repr(value))}; expected {what}")
        found.append(value)
    return found


def value_pairs(
    predictions: Examples, references: Examples
) -> list[tuple[float | tuple[float, ...], float | tuple[float, ...]]]:
    """Return (predicted, actual) value of each example: a number, or a tuple with one of each target.

    Raises UserError for a value that is missing, NaN or infinite, and for other counts than the first's.
    """
    same_length(predictions, references)
    what = "one finite number, or a list of two or more"

    def good(value: Any) -> bool:
        return is_finite(value) or (all_of(is_finite)(value) and len(value) > 1)

    found = column(predictions, "value", side="prediction", check=good, what=what)
    wanted = column(references, "value", side="reference", check=good, what=what)
    pairs = [(_numbers(one), _numbers(two)) for one, two in zip(found, wanted, strict=True)]
    for index, pair in enumerate(pairs):
        for side, value in zip(("prediction", "reference"), pair, strict=True):
            if _count(value) != _count(pairs[0][1]):
                raise UserError(
                    f"{side} {index}: 'value' has {_count(value)} numbers, the first reference's has "
                    f"{_count(pairs[0][1])}; expected as many everywhere"
                )
    return pairs


def _numbers(value: Any) -> float | tuple[float, ...]:
    return tuple(map(float, value)) if isinstance(value, list | tuple) else float(value)


def _count(value: float | tuple[float, ...]) -> int:
    return len(value) if isinstance(value, tuple) else 1


def of_targets(each: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the figures of one target as they are; of several, the mean, then each as `NAME/0` and so on."""
    if len(each) == 1:
        return dict(each[0])
    found = {name: math.fsum(one[name] for one in each) / len(each) for name in each[0]}
    return found | {f"{name}/{i}": value for i, one in enumerate(each) for name, value in one.items()}


def same_length(predictions: Examples, references: Examples) -> None:
    """Raise UserError where there are not as many predictions as references."""
    if len(predictions) != len(references):
        raise UserError(
            f"there are {len(predictions)} predictions for {len(references)} references; "
            "expected one of each per example, in the same order"
        )


def has_many(references: Examples) -> bool:
    """Return whether examples are multi-label: references hold `labels` rather than `label`."""
    return bool(references) and "labels" in references[0] and "label" not in references[0]


def label_pairs(predictions: Examples, references: Examples) -> list[tuple[Label, Label]]:
    """Return (predicted, actual) label of each example.

    Raises UserError for a missing label, and where one of the two is a text and the other a number, because
    such a pair is never equal and the figure would be a silent zero.
    """
    same_length(predictions, references)
    what = "the name of a class, a text (or an integer on both sides)"
    predicted = column(predictions, "label", side="prediction", check=is_label, what=what)
    actual = column(references, "label", side="reference", check=is_label, what=what)
    for index, (one, two) in enumerate(zip(predicted, actual, strict=True)):
        _alike(index, one, two)
    return list(zip(predicted, actual, strict=True))


def label_sets(
    predictions: Examples, references: Examples
) -> list[tuple[frozenset[Label], frozenset[Label]]]:
    """Return (predicted, actual) sets of labels of each multi-label example.

    Raises UserError for missing labels, and where one side has texts and the other numbers.
    """
    same_length(predictions, references)
    what = "a list of names of classes, [] for none"
    predicted = column(predictions, "labels", side="prediction", check=all_of(is_label), what=what)
    actual = column(references, "labels", side="reference", check=all_of(is_label), what=what)
    for index, (some, others) in enumerate(zip(predicted, actual, strict=True)):
        if some and others:
            _alike(index, some[0], others[0])
    return [(frozenset(some), frozenset(others)) for some, others in zip(predicted, actual, strict=True)]


def tag_pairs(predictions: Examples, references: Examples) -> list[tuple[list[str], list[str]]]:
    """Return (predicted, actual) tags of each example, one tag a word on both sides.

    Raises UserError for missing tags and for unequal counts: words are scored, not sub-pieces, and a word
    that was cut off still needs its tag (O).
    """
    same_length(predictions, references)
    what = "a list of tags, one for each word"
    predicted = column(predictions, "tags", side="prediction", check=all_of(is_text), what=what)
    actual = column(references, "tags", side="reference", check=all_of(is_text), what=what)
    for index, (some, others) in enumerate(zip(predicted, actual, strict=True)):
        if len(some) != len(others):
            raise UserError(
                f"example {index} has {len(some)} predicted tags for {len(others)} words; expected one tag "
                "for each word, O for words that the model did not see, none for sub-pieces"
            )
    return list(zip(predicted, actual, strict=True))


def text_pairs(predictions: Examples, references: Examples) -> list[tuple[str, list[str]]]:
    """Return (text, its references) of each generated example; there is at least one reference.

    Raises UserError for a missing text, missing references, and an empty list of them.
    """
    same_length(predictions, references)
    texts = column(predictions, "text", side="prediction", check=is_text, what="the generated text")

    def some(value: Any) -> bool:
        return all_of(is_text)(value) and len(value) > 0

    what = "a list of one or more reference texts"
    wanted = column(references, "references", side="reference", check=some, what=what)
    return [(text, list(group)) for text, group in zip(texts, wanted, strict=True)]


def _alike(index: int, predicted: Label, actual: Label) -> None:
    if isinstance(predicted, str) != isinstance(actual, str):
        raise UserError(
            f"example {index}: the predicted label {printable(repr(predicted))} and the reference's "
            f"{printable(repr(actual))} can never be equal; expected names on both sides, or numbers on both"
        )
