"""Precision, recall and F1 of classes: of one positive class, or micro, macro and weighted over labels.

The figures are those of scikit-learn's precision_recall_fscore_support with zero_division=0. For spans of
tagged words use `entity_f1`. Source: as in lmx/metrics/_prf.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from lmx.core.errors import UserError, printable
from lmx.core.types import Metric, Totals
from lmx.metrics import _fields, _prf


def metric(
    *,
    positive: _fields.Label | None = None,
    labels: Sequence[_fields.Label] | None = None,
    each: bool = False,
) -> Metric:
    """Return `precision`, `recall` and `f1` of one class, or each of them `_micro`, `_macro` and `_weighted`.

    positive: the class sought, where there are two; gives the three plain names.
    labels: the classes that count, also those that never occur (0 in the macro mean); a class that is not
        among them, such as "no relation", gives no hits but still costs the others. Default: every class that
        is predicted or in the references.
    each: give `f1/LABEL`, `precision/LABEL` and `recall/LABEL` too.

    Examples hold `label` or, where several are right at once, `labels`. What is undefined is 0.

    Errors: UserError for `positive` with `labels` or `each`; from sums for missing or unlike labels, and for
    multi-label examples with `positive`; from finish where `positive` is not one of the two classes found.
    """
    if positive is not None and (labels is not None or each):
        raise UserError("f1 got positive= with labels= or each=; positive= is for two classes: give it alone")
    if labels is not None and not (isinstance(labels, list | tuple) and labels):
        raise UserError(f"f1 got labels={labels!r}; expected a list of one or more names of classes")

    def sums(predictions: _fields.Examples, references: _fields.Examples) -> Totals:
        pairs = _pairs(predictions, references, positive)
        return {
            "right": Counter(label for one, two in pairs for label in one & two),
            "predicted": Counter(label for one, _ in pairs for label in one),
            "actual": Counter(label for _, two in pairs for label in two),
        }

    def finish(total: Totals) -> dict[str, float]:
        counts = total["right"], total["predicted"], total["actual"]
        seen = sorted(set(counts[1]) | set(counts[2]), key=str)
        if positive is not None:
            if len({*seen, positive}) > 2:
                classes = ", ".join(printable(repr(label)) for label in seen[:10])
                raise UserError(
                    f"f1 got positive={positive!r}, and the classes found are {classes}; expected one of two "
                    "classes; for more than two, leave positive= out or give labels="
                )
            return _prf.named(_prf.micro(*counts, [positive]))
        found = list(dict.fromkeys(labels)) if labels is not None else seen
        figures = {
            **_prf.named(_prf.micro(*counts, found), "_micro"),
            **_prf.named(_prf.mean(*counts, found), "_macro"),
            **_prf.named(_prf.mean(*counts, found, weighted=True), "_weighted"),
        }
        for label in found if each else ():
            figures |= _prf.named(_prf.micro(*counts, [label]), f"/{label}")
        return figures

    return Metric(sums=sums, finish=finish)


def _pairs(
    predictions: _fields.Examples, references: _fields.Examples, positive: _fields.Label | None
) -> list[tuple[frozenset[_fields.Label], frozenset[_fields.Label]]]:
    """Return (labels predicted, labels there) of each example."""
    if not _fields.has_many(references):
        single = _fields.label_pairs(predictions, references)
        return [(frozenset((one,)), frozenset((two,))) for one, two in single]
    if positive is not None:
        raise UserError(
            f"f1 got positive={positive!r}, but examples have several labels; "
            f"give labels=[{positive!r}] instead"
        )
    return _fields.label_sets(predictions, references)
