"""What tasks share in reading examples: texts, names of labels and their order, rows of texts and pairs."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, get_args

import numpy as np

from lmx.core.errors import UserError, did_you_mean, printable
from lmx.core.examples import Cut, Encoded, Encoder, Example, Feature, Row

NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")


def shown(value: Any) -> str:
    """Return a value of a data set as a message may show it: one line, not long."""
    return printable(repr(value))


def base(example: Example) -> dict[str, Any]:
    """Return what every task keeps of an example as it is: its `id`."""
    return {"id": example["id"]} if "id" in example else {}


def text(example: Example, name: str) -> str:
    """Return a text of an example. Errors: UserError where it is missing, empty or no text."""
    value = example.get(name)
    if not isinstance(value, str):
        raise UserError(f"{name}={shown(value)}; expected a text")
    if not value.strip():
        raise UserError(f"{name} is empty; fill it in, or leave the row out")
    return value


def texts(example: Example) -> dict[str, str]:
    """Return `text` and, where the example has one, `text_pair`."""
    names = ("text", "text_pair") if example.get("text_pair") is not None else ("text",)
    return {name: text(example, name) for name in names}


def label(value: Any, name: str = "label") -> str:
    """Return the name of a label: a text without the space around it, a whole number, or true and false.

    Errors: UserError for anything else, such as a fraction, and an empty name.
    """
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if isinstance(value, (int, np.integer)):
        return str(int(value))
    if isinstance(value, str):
        if not value.strip():
            raise UserError(f"{name} is empty; name it, or leave the row out")
        return value.strip()
    raise UserError(f"{name}={shown(value)}; expected a name, a whole number, true or false")


def number(value: Any, name: str = "value") -> float:
    """Return a number, which may come as text. Errors: UserError where it is none, NaN or infinite."""
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise UserError(f"{name}={shown(value)}; expected a finite number")
    return found


def ordered(names: set[str]) -> list[str]:
    """Return the names of labels in their order: numbers as numbers, then all others as texts.

    >>> ordered({"10", "9", "b", "a"})
    ['9', '10', 'a', 'b']
    """

    def key(name: str) -> tuple[bool, float, str]:
        known = NUMBER.fullmatch(name) is not None
        return not known, float(name) if known else 0.0, name

    return sorted(names, key=key)


def place(names: Sequence[str], name: str, field: str = "label") -> int:
    """Return the index of a label. Errors: UserError for one that the training split did not have."""
    if name not in names:
        known = ", ".join(map(printable, names[:20])) + (" ..." if len(names) > 20 else "")
        raise UserError(f"{field}={shown(name)}{did_you_mean(name, names)}; the task's labels are: {known}")
    return names.index(name)


def has(examples: Sequence[Example], field: str) -> bool:
    """Tell whether the examples have a field. Errors: UserError where some have it and some have not."""
    held = [field in example for example in examples]
    if any(held) and not all(held):
        raise UserError(
            f"{_which(examples, held.index(False))} has no {field}, but others have; give all one"
        )
    return any(held)


def targets(examples: Sequence[Example], field: str) -> list[Any]:
    """Return a target of each example. Errors: UserError where one has none."""
    if not examples:
        raise UserError("no examples")
    for index, example in enumerate(examples):
        if field not in example:
            raise UserError(
                f"{_which(examples, index)} has no {field}; fill it in, or name its column, "
                f"data.columns.{field}"
            )
    return [example[field] for example in examples]


@contextmanager
def named(examples: Sequence[Example], index: int) -> Iterator[None]:
    """Make a UserError say which of the examples it is about."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{_which(examples, index)}: {error}") from error


def _which(examples: Sequence[Example], index: int) -> str:
    own = examples[index].get("id")
    return f"example {index + 1}" + (f" (id {shown(own)})" if own is not None else "")


