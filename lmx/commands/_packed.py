"""Prepared rows of text as what a run is fed with: models of language, pretrained."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from jax.sharding import Mesh

from lmx import batches as batches_
from lmx import tokenizer as tokenizers_
from lmx.commands import _build, _wire
from lmx.core import config as config_
from lmx.core import mesh as mesh_
from lmx.core import plugin
from lmx.core.errors import UserError
from lmx.core.types import Metric, Model, Objective
from lmx.sources import rows
from lmx.training import evaluate


class Packed:
    """The rows that data_prep wrote, as `lmx.commands._feed.Feed` describes it.

    manifests: of the rows, and, where the run ends on longer ones, of those.
    """

    unit, score, better = "tokens", "loss", -1

    def __init__(
        self,
        config: Mapping[str, Any],
        workdir: Path,
        manifests: tuple[Mapping[str, Any], ...],
        *,
        model: Model,
        mesh: Mesh,
    ) -> None:
        self._config, self._model, self._mesh = config, model, mesh
        task = _build.task(config, needs=_build.TRAINED)
        parts = stages(config, workdir)
        folders = [_wire.data_folder(part, workdir) for part in parts]
        self._folder, self.tokenizer = folders[0], folders[0] / "tokenizer"
        for folder, manifest in zip(folders, manifests, strict=True):
            _wire.check_tokenizer(folder, manifest)
        text = tokenizers_.load(self.tokenizer)
        encode = _build.encoder(config, text.vocabulary())
        # Held-out rows hide the same tokens whatever the run's seed: several seeds are judged alike.
        judging = {**config, "seed": manifests[-1]["settings"]["seed"]}
        self._judging = _build.encoder(judging, text.vocabulary())
        streams = [
            batches_.Batches(
                rows.source("train", folder=folder),
                size=part["batch"]["size"],
                seed=config["seed"],
                encode=encode,
                places=mesh_.places(part["batch"]["size"], mesh),
            )
            for part, folder in zip(parts, folders, strict=True)
        ]
        self._size = parts[-1]["batch"]["size"]
        self._held_out = rows.source("validation", folder=folders[-1])
        self.per_step = config["batch"]["size"] * config["batch"]["length"]
        self.batches = streams[0] if len(streams) == 1 else self._joined(*streams)
        prints = [str(manifest["fingerprint"]) for manifest in manifests]
        self.fingerprint = (
            prints[0] if len(prints) == 1 else hashlib.sha256(":".join(prints).encode()).hexdigest()
        )
        self.facts = {name: manifests[-1][name] for name in ("counts", "splits", "sources")}
        self.facts["fingerprint"] = self.fingerprint
        self._metric = metric(task, manifests[-1]["splits"]["validation"])
        self._evaluate = evaluate.build(self.objective(), mesh=mesh, how=_build.execution(config))

    def _joined(self, first: batches_.Batches, second: batches_.Batches) -> batches_.Stages:
        unit = {"tokens_per_step": self.per_step, "steps_per_epoch": first.steps_per_epoch}
        total = config_.steps(self._config["total"], field="total", **unit)
        last = config_.steps(self._config["long"]["last"], field="long.last", total=total, **unit)
        return batches_.Stages(first, second, change=max(0, total - last))

    def check_samples(self) -> None:
        """Raise UserError where a sample prompt cannot be continued."""
        _wire.check_samples(self._config, self._folder)

    def objective(self) -> Objective:
        """Return the objective of the config's task."""
        return _build.objective(self._config, self._model)

    def figures(self, params: Any, before: Callable[[], None] | None = None) -> dict[str, float]:
        """Return the task's figures on all held-out rows, `loss` among them."""
        whole = batches_.whole(
            self._held_out,
            size=self._size,
            encode=self._judging,
            places=mesh_.places(self._size, self._mesh),
        )
        sums = evaluate.over(self._evaluate, params, whole, mesh=self._mesh, before=before)
        return self._metric.finish(sums)

    def finish(self, params: Any, workdir: Path) -> None:
        """There is nothing more to write."""

    def samples(self, params: Any, step: int) -> list[tuple[str, str]]:
        """Return each prompt of the config with its continuation."""
        return _wire.samples(self._model, params, self._config, self._folder, step)


def metric(task: ModuleType, split: Mapping[str, Any]) -> Metric:
    """Return the metric of a task of prepared rows; split: what their manifest says of these."""
    name, options = task.METRICS[0]
    make = plugin.find("lmx.metrics", name).metric
    if "bytes_per_token" in inspect.signature(make).parameters:
        options = {**options, "bytes_per_token": split["bytes"] / max(split["labels"], 1)}
    found: Metric = make(**options)
    return found


def stages(config: Mapping[str, Any], workdir: Path) -> list[Mapping[str, Any]]:
    """Return the config, and, where the run ends on longer rows, that of its end: as many tokens a step, in
    fewer rows, from a folder beside that of the others."""
    wanted = config.get("long")
    if wanted is None or config_.nothing(wanted["last"]):
        return [config]
    length, batch = wanted["length"], config["batch"]
    folder = f"{_wire.data_folder(config, workdir)}-{length}"
    size = batch["size"] * batch["length"] // length
    end = {"data": {**config["data"], "folder": folder}, "batch": {**batch, "length": length, "size": size}}
    return [config, {**config, **end}]


def check_long(config: Mapping[str, Any]) -> None:
    """Raise UserError where the rows of the run's end cannot be."""
    found = stages(config, Path())
    if len(found) == 1:
        return
    size = found[1]["batch"]["size"]
    batch, length, positions = config["batch"], config["long"]["length"], config["model"]["positions"]
    if length <= batch["length"]:
        raise UserError(
            f"long.length={length}; expected more than batch.length={batch['length']}, or "
            "--config.long.last=0%"
        )
    if length > positions:
        raise UserError(
            f"long.length={length} is longer than model.positions={positions}; raise one or lower the other"
        )
    tokens = batch["size"] * batch["length"]
    if tokens % length or size % batch["parts"]:
        raise UserError(
            f"long.length={length}: the {tokens} tokens of a step (batch.size x batch.length) are to be rows "
            f"of that length, in {batch['parts']} parts; choose sizes that divide"
        )
    _build.mesh({**config, "batch": {**batch, "size": size}})


def resolve(config: Mapping[str, Any], manifest: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the config with what only the data tells: the vocabulary's size and the rows' folder."""
    size, found = config["model"]["vocab_size"], manifest["tokenizer"]["vocab_size"]
    if size is not None and found > size:
        raise UserError(
            f"the tokenizer has {found} ids, but model.vocab_size={size}; raise it, or set it to None"
        )
    model = {**config["model"], "vocab_size": size or found}
    # A folder of one's own is kept by its full path; that of the run is found from the run, wherever it lies.
    own = str(folder.absolute()) if config["data"]["folder"] else None
    return {**config, "model": model, "data": {**config["data"], "folder": own}}
