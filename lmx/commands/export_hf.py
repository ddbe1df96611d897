"""Export: write a checkpoint as a Hugging Face folder."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping

from lmx.commands import _arguments


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare --checkpoint and --output."""
    parser.add_argument(
        "--checkpoint", required=True, help="a run's folder, FOLDER@best, FOLDER@STEP, or a HF folder"
    )
    output = _arguments.option(_arguments.new_folder)
    parser.add_argument("--output", required=True, type=output, help="the folder to make; it must not exist")
    parser.add_argument(
        "--dtype", help="the type to store; default: that of the folder it was read from, else float32"
    )
    parser.add_argument(
        "--shard-size", type=float, default=5.0, help="GB at which the weights are cut into files; default: 5"
    )


def run(options: argparse.Namespace, overrides: Mapping[str, str]) -> int:
    """Write the folder and say where it is."""
    from lmx.commands import _face, _platform

    _platform.start()
    _face.save_hf(
        _face.load(options.checkpoint), options.output, dtype=options.dtype, shard_size=options.shard_size
    )
    folder = shlex.quote(str(options.output))
    print(f"written: {options.output}; check it: {_platform.program()} verify {folder}")
    return 0
