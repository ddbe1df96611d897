"""Examples of several tasks as what a run is fed with: fine-tuning on a mixture."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from lmx.batches import Mixed
from lmx.commands import _bodies, _build, _members, _supervised, _wire
from lmx.core import log, processes
from lmx.core.types import Objective

Say = Callable[[str], None]


@dataclass(frozen=True)
class Prepared:
    """What the data of every task and the start come to.

    tasks: each as in a run on it alone. config: the run's, whole: each of its `tasks` has its own `model` and
    `facts`.
    """

    tasks: Mapping[str, _supervised.Prepared]
    config: dict[str, Any]


def prepare(config: Mapping[str, Any], workdir: Path, *, say: Say) -> Prepared:
    """Read, check and encode the examples of every task, and resolve what a config leaves to data and start.

    Errors: UserError, naming the task, before anything is compiled.
    """
    text = _bodies.tokenizer(_bodies.standing(config, workdir)["start"])
    found = {}
    for name, one in _members.configs(config).items():
        with _members.named(name):
            found[name] = _supervised.prepare(one, workdir, say=_of(name, say), text=text, name=name)
    own = {
        name: {
            **{key: one.config[key] for key in ("task", "data", "metrics", "score", "model", "facts")},
            "weight": _members.weights(config)[name],
        }
        for name, one in found.items()
    }
    models = [one.config["model"] for one in found.values()]
    body = {  # a part that one of the tasks has, such as the pooler, is there
        field: True if any(model[field] is True for model in models) else value
        for field, value in models[0].items()
    }
    return Prepared(found, {**config, "model": body, "tasks": own})


def _of(name: str, say: Say) -> Say:
    return lambda what: say(f"{name}: {what}")


def params(config: Mapping[str, Any], *, say: Say) -> Any:
    """Return the start's parameters: its body, and of each task the head, as in a run on it alone."""
    members = _build.members(config)
    return members.join(
        {
            name: _bodies.params(one, _build.model(one), say=_of(name, say), name=name)
            for name, one in _members.configs(config).items()
        }
    )


class Multi:
    """Examples of several tasks, as `lmx.commands._feed.Feed` describes it."""

    unit, score, better = "examples", "score", 1

    def __init__(self, prepared: Prepared, *, mesh: Mesh) -> None:
        config = prepared.config
        self._members, self._weights = _build.members(config), _members.weights(config)
        self._feeds = {
            name: _supervised.Supervised(one, model=_build.model(one.config), mesh=mesh)
            for name, one in prepared.tasks.items()
        }
        streams = {name: feed.batches for name, feed in self._feeds.items()}
        self.batches = Mixed(streams, seed=config["seed"], **config["mix"])
        self.per_step = config["batch"]["size"]
        self.tokenizer = next(iter(self._feeds.values())).tokenizer
        prints = {name: feed.fingerprint for name, feed in self._feeds.items()}
        self.fingerprint = hashlib.sha256(json.dumps(prints, sort_keys=True).encode()).hexdigest()
        self.facts = {
            "fingerprint": self.fingerprint,
            "shares": self.batches.shares,
            "tasks": {name: feed.facts for name, feed in self._feeds.items()},
        }

    def check_samples(self) -> None:
        """There are none."""

    def objective(self) -> Objective:
        """Return the objective of each batch's task, times the task's weight."""
        own = {name: feed.objective() for name, feed in self._feeds.items()}
        return self._members.objective(own, self._weights)

    def figures(self, params: Any, before: Callable[[], None] | None = None) -> dict[str, float]:
        """Return each task's figures on its validation split as NAME/FIGURE, and two of all tasks.

        `score` is the mean of the figures by which each task chooses, a loss negated: the higher the better.
        `loss` is the mean of the losses, each times its task's weight.
        """
        found: dict[str, float] = {}
        scores, losses = [], []
        for name, feed in self._feeds.items():
            own = feed.figures(self._members.take(params, name), before)
            found |= {f"{name}/{figure}": value for figure, value in own.items()}
            scores.append(feed.better * own[feed.score])
            losses.append(self._weights[name] * own["loss"])
        return {**found, "score": sum(scores) / len(scores), "loss": sum(losses) / len(losses)}

    def finish(self, params: Any, workdir: Path) -> None:
        """Write what each task's own run would: its metrics.json as a part of one, all else with its name.

        So predictions.jsonl of the task sst2 is predictions-sst2.jsonl. Where metrics.json is there already,
        the run was at its end before.
        """
        if (workdir / "metrics.json").exists():
            return
        whole, stage = {}, workdir / ".finish"
        for name, feed in self._feeds.items():
            if processes.first():
                shutil.rmtree(stage, ignore_errors=True)  # left by one that was killed
                stage.mkdir()
            feed.finish(self._members.take(params, name), stage)
            if not processes.first():
                continue
            whole[name] = _wire.read_json(stage / "metrics.json")
            for path in stage.iterdir():
                if path.name != "metrics.json":
                    os.replace(path, workdir / f"{path.stem}-{name}{path.suffix}")
        if not processes.first():
            return
        shutil.rmtree(stage)
        log.write_whole(workdir / "metrics.json", (json.dumps({"tasks": whole}, indent=2) + "\n").encode())

    def samples(self, params: Any, step: int) -> list[tuple[str, str]]:
        """Return nothing: these runs write no text."""
        return []
