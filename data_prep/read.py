"""Text files and folders to documents, refusing what is not text."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import os
import stat
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmx.core.errors import UserError
from lmx.core.rows import file_sha256

SUFFIXES = (".txt", ".md", ".jsonl", ".txt.gz", ".md.gz", ".jsonl.gz")
"""The files that a folder is searched for."""

KINDS = 6
"""Of other files, kinds that are named."""


@dataclass(frozen=True)
class Document:
    """One text. id: names it in messages, such as `notes.jsonl:7`; source: the path of the Source it is
    from."""

    id: str
    text: str
    source: str


@dataclass(frozen=True)
class Source:
    """Something that documents are read from, as the manifest records it: its bytes tell whether it
    changed."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Corpus:
    """Documents that can be iterated over, and what they come from, known before any document is read.

    notes: lines about what was left out.
    """

    sources: tuple[Source, ...]
    load: Callable[[], Iterable[Document]]
    notes: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Document]:
        return iter(self.load())


def gathered(documents: Iterable[Document]) -> Corpus:
    """Return documents in memory as a corpus with one source, whose sha256 is over the texts in their
    order."""
    held = tuple(documents)
    digest, size = hashlib.sha256(), 0
    for document in held:
        data = document.text.encode("utf-8", "surrogatepass")
        digest.update(f"{document.id}\0{len(data)}\0".encode())
        digest.update(data)
        size += len(data)
    return Corpus((Source("memory", size, digest.hexdigest()),), lambda: held)


def read(path: str | Path, *, text: str = "text") -> Corpus:
    """Return the documents of a file or a folder: txt and md are one document each, jsonl one a line.

    Folders are walked whole, in sorted order, hidden files and folders and linked folders left out; `.gz` is
    unpacked; the corpus's notes count what a folder holds besides. A csv or tsv file, named by itself, is one
    document a row. `text` is the field or column of a row that holds the text. Files are hashed here
    and read when the corpus is iterated over, each of them whole in memory. Raises UserError for a path that
    is no readable text, and while iterating for bytes that are not (naming file and line) and for a file that
    changed in between.
    """
    path = Path(path).expanduser()
    files, others = _files(path)
    root = path if path.is_dir() else path.parent
    try:
        sources = tuple(
            Source(file.relative_to(root).as_posix(), file.stat().st_size, file_sha256(file))
            for file in files
        )
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from error
    alone = not path.is_dir()

    def load() -> Iterator[Document]:
        for file, source in zip(files, sources, strict=True):
            yield from _documents(file, source, text, alone)

    notes = (f"left out of {path}, which is searched for {', '.join(SUFFIXES)}: {others}",) if others else ()
    return Corpus(sources, load, notes)


def _files(path: Path) -> tuple[list[Path], str]:
    """Return the files of text, sorted, and what else lies there, counted by kind."""
    _regular(path)
    if not path.is_dir():
        return [path], ""
    found, others = [], Counter[str]()
    for folder, folders, names in os.walk(path, onerror=_refuse):
        others["hidden"] += sum(name.startswith(".") for name in (*folders, *names))
        others["linked folder"] += sum(
            not name.startswith(".") and Path(folder, name).is_symlink() for name in folders
        )
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                found.append(Path(folder, name))
            elif not name.startswith("."):
                others[Path(name).suffix.lower() or "no ending"] += 1
    kinds = [f"{count:,} {kind}" for kind, count in others.most_common() if count]
    more = [f"{len(kinds) - KINDS} kinds more"] if len(kinds) > KINDS else []
    left = ", ".join(kinds[:KINDS] + more)
    if not found:
        raise UserError(
            f"{path}: no text in this folder (looked for {', '.join(SUFFIXES)}; "
            f"there is: {left or 'nothing'})"
        )
    for file in found:
        _regular(file)
    return sorted(found, key=lambda file: file.relative_to(path).as_posix()), left


def _refuse(error: OSError) -> None:
    raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from error


