"""One training run, wired: data, model, optimizer, checkpoints, record, and the hooks that join them."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from lmx import batches as batches_
from lmx import optim
from lmx.commands import _build, _start, _wire
from lmx.core import config as config_
from lmx.core import mesh as mesh_
from lmx.core import plugin, tree
from lmx.core.errors import UserError
from lmx.core.types import Checkpoint, Sums
from lmx.runs import checkpoints, facts
from lmx.sources import rows
from lmx.training import evaluate, loop, state, step
from lmx.training.hooks import Hook
from lmx.training.record import Recorder, diverged


class Session:
    """A run that is ready to go on from wherever it stands.

    config: plain and resolved (`model.vocab_size`, `data.folder`). manifest: that of the prepared rows.
    """

    def __init__(
        self, config: Mapping[str, Any], workdir: Path, manifest: Mapping[str, Any], say: Any
    ) -> None:
        self.config, self.workdir, self.manifest, self.say = config, workdir, manifest, say
        if jax.process_count() > 1:
            raise UserError("training over several processes is not there yet; start one process")
        self.mesh = mesh_.make(**config["mesh"])
        mesh_.check_batch(config["batch"]["size"], self.mesh)
        task = _build.task(config, needs=_build.TRAINED)
        self.model = _build.model(config)
        self.data = _wire.data_folder(config, workdir)
        self.train_rows = rows.source("train", folder=self.data)
        self.held_out = rows.source("validation", folder=self.data)
        self.encode = task.encode
        self.batches = batches_.Batches(
            self.train_rows, size=config["batch"]["size"], seed=config["seed"], encode=task.encode
        )
        self._durations()
        _wire.check_tokenizer(self.data, manifest)
        if self.every["sample"]:
            _wire.check_samples(config, self.data)
        self.rate = optim.schedule(
            config["optim"]["schedule"],
            rate=config["optim"]["rate"],
            warmup=self.warmup,
            total=self.total,
            end=config["optim"]["end"],
        )
        options = {
            k: v for k, v in config["optim"].items() if k not in ("name", "rate", "schedule", "warmup", "end")
        }
        self.optimizer = optim.build(config["optim"]["name"], self.rate, **options)
        objective = _build.objective(config, self.model)
        self.step = step.build(self.model, objective, self.optimizer, seed=config["seed"], mesh=self.mesh)
        self.evaluate = evaluate.build(objective, mesh=self.mesh)
        split = manifest["splits"]["validation"]
        self.metric = plugin.find("lmx.metrics", task.METRICS[0]).metric(
            bytes_per_token=split["bytes"] / max(split["labels"], 1)
        )
        self.kept = checkpoints.Checkpoints(
            workdir / "checkpoints", keep_last=config["keep"]["last"], keep_best=config["keep"]["best"]
        )
        self.validation: dict[int, dict[str, float]] = {}

    def _durations(self) -> None:
        size, length = self.config["batch"]["size"], self.config["batch"]["length"]
        unit = {"tokens_per_step": size * length, "steps_per_epoch": self.batches.steps_per_epoch}
        self.tokens_per_step = size * length
        self.total = config_.steps(self.config["total"], field="total", **unit)
        if self.total < 1:
            raise UserError(f"config.total={self.config['total']!r}; expected at least one step")
        self.warmup = config_.steps(
            self.config["optim"]["warmup"], field="optim.warmup", total=self.total, **unit
        )
        self.every = {
            name: config_.steps(self.config[name], field=name, total=self.total, **unit)
            for name in ("log", "evaluate", "save", "sample")
        }

    def open(self) -> int:
        """Bring the state to where the run stands and return the steps made.

        1. From the run's own newest checkpoint that verifies.
        2. From the parameters that `start` names.
        3. From scratch, by the seed.
        """
        wanted = state.abstract(self.model, self.optimizer, mesh=self.mesh)
        found = self.kept.restore_newest(wanted.params, wanted.optimizer, say=self.say)
        made = 0
        if found is not None:
            params, optimizer, known = found
            if known["data"] != self.manifest["fingerprint"]:
                raise UserError(
                    f"the rows in {self.data} are not those that {self.workdir} was trained on: fingerprint "
                    f"{self.manifest['fingerprint'][:12]}, expected {known['data'][:12]}; "
                    "name another workdir"
                )
            made = int(known["step"])
            self.state = state.State(jnp.int32(made), params, optimizer)
        else:
            given = None if self.config["start"] == "scratch" else _start.params(self.config, self.model)
            self.state = state.start(
                self.model, self.optimizer, seed=self.config["seed"], mesh=self.mesh, params=given
            )
        self.state = jax.device_put(self.state, mesh_.replicated(self.mesh))
        return made

    def run(self, made: int, stopping: Any) -> int:
        """Train from step `made` to the end, or until `stopping`; return the steps made."""
        self.record = Recorder(
            self.workdir, start=made, total=self.total, tokens_per_step=self.tokens_per_step
        )
        hooks = (
            Hook(self.every["log"], self._log, last=True, gather=True),
            Hook(self.every["evaluate"], self._evaluate),
            Hook(self.every["save"], self._save, last=True),
            Hook(self.every["sample"], self._sample),
        )
        try:
            with self.batches.iterate(made) as stream:
                self.state, made = loop.run(
                    self.state,
                    self.step,
                    stream,
                    start=made,
                    total=self.total,
                    mesh=self.mesh,
                    hooks=hooks,
                    stopping=stopping,
                )
        finally:
            self.record.close()
            self.kept.close()
        return made

    def _log(self, made: int, now: state.State, window: list[Sums]) -> None:
        self.record.train(made, window, float(self.rate(jnp.int32(made - 1))))

    def _evaluate(self, made: int, now: state.State, window: list[Sums]) -> None:
        with self.record.progress.paused("evaluating"):
            figures = self.figures(now.params)
        self.validation[made] = figures
        self.record.evaluation(made, "validation", figures)

    def figures(self, params: Any) -> dict[str, float]:
        """Return loss, perplexity and bits per byte on all held-out rows."""
        whole = batches_.whole(self.held_out, size=self.config["batch"]["size"], encode=self.encode)
        return self.metric.finish(evaluate.over(self.evaluate, params, whole, mesh=self.mesh))

    def _save(self, made: int, now: state.State, window: list[Sums]) -> None:
        norm = float(window[-1]["grad_norm"])
        if not (math.isfinite(norm) and state.finite(now.params)):
            what = f"the gradient norm is {norm}, or parameters are not finite"
            raise UserError(diverged(self.workdir, made, what))
        planned = made == self.total or made % max(1, self.every["save"]) == 0
        if planned and made not in self.validation:  # a checkpoint without a figure could not be the best
            self._evaluate(made, now, window)
        figures = self.validation.get(made, {})
        self.kept.save(
            made,
            now.params,
            now.optimizer,
            facts={
                "config": self.config,
                "figures": figures,
                "loss": figures.get("loss"),
                "data": self.manifest["fingerprint"],
            },
        )

    def _sample(self, made: int, now: state.State, window: list[Sums]) -> None:
        with self.record.progress.paused("sampling"):
            for prompt, text in _wire.samples(self.model, now.params, self.config, self.data, made):
                self.record.sample(made, prompt, text)

    def facts(self, made: int, started: float) -> dict[str, Any]:
        """Return what run.json holds."""
        best = self.kept.best()
        return {
            **facts.environment(),
            **facts.size(self.state.params),
            "steps": made,
            "tokens": made * self.tokens_per_step,
            "seconds": round(time.monotonic() - started, 1),
            "best": None if best is None else {"step": best, "loss": self.kept.facts(best)["loss"]},
            "data": {name: self.manifest[name] for name in ("fingerprint", "counts", "splits", "sources")},
            "decayed": [path for path, on in tree.flatten(optim.decayed(self.state.params)).items() if on],
        }

    def checkpoint(self, made: int) -> Checkpoint:
        """Return the state's parameters as a checkpoint."""
        return Checkpoint(
            self.state.params,
            self.config,
            folder=str(self.data / "tokenizer"),
            step=made,
        )
