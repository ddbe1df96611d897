"""Dedup, exact: of documents with the same text the first stays."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from data_prep.read import Document


def dedup(documents: Iterable[Document]) -> tuple[list[Document], list[Document]]:
    """Return (kept, dropped), each in the order they came; memory is that of the texts, and 32 bytes for
    each."""
    seen: set[bytes] = set()
    kept: list[Document] = []
    dropped: list[Document] = []
    for document in documents:
        digest = hashlib.sha256(document.text.encode()).digest()
        (dropped if digest in seen else kept).append(document)
        seen.add(digest)
    return kept, dropped
