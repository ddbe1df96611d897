"""When two examples are the same: the digest of a data set, and what two of them share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from lmx.core.examples import Example, Records

TARGETS = frozenset(
    {"id", "label", "labels", "value", "tags", "answers", "response", "references", "left_out"}
)
"""Fields that are no part of what a model is asked: the id, what it should answer, and what was counted."""


def fingerprint(records: Records) -> str:
    """Return the SHA-256 over all examples in their order, in hexadecimal digits.

    Equal exactly where every field of every example is equal, whatever the files are called and wherever they
    lie, so that a resumed run can tell that its data is what it was.
    """
    digest = hashlib.sha256()
    for index in range(len(records)):
        digest.update(canonical(records[index]) + b"\n")
    return digest.hexdigest()


def overlap(train: Records | Sequence[Example], other: Records | Sequence[Example]) -> int:
    """Return how many rows of `other` ask what a row of `train` asks too: equal fields, targets left out.

    Give them as the task reads them where it does more than check: of a dialogue in one text, only the task
    knows where the turns begin.
    """
    known = {asked(train[index]) for index in range(len(train))}
    return sum(asked(other[index]) in known for index in range(len(other)))


def asked(example: Example) -> bytes:
    """Return the SHA-256 of what an example asks: its fields without the id and the targets.

    Of a dialogue without a response of its own, the last turn is what it should answer.
    """
    left = {name: value for name, value in example.items() if name not in TARGETS}
    answered = "response" in example or "references" in example
    if isinstance(left.get("turns"), list) and not answered:
        left["turns"] = left["turns"][:-1]
    return sha256(left)


def sha256(value: Any) -> bytes:
    """Return the SHA-256 of a value's JSON, 32 bytes."""
    return hashlib.sha256(canonical(value)).digest()


def canonical(value: Any) -> bytes:
    """Return a value's JSON as ASCII bytes that depend on the value alone, one line of sorted keys."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")
