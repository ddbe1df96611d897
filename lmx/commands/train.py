"""Train: prepare the data, train from wherever the run stands, export, report."""

from __future__ import annotations

import argparse
import shlex
import signal
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmx.commands import _arguments

if TYPE_CHECKING:
    from lmx.core.types import Checkpoint

RESUME = 75
"""Exit code of a run that was stopped and saved: the same command goes on."""

COSMETIC = ("export", "keep.last", "keep.best", "log", "sample", "samples")
"""Config keys that may change between two starts of one run: they move no parameter."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare --config, --workdir, --seeds and --profile."""
    workdir = _arguments.option(_arguments.folder)
    parser.add_argument("--config", required=True, help="a shipped name, such as quickstart, or a .py file")
    parser.add_argument(
        "--workdir", required=True, type=workdir, help="the run's folder; the same one resumes"
    )
    parser.add_argument(
        "--seeds",
        type=_arguments.count,
        default=1,
        metavar="K",
        help="train config.seed, + 1, ... K runs, each in WORKDIR/seed-N, and tell their spread",
    )
    parser.add_argument(
        "--profile",
        type=_arguments.count,
        nargs="?",
        const=5,
        default=0,
        metavar="STEPS",
        help="trace so many steps (5) with JAX's profiler into WORKDIR/profile, after the first ones",
    )
    parser.epilog = "any field of the config: --config.optim.rate=3e-4 --config.total='2 epochs'"


def run(options: argparse.Namespace, overrides: Mapping[str, str]) -> int:
    """Train and print what was made; 75 where a signal stopped it after saving."""
    from lmx.commands import _platform
    from lmx.core import config as config_
    from lmx.core import place
    from lmx.core.errors import UserError

    if options.profile and options.seeds > 1:
        raise UserError("--profile traces a single run; leave out --seeds, or --profile")
    if options.seeds > 1 and place.found().count != 1:
        raise UserError("--seeds makes one run after another, each in one process; leave out LMX_PROCESSES")
    config = config_.load(options.config)
    config_.override(config, overrides)
    words = ["--config", options.config, "--workdir", str(options.workdir)]
    words += ["--seeds", str(options.seeds)] if options.seeds > 1 else []
    words += [f"--config.{key}={text}" for key, text in overrides.items()]
    again = place.launched(f"{_platform.program()} train", " ".join(map(shlex.quote, words)))
    if options.seeds > 1:
        from lmx.commands import _seeds

        stopped = _seeds.run(config_.plain(config), options.workdir, options.seeds, again=again)
    else:
        _, stopped = train(config_.plain(config), options.workdir, again=again, profile=options.profile)
    return 0 if stopped is None else RESUME


def train(
    config: Mapping[str, Any],
    workdir: Path,
    *,
    again: str = "the same call of lmx.train",
    tell: bool = True,
    profile: int = 0,
) -> tuple[Checkpoint, signal.Signals | None]:
    """Return (checkpoint, the signal that stopped the run after it was saved, or None at the run's end).

    again: the command that resumes it. tell: print at the end what was made. profile: steps to trace.
    """
    from lmx.core import processes
    from lmx.core.log import say
    from lmx.runs import lock

    given = checked(config, workdir)
    with ExitStack() as held:
        processes.by_first(lambda: held.enter_context(lock.hold(workdir)))
        return _train(given, workdir, again, say, tell and processes.first(), profile)


def one_width(config: Mapping[str, Any]) -> bool:
    """Return whether all steps read rows of one length: packed ones, or examples all filled up to it.

    To be asked before the fields are checked one by one.
    """
    from lmx.core import config as config_

    if config_.pretraining(config):
        return True
    multiple, length = (config["batch"].get(name) for name in ("multiple", "length"))
    numbers = isinstance(multiple, int) and isinstance(length, int)
    return numbers and not config.get("tasks") and multiple >= length


def checked(config: Mapping[str, Any], workdir: Path) -> dict[str, Any]:
    """Return the config with its paths expanded, and start JAX.

    Errors: UserError for every field that asks for what cannot be, as far as no data is needed.
    """
    from lmx.core import config as config_

    config_.check(config)
    from lmx.commands import _check, _finish, _platform, _session  # noqa: F401 - before Ctrl-C may raise

    _platform.start(alike=one_width(config))
    given = config_.expanded(config)
    if config_.pretraining(given):
        _check.fields(given, workdir)
    else:
        from lmx.commands import _check_examples

        _check_examples.fields(given, workdir)
    return given


def _train(
    config: dict[str, Any], workdir: Path, again: str, say: Any, tell: bool, profile: int
) -> tuple[Checkpoint, signal.Signals | None]:
    from lmx.commands import _check, _finish, _session
    from lmx.core import processes
    from lmx.training import interrupt

    began = time.monotonic()
    processes.by_first(lambda: _check.folder(config, workdir, cosmetic=COSMETIC))
    session = _session.make(config, workdir, say)
    with interrupt.watch(say) as stopping:
        made = session.open()
        processes.by_first(lambda: _finish.write_config(config, workdir))
        if session.finished(made):
            say(f"{workdir}: done already, {made} steps; nothing to train")
            if not (workdir / "run.json").exists():
                processes.by_first(lambda: _finish.write_facts(session, made, began))
        else:
            say(_finish.opening(session, made))
            made = session.run(made, stopping, began=began, profile=profile)
            processes.by_first(lambda: _finish.write_facts(session, made, began))
            say(_finish.spent(session))
    if not session.finished(made):
        say(f"stopped at step {made} of {session.total} and saved; go on with:\n  {again}")
        # Another of several processes may have had the signal.
        return session.checkpoint(made), stopping.signal or signal.SIGTERM
    try:
        found = _finish.finish(session, made, say)
    except KeyboardInterrupt:
        say(f"interrupted after the last step, which is saved; write export and report with:\n  {again}")
        return session.checkpoint(made), signal.SIGINT
    if tell:
        print(_finish.closing(session, made, again))
    return found, None