def _regular(path: Path) -> None:
    """Refuse what is neither a regular file nor a folder, before anything opens it: a pipe would hang."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file or folder") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise UserError(f"{path}: is neither a file nor a folder (a pipe, a socket or a device)")


def _documents(file: Path, source: Source, field: str, alone: bool) -> Iterator[Document]:
    """Yield the documents of one file; a blank one is an error where it is all that was asked for."""
    data = _bytes(file, source)
    name = file.name.lower().removesuffix(".gz")
    if alone and not data:
        raise UserError(f"{file}: is empty")
    whole = _text(file, data)
    if alone and not whole.strip("\ufeff \t\r\n\f\v"):
        raise UserError(f"{file}: holds only blank lines")
    if name.endswith((".csv", ".tsv")):
        for number, cell in _cells(file, whole.removeprefix("\ufeff"), name[-3:], field):
            yield Document(f"{source.path}:{number}", cell, source.path)
        return
    if not name.endswith(".jsonl"):
        yield Document(source.path, whole, source.path)
        return
    # Only \n ends a row: splitlines would also cut at U+2028, which JSON allows inside a string.
    for number, line in enumerate(whole.removeprefix("\ufeff").split("\n"), 1):
        if line.strip():
            yield Document(
                f"{source.path}:{number}", _row(f"{file}, line {number}", line, field), source.path
            )


def _bytes(file: Path, source: Source) -> bytes:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error
    if hashlib.sha256(data).hexdigest() != source.sha256:
        raise UserError(f"{file}: changed while it was being read; run again when nothing writes to it")
    if not file.name.lower().endswith(".gz") or not data:
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{file}: is not whole gzip data ({error})") from error


def _text(file: Path, data: bytes) -> str:
    """Return the bytes as text; line numbers count from 1, byte offsets from 0."""
    # UTF-16 is full of NUL bytes, and its mark says more than they do.
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{file}, line 1, byte 0: is UTF-16, expected UTF-8; convert it first")
    nul = data.find(b"\0")
    if nul >= 0:
        line = data.count(b"\n", 0, nul) + 1
        raise UserError(f"{file}, line {line}, byte {nul}: a NUL byte; is this a binary file?")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{file}, line {line}, byte {error.start}: not UTF-8 "
            f"(byte 0x{data[error.start]:02x}, {error.reason}); convert the file to UTF-8"
        ) from error


def _cells(file: Path, whole: str, kind: str, field: str) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of each row of a table whose first line names its columns; tsv knows no quotes."""
    plain = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if kind == "tsv" else {}
    reader = csv.reader(io.StringIO(whole, newline=""), strict=True, **plain)  # type: ignore[arg-type]
    try:
        header = next(reader)
        if header.count(field) != 1:
            count = header.count(field)
            raise UserError(
                f"{file}: {count or 'no'} column{'s' * (count > 1)} {field!r} in its first line; it has: "
                f"{', '.join(header[:8])}; name the one with the text: --config.data.field=COLUMN"
            )
        place = header.index(field)
        for row in reader:
            if row and len(row) != len(header):
                raise UserError(
                    f"{file}, line {reader.line_num}: {len(row)} columns; line 1 has {len(header)}"
                )
            if row:
                yield reader.line_num, row[place]
    except csv.Error as error:
        raise UserError(f"{file}, line {reader.line_num}: {error}; expected a table ({kind})") from error


def _row(where: str, line: str, field: str) -> str:
    """Return the text of one jsonl row."""
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{where}: broken JSON ({reason})") from error
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected an object, found {type(row).__name__}")
    if field not in row:
        found = ", ".join(sorted(row)[:8]) or "nothing"
        raise UserError(f"{where}: no field {field!r}; it has: {found}")
    value = row[field]
    if not isinstance(value, str):
        raise UserError(f"{where}: field {field!r} is {type(value).__name__}, expected a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where}: field {field!r} holds half of a surrogate pair, which is no text"
        ) from error
    return value
