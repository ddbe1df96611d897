"""What a model says of the examples of a task, and how good that is, wired: outputs, predictions, figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from jax.sharding import Mesh

from lmx import metrics
from lmx.batches import sorted_batches
from lmx.commands import _build, _examples
from lmx.core import log, plugin
from lmx.core.types import Model
from lmx.training import predict

SAMPLES = 1000
"""Draws of the bootstrap, for intervals of 95 %."""


class Judge:
    """A task's way from parameters to predictions and figures.

    config: a run's, whole; its `facts` are what the training split told. filler: the id that fills rows up.
    """

    def __init__(
        self, config: Mapping[str, Any], task: ModuleType, *, filler: int, model: Model, mesh: Mesh
    ) -> None:
        self._config, self._task, self._mesh = config, task, mesh
        batch = config["batch"]
        self._shape = {
            "size": batch["size"],
            "per_token": task.PER_TOKEN,
            "filler": filler,
            "longest": batch["length"],
            "multiple": batch["multiple"],
        }
        self._metrics = [plugin.find("lmx.metrics", name).metric(**options) for name, options in task.METRICS]
        loss = _build.loss(config)
        self._with_loss = predict.build(model, task.OUTPUTS, loss, mesh=mesh)
        self._alone = predict.build(model, task.OUTPUTS, None, mesh=mesh)

    def predictions(
        self, params: Any, split: _examples.Split, *, targets: bool = True
    ) -> tuple[list[dict[str, Any]], float]:
        """Return (a prediction of each example, the mean loss). targets: whether the examples have them; the
        loss is NaN without."""
        outputs, loss = self._outputs(params, split, targets)
        found: list[dict[str, Any]] = self._told("decode", split, outputs)
        return found, loss

    def examined(
        self, params: Any, split: _examples.Split
    ) -> tuple[list[dict[str, Any]], float, list[float] | None]:
        """Return (a prediction of each example, the mean loss, the loss of each), None where the task has no
        loss of one example."""
        outputs, loss = self._outputs(params, split, targets=True)
        each = self._told("losses", split, outputs) if hasattr(self._task, "losses") else None
        return self._told("decode", split, outputs), loss, each

    def _outputs(self, params: Any, split: _examples.Split, targets: bool) -> tuple[dict[str, Any], float]:
        batches = sorted_batches(split.encoded.features, **self._shape)
        run = self._with_loss if targets else self._alone
        outputs, sums = predict.over(run, params, batches, mesh=self._mesh)
        return outputs, sums["loss"] / sums["weight"] if sums.get("weight") else float("nan")

    def _told(self, function: str, split: _examples.Split, outputs: Mapping[str, Any]) -> Any:
        """Return what one of the task's functions makes of outputs."""
        options = _build.options_of(self._config, function)
        of = getattr(self._task, function)
        return of(split.examples, split.encoded, outputs, facts=self._config["facts"], **options)

    def references(self, split: _examples.Split) -> list[dict[str, Any]]:
        """Return what the examples say themselves, one dict each."""
        found: list[dict[str, Any]] = self._task.references(split.examples, facts=self._config["facts"])
        return found

    def figures(
        self, predictions: Sequence[Mapping[str, Any]], references: Sequence[Mapping[str, Any]], loss: float
    ) -> dict[str, float]:
        """Return the task's figures; `loss` is among them."""
        found: dict[str, float] = {}
        for metric in self._metrics:
            found |= metric.finish(metric.sums(predictions, references))
        return {**found, "loss": loss}

    def intervals(
        self,
        predictions: Sequence[Mapping[str, Any]],
        references: Sequence[Mapping[str, Any]],
    ) -> dict[str, tuple[float, float]]:
        """Return the 95 % interval of each figure, by the bootstrap over examples, with the run's seed."""
        found: dict[str, tuple[float, float]] = {}
        for metric in self._metrics:
            found |= metrics.intervals(
                metric, predictions, references, seed=self._config["seed"], samples=SAMPLES
            )
        return found


def write(
    folder: Path,
    predictions: Sequence[Mapping[str, Any]],
    references: Sequence[Mapping[str, Any]],
    figures: Mapping[str, float],
    intervals: Mapping[str, tuple[float, float]],
) -> None:
    """Write predictions.jsonl and metrics.json into a run's folder, each whole or not at all."""
    rows = [{**one, "reference": two} for one, two in zip(predictions, references, strict=True)]
    text = "".join(json.dumps(log.plain(row), ensure_ascii=False) + "\n" for row in rows)
    log.write_whole(folder / "predictions.jsonl", text.encode())
    whole = {
        "examples": len(predictions),
        "figures": log.plain(figures),
        "intervals": {"level": 0.95, **log.plain(intervals)},
    }
    log.write_whole(folder / "metrics.json", (json.dumps(whole, indent=2) + "\n").encode())
