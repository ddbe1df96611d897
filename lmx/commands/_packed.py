"""Packed rows of text as what a run is fed with: language models, pretrained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from lmx import batches as batches_
from lmx.commands import _build, _wire
from lmx.core import plugin
from lmx.core.errors import UserError
from lmx.core.types import Model, Objective
from lmx.sources import rows
from lmx.training import evaluate


class Packed:
    """The rows that data_prep wrote, as `lmx.commands._feed.Feed` describes it."""

    unit, score, better = "tokens", "loss", -1

    def __init__(
        self,
        config: Mapping[str, Any],
        workdir: Path,
        manifest: Mapping[str, Any],
        *,
        model: Model,
        mesh: Mesh,
    ) -> None:
        self._config, self._model, self._mesh = config, model, mesh
        task = _build.task(config, needs=_build.TRAINED)
        self._folder = _wire.data_folder(config, workdir)
        self._encode, size = task.encode, config["batch"]["size"]
        self._held_out = rows.source("validation", folder=self._folder)
        self.batches = batches_.Batches(
            rows.source("train", folder=self._folder), size=size, seed=config["seed"], encode=task.encode
        )
        self.fingerprint = str(manifest["fingerprint"])
        self.tokenizer = self._folder / "tokenizer"
        self.per_step = size * config["batch"]["length"]
        self.facts = {name: manifest[name] for name in ("fingerprint", "counts", "splits", "sources")}
        _wire.check_tokenizer(self._folder, manifest)
        split = manifest["splits"]["validation"]
        self._metric = plugin.find("lmx.metrics", task.METRICS[0]).metric(
            bytes_per_token=split["bytes"] / max(split["labels"], 1)
        )
        self._evaluate = evaluate.build(self.objective(), mesh=mesh)

    def check_samples(self) -> None:
        """Raise UserError where a sample prompt cannot be continued."""
        _wire.check_samples(self._config, self._folder)

    def objective(self) -> Objective:
        """Return the objective of the config's task."""
        return _build.objective(self._config, self._model)

    def figures(self, params: Any) -> dict[str, float]:
        """Return loss, perplexity and bits per byte on all held-out rows."""
        whole = batches_.whole(self._held_out, size=self._config["batch"]["size"], encode=self._encode)
        return self._metric.finish(evaluate.over(self._evaluate, params, whole, mesh=self._mesh))

    def finish(self, params: Any, workdir: Path) -> None:
        """There is nothing more to write."""

    def samples(self, params: Any, step: int) -> list[tuple[str, str]]:
        """Return each prompt of the config with its continuation."""
        return _wire.samples(self._model, params, self._config, self._folder, step)


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