def rows(
    examples: Sequence[Example],
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    tokenizer: Encoder,
    *,
    length: int,
    cut: Cut = "longest",
) -> list[Row]:
    """Return the row of each text, or pair: so many for each example, one after another.

    Errors: UserError for an unknown `cut`, one without pairs, and a text of which no token is left.
    """
    choice("cut", cut, get_args(Cut))
    if pairs is None and cut != "longest":
        raise UserError(f"task.cut={cut!r} is for pairs of texts, and these examples have no text_pair")
    found = [one[0] for one in tokenizer.rows(texts, pairs, length=length, cut=cut)]
    for index, row in enumerate(found):
        if not (row.text >= 0).any():
            which = _which(examples, index * len(examples) // len(found))
            raise UserError(f"{which}: the tokenizer leaves nothing of {shown(texts[index])}; leave it out")
    return found


def pair_rows(examples: Sequence[Example], tokenizer: Encoder, *, length: int, cut: Cut) -> list[Row]:
    """Return the row of each example's text, or of its text and the second together."""
    pairs = [example["text_pair"] for example in examples] if has(examples, "text_pair") else None
    firsts = [example["text"] for example in examples]
    return rows(examples, firsts, pairs, tokenizer, length=length, cut=cut)


def feature(row: Row) -> dict[str, np.ndarray]:
    """Return what a model reads of a row."""
    return {"input_ids": row.ids, "token_type_ids": row.types}


def side_by_side(rows: Sequence[Row], filler: int) -> dict[str, np.ndarray]:
    """Return N rows as one feature: arrays (N, T), filled up on the right to the longest."""
    width = max(len(row.ids) for row in rows)

    def filled(parts: Sequence[np.ndarray], fill: int) -> np.ndarray:
        return np.stack([np.pad(one, (0, width - len(one)), constant_values=fill) for one in parts])

    return {
        "input_ids": filled([row.ids for row in rows], filler),
        "token_type_ids": filled([row.types for row in rows], 0),
        "attention_mask": filled([np.ones_like(row.ids) for row in rows], 0),
    }


def encoded(features: Sequence[Feature], rows: Sequence[Row]) -> Encoded:
    """Return one feature of each example, with the count of rows that lost tokens."""
    return Encoded([*features], list(range(len(features))), {"texts cut": sum(row.cut for row in rows)})


def choice(name: str, value: Any, known: Sequence[str]) -> None:
    """Raise UserError where an option is none of the known words."""
    if value not in known:
        raise UserError(
            f"task.{name}={value!r}{did_you_mean(str(value), known)}; expected {' or '.join(known)}"
        )


def span(name: str, value: Any) -> tuple[float, float]:
    """Return the two ends of a range. Errors: UserError unless they are two numbers that rise."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        raise UserError(f"task.{name}={value!r}; expected two numbers, the lowest and the highest")
    low, high = (number(one, f"task.{name}") for one in value)
    if not low < high:
        raise UserError(f"task.{name}={value!r}; expected the lower number first")
    return low, high


def probabilities(logits: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """Return {name: probability} of logits (C,), by the softmax in f64."""
    wide = logits.astype(np.float64)
    shares = np.exp(wide - wide.max())
    return dict(zip(names, (shares / shares.sum()).tolist(), strict=True))


def nats(logits: np.ndarray, place: int) -> float:
    """Return -log p of the class at a place, of logits (C,), in f64."""
    wide = logits.astype(np.float64)
    most = wide.max()
    return float(most + np.log(np.exp(wide - most).sum()) - wide[place])


def label_nats(encoded: Encoded, logits: Sequence[np.ndarray]) -> list[float]:
    """Return -log p of each feature's `labels` (), one feature being one example."""
    return [nats(row, int(feature["labels"])) for feature, row in zip(encoded.features, logits, strict=True)]


def best(scores: Mapping[str, float]) -> str:
    """Return the name with the highest score, the first of equal ones."""
    return max(scores, key=lambda name: scores[name])
