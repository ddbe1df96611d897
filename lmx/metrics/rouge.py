"""ROUGE F-measures of summaries by rouge_score, Google's port of the original script.

Its words are runs of ASCII letters and digits, so texts in other scripts score 0.
Source: Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries".
"""

from __future__ import annotations

import math
import re
from typing import Any

from lmx.core.types import Metric, Totals
from lmx.metrics import _fields
from lmx.metrics._optional import missing
from lmx.metrics._prf import ratio

NAMES = ("rouge1", "rouge2", "rougeL", "rougeLsum")


_BETWEEN = re.compile(r"(?<=[.!?])\s+(?=\S)")
"""Where a sentence ends in text without newlines: white space behind a full stop, or a mark like it."""


def metric(*, stemmer: bool = False, sentences: bool = False) -> Metric:
    """Return `rouge1`, `rouge2`, `rougeL` and `rougeLsum`: mean F-measures over examples, 0 to 1.

    stemmer: compare words without their English endings, as many papers on summaries do; say which it was.

    rougeLsum compares sentence by sentence and takes each line for a sentence: without newlines in both texts
    it is rougeL. sentences: put one behind each sentence of a text that has none. Predictions hold `text`,
    references `references`; of several, the one with the best F-measure counts, for each figure by itself.
    Totals: the sums of the F-measures, and `count`.

    Errors: UserError for a missing rouge_score, and from sums for missing texts.
    """
    scorer = _scorer(stemmer)

    def sums(predictions: _fields.Examples, references: _fields.Examples) -> Totals:
        pairs = _fields.text_pairs(predictions, references)
        if sentences:
            pairs = [(lines(text), [lines(one) for one in group]) for text, group in pairs]
        scores = [scorer.score_multi(group, text) for text, group in pairs]
        total: dict[str, float] = {name: math.fsum(one[name].fmeasure for one in scores) for name in NAMES}
        return total | {"count": len(pairs)}

    def finish(total: Totals) -> dict[str, float]:
        return {name: ratio(total[name], total["count"]) for name in NAMES}

    return Metric(sums=sums, finish=finish)


def lines(text: str) -> str:
    r"""Return a text with a sentence on each line; one that has newlines already stays as it is.

    >>> lines("It was late. We left! Why?")
    'It was late.\nWe left!\nWhy?'
    """
    return text if "\n" in text else _BETWEEN.sub("\n", text)


def _scorer(stemmer: bool) -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise missing("rouge", "rouge-score") from error
    return RougeScorer(list(NAMES), use_stemmer=stemmer)
