"""Fine-tuning from Python in one call: rows become a file and a config, and the command does the rest."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lmx.commands import _arguments, _start
from lmx.commands.train import train
from lmx.core import config as config_
from lmx.core import log
from lmx.core.errors import UserError
from lmx.core.types import Checkpoint


def fine_tune(
    rows: Any,
    *,
    start: str | os.PathLike[str],
    task: str | Mapping[str, Any] | None,
    validation: Any,
    workdir: str | os.PathLike[str] | None,
    epochs: float,
    batch_size: int,
    rate: float,
    length: int,
    seed: int,
    changes: Mapping[str, Any],
) -> Checkpoint:
    """Return the checkpoint of a fine-tuning run; see `lmx.fine_tune`."""
    folder = Path(tempfile.mkdtemp(prefix="lmx-")) if workdir is None else _arguments.folder(workdir)
    if workdir is None:
        log.say(f"the run is in {folder}; name a workdir to keep it elsewhere, and to resume")
    config = config_.load("finetune/base" if task is not None else _continued(os.fspath(start)))
    found = {
        "start": os.fspath(start),
        "seed": seed,
        "total": f"{epochs} epochs",
        "batch.size": batch_size,
        "batch.length": length,
        "optim.rate": rate,
        "export": False,
    }
    train_file = _file(rows, folder / "given" / "train.jsonl", "rows")
    if task is None:
        found["data.path"] = str(train_file)
        if not isinstance(validation, (int, float, str)):
            raise UserError("validation: texts are held out by a share, such as '10%'")
        share = float(str(validation).rstrip("%")) / 100
        found["data.holdout"] = share
    else:
        options = {"name": task} if isinstance(task, str) else dict(task)
        found |= {f"task.{name}": value for name, value in options.items()}
        held = validation
        if not isinstance(validation, str):
            held = str(_file(validation, folder / "given" / "validation.jsonl", "validation"))
        found |= {"data.train": str(train_file), "data.validation": held}
    config_.override(config, {**found, **changes})
    checkpoint, stopped = train(config_.plain(config), folder, again="the same call of lmx.fine_tune")
    if stopped is not None:
        raise KeyboardInterrupt(f"stopped at step {checkpoint.step} and saved in {folder}")
    return checkpoint


def _continued(start: str) -> str:
    """Return the shipped config that goes on with a model on plain texts."""
    name = _start.fields(start)["name"]
    return f"pretrain/adapt_{name}"


def _file(rows: Any, path: Path, name: str) -> Path:
    """Write rows (texts, dicts, or a frame) as JSON lines, and return where."""
    whole = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in _listed(rows, name))
    path.parent.mkdir(parents=True, exist_ok=True)
    log.write_whole(path, whole.encode())
    return path


def _listed(rows: Any, name: str) -> list[dict[str, Any]]:
    for method, arguments in (("to_pylist", ()), ("to_dicts", ()), ("to_dict", ("records",))):
        if hasattr(rows, method) and not isinstance(rows, Mapping):
            rows = getattr(rows, method)(*arguments)
            break
    if isinstance(rows, (str, bytes, Mapping)) or not isinstance(rows, Sequence) or not rows:
        raise UserError(f"{name} is of type {type(rows).__name__}; expected texts, dicts or a data frame")
    found = []
    for index, row in enumerate(rows):
        if not isinstance(row, (str, Mapping)):
            raise UserError(f"{name}[{index}] is of type {type(row).__name__}; expected a text or a dict")
        found.append({"text": row} if isinstance(row, str) else log.plain(row))
    return found
