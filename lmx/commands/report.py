"""Report: write report.html of a run, or of several seeds, again, from their files."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from lmx.commands import _arguments


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare --workdir."""
    workdir = _arguments.option(_arguments.folder)
    parser.add_argument("--workdir", required=True, type=workdir, help="the run's folder")


def run(options: argparse.Namespace, overrides: Mapping[str, str]) -> int:
    """Write the page and say where it is."""
    from lmx.core import stop
    from lmx.report import page, seeds

    stop.begun()
    write = seeds.write if (options.workdir / seeds.NAME).exists() else page.write
    print(f"written: {write(options.workdir)}")
    return 0
