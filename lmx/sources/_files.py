"""Bytes of one file to text, refusing what is not text."""

from __future__ import annotations

import gzip
import io
import json
import os
import stat
import zlib
from pathlib import Path
from typing import Any

from lmx.core.errors import UserError, did_you_mean, one_line

_SMALL = 1 << 28
_RATIO = 200
"""What a gzip file may unpack to: 256 MiB, or 200 times its size. Text stays far below, a bomb does not."""


def regular(place: Any, option: str) -> Path:
    """Return the path of a regular file, refusing anything else before it is opened: a pipe would hang.

    option: the keyword that gave it, for the message.
    """
    if not isinstance(place, str | os.PathLike) or not str(place):
        raise UserError(f"{option}={place!r}; expected the path of a file")
    path = Path(place).expanduser()
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file{_beside(path)}; give another path with {option}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if stat.S_ISDIR(mode):
        held = sorted(name for name in os.listdir(path) if not name.startswith("."))
        shown = ", ".join(held[:6]) + ", ..." * (len(held) > 6)
        raise UserError(
            f"{path}: is a folder; name one of its files with {option} ({shown or 'it is empty'})"
        )
    if not stat.S_ISREG(mode):
        raise UserError(f"{path}: is no regular file (a pipe, a socket or a device); copy it into one first")
    return path


def folder(place: Any, option: str) -> Path:
    """Return the path of a folder."""
    if not isinstance(place, str | os.PathLike) or not str(place):
        raise UserError(f"{option}={place!r}; expected the path of a folder")
    path = Path(place).expanduser()
    if not path.exists():
        raise UserError(f"{path}: no such folder{_beside(path)}; give another with {option}")
    if not path.is_dir():
        raise UserError(f"{path}: is a file, expected a folder")
    return path


def _beside(path: Path) -> str:
    try:
        return did_you_mean(path.name, os.listdir(path.parent))
    except OSError:
        return ""


def read_text(path: Path) -> str:
    """Return a file's text, `.gz` unpacked, without a byte-order mark; line ends stay as they are."""
    data = _unpacked(path)
    # UTF-16 is full of NUL bytes, and its mark says more than they do.
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{path}, line 1: is UTF-16, expected UTF-8; convert the file first")
    nul = data.find(b"\0")
    if nul >= 0:
        line = data.count(b"\n", 0, nul) + 1
        raise UserError(f"{path}, line {line}: a NUL byte; is this a binary file? give one of text")
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}, line {line}: not UTF-8 (byte 0x{data[error.start]:02x}, {error.reason}); "
            "convert the file to UTF-8"
        ) from error
    if not text or text.isspace():
        found = "holds only blank lines" if text else "is empty"
        raise UserError(f"{path}: {found}, expected examples; is it the right file?")
    return text


def _unpacked(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if not path.name.lower().endswith(".gz") or not data:
        return data
    limit = max(_SMALL, _RATIO * len(data))
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            whole = file.read(limit + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: is not whole gzip data ({one_line(error)}); fetch it again") from error
    if len(whole) > limit:
        raise UserError(
            f"{path}: {len(data):,} bytes unpack to more than {limit:,}; unpack it first if you trust it"
        )
    return whole


def read_json(path: Path) -> Any:
    """Return what a JSON file holds."""
    return parse_json(read_text(path), str(path))


def parse_json(text: str, where: str) -> Any:
    """Return what JSON says; Errors: UserError naming the place."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        at = f", line {error.lineno}" if "\n" in text.rstrip("\n") else ""
        raise UserError(f"{where}{at}: broken JSON ({error.msg} at column {error.colno}); mend it") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: broken JSON ({one_line(error)}); mend it") from error
