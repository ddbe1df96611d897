"""What a run tells: lines, records and TensorBoard events; importing it sets nothing up."""

from __future__ import annotations

import functools
import json
import math
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lmx.core.errors import UserError

_SILENT: list[bool] = []


def silence() -> None:
    """Say nothing any more: another process speaks for this one."""
    _SILENT.append(True)


def say(text: str) -> None:
    """Write one line to stderr, above a progress bar that is running."""
    if _SILENT:
        return
    tqdm = sys.modules.get("tqdm")  # where nobody has imported it, no bar can be running
    if tqdm is not None and hasattr(tqdm, "tqdm"):
        tqdm.tqdm.write(text, file=sys.stderr)
    else:
        print(text, file=sys.stderr)
    sys.stderr.flush()


def write_whole(path: str | os.PathLike[str], data: bytes) -> Path:
    """Write a file that is either whole or not there: a temporary name beside it, then a rename."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


# --- Records -------------------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """Return the value as JSON knows it: scalars of numpy and jax become Python numbers, tuples lists.

    A number that is not finite becomes the string "NaN", "Infinity" or "-Infinity", because JSON has no
    such number; `float(...)` reads it back. Raises TypeError for anything else that is not JSON.
    """
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, Mapping):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if hasattr(value, "item") and getattr(value, "size", 1) == 1:
        value = value.item()
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, int):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"a record holds numbers, texts, lists and dicts, not {type(value).__name__}")


class Jsonl:
    """A file of records, one JSON object per line, to which records are appended.

    Each write reaches the operating system before it returns, so a killed run loses no record; a machine
    that loses power may tear the last ones. A torn last line of an earlier run is cut off before the first
    write. No file is held open in between. Numbers that are not finite are written as `plain` says.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._checked = False

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record. Raises TypeError for values that are not JSON, before anything is written."""
        text = json.dumps(plain(record), ensure_ascii=False, allow_nan=False)
        line = text.encode("utf-8", "backslashreplace")  # a lone surrogate becomes JSON's own escape
        if not self._checked:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _mend_tail(self.path)
            self._checked = True
        with open(self.path, "ab") as file:
            file.write(line + b"\n")


def _parse(line: bytes) -> dict[str, Any]:
    """Return the record of one line, or raise ValueError."""

    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is not JSON")

    record = json.loads(line.decode("utf-8"), parse_constant=refuse)
    if not isinstance(record, dict):
        raise ValueError("not an object")
    return record


def _parses(line: bytes) -> bool:
    try:
        _parse(line)
    except ValueError:
        return False
    return True


def _mend_tail(path: Path) -> None:
    """End the file at a whole line, so that the next record does not join a torn one."""
    if not path.exists():
        return
    with open(path, "rb+") as file:
        data = file.read()
        tail = data.removesuffix(b"\n")
        tail = tail[tail.rfind(b"\n") + 1 :]
        whole = data.endswith(b"\n")
        if data and not _parses(tail):
            file.truncate(len(data) - len(tail) - whole)
        elif data and not whole:
            file.write(b"\n")


def _lines(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """Return (line without its end, record) for every whole record."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    *whole, tail = data.split(b"\n")
    records = []
    for number, line in enumerate(whole, 1):
        try:
            records.append((line, _parse(line)))
        except ValueError as error:
            if number == len(whole) and not tail:
                break  # torn, for a file system may have the end of a line before its middle
            found = f"expected one JSON object, found {line[:40]!r}"
            raise UserError(f"{path}, line {number}: {found}") from error
    if tail and _parses(tail):
        records.append((tail, _parse(tail)))
    return records


def read_jsonl(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Return the records of a file that `Jsonl` wrote.

    A last line that is torn (not JSON) is left out; anything else that is not one JSON object per line, and
    a file that cannot be read, is a UserError naming file and line.
    """
    return [record for _, record in _lines(Path(path))]


def truncate_after(path: str | os.PathLike[str], step: int) -> int:
    """Drop the records whose `step` is greater than `step`; return how many were dropped.

    For resuming, so that no step appears twice. Records without a step stay.
    """
    return drop(path, lambda record: _after(record.get("step"), step))


def drop(path: str | os.PathLike[str], lost: Callable[[dict[str, Any]], bool]) -> int:
    """Drop the records of which `lost` is true; return how many were dropped.

    The file is replaced whole by a rename; the lines that stay keep their bytes. A missing file has nothing
    to drop.
    """
    path = Path(path)
    if not path.exists():
        return 0
    lines = _lines(path)
    kept = [line for line, record in lines if not lost(record)]
    if len(kept) < len(lines):
        write_whole(path, b"".join(line + b"\n" for line in kept))
    return len(lines) - len(kept)


def _after(found: Any, step: int) -> bool:
    return isinstance(found, int | float) and found > step


# --- TensorBoard ---------------------------------------------------------------------------------------


@functools.cache
def _say_once(text: str) -> None:
    say(text)


class TensorBoard:
    """Events for TensorBoard in `folder`; without tensorboardX it says so once and does nothing.

    resumed: the step that the run resumes from; TensorBoard then hides what an earlier run wrote after it.
    """

    def __init__(self, folder: str | os.PathLike[str], resumed: int | None = None) -> None:
        self._writer: Any = None
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            _say_once("no TensorBoard events: tensorboardX is missing; get it with: pip install 'lmx[train]'")
            return
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        # tensorboardX names a file by second and host and opens it afresh: two starts within one second
        # would leave only the later one, so each file gets a number as well.
        number = len(list(folder.glob("events.out.tfevents.*")))
        purge = None if resumed is None else resumed + 1
        self._writer = SummaryWriter(str(folder), purge_step=purge, filename_suffix=f".{number:04d}")

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Write named numbers at a step; what is not finite is written as it is."""
        if self._writer is None:
            return
        from tensorboardX.proto.summary_pb2 import Summary

        # Not add_scalar: for every number that is not finite it logs a line that breaks the progress bar.
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=float(x)) for tag, x in values.items()])
        self._writer.file_writer.add_summary(summary, int(step))

    def text(self, step: int, name: str, text: str) -> None:
        """Write a text at a step; TensorBoard shows it as Markdown."""
        if self._writer is not None:
            self._writer.add_text(name, text, int(step))

    def close(self) -> None:
        """Write what is pending and close the file; a second call does nothing."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
