"""A small real text, and runs of a tiny GPT-2 on it through the command line's own entry."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmx import load
from lmx.__main__ import main
from lmx.core import tree
from lmx.training import loop

TINY = {
    "model.layers": "2", "model.width": "16", "model.heads": "2", "model.positions": "32",
    "model.dropout_embed": "0.1", "model.dropout_attention": "0.1", "model.dropout_residual": "0.1",
    "tokenizer.size": "300", "batch.size": "8", "batch.length": "32",
    "total": "12 steps", "log": "2 steps", "evaluate": "4 steps", "save": "4 steps", "sample": "0 steps",
    "optim.rate": "1e-2", "samples.tokens": "4", "export": "False",
    "mesh.data": "1",  # of the eight: a program for one compiles in half the time
}  # fmt: skip

Train = Callable[..., int]


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 60 kB of English: reference topics of the Python that runs."""
    from pydoc_data.topics import topics

    path = tmp_path_factory.mktemp("text") / "topics.txt"
    path.write_text("\n\n".join(topics[name] for name in sorted(topics))[:60_000], encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def rows(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prepared rows of the text, shared by all runs."""
    folder = tmp_path_factory.mktemp("rows")
    words = ["--config", "pretrain/from_text", "--workdir", str(folder), *options(text, folder / "data")]
    assert main(["prepare", *words]) == 0
    return folder / "data"


def options(text: Path, folder: Path, **changes: str) -> list[str]:
    """The overrides of a tiny run."""
    fields = {"data.path": str(text), "data.folder": str(folder), **TINY, **changes}
    return [f"--config.{key}={value}" for key, value in fields.items()]


@pytest.fixture
def train(text: Path, rows: Path) -> Train:
    """`train(workdir, **{"optim.rate": "1e-3"})` -> exit code."""

    def run(workdir: Path, **changes: str) -> int:
        words = ["--config", "pretrain/from_text", "--workdir", str(workdir)]
        return main(["train", *words, *options(text, rows, **changes)])

    return run


@pytest.fixture(scope="session")
def finished(text: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never interrupted; not to be changed."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    words = ["--config", "pretrain/from_text", "--workdir", str(folder)]
    assert main(["train", *words, *options(text, rows, export="True", sample="6 steps")]) == 0
    return folder


@pytest.fixture
def signal_at(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Send a signal to this process once the loop has made a given number of steps."""

    def arrange(step: int, number: signal.Signals) -> None:
        plain, sent = loop.run, []
        if number == signal.SIGHUP:  # ignored where the tests themselves run under nohup
            signal.signal(number, signal.SIG_DFL)

        def run(*args: Any, stopping: Any, start: int, **kwargs: Any) -> Any:
            made = [start]

            def counted(long: bool) -> bool:
                made[0] += 1
                if made[0] == step and not sent:
                    sent.append(step)
                    signal.raise_signal(number)
                return stopping(long)

            return plain(*args, stopping=counted, start=start, **kwargs)

        monkeypatch.setattr(loop, "run", run)

    return arrange


def digest(workdir: Path, which: str = "") -> str:
    """The sha256 of a run's parameters, leaf by leaf."""
    hashed = hashlib.sha256()
    for path, leaf in sorted(tree.flatten(load(f"{workdir}{which}").params).items()):
        hashed.update(path.encode() + np.asarray(leaf).tobytes())
    return hashed.hexdigest()
