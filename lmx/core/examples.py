"""Examples of a supervised data set, as they travel from a source to a task and to batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np

Example: TypeAlias = Mapping[str, Any]
"""One example by the names of its task's fields, such as `text` and `label`, whatever its file calls them."""

Feature: TypeAlias = Mapping[str, np.ndarray]
"""What a model reads of one example, not padded: `input_ids` (T,), `labels` () or (T,), …"""


@dataclass(frozen=True)
class Field:
    """A field of a task's examples.

    name: as on every shelf, such as `text`. target: it is what the model shall tell, and may be missing where
    predictions are asked for. required: whether an example needs it otherwise.
    """

    name: str
    target: bool = False
    required: bool = True


Cut = Literal["longest", "first", "second"]
"""Which text of a pair is cut where a row is too long: always the longer one, the first, or the second."""


@dataclass(frozen=True)
class Row:
    """T tokens that a model reads at once, special tokens among them.

    ids, types (T,) int32: `input_ids` and `token_type_ids`. text (T,) int32: 0 for a token of the first text,
    1 of the second, -1 for a special token. offsets (T, 2) int32: first character and the one after the last,
    in its own text. words (T,) int32: the place of its word where the text was given as words, else of the
    pre-tokenizer's word; -1 for a special token. cut: whether tokens were left out.
    """

    ids: np.ndarray
    types: np.ndarray
    text: np.ndarray
    offsets: np.ndarray
    words: np.ndarray
    cut: bool


class Encoder(Protocol):
    """What a task must know of a tokenizer; `lmx.tokenizer.Tokenizer` is one."""

    @property
    def filler(self) -> int: ...

    def rows(
        self,
        texts: Sequence[Any],
        pairs: Sequence[Any] | None = None,
        *,
        length: int,
        stride: int | None = None,
        cut: Cut = "longest",
        words: bool = False,
        special: bool = True,
    ) -> list[list[Row]]:
        """Return the rows of each text, or of each pair."""
        ...


class Records(Protocol):
    """The rows of a split: raw values under the names of a task's fields.

    columns: those that the source has, by its own names, for messages.
    """

    columns: tuple[str, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Example: ...

    def where(self, index: int) -> str:
        """Return where a row comes from, for a message: `train.tsv, line 17`."""
        ...


@dataclass(frozen=True)
class Encoded:
    """Examples as a model reads them.

    features: one or more of each example. origin: for each feature, the index of its example. counts: what
    was cut or left out, by name, such as `{"texts cut": 12}`; every count is reported.
    """

    features: Sequence[Feature]
    origin: Sequence[int]
    counts: Mapping[str, int] = field(default_factory=dict)
