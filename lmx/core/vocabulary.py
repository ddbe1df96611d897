"""What hiding tokens needs to know of a tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Vocabulary:
    """V ids: which of them are special, and which continue a word.

    mask: the id that stands for a hidden token, or None. special: sorted ids, of which none is text. inner
    (V,) bool: the id continues the word of the one before it.
    """

    size: int
    mask: int | None
    special: np.ndarray
    inner: np.ndarray

    @cached_property
    def is_special(self) -> np.ndarray:
        """(V,) bool."""
        found = np.zeros(self.size, bool)
        found[self.special] = True
        return found

    @cached_property
    def plain(self) -> np.ndarray:
        """The ids that are text, sorted."""
        return np.flatnonzero(~self.is_special).astype(np.int32)
