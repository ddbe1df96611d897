"""Verify: check an import or an export against its certificate, and against torch where it is installed."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from lmx.commands import _arguments


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the folder."""
    folder = _arguments.option(_arguments.folder)
    parser.add_argument("folder", type=folder, help="what `lmx import-hf` or `lmx export-hf` made")


def run(options: argparse.Namespace, overrides: Mapping[str, str]) -> int:
    """Check, and say what was found equal."""
    from lmx.commands import _certify, _platform

    _platform.start()
    _certify.verify(options.folder, say=print)
    print(f"verified: {options.folder}")
    return 0
