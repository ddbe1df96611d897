"""Split: which text is trained on and which is held out."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from data_prep.read import Document
from lmx.core.errors import UserError

ENOUGH = 100
"""From so many documents on, "auto" holds whole documents out; of fewer, the last part of each."""


def choose(mode: str, count: int) -> str:
    """Return "document" or "tail": `mode` itself, or what "auto" is for so many documents."""
    if mode not in ("auto", "document", "tail"):
        raise UserError(f"data.split={mode!r}; expected auto, document or tail")
    return mode if mode != "auto" else "document" if count >= ENOUGH else "tail"


def split(
    documents: Sequence[Document], *, mode: str, holdout: float, seed: int = 0
) -> tuple[list[Document], list[Document]]:
    """Return (train, validation).

    "document" holds whole documents out, chosen by a hash of (seed, text): neither their order nor what else
    is in the corpus decides. "tail" cuts each document of n characters at floor(n * (1 - holdout)).

    >>> [part[0].text for part in split([Document("a", "0123456789", "a")], mode="tail", holdout=0.1)]
    ['012345678', '9']
    """
    # As written: 1 - 0.1 is 9/10 here, and not the nearest float.
    share = Fraction(str(holdout)) if math.isfinite(holdout) else Fraction(0)
    if not 0 < share < 1:
        raise UserError(f"data.holdout={holdout}; expected more than 0 and less than 1")
    by_document = choose(mode, len(documents)) == "document"
    train: list[Document] = []
    validation: list[Document] = []
    for document in documents:
        if by_document:
            digest = hashlib.sha256(f"{seed}\0{document.text}".encode()).digest()
            held = Fraction(int.from_bytes(digest[:8]), 1 << 64) < share
            (validation if held else train).append(document)
        else:
            cut = int(len(document.text) * (1 - share))
            for part, text in ((train, document.text[:cut]), (validation, document.text[cut:])):
                if text:
                    part.append(replace(document, text=text))
    return train, validation
