"""How the commands read their arguments: what a folder's name may be, and how large a count."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from lmx.core.errors import UserError


def folder(text: str | os.PathLike[str]) -> Path:
    """Return the path of a folder, `~` expanded. Errors: UserError for an empty name, which Path takes for
    the folder that one is in, and for what no path holds."""
    if not isinstance(text, (str, os.PathLike)):
        raise UserError(f"{text!r}: expected the name of a folder")
    name = os.fspath(text)
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise UserError(f"{name!r}: expected the name of a folder; for the one you are in, write .")
    if "://" in name:  # a path would be the folder "gs:" and what is in it
        raise UserError(
            f"{name!r} is an address; expected a folder: mount the bucket (gcsfuse) and name that"
        )
    return Path(name).expanduser()


def new_folder(text: str | os.PathLike[str]) -> Path:
    """Return the path of a folder that is to be made. Errors: UserError as `folder`, and where the path ends
    in no name (`.`, `/`, `..`)."""
    path = folder(text)
    if path.name in ("", ".."):
        raise UserError(f"{str(path)!r}: exists already; expected the name of a new folder")
    return path


def option(read: Callable[[str], Path]) -> Callable[[str], Path]:
    """Return `read` as a type of argparse, which puts the option's name before the complaint."""

    def checked(text: str) -> Path:
        try:
            return read(text)
        except UserError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return checked


def count(text: str) -> int:
    """Return a whole number of at least 1, for argparse."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of at least 1")
    return number


def examples(parser: argparse.ArgumentParser) -> None:
    """Declare what says which examples a file holds."""
    parser.add_argument(
        "--columns",
        nargs="*",
        default=[],
        metavar="FIELD=COLUMN",
        help="such as text=sentence label=3 id=none",
    )
    parser.add_argument(
        "--format", help="csv, tsv, jsonl, parquet, squad, conll or lines; default: by the file's ending"
    )
    parser.add_argument(
        "--batch", type=count, help="examples at a time; it changes no figure but by rounding"
    )


def task(parser: argparse.ArgumentParser) -> None:
    """Declare --task."""
    parser.add_argument("--task", metavar="NAME", help="which one, of a run on several tasks")


def columns(words: Sequence[str]) -> dict[str, str | int | None]:
    """Return {field: column} of words such as `text=sentence`: a name, a position, or None for `none`.

    Errors: UserError for a word without `=`.
    """
    found: dict[str, str | int | None] = {}
    for word in words:
        field, equals, column = word.partition("=")
        if not (equals and field and column):
            raise UserError(f"--columns {word}; expected FIELD=COLUMN, such as text=sentence")
        found[field] = None if column.lower() == "none" else int(column) if column.isdecimal() else column
    return found
