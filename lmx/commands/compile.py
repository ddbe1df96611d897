"""Compile: the real train step of a config for a slice of chips that need not be there, and what it costs."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from lmx.core.errors import UserError


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare --config, --topology and --search."""
    parser.add_argument("--config", required=True, help="a shipped name, such as quickstart, or a .py file")
    parser.add_argument("--topology", required=True, help="a slice: v5e:4x4, v5p:2x2x2, v6e:2x4, or cpu:8")
    parser.add_argument("--search", action="store_true", help="find the largest batch a chip that fits, too")
    parser.epilog = "any field of the config: --config.batch.size=64 --config.mesh.fsdp=8"


def run(options: argparse.Namespace, overrides: Mapping[str, str]) -> int:
    """Print what a step costs on the slice; 1 where it does not fit."""
    from lmx.commands import _check, _compiled
    from lmx.core import config as config_
    from lmx.costs import chips

    slice_ = chips.parsed(options.topology)
    config = config_.load(options.config)
    config_.override(config, overrides)
    plain: dict[str, Any] = config_.plain(config)
    if not config_.pretraining(plain):
        raise UserError(f"{options.config} is no pretraining config; name one of those, such as quickstart")
    plain = _compiled.sized(plain)
    _check.common(plain)
    _check.batch(plain)
    if options.search and slice_.chip.memory is None:
        raise UserError(f"--search: nobody knows the memory of a {slice_.chip.name}; name a slice of TPUs")
    devices = _compiled.devices(slice_)
    found = _compiled.step(plain, slice_, devices)
    print(_compiled.told(found, slice_))
    if options.search:
        size, tried = _compiled.largest(plain, slice_, devices)
        print(f"largest batch that fits: {size} rows a chip ({tried} compiled)")
    return 0 if found.fits else 1
