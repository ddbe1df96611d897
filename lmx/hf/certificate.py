"""conversion.json: what was converted, from what into what, so that it can be checked again."""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmx.core.errors import UserError, printable
from lmx.core.files import open_file
from lmx.core.version import VERSION
from lmx.hf import settings, transfer
from lmx.hf._safetensors import AGAIN as _FETCH
from lmx.hf._safetensors import parse_object, quoted
from lmx.hf.convert import Plan
from lmx.hf.stored import Stored

NAME = "conversion.json"
FORMAT = 1
LARGEST = 100_000_000
AGAIN = "import or export again"
HISTORY = ".git"
"""A folder that `lmx verify` does not look into: whoever keeps models in git has one."""


def of_source(folder: Path) -> dict[str, str]:
    """Return {file: SHA-256} of the files in a folder from elsewhere, but not in its own folders, which may
    hold a whole history, or the same weights for other libraries.

    Errors: UserError for a link that leads out of the folder, or a file that cannot be read.
    """
    found = {}
    for path in sorted(folder.iterdir()):
        if not path.is_dir() and path.name != NAME:
            with open(open_file(folder, path.name), "rb") as stream:
                found[named(path.name)] = hashlib.file_digest(stream, "sha256").hexdigest()
    return found


def named(name: str) -> str:
    r"""Return a file's name as text: its bytes that are no UTF-8, which JSON cannot hold, as `\xff`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def files(folder: Path) -> dict[str, str]:
    """Return {file: SHA-256} of all files in the folder and below, but the certificate and HISTORY's.

    A link, a pipe and the like, which lmx never writes, have words in the place of a digest, and so have
    folders with nothing in them, whose names end with a slash.
    """
    found = {}
    for place, folders, names in os.walk(folder):
        here = Path(place)
        if here == folder and has_history(folder):
            folders.remove(HISTORY)
        for name in [*names, *(name for name in folders if (here / name).is_symlink())]:
            regular = stat.S_ISREG(os.lstat(here / name).st_mode)
            said = digest(here / name) if regular else "no regular file"
            found[named((here / name).relative_to(folder).as_posix())] = said
        if not names and not folders and here != folder:
            found[named(here.relative_to(folder).as_posix()) + "/"] = "an empty folder"
    return {name: found[name] for name in sorted(found) if name != NAME}


def has_history(folder: Path) -> bool:
    """Tell whether a folder has a HISTORY, which `files` leaves out."""
    return (folder / HISTORY).is_dir() and not (folder / HISTORY).is_symlink()


def digest(path: Path) -> str:
    """Return the SHA-256 of a file. Errors: UserError where it cannot be read."""
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error


def tensors(stored: Stored, known: Mapping[str, str] | None = None) -> dict[str, dict[str, Any]]:
    """Return {tensor: its type, shape and SHA-256}; one tensor at a time is in memory.

    known: digests that were taken when the tensors were read; those are not read again.
    """
    found = {}
    for name, spec in stored.specs.items():
        found[name] = {
            "dtype": spec.dtype,
            "shape": list(spec.shape),
            "sha256": (known or {}).get(name) or transfer.digest(stored.read(name)),
        }
    return found


def audit(plan: Plan, ignored: tuple[str, ...]) -> dict[str, Any]:
    """Return what became of every tensor of a file and of every key of its config.json."""
    return {
        "read": {plan.names[entry.tensor]: list(entry.leaves) for entry in plan.entries},
        "dropped": dict(plan.dropped),
        "started_anew": list(plan.fresh),
        "config_keys_ignored": list(ignored),
    }


def seal(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the certificate's content with its format, lmx's version, and the digest of it all."""
    found = {**_spelled(content), "format": FORMAT, "lmx": VERSION}
    return {**found, "seal": _digest(found)}


def write(folder: Path, content: Mapping[str, Any]) -> None:
    """Write the certificate of a folder."""
    (folder / NAME).write_text(settings.text(seal(content)), encoding="utf-8")


def read(folder: Path) -> dict[str, Any]:
    """Return the certificate of a folder.

    Errors: UserError where there is none, where it is no file of the folder's own, or where it was changed,
    if only in a space.
    """
    path = folder / NAME
    if not os.path.lexists(path):
        raise UserError(
            f"{folder}: no {NAME} to check it by; `lmx import-hf` and `lmx export-hf` write one into what "
            "they make"
        )
    with open(open_file(folder, NAME), "rb") as stream:
        raw = stream.read(LARGEST + 1)
    if len(raw) > LARGEST:
        raise UserError(f"{path}: larger than {LARGEST:,} bytes; not a certificate of lmx")
    try:
        found = parse_object(raw, f"{path}:")
    except UserError as error:
        raise UserError(str(error).replace(_FETCH, AGAIN)) from error
    if "format" not in found:
        raise UserError(f"{path}: not a certificate of lmx; {AGAIN}")
    if found["format"] != FORMAT:
        raise UserError(f"{path}: format {quoted(found['format'])}; this lmx reads format {FORMAT}; {AGAIN}")
    if found.get("seal") != _digest({name: value for name, value in found.items() if name != "seal"}):
        raise UserError(f"{path}: the certificate itself was changed (its seal differs); {AGAIN}")
    if raw != settings.text(found).encode():
        raise UserError(f"{path}: the certificate itself was changed (its text is not lmx's); {AGAIN}")
    try:
        found["probe"] = _numbers(found["probe"])
        whole = _is_whole(found)
    except (KeyError, TypeError, ValueError, AttributeError):
        whole = False
    if not whole:
        raise UserError(f"{path}: not a certificate of lmx; {AGAIN}")
    return found


def _is_whole(found: Mapping[str, Any]) -> bool:
    """Tell whether a certificate has what `lmx verify` looks at; KeyError and its like say no, too."""
    target, sections = found["target"], found["config"]
    kind = {"import": "leaves", "export": "tensors"}[found["kind"]]
    tables = (target["files"], target[kind], sections["model"], sections["task"], *found["probe"].values())
    numbers = [one[key] for one in found["probe"].values() for key in ("mean", "rms", "largest")]
    numbers += [number for one in found["probe"].values() for number in one["first"]]
    return (
        all(isinstance(table, dict) for table in tables)
        and all(isinstance(number, (int, float)) for number in (found["parameters"], *numbers))
        and all({"shape", "sha256"} <= one.keys() for one in found["probe"].values())
        and all(isinstance(path, str) for path in found.get("nonfinite", []))
        and "tokenizer" in found
    )


def _spelled(value: Any) -> Any:
    """Return the value with NaN and infinities, which JSON has not, as the strings that `float` reads."""
    if isinstance(value, Mapping):
        return {name: _spelled(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_spelled(one) for one in value]
    return repr(value) if isinstance(value, float) and not math.isfinite(value) else value


def _numbers(value: Any) -> Any:
    """Undo `_spelled`; for the probe, which has no other strings than digests."""
    if isinstance(value, dict):
        return {name: one if name == "sha256" else _numbers(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_numbers(one) for one in value]
    return float(value) if isinstance(value, str) else value


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def compare(name: str, certified: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Return one line per entry that is missing (-), surplus (+) or different (!)."""
    lines = [f"- {name} {printable(key)}" for key in certified if key not in found]
    lines += [f"+ {name} {printable(key)}" for key in found if key not in certified]
    return lines + [
        f"! {name} {printable(key)} differs"
        for key in certified
        if key in found and certified[key] != found[key]
    ]
