"""Figures of predictions by several metrics, and their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lmx import metrics
from lmx.core.types import Metric

SAMPLES = 1000
"""Draws of the bootstrap, for intervals of 95 %."""

Dicts = Sequence[Mapping[str, Any]]


def figures(some: Sequence[Metric], predictions: Dicts, references: Dicts) -> dict[str, float]:
    """Return the figures of all metrics."""
    found: dict[str, float] = {}
    for metric in some:
        found |= metric.finish(metric.sums(predictions, references))
    return found


def intervals(
    some: Sequence[Metric], predictions: Dicts, references: Dicts, *, seed: int
) -> dict[str, tuple[float, float]]:
    """Return the 95 % interval of each figure, by the bootstrap over examples."""
    found: dict[str, tuple[float, float]] = {}
    for metric in some:
        found |= metrics.intervals(metric, predictions, references, seed=seed, samples=SAMPLES)
    return found
