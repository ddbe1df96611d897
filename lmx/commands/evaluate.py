"""Evaluate: the figures of a checkpoint on prepared rows, or on the examples of its task."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmx.commands import _arguments
from lmx.core.errors import UserError

if TYPE_CHECKING:
    from lmx.core.examples import Records
    from lmx.core.types import Checkpoint


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare --checkpoint, --data, --split and what says which examples."""
    parser.add_argument(
        "--checkpoint", required=True, help="a run's folder, FOLDER@best, FOLDER@STEP, or a HF folder"
    )
    data = _arguments.option(_arguments.folder)
    parser.add_argument(
        "--data", type=data, help="a folder of prepared rows, or a file of examples; default: the run's own"
    )
    parser.add_argument("--split", default="validation", choices=("validation", "train", "test"))
    _arguments.examples(parser)
    _arguments.task(parser)


def run(options: argparse.Namespace, overrides: Mapping[str, str]) -> int:
    """Print the figures as one JSON object."""
    from lmx.commands import _apply, _platform, _wire
    from lmx.core import processes

    _platform.start()
    found = _wire.checkpoint(options.checkpoint, member=options.task, cut=True)
    if not _apply.supervised(found) and found.config["task"]["name"] == "features":
        raise UserError(f"{options.checkpoint}: {_apply.no_task(found)}")
    figures = _examples(found, options) if _apply.supervised(found) else _rows(found, options)
    if processes.first():
        print(json.dumps(figures))
    return 0


def _examples(found: Checkpoint, options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures, with 95 % intervals, on a file of examples or a split of the run's own."""
    from lmx import sources
    from lmx.commands import _apply, _wire
    from lmx.core import log, processes

    applied = _apply.opened(found, batch=options.batch)
    rows = _apply.rows(
        applied,
        None if options.data is None else str(options.data),
        split=options.split,
        where=_arguments.columns(options.columns),
        format=options.format,
        targets=True,
    )
    run = _wire.located(options.checkpoint)[0]
    test = _is_test(applied.config, options)
    if options.data is None and not test:
        _unchanged(run, options, rows)
    split = applied.split(rows, targets=True)
    if (options.data is not None or options.split != "train") and "data" in found.config:
        try:
            theirs = _apply.rows(applied, None, split="train", where={}, format=None, targets=True)
            train = applied.read(theirs)
        except UserError as error:
            log.say(f"whether rows are also in train cannot be told: {error}")
        else:
            if shared := sources.overlap(train, split.examples):
                whose = f"{options.split} " if options.data is None else ""
                log.say(f"warning: {shared:,} of the {len(rows):,} {whose}rows are also in train")
    judged = applied.judge.judged(found.params, split)
    if test and processes.first():  # not before: rows that cannot be read give no figure
        _lock(run, options.task)
    return {
        "split": options.split if options.data is None else str(options.data),
        "step": found.step,
        "examples": len(judged.predictions),
        **judged.more,
        **log.plain(judged.figures),
        "intervals": log.plain(judged.intervals),
    }


def _is_test(config: Mapping[str, Any], options: argparse.Namespace) -> bool:
    """Tell whether these are the rows of the run's test split, asked for as such or by a file of its own."""
    if options.data is None:
        return bool(options.split == "test")
    own = config.get("data", {}).get("test")
    own = own if isinstance(own, list | tuple) else (own,)
    return any(isinstance(one, str) and Path(one).resolve() == options.data.resolve() for one in own)


def _unchanged(run: Path, options: argparse.Namespace, rows: Records) -> None:
    """Say so where the rows of a run's split are not those that it had in training."""
    from lmx import sources
    from lmx.commands import _wire
    from lmx.core import log

    if not (run / "run.json").exists():
        return
    facts = _wire.read_json(run / "run.json").get("data", {})
    facts = facts.get("tasks", {}).get(options.task, {}) if "tasks" in facts else facts
    then, now = facts.get("sha256", {}).get(options.split), sources.fingerprint(rows)
    if then is not None and then != now:
        log.say(
            f"warning: the {options.split} rows are not those of the run (SHA-256 {now[:12]}, then "
            f"{then[:12]}); figures cannot be held against its own"
        )


def _lock(run: Path, task: str | None) -> None:
    """Note in a run's folder that its test split was used, and say so where it was before.

    task: whose, of several.
    """
    from datetime import UTC, datetime

    from lmx.core import log

    path = run / "test_uses.jsonl"
    uses = log.read_jsonl(path) if path.exists() else []
    before = [one for one in uses if one.get("task") == task]
    if before:
        log.say(
            f"warning: the test split was used {len(before)} time{'s' * (len(before) > 1)} before, first "
            f"{before[0]['time']}; a figure that guided a choice is no test figure any more"
        )
    writer = log.Jsonl(path)
    whose = {} if task is None else {"task": task}
    writer.write({"step": len(uses), "time": datetime.now(UTC).isoformat(timespec="seconds"), **whose})


def _rows(found: Checkpoint, options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of the task on prepared rows."""
    from lmx import batches
    from lmx.commands import _build, _packed, _wire
    from lmx.core import mesh as mesh_
    from lmx.core import rows as codec
    from lmx.sources import rows
    from lmx.training import evaluate

    folder = options.data
    if folder is None and found.config.get("data", {}).get("folder"):
        judged = _packed.stages(found.config, Path())[-1]  # a run may end on longer rows than it began with
        own = Path(judged["data"]["folder"])
        folder = own if (own / codec.MANIFEST).exists() else None
    if folder is None:
        raise UserError(f"{options.checkpoint} has no prepared rows of its own; name some: --data FOLDER")
    manifest = codec.manifest(folder)
    text, of_rows = _wire.tokenizer(found), manifest["tokenizer"]["sha256"]
    if text.sha256 != of_rows:
        raise UserError(
            f"the rows were made with another tokenizer ({of_rows[:12]}) than that of {options.checkpoint} "
            f"({text.sha256[:12]}); prepare them with this one: --config.tokenizer.name=file "
            f"--config.tokenizer.path={found.folder}"
        )
    source = rows.source(options.split, folder=folder)
    mesh = mesh_.under(found.params) or mesh_.make()
    size = mesh_.filled(options.batch or 32, mesh)
    task = _build.task(found.config, needs=_build.TRAINED)
    objective = _build.objective(found.config, _build.model(found.config))
    _fits(found, manifest, folder)
    encode = _build.encoder({**found.config, "seed": manifest["settings"]["seed"]}, text.vocabulary())
    whole = batches.whole(source, size=size, encode=encode, places=mesh_.places(size, mesh))
    sums = evaluate.over(
        evaluate.build(objective, mesh=mesh, how=_build.execution(found.config)),
        found.params,
        whole,
        mesh=mesh,
    )
    figures = _packed.metric(task, manifest["splits"][options.split]).finish(sums)
    return {"split": options.split, "step": found.step, "tokens": int(sums["tokens"]), **figures}


def _fits(found: Checkpoint, manifest: Mapping[str, Any], folder: Path) -> None:
    """Raise UserError where the task reads rows of another layout."""
    from lmx.commands import prepare

    wanted, there = prepare.layout_of(found.config), manifest["settings"]["layout"]
    if wanted != there:
        raise UserError(
            f"{folder} holds rows laid out as {there}, but {found.config['task']['name']} reads {wanted}; "
            "prepare rows for it"
        )
