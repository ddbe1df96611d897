"""F1 of entities: a span is right if its type and both its ends are (CoNLL-2003's figure).

Accuracy of tags flatters a tagger, because most words are O, and half an entity found is none.
Source: Tjong Kim Sang and De Meulder 2003, and the spans of conlleval, which reads tags leniently.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from lmx.core.errors import UserError, printable
from lmx.core.types import Metric, Totals
from lmx.metrics import _fields, _prf


def metric() -> Metric:
    """Return `precision`, `recall` and `f1` of entities; with `_macro`, the means over types; `f1/TYPE` etc.

    Examples hold `tags`, one per word, in the schemes BIO (both kinds) or BIOES. The figures are those of
    seqeval's default mode. What is undefined is 0.

    Errors: UserError from sums for missing tags, tags that are not one per word, and tags of no such scheme.
    """

    def sums(predictions: _fields.Examples, references: _fields.Examples) -> Totals:
        right: Counter[str] = Counter()
        predicted: Counter[str] = Counter()
        actual: Counter[str] = Counter()
        for some, others in _fields.tag_pairs(predictions, references):
            found, wanted = set(spans(some)), set(spans(others))
            right.update(kind for kind, _, _ in found & wanted)
            predicted.update(kind for kind, _, _ in found)
            actual.update(kind for kind, _, _ in wanted)
        return {"right": right, "predicted": predicted, "actual": actual}

    def finish(total: Totals) -> dict[str, float]:
        counts = total["right"], total["predicted"], total["actual"]
        kinds = sorted(set(counts[1]) | set(counts[2]))
        figures = {
            **_prf.named(_prf.micro(*counts, kinds)),
            **_prf.named(_prf.mean(*counts, kinds), "_macro"),
        }
        for kind in kinds:
            figures |= _prf.named(_prf.micro(*counts, [kind]), f"/{kind}")
        return figures

    return Metric(sums=sums, finish=finish)


def spans(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """Return the entities of one sequence of tags: (type, first word, word after the last).

    A word goes on with an entity if it is I or E, of the same type, after B or I; any other word but O begins
    one. So an I after O, or after another type, begins an entity, as in conlleval. A tag without a type, such
    as B alone, is of the type `_`.

    >>> spans(["B-PER", "I-PER", "O", "I-LOC", "I-PER"])
    [('PER', 0, 2), ('LOC', 3, 4), ('PER', 4, 5)]

    Raises UserError for a tag that is neither O nor one of B, I, E, S, alone or with a type (`B-PER`).
    """
    found: list[tuple[str, int, int]] = []
    before, kind_before = "O", "_"
    for index, tag in enumerate(tags):
        mark, _, kind = tag.partition("-")
        if mark not in ("B", "I", "E", "S") and tag != "O":
            raise UserError(
                f"the tag {printable(repr(tag))} marks no span; expected O, B-TYPE or I-TYPE (or E-, S-); "
                "for tags of single words, such as parts of speech, use the metric accuracy"
            )
        kind = kind or "_"
        if mark in ("I", "E") and before in ("B", "I") and kind == kind_before:
            found[-1] = (kind, found[-1][1], index + 1)
        elif mark != "O":
            found.append((kind, index, index + 1))
        before, kind_before = mark, kind
    return found
