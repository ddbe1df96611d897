"""One training run, wired: data, model, optimizer, checkpoints, record, and the hooks that join them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from lmx import optim
from lmx.commands import _bodies, _build, _multi, _packed, _platform, _start, _supervised, prepare
from lmx.commands._cost import Cost
from lmx.commands._feed import Feed
from lmx.commands._watch import Watch
from lmx.core import config as config_
from lmx.core import layers, layout, log, processes
from lmx.core.errors import UserError
from lmx.core.types import Checkpoint, Model, Sums
from lmx.runs import checkpoints
from lmx.training import loop, meter, state, step
from lmx.training.hooks import Hook, falls
from lmx.training.interrupt import PutOffError, Question
from lmx.training.members import Members
from lmx.training.profile import Profile
from lmx.training.record import Listener, Recorder, diverged

Say = Callable[[str], None]


def make(config: Mapping[str, Any], workdir: Path, say: Say) -> Session:
    """Prepare the data of a checked config and return its session."""
    mesh = _build.mesh(config)
    feed: Feed
    members, keep = None, None
    if "tasks" in config:
        several = _multi.prepare(config, workdir, say=say)
        resolved, members = several.config, _build.members(several.config)
        model = members.model
        feed = _multi.Multi(several, mesh=mesh)
        keep = partial(_supervised.keep, next(iter(several.tasks.values())))
        start = partial(_multi.params, resolved, say=say)
    elif config_.pretraining(config):
        own = "name" in config["model"]
        folder, manifests = processes.after_first(lambda: prepare.every(config, workdir, say=say))
        resolved = _packed.resolve(_bodies.completed(config, workdir), manifests[0], folder)
        model = _build.model(resolved)
        feed = _packed.Packed(resolved, workdir, manifests, model=model, mesh=mesh)
        start = partial(_start.params, resolved, model)
        if not own:
            start = partial(_bodies.params, resolved, model, say=say)
    else:
        prepared = _supervised.prepare(config, workdir, say=say)
        resolved = prepared.config
        model = _build.model(resolved)
        feed = _supervised.Supervised(prepared, model=model, mesh=mesh)
        keep = partial(_supervised.keep, prepared)
        start = partial(_bodies.params, resolved, model, say=say)
    _build.mesh(resolved)  # once more, for what the start or the data has told
    return Session(
        resolved, workdir, feed, model=model, mesh=mesh, start=start, keep=keep, say=say, members=members
    )


class Session:
    """A run that is ready to go on from wherever it stands.

    config: plain and resolved: nothing in it is left for the data to tell. feed: its data. start: reads the
    parameters that the config's `start` names. keep: writes what lies beside the checkpoints, once the run is
    known to be this one. members: of a run on several tasks, which leaves are whose.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        workdir: Path,
        feed: Feed,
        *,
        model: Model,
        mesh: Mesh,
        start: Callable[[], Any],
        say: Say,
        keep: Callable[[], None] | None = None,
        members: Members | None = None,
    ) -> None:
        self.config, self.workdir, self.feed, self.say = config, workdir, feed, say
        self.model, self.mesh, self._start, self._keep = _build.held(config, model), mesh, start, keep
        self._durations()
        if self.every.get("sample"):
            feed.check_samples()
        parts = None if members is None else members.part
        self.rate, self.optimizer = optim.make(total=self.total, parts=parts, **self._optim())
        self.step = step.build(
            self.model,
            feed.objective(),
            self.optimizer,
            seed=config["seed"],
            mesh=mesh,
            axes=_build.axes(config),
            how=_build.execution(config),
            parts=config["batch"]["parts"],
            whole=dict if members else getattr(_build.task(config), "whole", dict),
            moves=None if members is None else members.moves,
        )
        self.kept = checkpoints.Checkpoints(
            workdir / "checkpoints", keep_last=config["keep"]["last"], keep_best=config["keep"]["best"]
        )
        self.validation: dict[int, dict[str, float]] = {}
        self.watch = Watch(config, better=feed.better)
        self._owed = False  # whether a stop has put off what belongs to the step that is saved
        self.costs: dict[str, Any] = {}  # what run.json says of them; nothing before a step is made

    def _durations(self) -> None:
        batches, known = self.feed.batches, self.feed.unit == "tokens"
        self._unit: dict[str, Any] = {
            "tokens_per_step": self.feed.per_step if known else None,
            "steps_per_epoch": batches.steps_per_epoch,
        }
        self.total = config_.steps(self.config["total"], field="total", **self._unit)
        if self.total < 1:
            raise UserError(f"config.total={self.config['total']!r}; expected at least one step")
        self.every = {
            name: config_.interval(self.config[name], field=name, total=self.total, **self._unit)
            for name in ("log", "evaluate", "save", "sample")
            if name in self.config
        }

    def _optim(self) -> dict[str, Any]:
        """Return the config's section of the optimizer, its durations in steps."""
        found = dict(self.config["optim"])
        for name in optim.DURATIONS:
            if found.get(name) is not None:
                found[name] = config_.steps(
                    found[name], field=f"optim.{name}", total=self.total, **self._unit
                )
        return found

    def _wanted(self) -> state.State:
        """Return the state's shapes, types and places."""
        return state.abstract(self.model, self.optimizer, mesh=self.mesh, axes=_build.axes(self.config))

    def open(self) -> int:
        """Bring the state to where the run stands and return the steps made.

        1. From the run's own newest checkpoint that verifies.
        2. From the parameters that `start` names.
        3. From scratch, by the seed.
        """
        wanted = self._wanted()
        _platform.check_fits(layout.held(wanted))
        found = self.kept.restore_newest(wanted.params, wanted.optimizer, say=self.say)
        made = 0
        if found is not None:
            params, optimizer, known = found
            if known["data"] != self.feed.fingerprint:
                raise UserError(
                    f"the data are not those that {self.workdir} was trained on: fingerprint "
                    f"{self.feed.fingerprint[:12]}, expected {known['data'][:12]}; "
                    "name another workdir"
                )
            made = int(known["step"])
            self._owed = known.get("owed", False)
            self.watch.resume(known["watch"])
            if optimizer.average is not None:
                params, optimizer = optim.exchanged(optimizer, params)
            self.state = state.State(jnp.int32(made), params, optimizer)
        else:
            given = None if self.config["start"] == "scratch" else self._start()
            if layers.stacked(wanted.params):
                given = layers.stack(given, np.stack)
            self.state = state.start(
                self.model,
                self.optimizer,
                seed=self.config["seed"],
                mesh=self.mesh,
                axes=_build.axes(self.config),
                params=given,
            )
        self.state = jax.tree.map(lambda x, to: jax.device_put(x, to.sharding), self.state, self._wanted())
        if self._keep is not None:
            processes.by_first(self._keep)
        return made

    def finished(self, made: int) -> bool:
        """Tell whether nothing is left to train, and nothing owed."""
        return not self._owed and (made >= self.total or self.watch.stop)

    def run(self, made: int, stopping: Any, *, began: float | None = None, profile: int = 0) -> int:
        """Train from step `made` to the end, or until `stopping`; return the steps made.

        began: when this start of the run began, by time.monotonic; now, without it. profile: steps to
        trace.
        """
        with meter.compilations() as compiled:
            self.cost = Cost(
                self.config,
                self.workdir,
                self.state.params,
                self.mesh,
                began=began,
                made=made,
                compiled=compiled,
            )
            self.record = self._recorder(made)
            traced = Profile(
                self.workdir / "profile",
                steps=profile,
                made=made,
                total=self.total,
                aside=partial(self._beside, "profiling"),
                say=self.say,
            )
            self._stopping = Question(processes.asked_by_any(stopping))
            try:
                self._settle(made)
                if not (self._owed or self.watch.stop):
                    made = self._loop(made, traced)
            finally:
                with self.cost.watch.on("saving"):
                    self.record.close()
                    self.kept.close()
        self.cost.mark(made)
        self.costs = self.cost.facts()
        return made

    def _recorder(self, made: int) -> Recorder | Listener:
        if not processes.first():
            return Listener(self.workdir)
        return Recorder(
            self.workdir,
            start=made,
            owed=self._owed,
            total=self.total,
            per_step=self.feed.per_step,
            unit=self.feed.unit,
            cost=self.cost.figures,
        )

    def _loop(self, made: int, traced: Profile) -> int:
        hooks = (
            Hook(1, self._reach),
            Hook(self.every["log"], self._log, last=True, gather=True),
            Hook(self.every["evaluate"], self._evaluate, long=True),
            Hook(self.every["save"], self._save, last=True, long=True),
            Hook(self.every.get("sample", 0), self._sample, long=True),
        )
        with self.feed.batches.iterate(made) as stream, self.cost.watch.on("steps"), closing(traced):
            self.state, made = loop.run(
                self.state,
                traced.step(self.cost.meter.step(self.step, self.record.progress.paused)),
                self.cost.meter.batches(stream),
                start=made,
                total=self.total,
                mesh=self.mesh,
                hooks=hooks,
                stopping=self._stopping,
                satisfied=lambda: self.watch.stop or self._owed,
            )
        return made

    @contextmanager
    def _beside(self, what: str, window: Any = None) -> Iterator[None]:
        """Count the time of the block apart from that of the steps, which are waited for first: what is done
        in it would have to wait for them."""
        jax.block_until_ready(window)
        with self.cost.watch.on(what), self.record.progress.paused(what):
            yield

    def _reach(self, made: int, now: state.State, window: list[Sums]) -> None:
        self.record.progress.reach(made)

    def _log(self, made: int, now: state.State, window: list[Sums]) -> None:
        rate = float(self.rate(jnp.int32(made - 1))) * float(now.optimizer.scale)
        self.record.train(made, window, rate)
        self.cost.mark(made)

    def _evaluate(self, made: int, now: state.State, window: list[Sums]) -> state.State | None:
        if made in self.validation or self._owed:
            return None
        try:
            with self._beside("evaluating", window):
                figures = self.feed.figures(self._shown(now), self._stopping.put_off)
        except PutOffError:
            self._owed = True
            return None
        self.validation[made] = figures
        self.record.evaluation(made, "validation", figures)
        before = self.watch.scale
        self.watch.update(figures[self.feed.score])
        if self.watch.scale == before:
            return None
        return now._replace(optimizer=optim.rescaled(now.optimizer, self.watch.scale))

    def _shown(self, now: state.State) -> Any:
        """Return the parameters that are evaluated: the average, where there is one."""
        if now.optimizer.average is None:
            return now.params
        return optim.averaged(now.optimizer, now.params)

    def _given(self, now: state.State) -> Any:
        """Return these for others than the step and its evaluation: each layer by itself."""
        shown = self._shown(now)
        return layers.turned(shown, layers.described(shown, False))

    def _save(self, made: int, now: state.State, window: list[Sums]) -> state.State | None:
        with self._beside("saving", window):
            norm = float(window[-1]["grad_norm"])
            if not (math.isfinite(norm) and state.finite(now.params)):
                what = f"the gradient norm is {norm}, or parameters are not finite"
                raise UserError(diverged(self.workdir, made, what))
        changed = self._figured(made, now, window)
        if self._stopping.yes and falls(made, self.every.get("sample", 0)):
            self._owed = True
        self._keep_state(made, changed or now)
        return changed

    def _figured(self, made: int, now: state.State, window: list[Sums]) -> state.State | None:
        """Evaluate where a checkpoint is planned, for one without a figure could not be the best."""
        planned = made == self.total or self.watch.stop or falls(made, self.every["save"])
        return self._evaluate(made, now, window) if planned else None

    def _settle(self, made: int) -> None:
        """Do what a stop has put off at this step, and save it anew with that."""
        if not self._owed:
            return
        self._owed = False
        if falls(made, self.every["evaluate"]):
            self.state = self._evaluate(made, self.state, []) or self.state
        self.state = self._figured(made, self.state, []) or self.state
        if not self._owed:
            if falls(made, self.every.get("sample", 0)):
                self._sample(made, self.state, [])
            self._keep_state(made, self.state, again=True)

    def _keep_state(self, made: int, now: state.State, again: bool = False) -> None:
        figures = self.validation.get(made, {})
        params, optimizer = now.params, now.optimizer
        if optimizer.average is not None:  # who reads the checkpoint gets what was evaluated
            params, optimizer = optim.exchanged(optimizer, params)
        self.cost.mark(made)  # a later start may go on from here
        with self._beside("saving"):
            self.kept.save(
                made,
                params,
                optimizer,
                facts={
                    "config": self.config,
                    "figures": log.plain(figures),  # a correlation may be undefined, and JSON has no NaN
                    "rank": self._rank(figures),
                    "data": self.feed.fingerprint,
                    "watch": self.watch.state(),
                    "owed": self._owed,
                },
                again=again,
            )

    def _rank(self, figures: Mapping[str, float]) -> float | None:
        """Return what checkpoints are ordered by, the lower the better; None without a score."""
        score = figures.get(self.feed.score, math.nan)
        return None if math.isnan(score) else -self.feed.better * score

    def _sample(self, made: int, now: state.State, window: list[Sums]) -> None:
        if self._owed:
            return
        with self._beside("sampling", window):
            for prompt, text in self.feed.samples(self._given(now), made):
                self.record.sample(made, prompt, text)

    def checkpoint(self, made: int) -> Checkpoint:
        """Return what the run gives away: its last parameters, or, with `keep.restore`, its best."""
        best = self.kept.best() if self.config["keep"]["restore"] else None
        if best is not None and best != made:
            wanted = self._wanted()
            params, _, _ = self.kept.restore(best, layers.described(wanted.params, False))
            return Checkpoint(params, self.config, folder=str(self.feed.tokenizer), step=best)
        return Checkpoint(self._given(self.state), self.config, folder=str(self.feed.tokenizer), step=made)
