"""Which class is taken for which: the counts of a confusion matrix."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def confusion(predicted: Sequence[str], actual: Sequence[str], names: Sequence[str]) -> dict[str, list]:
    """Return {"names": [...], "pairs": [[row, column, count], ...]}: only the pairs that occur, in order.

    row and column are places among the names, of the actual class and of the predicted one. names: the
    classes in their order; any other that occurs comes behind them, sorted.

    >>> confusion(["b", "a", "b"], ["a", "a", "b"], ["a", "b"])["pairs"]
    [[0, 0, 1], [0, 1, 1], [1, 1, 1]]
    """
    whole = [*names, *sorted({*predicted, *actual} - {*names})]
    places = {name: place for place, name in enumerate(whole)}
    counts = Counter((places[two], places[one]) for one, two in zip(predicted, actual, strict=True))
    return {"names": whole, "pairs": [[*pair, count] for pair, count in sorted(counts.items())]}
