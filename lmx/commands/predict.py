"""Predict: what a checkpoint says of examples, one JSON object a line."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping

from lmx.commands import _arguments
from lmx.core.errors import UserError


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare --checkpoint, --data, --output and what says which examples."""
    parser.add_argument(
        "--checkpoint", required=True, help="a run's folder, FOLDER@best, FOLDER@STEP, or a HF folder"
    )
    parser.add_argument("--data", required=True, help="a file of examples; targets are not read")
    parser.add_argument(
        "--output", type=_arguments.option(_arguments.new_folder), help="a new file; default: the terminal"
    )
    _arguments.examples(parser)
    _arguments.task(parser)


def run(options: argparse.Namespace, overrides: Mapping[str, str]) -> int:
    """Print or write the predictions, in the order of the examples."""
    from lmx.commands import _apply, _platform, _wire
    from lmx.core import log, processes

    if options.output is not None and options.output.exists():
        raise UserError(f"{options.output}: exists already; name another file")
    _platform.start()
    found = _wire.checkpoint(options.checkpoint, member=options.task, cut=True)
    applied = _apply.opened(found, batch=options.batch)
    where = _arguments.columns(options.columns)
    rows = _apply.rows(applied, options.data, split="test", where=where, format=options.format, targets=False)
    split = applied.split(rows, targets=False)
    predictions = applied.judge.said(applied.found.params, split)
    said = [
        {**({"id": example["id"]} if "id" in example else {}), **log.plain(one)}
        for example, one in zip(split.examples, predictions, strict=True)
    ]
    if not processes.first():
        return 0
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in said)
    if options.output is None:
        print(text, end="")
        return 0
    path = options.output
    path.parent.mkdir(parents=True, exist_ok=True)
    log.write_whole(path, text.encode())
    print(f"written: {path}, {len(said):,} predictions")
    return 0
