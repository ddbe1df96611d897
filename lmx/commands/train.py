"""Train: prepare the data, train from wherever the run stands, export, report."""

from __future__ import annotations

import argparse
import shlex
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmx.commands import _arguments

if TYPE_CHECKING:
    from lmx.core.types import Checkpoint

RESUME = 75
"""Exit code of a run that was stopped and saved: the same command goes on."""

COSMETIC = ("export", "keep", "log", "sample", "samples")
"""Config keys that may change between two starts of one run: they move no parameter."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare --config and --workdir."""
    workdir = _arguments.option(_arguments.folder)
    parser.add_argument("--config", required=True, help="a shipped name, such as quickstart, or a .py file")
    parser.add_argument(
        "--workdir", required=True, type=workdir, help="the run's folder; the same one resumes"
    )
    parser.epilog = "any field of the config: --config.optim.rate=3e-4 --config.total='2 epochs'"


def run(options: argparse.Namespace, overrides: Mapping[str, str]) -> int:
    """Train and print what was made; 75 where a signal stopped it after saving."""
    from lmx.commands import _platform
    from lmx.core import config as config_

    config = config_.load(options.config)
    config_.override(config, overrides)
    words = ["train", "--config", options.config, "--workdir", str(options.workdir)]
    words += [f"--config.{key}={text}" for key, text in overrides.items()]
    again = f"{_platform.program()} {' '.join(map(shlex.quote, words))}"
    _, stopped = train(config_.plain(config), options.workdir, again=again)
    return 0 if stopped is None else RESUME


def train(
    config: Mapping[str, Any], workdir: Path, *, again: str = "the same call of lmx.train"
) -> tuple[Checkpoint, signal.Signals | None]:
    """Return (checkpoint, the signal that stopped the run after it was saved, or None at the run's end).

    again: the command that resumes it.
    """
    from lmx.core import config as config_

    config_.check(config)
    from lmx.commands import _check, _finish, _platform, _session  # noqa: F401 - before Ctrl-C may raise
    from lmx.core.log import say
    from lmx.runs import lock

    _platform.start()
    given = config_.expanded(config)
    if config_.pretraining(given):
        _check.fields(given, workdir)
    else:
        from lmx.commands import _check_examples

        _check_examples.fields(given, workdir)
    with lock.hold(workdir):
        return _train(given, workdir, again, say)


def _train(
    config: dict[str, Any], workdir: Path, again: str, say: Any
) -> tuple[Checkpoint, signal.Signals | None]:
    from lmx.commands import _check, _finish, _session
    from lmx.training import interrupt

    began = time.monotonic()
    _check.folder(config, workdir, cosmetic=COSMETIC)
    session = _session.make(config, workdir, say)
    with interrupt.watch(say) as stopping:
        made = session.open()
        _finish.write_config(config, workdir)
        if made >= session.total or session.watch.stop:
            say(f"{workdir}: done already, {made} steps; nothing to train")
            if not (workdir / "run.json").exists():
                _finish.write_facts(session, made, began)
        else:
            say(_finish.opening(session, made))
            made = session.run(made, stopping)
            _finish.write_facts(session, made, began)
    if made < session.total and not session.watch.stop:
        say(f"stopped at step {made} of {session.total} and saved; go on with:\n  {again}")
        return session.checkpoint(made), stopping.signal
    try:
        _finish.finish(session, made, say)
    except KeyboardInterrupt:
        say(f"interrupted after the last step, which is saved; write export and report with:\n  {again}")
        return session.checkpoint(made), signal.SIGINT
    print(_finish.closing(session, made, again))
    return session.checkpoint(made), None
