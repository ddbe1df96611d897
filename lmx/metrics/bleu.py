"""BLEU of generated texts by sacreBLEU, from whole texts, so that figures of different papers compare.

Texts go in as people read them; sacreBLEU cuts them into words. BLEU of texts that another tokenizer has cut
compares with nothing. Source: Papineni et al. 2002; Post 2018, "A Call for Clarity in Reporting BLEU Scores".
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np

from lmx.core.errors import UserError, did_you_mean
from lmx.core.types import Metric, Totals
from lmx.metrics import _fields
from lmx.metrics._optional import missing

Tokenize = Literal["13a", "intl", "char", "zh", "none"]
Smooth = Literal["exp", "floor", "add-k", "none"]


def metric(
    *,
    tokenize: Tokenize = "13a",
    lowercase: bool = False,
    smooth: Smooth = "exp",
    smooth_value: float | None = None,
    order: int = 4,
    effective: bool = False,
) -> Metric:
    """Return `bleu` (0 to 100), `brevity_penalty` and `length_ratio` of a corpus.

    tokenize: how sacreBLEU cuts words; "zh" for Chinese, "char" for other text without spaces; "none" splits
        at spaces, for text that has been cut on purpose.
    smooth, smooth_value: what an order without a hit counts as; the value is for "floor" and "add-k".
    order: the longest n-gram. effective: leave out orders that the text is too short for, as one should for
        the BLEU of single sentences.

    Predictions hold `text`, references `references`, one or more, also of varied number. Report `signature`
    with the figure. Totals: `correct` and `total`, n-grams by order, (order,); `length`, `reference_length`.

    Errors: UserError for an unknown option, a missing sacreBLEU, and from sums for missing texts.
    """
    _bleu(tokenize, lowercase, smooth, smooth_value, order, effective)  # is every option known?
    counter = _bleu(tokenize, lowercase, "none", None, order, effective)

    def sums(predictions: _fields.Examples, references: _fields.Examples) -> Totals:
        pairs = _fields.text_pairs(predictions, references)
        if not pairs:
            nothing = np.zeros(order, np.int64)
            return {"correct": nothing, "total": nothing, "length": 0, "reference_length": 0}
        most = max(len(group) for _, group in pairs)
        streams = [[group[i] if i < len(group) else None for _, group in pairs] for i in range(most)]
        counts = counter.corpus_score([text for text, _ in pairs], streams)
        return {
            "correct": np.array(counts.counts, np.int64),
            "total": np.array(counts.totals, np.int64),
            "length": int(counts.sys_len),
            "reference_length": int(counts.ref_len),
        }

    def finish(total: Totals) -> dict[str, float]:
        found = counter.compute_bleu(
            correct=total["correct"].tolist(),  # a list of its own: smoothing writes into it
            total=total["total"].tolist(),
            sys_len=total["length"],
            ref_len=total["reference_length"],
            smooth_method=smooth,
            smooth_value=smooth_value,
            effective_order=effective,
            max_ngram_order=order,
        )
        return {
            "bleu": float(found.score),
            "brevity_penalty": float(found.bp),
            "length_ratio": float(found.ratio),
        }

    return Metric(sums=sums, finish=finish)


def signature(
    references: int | None,
    *,
    tokenize: Tokenize = "13a",
    lowercase: bool = False,
    smooth: Smooth = "exp",
    smooth_value: float | None = None,
    order: int = 4,
    effective: bool = False,
) -> str:
    """Return sacreBLEU's signature, which belongs beside every BLEU figure: the options and the release.

    references: how many each text has; None where their number varies. The rest: as given to `metric`. An
    order other than 4 has no place in sacreBLEU's own signature and is appended as `order:N`.

    Errors: UserError as in `metric`.
    """
    found = _bleu(tokenize, lowercase, smooth, smooth_value, order, effective)
    found.num_refs = -1 if references is None else references
    return str(found.get_signature()) + ("" if order == 4 else f"|order:{order}")


def _bleu(
    tokenize: str, lowercase: bool, smooth: str, smooth_value: float | None, order: int, effective: bool
) -> Any:
    for name, value, known in (
        ("tokenize", tokenize, get_args(Tokenize)),
        ("smooth", smooth, get_args(Smooth)),
    ):
        if value not in known:
            hint = did_you_mean(str(value), known)
            raise UserError(f"bleu got {name}={value!r}{hint}; expected one of {', '.join(known)}")
    if smooth_value is not None and (smooth not in ("floor", "add-k") or smooth_value < 0):
        raise UserError(
            f"bleu got smooth_value={smooth_value!r} with smooth={smooth!r}; expected a number of 0 or more, "
            "and smooth='floor' or 'add-k'"
        )
    if not isinstance(order, int) or order < 1:
        raise UserError(f"bleu got order={order!r}; expected the longest n-gram, 1 or more, such as 4")
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError as error:
        raise missing("bleu", "sacrebleu") from error
    return BLEU(
        tokenize=tokenize,
        lowercase=lowercase,
        smooth_method=smooth,
        smooth_value=smooth_value,
        max_ngram_order=order,
        effective_order=effective,
    )
