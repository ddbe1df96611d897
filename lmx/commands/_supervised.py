"""Examples of a task as what a run is fed with: fine-tuning."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from jax.sharding import Mesh

from lmx import tokenizer as tokenizers_
from lmx.batches import Bucketed, sorted_batches
from lmx.commands import _bodies, _build, _examples
from lmx.core import log, plugin
from lmx.core.errors import UserError
from lmx.core.types import Model, Objective
from lmx.training import predict

Say = Callable[[str], None]

NEEDS: tuple[str, ...] = ("attach", "loss", "FIELDS", "PER_TOKEN", "OUTPUTS", "METRICS", "SCORE")
NEEDS += ("read", "learn", "head", "encode", "decode", "references")
"""What a task must define to be fine-tuned on examples."""


@dataclass(frozen=True)
class Prepared:
    """What the data and the start of a fine-tuning run come to.

    folder: holds the tokenizer and facts.json. splits: "train" and "validation". facts: what the training
    split told. config: the run's, whole: its model is the start's, its head fits the data.
    """

    task: ModuleType
    text: tokenizers_.Tokenizer
    folder: Path
    splits: Mapping[str, _examples.Split]
    facts: Mapping[str, Any]
    fingerprint: str
    config: dict[str, Any]


def prepare(config: Mapping[str, Any], workdir: Path, *, say: Say) -> Prepared:
    """Read, check and encode the examples, and resolve what a config leaves to data and start.

    Errors: UserError, naming the file and the line, before anything is compiled.
    """
    from lmx import sources

    task = _build.task(config, needs=NEEDS)
    text, model = _bodies.tokenizer(config["start"]), _bodies.model(config)
    options = _build.options_of(config, "read")
    found = {name: _examples.records(config, name, task) for name in ("train", "validation")}
    examples = {name: _examples.read(rows, task, options) for name, rows in found.items()}
    if shared := sources.overlap(found["train"], found["validation"]):
        say(f"warning: {shared:,} of the {len(found['validation']):,} validation rows are also in train")
    facts = task.learn(examples["train"], **_build.options_of(config, "learn"))
    length = config["batch"]["length"]
    if length > model["positions"]:
        raise UserError(f"batch.length={length}, but the start has {model['positions']} positions; lower it")
    splits = {}
    for name, those in examples.items():
        encoded = _examples.encode(those, task, text, config, facts)
        splits[name] = _examples.Split(found[name], those, encoded)
        told = [f"{count:,} {what}" for what, count in encoded.counts.items() if count]
        say(f"{name}: {len(those):,} examples" + (f" ({', '.join(told)})" if told else ""))
    parts = {name: sources.fingerprint(rows) for name, rows in found.items()} | {"tokenizer": text.sha256}
    folder = workdir / "data"
    resolved = {
        **config,
        "model": model,
        "task": {**config["task"], **_head(config, task.head(facts))},
        "data": {**config["data"], "folder": None},
    }
    return Prepared(task, text, folder, splits, facts, _examples.fingerprint(config, parts), resolved)


def _head(config: Mapping[str, Any], found: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the options that follow from the data. Errors: UserError where the config says otherwise."""
    for name, value in found.items():
        if config["task"].get(name, value) != value:
            raise UserError(
                f"task.{name}={config['task'][name]!r}, but the training split has {value!r}; leave it out"
            )
    return found


def keep(prepared: Prepared) -> None:
    """Write what predictions will need beside the parameters: the tokenizer and the facts."""
    prepared.text.save(prepared.folder / "tokenizer")
    whole = json.dumps(dict(prepared.facts), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    log.write_whole(prepared.folder / "facts.json", whole.encode())


class Supervised:
    """Examples of a task, as `lmx.commands._feed.Feed` describes it."""

    unit = "examples"

    def __init__(self, prepared: Prepared, *, model: Model, mesh: Mesh) -> None:
        config, task = prepared.config, prepared.task
        self._prepared, self._model, self._mesh = prepared, model, mesh
        batch = config["batch"]
        self._shape = {
            "per_token": task.PER_TOKEN,
            "filler": prepared.text.filler,
            "longest": batch["length"],
            "multiple": batch["multiple"],
        }
        self.batches = Bucketed(
            prepared.splits["train"].encoded.features,
            size=batch["size"],
            seed=config["seed"],
            window=batch["window"],
            **self._shape,
        )
        self.fingerprint, self.tokenizer = prepared.fingerprint, prepared.folder / "tokenizer"
        self.per_step = batch["size"]
        self.facts = {
            "fingerprint": prepared.fingerprint,
            "examples": {name: len(split.examples) for name, split in prepared.splits.items()},
            "counts": {name: dict(split.encoded.counts) for name, split in prepared.splits.items()},
        }
        self.score, self.better = task.SCORE, -1 if task.SCORE == "loss" else 1
        self._metrics = [plugin.find("lmx.metrics", name).metric(**options) for name, options in task.METRICS]
        self._loss = _build.loss(config)
        self._predict = predict.build(model, task.OUTPUTS, self._loss, mesh=mesh)

    def check_samples(self) -> None:
        """There are none."""

    def objective(self) -> Objective:
        """Return the objective of the config's task."""
        return _build.objective(self._prepared.config, self._model)

    def figures(self, params: Any) -> dict[str, float]:
        """Return the task's figures on the validation split, with the loss."""
        prepared = self._prepared
        split = prepared.splits["validation"]
        batches = sorted_batches(split.encoded.features, size=prepared.config["batch"]["size"], **self._shape)
        outputs, sums = predict.over(self._predict, params, batches, mesh=self._mesh)
        options = _build.options_of(prepared.config, "decode")
        found = prepared.task.decode(split.examples, split.encoded, outputs, facts=prepared.facts, **options)
        wanted = prepared.task.references(split.examples, facts=prepared.facts)
        figures = {"loss": sums["loss"] / max(sums["weight"], 1e-9)}
        for metric in self._metrics:
            figures |= metric.finish(metric.sums(found, wanted))
        return figures

    def samples(self, params: Any, step: int) -> list[tuple[str, str]]:
        """Return nothing: these models write no text."""
        return []
