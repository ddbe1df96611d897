"""Ctrl-C at any time: one line and exit code 130 while there is nothing to save, and never lost."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lmx
from lmx.__main__ import main
from lmx.core import config, stop
from lmx.runs import lock
from lmx.training import interrupt, loop

from .conftest import TINY, Train

LINE = "interrupted before there was anything to save"
START = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started this may ignore it
from lmx.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("words", "mark"),
    [
        (("train", "--config", "quickstart", "--workdir", "run"), "jax._src.config"),
        (("train", "--config", "quickstart", "--workdir", "run"), "jax._src.interpreters.mlir"),
        (("train", "--config", "quickstart", "--workdir", "run"), "orbax.checkpoint"),
        (("generate", "--checkpoint", "run"), "jax.numpy"),
        (("train", "--config", "quickstart", "--workdir", "run"), "pydoc_data.topics"),
    ],
    ids=["early", "jax", "orbax", "generate", "preparing"],
)
def test_ctrl_c_while_all_is_imported_and_prepared(
    words: tuple[str, ...], mark: str, tmp_path: Path, lmx_environment: dict[str, str]
) -> None:
    """Sent when Python says (-X importtime) that a module of those imported is done."""
    by_time = mark == "pydoc_data.topics"  # never imported: the marker of preparation is the workdir's lock
    command = [sys.executable, "-X", "importtime", "-c", START, *words]
    with subprocess.Popen(
        command, cwd=tmp_path, env=lmx_environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        if by_time:
            threading.Thread(target=_when_held, args=(tmp_path / "run", process)).start()
        said = []
        for line in process.stderr:
            if not line.startswith("import time:"):
                said.append(line)
            elif not by_time and line.split("|")[-1].strip() == mark:
                process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130, said
    assert f"lmx {words[0]}: {LINE}\n" == said[-1]
    assert len(said) == 1 or by_time
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").glob("data*"))


def _when_held(workdir: Path, process: subprocess.Popen[str]) -> None:
    while process.poll() is None and not (workdir / lock.NAME).exists():
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)


def test_a_ctrl_c_that_the_garbage_collector_swallows_comes_again() -> None:
    """XLA has a callback there; an exception in it goes nowhere."""
    sent = []

    def callback(phase: str, _: Any) -> None:
        if phase == "start" and not sent:
            sent.append(phase)
            signal.raise_signal(signal.SIGINT)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    hook = sys.unraisablehook
    gc.callbacks.append(callback)
    try:
        with pytest.raises(KeyboardInterrupt), stop.guarded(lambda: None):
            _collect_and_wait(sent)
    finally:
        gc.callbacks.remove(callback)
    assert stop.asked()
    assert sys.unraisablehook is hook
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def _collect_and_wait(sent: list[str]) -> None:
    stop.begun()
    gc.collect()
    assert sent
    for _ in range(500):
        time.sleep(0.01)


def test_before_anything_has_begun_the_process_leaves_at_once() -> None:
    left = []
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt), stop.guarded(lambda: left.append(1)):
        signal.raise_signal(signal.SIGINT)
    assert left == [1]
    with stop.guarded(lambda: left.append(1)):
        pass
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert left == [1], "afterwards it is Python's own again"


def test_an_ignored_ctrl_c_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop.guarded(lambda: None):
            signal.raise_signal(signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_that_comes_as_another_error_is_still_ctrl_c(monkeypatch: Any, capsys: Any) -> None:
    def wrapped(name: str, words: list[str]) -> int:
        stop.begun()
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as error:
            raise RuntimeError("a library's own") from error
        return 0

    signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr("lmx.__main__._run", wrapped)
    assert main(["train"]) == 130
    assert capsys.readouterr().err == f"lmx train: {LINE}\n"


def test_a_hang_up_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with interrupt.watch(print) as stopping:
            signal.raise_signal(signal.SIGHUP)
            assert not stopping()
            signal.raise_signal(signal.SIGTERM)
            assert stopping()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_stop_is_told_at_once_whatever_is_under_way() -> None:
    """Nobody asks here, as in an evaluation. The handler itself writes nothing: it may interrupt a write."""
    said: list[tuple[str, bool]] = []
    told = threading.Event()

    def notice(line: str) -> None:
        said.append((line, threading.current_thread() is threading.main_thread()))
        told.set()

    with interrupt.watch(notice):
        signal.raise_signal(signal.SIGTERM)
        assert told.wait(20)
    ((line, by_handler),) = said
    assert line.startswith("SIGTERM: stopping after this step and saving")
    assert not by_handler


def test_a_stop_is_one_where_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with interrupt.watch(print) as stopping:
        monkeypatch.setattr(threading.Thread, "start", refused)
        signal.raise_signal(signal.SIGTERM)
        assert stopping()


def test_the_question_whether_to_stop_is_told_of_what_is_long(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several processes put it to each other then, and not seconds after an evaluation of minutes."""
    plain, told = loop.run, []

    def run(*args: Any, stopping: Callable[[bool], bool], **kwargs: Any) -> Any:
        return plain(*args, stopping=lambda long: told.append(long) or stopping(long), **kwargs)

    monkeypatch.setattr(loop, "run", run)
    assert train(tmp_path / "run", evaluate="4 steps", sample="5 steps", save="7 steps") == 0
    assert [made for made, long in enumerate(told, 1) if long] == [4, 5, 7, 8, 10, 12]


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_from_python_a_stop_is_raised_after_saving(
    text: Path,
    rows: Path,
    tmp_path: Path,
    signal_at: Any,
    number: signal.Signals,
    raised: type[BaseException],
) -> None:
    fields = config.load("pretrain/from_text")
    config.override(fields, {**TINY, "data.path": text, "data.folder": str(rows)})
    signal_at(2, number)
    with pytest.raises(raised) as caught:
        lmx.train(fields, tmp_path / "run")
    if raised is SystemExit:
        assert caught.value.code == 75
    else:
        assert "stopped at step 2 and saved" in str(caught.value)
    assert lmx.load(tmp_path / "run").step == 2


def test_ctrl_c_while_the_export_is_written(
    train: Train, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    """The last step is saved, so that the same command has only the rest to do."""
    from lmx.commands import _finish

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_finish, "finish", interrupted)
        assert train(tmp_path / "run") == 75
    assert "after the last step, which is saved" in capsys.readouterr().err
    assert train(tmp_path / "run") == 0
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize("there", ["nothing", "the folder", "data"])
def test_a_lock_that_a_refusal_leaves_goes_away(tmp_path: Path, there: str) -> None:
    if there == "the folder":
        (tmp_path / "run").mkdir()

    def refuse() -> None:
        with lock.hold(tmp_path / "run"):
            if there == "data":
                (tmp_path / "run" / "data").mkdir()
            raise lmx.UserError("no")

    with pytest.raises(lmx.UserError, match="no"):
        refuse()
    assert (tmp_path / "run").exists() == (there != "nothing")
