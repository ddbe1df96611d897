"""Report: write report.html of a run again, from its files."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare --workdir."""
    parser.add_argument("--workdir", required=True, type=Path, help="the run's folder")


def run(options: argparse.Namespace, overrides: Mapping[str, str]) -> int:
    """Write the page and say where it is."""
    from lmx.report import page

    print(f"written: {page.write(options.workdir)}")
    return 0
