"""Import: read a Hugging Face folder, or a model of the hub, into an lmx checkpoint with its certificate."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping

from lmx.commands import _arguments
from lmx.core import log


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare --source, --output, --task, --labels, --dtype, --allow-nonfinite and --seed."""
    parser.add_argument("--source", required=True, help="a Hugging Face folder, or hf://ORG/NAME@REVISION")
    output = _arguments.option(_arguments.new_folder)
    parser.add_argument("--output", required=True, type=output, help="the folder to make; it must not exist")
    parser.add_argument("--task", help="another task than the folder's own; its head starts anew")
    parser.add_argument(
        "--labels", type=_arguments.count, help="another number of labels; the head starts anew"
    )
    parser.add_argument("--dtype", default="float32", help="the parameters' type; default: float32")
    parser.add_argument(
        "--allow-nonfinite", action="store_true", help="read weights that are NaN or infinite"
    )
    parser.add_argument("--seed", type=int, default=0, help="of what starts anew; default: 0")


def run(options: argparse.Namespace, overrides: Mapping[str, str]) -> int:
    """Import, and say what came of it."""
    from lmx.commands import _certify, _platform
    from lmx.core import tree
    from lmx.core.errors import UserError

    _platform.start()
    if options.labels is not None and options.task is None:
        raise UserError("--labels needs the task that it is for, such as --task sequence_classification")
    task = None if options.task is None else {"name": options.task}
    if task is not None and options.labels is not None:
        task["labels"] = options.labels
    found = _certify.bring_in(
        options.source,
        options.output,
        say=log.say,
        task=task,
        dtype=options.dtype,
        allow_nonfinite=options.allow_nonfinite,
        seed=options.seed,
    )
    count = sum(leaf.size for leaf in tree.flatten(found.params).values())
    model, task = found.config["model"]["name"], found.config["task"]["name"]
    print(f"imported: {options.output}, a {model} for {task} with {count:,} parameters")
    print(f"check it: {_platform.program()} verify {shlex.quote(str(options.output))}")
    return 0
