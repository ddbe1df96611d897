"""Examples of a task as what a run is fed with: fine-tuning."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
from jax.sharding import Mesh

from lmx import tokenizer as tokenizers_
from lmx.batches import Bucketed
from lmx.commands import _bodies, _build, _examined, _examples, _judge, _labels
from lmx.core import mesh as mesh_
from lmx.core import processes
from lmx.core.errors import UserError
from lmx.core.types import Model, Objective

Say = Callable[[str], None]

NEEDS: tuple[str, ...] = ("attach", "loss", "FIELDS", "PER_TOKEN", "OUTPUTS", "METRICS", "SCORE")
NEEDS += ("read", "learn", "head", "encode", "decode", "references")
"""What a task must define to be fine-tuned on examples."""


@dataclass(frozen=True)
class Prepared:
    """What the data and the start of a fine-tuning run come to.

    folder: holds the tokenizer. splits: "train" and "validation"; digests: the SHA-256 of their rows. config:
    the run's, whole: its model is the start's, its head fits the data, and its `facts` are what the training
    split told.
    """

    task: ModuleType
    text: tokenizers_.Tokenizer
    folder: Path
    splits: Mapping[str, _examples.Split]
    fingerprint: str
    digests: Mapping[str, str]
    config: dict[str, Any]


def prepare(
    config: Mapping[str, Any],
    workdir: Path,
    *,
    say: Say,
    text: tokenizers_.Tokenizer | None = None,
    name: str | None = None,
) -> Prepared:
    """Read, check and encode the examples, and resolve what a config leaves to data and start.

    text: the start's tokenizer, where it was opened before. name: that of the task, among several.
    Errors: UserError, naming the file and the line, before anything is compiled.
    """
    from lmx import sources

    task = _build.task(config, needs=NEEDS)
    there = _bodies.standing(config, workdir)
    text, model = text or _bodies.tokenizer(there["start"]), _bodies.model(there)
    options = _build.options_of(config, "read")
    found = {name: _examples.records(config, name, task) for name in ("train", "validation")}
    if config["data"].get("test") is not None:
        _examples.records(config, "test", task)  # an error in it is told now, not after the training
    if unread := _examples.unread(config, found["train"], task):
        say(f"columns that {config['task']['name']} does not read: {_labels.listed(unread)}")
    examples = {name: _examples.read(rows, task, options) for name, rows in found.items()}
    if shared := sources.overlap(examples["train"], examples["validation"]):
        say(f"warning: {shared:,} of the {len(found['validation']):,} validation rows are also in train")
    with _examples.located(found["train"]):
        facts = _labels.learn(there, task, examples["train"], name=name)
    length = config["batch"]["length"]
    if length > model["positions"]:
        raise UserError(f"batch.length={length}, but the start has {model['positions']} positions; lower it")
    facts |= _examples.pairs(examples["train"], task)
    splits = {}
    for name, those in examples.items():
        _examples.alike(found[name], those, facts, how="--config.data.columns.text_pair=")
        with _examples.located(found[name]):
            encoded = _examples.encode(those, task, text, config, facts)
            task.references(those, facts=facts)  # a row without a target is told of
        splits[name] = _examples.Split(found[name], those, encoded)
        told = [f"{count:,} {what}" for what, count in encoded.counts.items() if count]
        say(f"{name}: {len(those):,} examples" + (f" ({', '.join(told)})" if told else ""))
    if "names" in facts:
        say(f"{len(facts['names'])} labels: {_labels.listed(facts['names'])}")
    digests = {name: sources.fingerprint(rows) for name, rows in found.items()}
    parts = {**digests, "tokenizer": text.sha256, "facts": json.dumps(facts, sort_keys=True)}
    folder = workdir / "data"
    resolved = {
        **config,
        "model": model,
        "task": {**config["task"], **_head(config, task.head(facts))},
        "facts": facts,
    }
    return Prepared(task, text, folder, splits, _examples.fingerprint(config, parts), digests, resolved)


def _head(config: Mapping[str, Any], found: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the options that follow from the data. Errors: UserError where the config says otherwise."""
    for name, value in found.items():
        if config["task"].get(name, value) != value:
            raise UserError(
                f"task.{name}={config['task'][name]!r}, but the training split has {value!r}; leave it out"
            )
    return found


def keep(prepared: Prepared) -> None:
    """Write the tokenizer, which predictions will need beside the parameters."""
    prepared.text.save(prepared.folder / "tokenizer")


class Supervised:
    """Examples of a task, as `lmx.commands._feed.Feed` describes it."""

    unit = "examples"

    def __init__(self, prepared: Prepared, *, model: Model, mesh: Mesh) -> None:
        config, task = prepared.config, prepared.task
        self._prepared, self._model = prepared, model
        batch, filler = config["batch"], prepared.text.filler
        self.judge = _judge.Judge(config, task, text=prepared.text, model=model, mesh=mesh)
        if self.judge.responses is not None:
            self.judge.responses.check(prepared.splits["validation"].examples, "validation")
        self.batches = Bucketed(
            prepared.splits["train"].encoded.features,
            size=batch["size"],
            seed=config["seed"],
            window=batch["window"],
            per_token=task.PER_TOKEN,
            filler=filler,
            longest=batch["length"],
            multiple=batch["multiple"],
            places=mesh_.places(batch["size"], mesh),
        )
        self.fingerprint, self.tokenizer = prepared.fingerprint, prepared.folder / "tokenizer"
        self.per_step = batch["size"]
        self.facts = {
            "fingerprint": prepared.fingerprint,
            "examples": {name: len(split.examples) for name, split in prepared.splits.items()},
            "counts": {name: dict(split.encoded.counts) for name, split in prepared.splits.items()},
            "sha256": dict(prepared.digests),
        }
        self.score, self.better = self.judge.score(self.judge.references(prepared.splits["validation"]))
        if "loss" in config["task"]:
            params = _build.shapes(model)
            jax.eval_shape(self.objective(), params, dict(self.batches.batch(0)), None)
        self.judge.tried()

    def check_samples(self) -> None:
        """There are none."""

    def objective(self) -> Objective:
        """Return the objective of the config's task."""
        return _build.objective(self._prepared.config, self._model)

    def figures(self, params: Any, before: Callable[[], None] | None = None) -> dict[str, float]:
        """Return the task's figures on the validation split, with the loss."""
        split = self._prepared.splits["validation"]
        found, loss = self.judge.predictions(params, split, before=before)
        return self.judge.figures(found, self.judge.references(split), loss)

    def finish(self, params: Any, workdir: Path) -> None:
        """Write predictions.jsonl and metrics.json: each validation example, and figures with intervals; and
        errors.jsonl and plots.json: those with the highest loss, and what the report's pictures show.

        Where they are there already, the run was at its end before.
        """
        if (workdir / "metrics.json").exists():
            return
        split = self._prepared.splits["validation"]
        judged = self.judge.judged(params, split)
        fields = [field.name for field in self._prepared.task.FIELDS if not field.target]
        names = self._prepared.config["facts"].get("names", ())
        if processes.first():
            _examined.write(workdir, split.examples, judged, fields=fields, names=names)
            _judge.write(workdir, judged)

    def samples(self, params: Any, step: int) -> list[tuple[str, str]]:
        """Return nothing: these models write no text."""
        return []
