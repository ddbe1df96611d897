"""Accuracy: the share that is right, of examples (one label, or the whole set of labels) or of tagged words.

A tagger's words are not its entities: where tags mark spans (B-, I-), `entity_f1` is the figure to report.
"""

from __future__ import annotations

from lmx.core.types import Metric, Totals
from lmx.metrics import _fields
from lmx.metrics._prf import ratio


def metric() -> Metric:
    """Return accuracy.

    Predictions and references hold `label`; or `labels`, and then a set is right if it is exactly that of the
    reference; or `tags`, and then each word counts. The references say which. Nothing to count gives 0.

    Errors: UserError from sums for missing or unlike labels, and for tags that are not one per word.
    """

    def sums(predictions: _fields.Examples, references: _fields.Examples) -> Totals:
        pairs: list[tuple[object, object]]
        if _fields.has_many(references):
            pairs = [*_fields.label_sets(predictions, references)]
        elif references and "tags" in references[0] and "label" not in references[0]:
            tags = _fields.tag_pairs(predictions, references)
            pairs = [pair for some, others in tags for pair in zip(some, others, strict=True)]
        else:
            pairs = [*_fields.label_pairs(predictions, references)]
        return {"right": sum(one == two for one, two in pairs), "count": len(pairs)}

    def finish(total: Totals) -> dict[str, float]:
        return {"accuracy": ratio(total["right"], total["count"])}

    return Metric(sums=sums, finish=finish)
