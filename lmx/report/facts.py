"""Read the files of a run's folder into one value, of which the page is made."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmx.core.errors import UserError
from lmx.core.log import read_jsonl

Record = Mapping[str, Any]

NUMBERS = (
    *("step", "loss", "rate", "grad_norm", "seconds", "perplexity", "bits_per_byte"),
    *("tokens", "tokens_per_second", "examples", "examples_per_second", "mfu"),
)
"""Fields of a metrics record that must be numbers where they are there."""


@dataclass(frozen=True)
class Judged:
    """What a run left of one task's held-out examples; `name` is "" where it has but one.

    metrics: the object of metrics.json; plots: of plots.json; errors: the records of errors.jsonl. Each may
    be empty.
    """

    name: str
    metrics: Mapping[str, Any] = field(default_factory=dict)
    plots: Mapping[str, Any] = field(default_factory=dict)
    errors: tuple[Record, ...] = ()


@dataclass(frozen=True)
class Report:
    """What the files of a run tell; every field but `name` and `config` may be empty.

    train and evaluations are the metrics records of their kind in the order of the file, their numbers as
    floats (NaN where the run wrote null or "NaN"), their `step` as int.
    """

    name: str
    config: Mapping[str, Any]
    run: Mapping[str, Any] = field(default_factory=dict)
    train: tuple[Record, ...] = ()
    evaluations: tuple[Record, ...] = ()
    samples: tuple[Record, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    judged: tuple[Judged, ...] = ()


def read(workdir: str | os.PathLike[str]) -> Report:
    """Return what the files in a run's folder tell.

    config.json must be there; run.json, metrics.jsonl, samples.jsonl, data/manifest.json, and of fine-tuning
    metrics.json, plots.json and errors.jsonl, may be missing.
    Raises UserError naming the file that is missing or broken.
    """
    folder = Path(workdir)
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder / 'config.json'} is missing; give the folder of a run that has begun")
    run = _object(folder / "run.json")
    metrics = _metrics(folder / "metrics.jsonl")
    data = _object(folder / "data" / "manifest.json") or run.get("data") or {}
    return Report(
        name=folder.resolve().name,
        config=_object(folder / "config.json"),
        run=run,
        train=tuple(record for record in metrics if record["kind"] == "train"),
        evaluations=tuple(record for record in metrics if record["kind"] == "evaluation"),
        samples=_samples(folder / "samples.jsonl"),
        data=data if isinstance(data, dict) else {"data": data},
        judged=_judged(folder),
    )


def mapping(path: Path) -> dict[str, Any]:
    """Return the object of a JSON file. Raises UserError where it is missing, broken, or no object."""
    if not path.exists():
        raise UserError(f"{path}: is missing")
    return _object(path)


def number(value: Any) -> float:
    """Return a number of a record as a float; null is NaN. Raises ValueError for anything else."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{value!r} is not a number")
    return float(value)


def _object(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error})") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(found).__name__}")
    return found


def _judged(folder: Path) -> tuple[Judged, ...]:
    """Return what there is of each task: the run's only one, or of several such as plots-NAME.json with the
    part of metrics.json that bears the name."""
    whole = _object(folder / "metrics.json")
    parts = whole.get("tasks", {"": whole})
    named = (*folder.glob("plots-*.json"), *folder.glob("errors-*.jsonl"))
    names = {"", *parts, *(path.stem.partition("-")[2] for path in named)}
    found = []
    for name in sorted(names):
        end = f"-{name}" if name else ""
        plots, errors = _object(folder / f"plots{end}.json"), tuple(_records(folder / f"errors{end}.jsonl"))
        if (metrics := parts.get(name, {})) or plots or errors:
            found.append(Judged(name, metrics, plots, errors))
    return tuple(found)


def _records(path: Path) -> list[dict[str, Any]]:
    return read_jsonl(path) if path.exists() else []


def _metrics(path: Path) -> list[dict[str, Any]]:
    records = []
    for place, record in enumerate(_records(path), 1):
        if record.get("kind") not in ("train", "evaluation"):
            continue
        if "step" not in record:
            raise UserError(f"{path}, record {place}: no `step`")
        numbers = {}
        for name in NUMBERS:
            if name not in record:
                continue
            try:
                numbers[name] = number(record[name])
            except ValueError as error:
                found = f"{name} = {record[name]!r} is not a number"
                raise UserError(f"{path}, record {place}: {found}") from error
        if not math.isfinite(numbers["step"]):
            raise UserError(f"{path}, record {place}: step = {record['step']!r} is not a whole number")
        records.append({**record, **numbers, "step": int(numbers["step"])})
    return records


def _samples(path: Path) -> tuple[dict[str, Any], ...]:
    records = _records(path)
    for place, record in enumerate(records, 1):
        if not isinstance(record.get("text"), str):
            raise UserError(f"{path}, record {place}: no `text`")
    return tuple(records)
