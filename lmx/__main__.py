"""The command line: `lmx COMMAND ...`, also `python -m lmx COMMAND ...`."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Sequence

import lmx
from lmx.core import stop
from lmx.core.errors import UserError, did_you_mean, one_line

# The one line that `lmx --help` shows of each command stands here, so that help imports none of them.
COMMANDS = {
    "train": "train a model from a config: prepare the data, train, evaluate, export, report",
    "prepare": "prepare the data of a config only",
    "evaluate": "the figures of a checkpoint on held-out text, or on the examples of its task",
    "predict": "what a checkpoint says of examples, one JSON object a line",
    "generate": "continue a prompt with a checkpoint",
    "import-hf": "read a Hugging Face folder, or a model of the hub, into an lmx checkpoint",
    "export-hf": "write a checkpoint as a Hugging Face folder",
    "compile": "what a train step costs on a slice of chips that need not be there: memory, messages, time",
    "doctor": "check this machine: versions, accelerator, memory, disk; and what to do where one fails",
    "verify": "check an import or an export against its certificate, and against torch",
    "report": "write report.html of a run again",
}

MISTAKE = 2
"""Exit code of a user's mistake."""

LOST = ("Gloo", "UNAVAILABLE", "DEADLINE_EXCEEDED", "Connection")
"""Words of JAX's complaint where another process does not answer."""

AGAIN = "start all of them again with the same command: the run goes on from its newest checkpoint"

INTERRUPTED = 130
"""Exit code where Ctrl-C came while nothing was there to save."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code: 0 done, 2 a mistake of the user's, 75 stopped and saved, 130
    interrupted with nothing to save."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return 0 if words else MISTAKE
    if words[0] in ("-V", "--version"):
        print(f"lmx {lmx.__version__}")
        return 0
    interrupted = f"lmx {words[0]}: interrupted before there was anything to save"

    def leave() -> None:
        # Not through Python's shutdown: what is half imported may not survive it. Nothing was begun.
        os.write(2, f"{interrupted}\n".encode())
        os._exit(INTERRUPTED)

    try:
        with stop.guarded(leave):
            return _run(words[0], words[1:])
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, KeyboardInterrupt) or stop.asked():
            print(interrupted, file=sys.stderr)
            code = INTERRUPTED
        elif isinstance(error, UserError):
            print(f"lmx {words[0]}: {error}", file=sys.stderr)
            code = MISTAKE
        else:
            _end_with_others(error)
            raise
        _end_with_others(code)
        return code


def _end_with_others(how: BaseException | int) -> None:
    """End at once where other processes wait for this one: Python's shutdown would wait for them in turn."""
    jax = sys.modules.get("jax")
    if jax is None or not jax.distributed.is_initialized():
        return
    if isinstance(how, BaseException):
        if isinstance(how, jax.errors.JaxRuntimeError) and any(word in str(how) for word in LOST):
            print(
                f"lmx: another process of this run cannot be reached ({one_line(how)}); {AGAIN}",
                file=sys.stderr,
            )
        else:
            traceback.print_exception(how)
    sys.stderr.flush()
    if how == MISTAKE:
        from lmx.core import processes

        processes.linger()
    os._exit(how if isinstance(how, int) else 1)


def _run(name: str, words: list[str]) -> int:
    if name not in COMMANDS:
        raise UserError(f"no such command{did_you_mean(name, COMMANDS)}; there is: {', '.join(COMMANDS)}")
    command = importlib.import_module(f"lmx.commands.{name.replace('-', '_')}")
    parser = _Parser(prog=f"lmx {name}", description=COMMANDS[name], allow_abbrev=False)
    command.arguments(parser)
    known, rest = parser.parse_known_args(words)
    return int(command.run(known, _overrides(rest, parser)) or 0)


class _Parser(argparse.ArgumentParser):
    """A parser whose complaint is a UserError."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise UserError(f"{message}; see {self.prog} --help")


def _overrides(words: list[str], parser: argparse.ArgumentParser) -> dict[str, str]:
    """Return {key: text} of `--config.key=text` and `--config.key text`."""
    found: dict[str, str] = {}
    rest = iter(words)
    flags = [option for action in parser._actions for option in action.option_strings]
    for word in rest:
        key, equals, text = word.partition("=")
        takes_config = any(action.dest == "config" for action in parser._actions)
        if not key.startswith("--config.") or not takes_config:
            raise UserError(f"unknown argument {word!r}{did_you_mean(key, flags)}; see {parser.prog} --help")
        if not equals:
            value = next(rest, None)
            if value is None:
                raise UserError(f"{key} needs a value: {key}=VALUE")
            text = value
        found[key.removeprefix("--config.")] = text
    return found


def _overview() -> str:
    lines = [f"  {name:<11} {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "usage: lmx COMMAND [options]",
            "",
            "Pretrain, fine-tune and customise language models in JAX.",
            "",
            "commands:",
            *lines,
            "",
            "start with: lmx train --config quickstart --workdir runs/quickstart",
            "each command explains itself: lmx COMMAND --help",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
