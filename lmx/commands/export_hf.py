"""Export: write a checkpoint as a Hugging Face folder."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmx.commands import _arguments
from lmx.core.errors import UserError

UNITS = {"": 1.0, "GB": 1.0, "MB": 1e-3, "KB": 1e-6, "B": 1e-9}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare --checkpoint, --output, --dtype, --shard-size and --allow-nonfinite."""
    parser.add_argument(
        "--checkpoint", required=True, help="a run's folder, FOLDER@best, FOLDER@STEP, or a HF folder"
    )
    output = _arguments.option(_arguments.new_folder)
    parser.add_argument("--output", required=True, type=output, help="the folder to make; it must not exist")
    parser.add_argument(
        "--dtype", help="the type to store; default: that of the folder it was read from, else float32"
    )
    parser.add_argument(
        "--shard-size",
        type=_gigabytes,
        default=5.0,
        help="GB (10^9 bytes), or such as 500MB, at which the weights are cut into files; default: 5",
    )
    _arguments.task(parser)
    parser.add_argument(
        "--allow-nonfinite", action="store_true", help="write weights that are NaN or infinite"
    )


def _gigabytes(text: str) -> float:
    """Return a number of GB, of 10^9 bytes, for argparse."""
    found = re.fullmatch(r"\s*([^\sA-Za-z]+(?:[eE][-+]?\d+)?|inf|nan)\s*([A-Za-z]*)\s*", text)
    try:
        return float(found[1]) * UNITS[found[2].upper()]  # type: ignore[index]
    except (TypeError, KeyError, ValueError):
        expected = "a number of GB (10^9 bytes), such as 2, or one with a unit: 2GB, 500MB"
        raise argparse.ArgumentTypeError(f"{text!r}; expected {expected}") from None


def run(options: argparse.Namespace, overrides: Mapping[str, str]) -> int:
    """Write the folder and say where it is."""
    from lmx.commands import _face, _platform, _wire

    _platform.start()
    source, run_of = _wire.located(options.checkpoint)
    if run_of is None or (source / "conversion.json").exists():
        _check_outside(options.output, source)
    given: dict[str, Any] = {"allow_nonfinite": True} if options.allow_nonfinite and run_of is None else {}
    _face.save_hf(
        _wire.checkpoint(options.checkpoint, member=options.task, **given),
        options.output,
        dtype=options.dtype,
        shard_size=options.shard_size,
        allow_nonfinite=options.allow_nonfinite,
    )
    folder = shlex.quote(str(options.output))
    print(f"written: {options.output}; check it: {_platform.program()} verify {folder}")
    return 0


def _check_outside(target: Path, source: Path) -> None:
    """Refuse a place in what is exported; a run of `lmx train`, which nothing certifies, may hold its own."""
    if target.resolve().is_relative_to(source.resolve()):
        raise UserError(f"{target} would lie in {source}; name a folder elsewhere")
