"""Exact match and token F1 of extracted answers, in percent, as SQuAD's own evaluation counts them.

Source: Rajpurkar et al. 2016, section 6.1; Rajpurkar, Jia and Liang 2018 (questions without an answer).
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np

from lmx.core.types import Metric, Totals
from lmx.metrics import _fields
from lmx.metrics._prf import ratio

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PARTS = ("has_answer", "no_answer")


def metric() -> Metric:
    """Return `exact_match` and `f1`, 0 to 100, over all questions and over those with and without an answer.

    The parts are `has_answer/f1`, `no_answer/exact_match` and so on; a part without questions has no figures.
    Predictions hold `answer` ("" says that there is none), references `answers`, of which the best counts; []
    says that there is none, and then only "" is right.

    Totals: `exact`, `f1` and `count`, arrays (2,): questions with an answer, and without.

    Errors: UserError from sums for missing answers or values that are no texts.
    """

    def sums(predictions: _fields.Examples, references: _fields.Examples) -> Totals:
        _fields.same_length(predictions, references)
        texts = _fields.all_of(_fields.is_text)
        what = 'a text, "" for no answer'
        found = _fields.column(predictions, "answer", side="prediction", check=_fields.is_text, what=what)
        what = "a list of texts, [] for no answer"
        wanted = _fields.column(references, "answers", side="reference", check=texts, what=what)
        rows = [
            (int(not answers), *score(answer, answers)) for answer, answers in zip(found, wanted, strict=True)
        ]
        return {
            "exact": np.array(
                [sum(hit for place, hit, _ in rows if place == part) for part in (0, 1)], np.int64
            ),
            "f1": np.array([math.fsum(f1 for place, _, f1 in rows if place == part) for part in (0, 1)]),
            "count": np.array([sum(place == part for place, _, _ in rows) for part in (0, 1)], np.int64),
        }

    def finish(total: Totals) -> dict[str, float]:
        exact, f1, count = (total[name] for name in ("exact", "f1", "count"))
        figures = {
            "exact_match": 100 * ratio(exact.sum(), count.sum()),
            "f1": 100 * ratio(f1.sum(), count.sum()),
        }
        for part, name in enumerate(_PARTS):
            if count[part]:
                figures[f"{name}/exact_match"] = 100 * ratio(exact[part], count[part])
                figures[f"{name}/f1"] = 100 * ratio(f1[part], count[part])
        return figures

    return Metric(sums=sums, finish=finish)


def normalise(text: str) -> str:
    """Return a text as answers are compared: lower case, no ASCII punctuation, no articles, single spaces.

    >>> normalise("The  U.S. Army's")
    'us armys'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def score(answer: str, answers: Sequence[str]) -> tuple[int, float]:
    """Return (exact match 0 or 1, token F1 0 to 1) of an answer against the best of the right ones.

    A right answer that normalises to nothing, such as "the", is passed over; where none is left, only an
    answer that normalises to nothing is right.
    """
    given = normalise(answer)
    right = [text for text in map(normalise, answers) if text] or [""]
    return int(given in right), max(_overlap(given.split(), text.split()) for text in right)


def _overlap(one: Sequence[str], two: Sequence[str]) -> float:
    if not one or not two:
        return float(one == two)
    common = (Counter(one) & Counter(two)).total()
    return 2 * common / (len(one) + len(two))
