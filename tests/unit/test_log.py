"""Records survive kills and resumes; the bar and the events say what the run did."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from lmx.core import log
from lmx.core.errors import UserError

# --- records ---


def test_records_come_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "metrics.jsonl"
    records = log.Jsonl(path)
    records.write({"step": 1, "loss": 2.5, "text": "naïve\u2028\n☃", "path": Path("a/b"), "none": None})
    assert path.read_bytes().count(b"\n") == 1, "written and flushed at once"
    records.write({"step": 2, "list": (1, True), "nested": {"a": 0.1}})
    assert log.read_jsonl(path) == [
        {"step": 1, "loss": 2.5, "text": "naïve\u2028\n☃", "path": "a/b", "none": None},
        {"step": 2, "list": [1, True], "nested": {"a": 0.1}},
    ]


def test_numbers_of_numpy_are_plain(tmp_path: Path) -> None:
    values = [np.float32(0.5), np.int64(3), np.array(1.25), np.array([7]), np.bool_(True), np.float64(0.1)]
    assert [repr(log.plain(value)) for value in values] == ["0.5", "3", "1.25", "7", "True", "0.1"]
    with pytest.raises(TypeError, match="not ndarray"):
        log.plain(np.zeros(2))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32("nan")])
def test_numbers_that_are_not_finite_are_strings_that_float_reads(tmp_path: Path, value: float) -> None:
    log.Jsonl(tmp_path / "m").write({"loss": value})

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    found = json.loads((tmp_path / "m").read_text(), parse_constant=refuse)["loss"]
    assert isinstance(found, str)
    np.testing.assert_equal(float(found), float(value))


def test_a_record_that_is_not_json_leaves_the_file_alone(tmp_path: Path) -> None:
    records = log.Jsonl(tmp_path / "m")
    records.write({"step": 1})
    with pytest.raises(TypeError, match="object"):
        records.write({"step": 2, "bad": object()})
    assert log.read_jsonl(tmp_path / "m") == [{"step": 1}]


def test_a_lone_surrogate_is_written(tmp_path: Path) -> None:
    log.Jsonl(tmp_path / "m").write({"text": "a\ud800b"})
    assert log.read_jsonl(tmp_path / "m") == [{"text": "a\ud800b"}]


@pytest.mark.parametrize("cut", range(1, 24))
def test_a_torn_last_line_is_left_out_and_mended(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "m"
    log.Jsonl(path).write({"step": 1})
    whole = path.read_bytes()
    line = json.dumps({"step": 2, "s": "ö☃"}, ensure_ascii=False).encode() + b"\n"
    path.write_bytes(whole + line[:-cut])
    lost = 0 if cut == 1 else 1  # only the line end is missing: the record is whole
    assert len(log.read_jsonl(path)) == 2 - lost
    log.Jsonl(path).write({"step": 3})
    assert [r["step"] for r in log.read_jsonl(path)] == [1, *([] if lost else [2]), 3]


def test_a_torn_last_line_may_have_an_end(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(b'{"step": 1}\n\0\0\0\n')
    assert log.read_jsonl(path) == [{"step": 1}]
    assert log.truncate_after(path, 1) == 0
    log.Jsonl(path).write({"step": 2})
    assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n'


@pytest.mark.parametrize("bad", [b"{", b"[1]", b"", b"1", b'{"a": NaN}', b"\xff", b'{"a":1}{"b":2}', b"\0\0"])
def test_any_other_broken_line_is_named(tmp_path: Path, bad: bytes) -> None:
    path = tmp_path / "m"
    path.write_bytes(b'{"step": 1}\n' + bad + b'\n{"step": 2}\n')
    with pytest.raises(UserError, match=r"m, line 2: expected one JSON object") as caught:
        log.read_jsonl(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere: cannot be read"):
        log.read_jsonl(tmp_path / "nowhere")


def test_truncate_after_keeps_bytes_and_drops_later_steps(tmp_path: Path) -> None:
    path = tmp_path / "m"
    kept = b'{"step":1,  "odd": "spacing"}\n{"note": "no step"}\n{"step": 5}\n'
    path.write_bytes(kept + b'{"step": 6}\n{"step": 7}\n{"st')
    assert log.truncate_after(path, 5) == 2
    assert path.read_bytes() == kept
    before = path.stat().st_ino
    assert log.truncate_after(path, 5) == 0
    assert path.stat().st_ino == before, "nothing to drop: not written again"
    assert log.truncate_after(tmp_path / "nowhere", 5) == 0
    assert os.listdir(tmp_path) == ["m"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m"
    path.write_bytes(b"old")

    def fail(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        log.write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["m"]


# --- lines and imports ---


def test_importing_sets_nothing_up() -> None:
    code = (
        "import sys, logging; import lmx.core.log as l; l.say('hello'); "
        "assert not {'tqdm', 'tensorboardX', 'jax', 'numpy'} & set(sys.modules), 'heavy'; "
        "assert not logging.root.handlers"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("", "hello\n")


# --- TensorBoard ---


def events(folder: Path) -> list[tuple[str, list[tuple[int, float]]]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tensorboard's own reader, not of what we wrote
        module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
        found = module.EventAccumulator(str(folder)).Reload()
    return [(tag, [(e.step, e.value) for e in found.Scalars(tag)]) for tag in sorted(found.Tags()["scalars"])]


def test_events_are_read_back_and_a_resume_hides_what_came_after(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    board = log.TensorBoard(tmp_path / "events")
    for step in (10, 20, 30):
        board.scalars(step, {"train/loss": np.float32(step / 4), "train/rate": 0.5})
    board.text(30, "sample/a", "**text**")
    board.close()
    board.close()
    resumed = log.TensorBoard(tmp_path / "events", resumed=20)  # within the same second
    resumed.scalars(30, {"train/loss": 1.0})
    resumed.close()
    assert len(os.listdir(tmp_path / "events")) == 2
    assert events(tmp_path / "events") == [
        ("train/loss", [(10, 2.5), (20, 5.0), (30, 1.0)]),
        ("train/rate", [(10, 0.5), (20, 0.5)]),
    ]


def test_events_that_are_not_finite_say_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorboardX")
    board = log.TensorBoard(tmp_path)
    board.scalars(1, {"loss": math.nan, "norm": math.inf})
    board.close()
    assert capfd.readouterr().err == ""
    ((_, [(_, loss)]), (_, [(_, norm)])) = events(tmp_path)
    assert math.isnan(loss)
    assert norm == math.inf


def test_without_tensorboardx_it_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    log._say_once.cache_clear()
    for _ in range(2):
        board = log.TensorBoard(tmp_path / "events")
        board.scalars(1, {"loss": 1.0})
        board.text(1, "a", "b")
        board.close()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "pip install 'lmx[train]'" in lines[0]
    assert not (tmp_path / "events").exists()
