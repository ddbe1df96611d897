"""What a reader should see of predictions: examples with the highest loss, confusions, calibration."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lmx import metrics
from lmx.commands._judge import Judged
from lmx.core import log
from lmx.core.examples import Example
from lmx.metrics import calibration

MOST = 50
"""Examples in errors.jsonl."""

POINTS = 5000
"""Points of a scatter plot; of more, so many are taken at even distances."""

Dicts = Sequence[Mapping[str, Any]]


def write(
    folder: Path,
    examples: Sequence[Example],
    judged: Judged,
    *,
    fields: Sequence[str],
    names: Sequence[str],
) -> None:
    """Write errors.jsonl and plots.json into a run's folder, each whole or not at all.

    Where the task has no loss of one example there is no errors.jsonl. fields: those of an example that are
    asked, not told. names: the labels in their order.
    """
    predictions, references = judged.predictions, judged.references
    if judged.losses is not None:
        rows = worst(examples, predictions, references, judged.losses, fields)
        text = "".join(json.dumps(log.plain(row), ensure_ascii=False) + "\n" for row in rows)
        log.write_whole(folder / "errors.jsonl", text.encode("utf-8", "backslashreplace"))
    if found := plots(predictions, references, names):
        log.write_whole(folder / "plots.json", (json.dumps(log.plain(found)) + "\n").encode())


def worst(
    examples: Sequence[Example],
    predictions: Dicts,
    references: Dicts,
    losses: Sequence[float],
    fields: Sequence[str],
) -> list[dict[str, Any]]:
    """Return the examples with the highest loss, the highest first, at most MOST.

    Each with its `index` in the split, counted from 0, its `loss`, those of its fields, its `reference` and
    its `prediction`. Examples without a loss, NaN, are left out.
    """
    known = [index for index, loss in enumerate(losses) if not math.isnan(loss)]
    found = []
    for index in sorted(known, key=lambda index: (-losses[index], index))[:MOST]:
        asked = {name: examples[index][name] for name in fields if name in examples[index]}
        told = {"reference": references[index], "prediction": predictions[index]}
        found.append({"index": index, "loss": losses[index], **asked, **told})
    return found


def plots(predictions: Dicts, references: Dicts, names: Sequence[str]) -> dict[str, Any]:
    """Return what the report draws, by what predictions and references hold; nothing for any other task.

    A label: `confusion` (see lmx.metrics.confusion) and `calibration`. Tags: the same over all words that
    have a prediction. Several labels: `calibration`, each label being a question of its own. A value:
    `scatter`, (reference, prediction) of each target.
    """
    first = references[0]
    if "label" in first:
        told = [one["label"] for one in predictions]
        wanted = [one["label"] for one in references]
        confused = metrics.confusion(told, wanted, names)
        return {"confusion": confused, "calibration": _calibration(predictions, references, "examples")}
    if "tags" in first:
        words = [
            (tag, right, share)
            for one, two in zip(predictions, references, strict=True)
            for tag, right, share in zip(one["tags"], two["tags"], one["probabilities"], strict=True)
            if share is not None
        ]
        # The metric asks for the reference's score, too, which can only be the lower one.
        scored = [{"scores": {right: 0.0} | {tag: share}} for tag, right, share in words]
        actual = [{"label": right} for _, right, _ in words]
        confused = metrics.confusion([one[0] for one in words], [one[1] for one in words], names)
        return {"confusion": confused, "calibration": _calibration(scored, actual, "words")}
    if "labels" in first:
        asked = [
            ({"scores": {"yes": share, "no": 1 - share}}, {"label": "yes" if name in two["labels"] else "no"})
            for one, two in zip(predictions, references, strict=True)
            for name, share in one["scores"].items()
        ]
        return {"calibration": _calibration([one for one, _ in asked], [two for _, two in asked], "labels")}
    if "value" in first:
        return {"scatter": _scatter(predictions, references)}
    return {}


def _calibration(predictions: Dicts, references: Dicts, unit: str) -> dict[str, Any]:
    metric = calibration.metric()
    sums = metric.sums(predictions, references)
    return {"unit": unit, **metric.finish(sums), **{name: array.tolist() for name, array in sums.items()}}


def _scatter(predictions: Dicts, references: Dicts) -> dict[str, Any]:
    """Return {"count": of all examples, "targets": one list of (reference, prediction) each}."""
    step = max(1, -(-len(predictions) // POINTS))
    targets: list[list[tuple[float, float]]] = []
    for one, two in list(zip(predictions, references, strict=True))[::step]:
        pairs = zip(*(_several(each["value"]) for each in (two, one)), strict=True)
        for place, pair in enumerate(pairs):
            if place == len(targets):
                targets.append([])
            targets[place].append(pair)
    return {"count": len(predictions), "targets": targets}


def _several(value: Any) -> list[float]:
    return list(value) if isinstance(value, (list, tuple)) else [value]
