"""What a training run writes beside its steps: config, facts, export, report, first and last words."""

from __future__ import annotations

import dataclasses
import json
import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

from lmx import optim
from lmx.commands import _export, _members, _platform, _wire
from lmx.core import config as config_
from lmx.core import layers, log, processes, tree
from lmx.core import mesh as mesh_
from lmx.core.progress import duration
from lmx.report import page
from lmx.runs import facts
from lmx.training import goodput

if TYPE_CHECKING:
    from lmx.commands._session import Session
    from lmx.core.types import Checkpoint


def write_config(config: Mapping[str, Any], workdir: Path) -> None:
    """Write config.json, as given, whole or not at all."""
    text = json.dumps(config_.plain(config), indent=2, sort_keys=True) + "\n"
    log.write_whole(workdir / "config.json", text.encode())


def write_facts(session: Session, made: int, began: float) -> None:
    """Write run.json; the seconds of earlier starts of the run are added."""
    path = session.workdir / "run.json"
    found = _facts(session, made, began)
    before = _wire.read_json(path) if path.exists() else {}
    if "seconds" in before:
        found["seconds"] = round(found["seconds"] + before["seconds"], 1)
        found["started"] = before["started"]
    facts.write(session.workdir, found)


def _facts(session: Session, made: int, began: float) -> dict[str, Any]:
    best = session.kept.best()
    params = jax.eval_shape(layers.apart, session.state.params)
    return {
        **facts.environment(),
        **facts.size(params),
        "steps": made,
        session.feed.unit: made * session.feed.per_step,
        "seconds": round(time.monotonic() - began, 1),
        "best": None if best is None else _best(session, best),
        "data": session.feed.facts,
        **session.costs,
        "goodput": goodput.total(goodput.read(session.workdir)),
        "decayed": [path for path, on in tree.flatten(optim.decayed(params)).items() if on],
    }


def _best(session: Session, step: int) -> dict[str, Any]:
    figures = session.kept.facts(step)["figures"]
    return {"step": step, "loss": figures["loss"], session.feed.score: figures[session.feed.score]}


def opening(session: Session, made: int) -> str:
    """Return the line before the first step."""
    fields = session.config["model"]
    count = facts.size(session.state.params)["parameters"]
    there = f"resuming at step {made} of {session.total}" if made else f"{session.total} steps"
    return (
        f"{fields['name']}: {count:,} parameters, {fields['layers']} layers, width {fields['width']}; "
        f"{there}, {session.feed.per_step:,} {session.feed.unit} each, on {session.mesh.size} "
        f"device{'s' * (session.mesh.size > 1)}{mesh_.idle(jax.device_count() - session.mesh.size)}"
    )


def spent(session: Session) -> str:
    """Return the line on what the run's time has gone into, all its starts together."""
    found = goodput.total(goodput.read(session.workdir))
    parts = sorted(found["seconds"].items(), key=lambda part: -part[1])
    told = ", ".join(f"{kind} {duration(seconds)}" for kind, seconds in parts if seconds >= 0.5)
    return f"goodput {found['share']:.0%} of {duration(found['wall'])}" + (f": {told}" if told else "")


def finish(session: Session, made: int, say: Any) -> Checkpoint:
    """Write the export and the report, where they are not there yet; return what the run gives away."""
    folder = session.workdir / "export"
    found = session.checkpoint(made)
    session.feed.finish(found.params, session.workdir)
    whole = (
        dataclasses.replace(found, params=processes.whole(found.params)) if processes.count() > 1 else found
    )
    processes.by_first(lambda: _give_away(session, whole, folder, say))
    return found


def _give_away(session: Session, found: Checkpoint, folder: Path, say: Any) -> None:
    exports = _members.exports(found, folder) if session.config["export"] else {}
    if left := {target: one for target, one in exports.items() if not target.exists()}:
        say(f"writing the Hugging Face folder{'s' * (len(left) > 1)}")
        for target, one in left.items():
            _export.write(one, target)
        path = session.workdir / "run.json"
        facts.write(session.workdir, {**_wire.read_json(path), "export": str(folder)})
    page.write(session.workdir)


def _usable(session: Session, lmx: str, run: str) -> str:
    """Return what to do with a model that writes no text."""
    if session.feed.unit == "tokens":
        return f"  {lmx} train --config finetune/classify --config.start={run} --workdir OTHER ..."
    return f"  {lmx} predict --checkpoint {run} --data FILE"


def closing(session: Session, made: int, again: str) -> str:
    """Return what was made, where, and what to try next."""
    work, lmx = session.workdir, _platform.program()
    best = session.kept.best() if session.config["keep"]["restore"] else None
    step = made if best is None else best
    figures = session.kept.facts(step)["figures"]
    texts = "samples" in session.config
    made_of = {
        "report.html": "curves, data, config: open it in a browser",
        "checkpoints": f"steps {', '.join(map(str, session.kept.steps()))}",
        "export": "Hugging Face folder",
        "metrics.json": "figures with their intervals",
        "errors.jsonl": "the validation examples with the highest loss, sorted by it",
        "predictions.jsonl": "what the model says of each validation example",
        "metrics.jsonl": "figures during training; also in events (TensorBoard)",
        "samples.jsonl": "texts written during training",
        "profile": "a trace of some steps",
    }
    made_of |= {f"predictions-{name}.jsonl": "those of one task" for name in session.config.get("tasks", {})}
    run = shlex.quote(str(work))
    whose = " --task NAME" if "tasks" in session.config else ""
    following = [
        f"  {lmx} generate --checkpoint {run} --prompt 'The'",
        f"  {lmx} train --config pretrain/from_text --config.data.path=FILE_OR_FOLDER --workdir OTHER",
    ]
    told = ", ".join(f"{name} {float(value):.4f}" for name, value in figures.items())
    remark = "; " if "   # " in again else "   # "
    return "\n".join(
        [
            f"step {step}: validation {told}",
            "made:",
            *(f"  {work / name}  {what}" for name, what in made_of.items() if (work / name).exists()),
            "next:",
            f"  {again}{remark}the same again goes on after a stop; now it says: done already",
            *(following if texts else [_usable(session, lmx, run + whose)]),
        ]
    )
