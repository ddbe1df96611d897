"""Trying a tokenizer that comes from outside in a process of its own, with little time and memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from lmx.core.errors import UserError, one_line
from lmx.tokenizer._load import load
from lmx.tokenizer._tokenizer import Tokenizer

_SECONDS = 30
_MEMORY = 1 << 30  # bytes of address space; transformers, which some tokenizers need, takes 0.65e9
_STUMBLES = ("a", "1", " ", "-", "ab", "é", "。")  # repeated: what a bad pattern stumbles over
_TEXT = (
    "A, naïve [MASK] sentence with 1,234.5 numbers; \t\n\n  and    spaces <|endoftext|> 北京 😀 e\u0301\x00"
    + "".join(word * 40 + "! " for word in _STUMBLES)
)
_CHILD = "from lmx.tokenizer._probe import child; child()"


def probe(folder: str | Path) -> None:
    """Open the tokenizer of a folder and encode a line, in another process with 30 s and 1 GiB of memory.

    Call it before `load` on a folder that comes from outside. Raises UserError where that process fails:
    with its reason, or saying that it ran out of time or memory.
    """
    # -P: nothing is imported from the current folder, which may be the one on trial.
    command = [sys.executable, "-P", "-c", _CHILD, str(Path(folder).absolute())]
    threads = dict.fromkeys(("RAYON_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), "1")
    path = os.pathsep.join(entry for entry in sys.path if entry)
    environment = {**os.environ, **threads, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "RUST_BACKTRACE": "0"}
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(
            f"{folder}: the tokenizer took more than {_SECONDS} s to open and encode a line"
        ) from error
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    try:
        reason = json.loads(lines[-1])
    except (IndexError, ValueError):
        said = done.stderr.decode("utf-8", "replace").split("\n")
        last = next((line for line in reversed(said) if line.strip()), "no message")
        raise UserError(
            f"{folder}: the tokenizer cannot be opened with {_MEMORY >> 20} MiB of memory "
            f"(exit code {done.returncode}: {last.strip()[:200]})"
        ) from None
    if reason is not None:
        raise UserError(str(reason))


def child() -> None:
    """Run in the other process: print null, or the reason why the folder's tokenizer is refused, as JSON."""
    _limit()
    reason = None
    try:
        _encode(load(sys.argv[1]))
    except UserError as error:
        reason = str(error)
    except MemoryError as error:
        reason = (
            f"{sys.argv[1]}: the tokenizer needs more than {_MEMORY >> 20} MiB of memory ({one_line(error)})"
        )
    print(json.dumps(reason))


def _encode(made: Tokenizer) -> None:
    try:
        made.encode(_TEXT)
    except UserError as error:
        if error.__cause__ is not None:  # a failure of the library; a character without an id is none
            raise


def _limit() -> None:
    """Limit this process's address space and processor time, where the system can."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
    except (ImportError, ValueError, OSError):  # Windows has none, macOS refuses some
        pass
