"""Evaluate: loss, perplexity and bits per byte of a checkpoint on prepared rows."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

from lmx.commands import _arguments
from lmx.core.errors import UserError


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare --checkpoint, --data, --split and --batch."""
    parser.add_argument(
        "--checkpoint", required=True, help="a run's folder, FOLDER@best, FOLDER@STEP, or a HF folder"
    )
    data = _arguments.option(_arguments.folder)
    parser.add_argument("--data", type=data, help="a folder of prepared rows; default: the run's own")
    parser.add_argument("--split", default="validation", choices=("validation", "train"))
    parser.add_argument(
        "--batch",
        type=_arguments.count,
        default=32,
        help="rows at a time; it changes no figure but by rounding",
    )


def run(options: argparse.Namespace, overrides: Mapping[str, str]) -> int:
    """Print the figures as one JSON object."""
    from lmx import batches
    from lmx.commands import _build, _platform, _wire
    from lmx.core import mesh as mesh_
    from lmx.core import rows as codec
    from lmx.metrics import perplexity
    from lmx.sources import rows
    from lmx.training import evaluate

    _platform.start()
    found = _wire.checkpoint(options.checkpoint)
    rows_of_run = found.config.get("data", {}).get("folder")
    folder = options.data
    if folder is None and rows_of_run and (Path(rows_of_run) / codec.MANIFEST).exists():
        folder = Path(rows_of_run)
    if folder is None:
        raise UserError(f"{options.checkpoint} has no prepared rows of its own; name some: --data FOLDER")
    manifest = codec.manifest(folder)
    own, of_rows = _wire.tokenizer(found).sha256, manifest["tokenizer"]["sha256"]
    if own != of_rows:
        raise UserError(
            f"the rows were made with another tokenizer ({of_rows[:12]}) than that of {options.checkpoint} "
            f"({own[:12]}); prepare them with this one: --config.tokenizer.name=file "
            f"--config.tokenizer.path={found.folder}"
        )
    source = rows.source(options.split, folder=folder)
    mesh = mesh_.make()
    size = max(1, round(options.batch / mesh.size)) * mesh.size
    task = _build.task(found.config, needs=_build.TRAINED)
    objective = _build.objective(found.config, _build.model(found.config))
    whole = batches.whole(source, size=size, encode=task.encode)
    sums = evaluate.over(evaluate.build(objective, mesh=mesh), found.params, whole, mesh=mesh)
    split = manifest["splits"][options.split]
    figures = perplexity.metric(bytes_per_token=split["bytes"] / max(split["labels"], 1)).finish(sums)
    print(json.dumps({"split": options.split, "step": found.step, "tokens": int(sums["tokens"]), **figures}))
    return 0
