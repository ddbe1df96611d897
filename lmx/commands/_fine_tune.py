"""Fine-tuning from Python in one call: rows become a file and a config, and the command does the rest."""

from __future__ import annotations

import datetime
import decimal
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lmx.commands import _arguments, _start
from lmx.commands.train import train
from lmx.core import config as config_
from lmx.core import log
from lmx.core.errors import UserError
from lmx.core.types import Checkpoint
from lmx.runs import lock
from lmx.sources import memory


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
    if not isinstance(changes, Mapping):
        raise UserError(f"changes={changes!r}; expected a dict of fields, such as {{'optim.decay': 0.1}}")
    folder = Path(tempfile.mkdtemp(prefix="lmx-")) if workdir is None else _arguments.folder(workdir)
    new = workdir is None or not folder.exists()
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
    if twice := [name for name in ("data.train", "data.path") if name in changes]:
        raise UserError(f"changes has {twice[0]!r}, but rows were given, too; give one of the two")
    held = _share(validation)
    if task is None and held is None:
        raise UserError("validation: texts are held out by a share, such as '10%'")
    with _kept(folder, new=new) as write:
        place = write(rows, "train")
        if task is None:
            found |= {"data.path": str(place), "data.holdout": held}
        else:
            options = {"name": task} if isinstance(task, str) else dict(task)
            found |= {f"task.{name}": value for name, value in options.items()}
            other = f"{100 * held:.10g}%" if held is not None else str(write(validation, "validation"))
            found |= {"data.train": str(place), "data.validation": other}
        config_.override(config, {**found, **changes})
        checkpoint, stopped = train(config_.plain(config), folder, again="the same call of lmx.fine_tune")
    if stopped is not None:
        raise KeyboardInterrupt(f"stopped at step {checkpoint.step} and saved in {folder}")
    return checkpoint


_TOLD = (datetime.date, datetime.time, datetime.timedelta, decimal.Decimal, uuid.UUID, os.PathLike)
"""What has one text of its own, and stands for it."""


def _continued(start: str) -> str:
    """Return the shipped config that goes on with a model on plain texts."""
    name = _start.fields(start)["name"]
    return f"pretrain/adapt_{name}"


def _share(validation: Any) -> float | None:
    """Return the share of "10%" or 0.1; None for rows. Errors: UserError for any other text or number."""
    if not isinstance(validation, (str, int, float)):
        return None
    text = str(validation).strip()
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = math.nan
    if not 0 < share < 1 or isinstance(validation, bool):
        raise UserError(f"validation={validation!r}; expected a share such as '10%' or 0.1, or rows")
    return share


@contextmanager
def _kept(folder: Path, *, new: bool) -> Iterator[Callable[[Any, str], Path]]:
    """Yield what writes rows under a name into a run's folder; they go away where the run is refused, and so
    does a folder that is new."""
    given, before, names = folder / "given", set(folder.glob("given/*")), dict[str, str]()

    def write(rows: Any, name: str) -> Path:
        path = _file(rows, given, name)
        names[str(path)] = name
        return path

    try:
        yield write
    except UserError as error:
        config = folder / "config.json"
        known = config.read_text() if config.exists() else ""  # that of a run which has begun with them
        for path in set(folder.glob("given/*")) - before:
            if path.name not in known:
                path.unlink()
        with suppress(OSError):  # it is not empty, or not there
            given.rmdir()
        if new and folder.exists() and all(path.name == lock.NAME for path in folder.iterdir()):
            shutil.rmtree(folder)
        raise UserError(_in_python(str(error), names)) from error


def _in_python(said: str, names: Mapping[str, str]) -> str:
    """Return what was said of files and options of the command line in terms of the call: rows by their
    index, options as `changes`. names: {a file: what its rows are called}."""
    for path, name in names.items():
        head, *parts = re.split(rf"{re.escape(path)}, line (\d+)", said)
        pairs = zip(parts[::2], parts[1::2], strict=True)
        said = "".join([head, *(f"{name}[{int(line) - 1}]{rest}" for line, rest in pairs)]).replace(
            path, name
        )
    said = re.sub(r"--config\.([\w.]+)=([^\s,;]+)", r"changes={'\1': '\2'}", said)
    return re.sub(r"--config\.([\w.]*\w)", r"changes={'\1': ...}", said)


def _file(rows: Any, folder: Path, name: str) -> Path:
    """Write rows (texts, dicts, or a frame) as JSON lines, and return where.

    The file is named by what is in it, so that another call leaves it alone.
    """
    listed = [_plain(row, f"{name}[{i}]") for i, row in enumerate(memory.rows(name, rows))]
    whole = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in listed)
    data = whole.encode("utf-8", "surrogatepass")
    path = folder / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}.jsonl"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        log.write_whole(path, data)
    return path


def _plain(value: Any, where: str) -> Any:
    """Return a value as JSON has it; what is no number, or no date, is null, which counts as missing.

    where: what it is called in messages. Errors: UserError for what has no text of its own.
    """
    if isinstance(value, Mapping):
        return {str(key): _plain(one, f"{where}[{key!r}]") for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one, f"{where}[{i}]") for i, one in enumerate(value)]
    if type(value).__name__ in ("NAType", "NaTType"):  # of pandas
        return None
    if isinstance(value, _TOLD):
        return str(value)
    if hasattr(value, "tolist"):  # of numpy
        return _plain(value.tolist(), where)
    if value is None or isinstance(value, (str, int, float)):
        return None if isinstance(value, float) and math.isnan(value) else value
    raise UserError(
        f"{where} is of type {type(value).__name__}; expected texts, numbers, lists or dicts of them: make "
        "it one, or leave it out"
    )
