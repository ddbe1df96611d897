"""What frames a training run: the check of its folder before; export, report and last words after."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmx.commands import _build, _hf, _wire
from lmx.core import config as config_
from lmx.core import log
from lmx.core.errors import UserError
from lmx.report import page
from lmx.runs import facts

if TYPE_CHECKING:
    from lmx.commands._session import Session


def check(config: Mapping[str, Any], workdir: Path, *, cosmetic: Sequence[str]) -> None:
    """Raise UserError where the folder holds another run, or the config asks for what cannot be.

    Errors name the differing keys; fields under `cosmetic` may differ.
    """
    if not 0 <= config["seed"] < 2**32:
        raise UserError(f"seed={config['seed']}; expected 0 to 4294967295")
    last, best = config["keep"]["last"], config["keep"]["best"]
    if last < 1 or best < 0:
        raise UserError(f"keep.last={last}, keep.best={best}; expected at least 1 and at least 0")
    length, positions = config["batch"]["length"], config["model"]["positions"]
    if length > positions:
        raise UserError(
            f"batch.length={length} is longer than model.positions={positions}; raise one or lower the other"
        )
    if config["batch"]["size"] < 1 or length < 1:
        raise UserError(
            f"batch.size={config['batch']['size']}, batch.length={length}; both must be at least 1"
        )
    _build.task(config, needs=_build.TRAINED)
    _build.head_table(config)
    _build.model_config({**config["model"], "vocab_size": config["model"]["vocab_size"] or 1})
    path, saved = workdir / "config.json", any((workdir / "checkpoints").glob("[0-9]*"))
    if not path.exists():
        if saved:
            raise UserError(f"{workdir} holds checkpoints without a config.json; name another folder")
        return
    if not saved:
        return  # a start that came to nothing binds nobody
    before = {key: value for key, value in _wire.read_json(path).items() if key not in cosmetic}
    now = {key: value for key, value in config.items() if key not in cosmetic}
    differing = [f"{key} ({old!r} there, {new!r} now)" for key, old, new in config_.differences(before, now)]
    if differing:
        raise UserError(
            f"workdir {workdir} holds a run with another config: {', '.join(differing)}; "
            "name another workdir, or repeat its config"
        )


def write_config(config: Mapping[str, Any], workdir: Path) -> None:
    """Write config.json, as given, whole or not at all."""
    text = json.dumps(config_.plain(config), indent=2, sort_keys=True) + "\n"
    log.write_whole(workdir / "config.json", text.encode())


def write_facts(session: Session, made: int, began: float) -> None:
    """Write run.json; the seconds of earlier starts of the run are added."""
    path = session.workdir / "run.json"
    found = session.facts(made, began)
    before = _wire.read_json(path) if path.exists() else {}
    if "seconds" in before:
        found["seconds"] = round(found["seconds"] + before["seconds"], 1)
        found["started"] = before["started"]
    facts.write(session.workdir, found)


def opening(session: Session, made: int) -> str:
    """Return the line before the first step."""
    fields = session.config["model"]
    count = facts.size(session.state.params)["parameters"]
    there = f"resuming at step {made} of {session.total}" if made else f"{session.total} steps"
    return (
        f"{fields['name']}: {count:,} parameters, {fields['layers']} layers, width {fields['width']}; "
        f"{there} of "
        f"{session.tokens_per_step:,} tokens on {session.mesh.size} device{'s' * (session.mesh.size > 1)}"
    )


def finish(session: Session, made: int, say: Any) -> None:
    """Write the export and the report, where they are not there yet."""
    folder = session.workdir / "export"
    if session.config["export"] and not folder.exists():
        say("writing the Hugging Face folder")
        _hf.write(session.checkpoint(made), folder)
        path = session.workdir / "run.json"
        facts.write(session.workdir, {**_wire.read_json(path), "export": str(folder)})
    page.write(session.workdir)


def closing(session: Session, made: int, again: str) -> str:
    """Return what was made, where, and what to try next."""
    work = session.workdir
    figures = session.kept.facts(made)["figures"]
    export = [f"  {work / 'export'}  Hugging Face folder"] if (work / "export").exists() else []
    return "\n".join(
        [
            f"step {made}: validation {', '.join(f'{name} {value:.4f}' for name, value in figures.items())}",
            "made:",
            f"  {work / 'report.html'}  curves, samples, data, config: open it in a browser",
            f"  {work / 'checkpoints'}  steps {', '.join(map(str, session.kept.steps()))}",
            *export,
            f"  {work / 'metrics.jsonl'}, {work / 'samples.jsonl'}, {work / 'events'} (TensorBoard)",
            "next:",
            f"  {again}   # the same again goes on after a stop; now it says: done already",
            f"  lmx generate --checkpoint {work} --prompt 'The'",
            "  lmx train --config pretrain/from_text --config.data.path=FILE_OR_FOLDER --workdir OTHER",
        ]
    )
