"""Reading the files of a tokenizer that may come from anywhere: sizes are capped, and JSON is only data."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lmx.core.errors import UserError, one_line
from lmx.core.files import open_file

LARGEST = 200_000_000
"""Bytes of a vocabulary file (the largest in use, of 262,144 ids, has 35 MB)."""
LARGEST_CONFIG = 10_000_000
"""Bytes of a tokenizer_config.json and the other small files."""
MOST_IDS = 5_000_000
"""Ids of a vocabulary, and merges."""


def read_bytes(path: Path, largest: int) -> bytes:
    """Return a file's bytes.

    Errors: UserError where it cannot be read, has more than `largest` bytes, or is a link out of its folder.
    """
    try:
        with open(open_file(path.parent, path.name), "rb") as file:
            data = file.read(largest + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if len(data) > largest:
        raise UserError(f"{path}: has more than {largest:,} bytes, the most that a tokenizer's file may have")
    return data


def read_text(path: Path, largest: int) -> str:
    """Return a file's text. Errors: UserError as `read_bytes`, and where it is not UTF-8."""
    try:
        return read_bytes(path, largest).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: cannot be read ({one_line(error)})") from error


def read_json(path: Path, largest: int) -> Any:
    """Return a file's JSON. Errors: UserError as `read_bytes`, and where it is not JSON."""
    data = read_bytes(path, largest)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not JSON ({one_line(error)})") from error


def read_config(path: Path) -> dict[str, Any]:
    """Return the JSON object of a small file, empty where there is no such file."""
    if not path.is_file():
        return {}
    found = read_json(path, LARGEST_CONFIG)
    if not isinstance(found, dict):
        raise UserError(f"{path}: expected an object")
    return found


@contextmanager
def blamed(what: str) -> Iterator[None]:
    """Turn whatever the tokenizers library raises into a UserError: `what (reason)`.

    The library raises plain Exception; where its Rust code panics (on a regular expression that backtracks
    without end, for example), it raises one that is no Exception at all.
    """
    try:
        yield
    except (UserError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        raise UserError(f"{what} ({one_line(error)})") from error
