"""Which tokens are hidden from a masked language model, drawn anew in every epoch.

Sources: Devlin et al. 2018, "BERT", section 3.1 and appendix A.1 (15 %, of which 80 % become [MASK], 10 % a
random token, 10 % stay); the authors' released code (a fixed count, and whole words); Joshi et al. 2019,
"SpanBERT", section 3.1 (spans of geometric length, replaced alike).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lmx.core import rng
from lmx.core.errors import UserError, did_you_mean
from lmx.core.types import IGNORED
from lmx.core.vocabulary import Vocabulary

UNITS = ("piece", "word", "span")

REPLACED, RANDOM = 0.8, 0.1
"""Shares of the hidden tokens that become [MASK], and another token; the rest stays as it is."""

SPAN, LONGEST = 0.2, 10
"""Spans of words: the geometric distribution's probability of an end, and the most words of one."""


def check(*, share: float = 0.15, unit: str = "piece") -> None:
    """Raise UserError for options that cannot be."""
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share < 1:
        raise UserError(f"task.share={share!r}; expected the share of hidden tokens, such as 0.15")
    if unit not in UNITS:
        hint = did_you_mean(str(unit), UNITS)
        raise UserError(f"task.unit={unit!r}{hint}; expected one of: {', '.join(UNITS)}")


def most(length: int, share: float) -> int:
    """Return the most tokens that are hidden of a row of that many."""
    return max(1, round(share * length))


def hide(
    rows: Mapping[str, np.ndarray], vocabulary: Vocabulary, *, seed: int, share: float, unit: str
) -> dict[str, np.ndarray]:
    """Return `input_ids` and `labels` (B, T), and `hidden_positions` (B, K), of rows of tokens.

    rows: `tokens` and `segment_ids` (B, T), 0 being padding, and `index` and `epoch` (B,). Of a row's n
    tokens that are not special, max(1, round(share * n)) are hidden; their labels are what they were, all
    others -100. unit: "piece" draws tokens, "word" whole words, "span" spans of words; of these two a row may
    hide fewer, where no word is left that fits. `hidden_positions` are the labels' places, in order; K is
    max(1, round(share * T)), and what is left of it is 0, a place without a label. The draws of a row derive
    from (seed, its index, epoch) alone.

    Errors: UserError for a vocabulary without [MASK].
    """
    check(share=share, unit=unit)
    if vocabulary.mask is None:
        raise UserError(
            "the tokenizer has no mask token, which hidden tokens become; set tokenizer.name=wordpiece"
        )
    ids = rows["tokens"].astype(np.int32)
    inputs, labels = ids.copy(), np.full_like(ids, IGNORED)
    places = np.zeros((len(ids), most(ids.shape[1], share)), np.int32)
    for row, (tokens, segments) in enumerate(zip(ids, rows["segment_ids"], strict=True)):
        key = [seed, rng.hashed("masks"), int(rows["epoch"][row]), int(rows["index"][row])]
        draw = np.random.default_rng(key)
        open_ = np.flatnonzero((segments != 0) & ~vocabulary.is_special[tokens])
        if not len(open_):
            continue
        count = most(len(open_), share)
        if unit == "piece":
            chosen = draw.permutation(open_)[:count]
            fates = draw.random(len(chosen))
        else:
            words = _words(tokens, segments, open_, vocabulary, draw)
            groups = _spans(words, draw) if unit == "span" else [[word] for word in words]
            chosen, fates = _chosen(groups, count, draw, together=unit == "span")
        labels[row, chosen] = tokens[chosen]
        inputs[row, chosen[fates < REPLACED]] = vocabulary.mask
        swapped = chosen[(fates >= REPLACED) & (fates < REPLACED + RANDOM)]
        inputs[row, swapped] = vocabulary.plain[draw.integers(len(vocabulary.plain), size=len(swapped))]
        places[row, : len(chosen)] = np.sort(chosen)
    return {"input_ids": inputs, "labels": labels, "hidden_positions": places}


def _words(
    tokens: np.ndarray,
    segments: np.ndarray,
    open_: np.ndarray,
    vocabulary: Vocabulary,
    draw: np.random.Generator,
) -> list[np.ndarray]:
    """Return the places of each word, the words in the order in which they are drawn."""
    # A word ends where the next token does not continue it, and wherever there is a token that is not open.
    begins = ~vocabulary.inner[tokens[open_]] | (np.diff(open_, prepend=-2) != 1)
    begins |= np.diff(segments[open_], prepend=-1) != 0
    words = np.split(open_, np.flatnonzero(begins)[1:])
    return [words[i] for i in draw.permutation(len(words))]


def _spans(words: list[np.ndarray], draw: np.random.Generator) -> list[list[np.ndarray]]:
    """Return, for each word, the words of the span that begins with it; a special token ends it early."""
    following = {int(word[0]): word for word in words}
    spans = []
    for word, length in zip(words, draw.geometric(SPAN, size=len(words)), strict=True):
        span = [word]
        while len(span) < min(length, LONGEST) and (end := int(span[-1][-1]) + 1) in following:
            span.append(following[end])
        spans.append(span)
    return spans


def _chosen(
    groups: list[list[np.ndarray]], count: int, draw: np.random.Generator, *, together: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return (places, a number in 0 .. 1 that decides what becomes of each), at most `count` of them.

    groups: words. One that there is no room for ends its group, and is not hidden in part; a word that an
    earlier group holds is passed over. together: one fate for each group, or else for each token.
    """
    taken: dict[int, float] = {}
    for words in groups:
        fate = draw.random() if together else None
        for word in words:
            fresh = [int(place) for place in word if int(place) not in taken]
            if len(taken) + len(fresh) > count:
                break
            fates = draw.random(len(fresh)) if fate is None else np.full(len(fresh), fate)
            taken |= dict(zip(fresh, fates.tolist(), strict=True))
        if len(taken) == count:
            break
    return np.array(list(taken), np.int32), np.array(list(taken.values()))
