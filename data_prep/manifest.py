"""The manifest: what the rows were made from, how, and how many there are; the same input, the same bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data_prep.read import Source
from data_prep.steps.tokenize import TextTokenizer
from lmx.core.errors import UserError
from lmx.core.rows import MANIFEST, VERSION, canonical, manifest

_DECIDING = ("layout", "length", "boundary", "short", "copies")
"""Settings that change the rows of the same texts; for pairs the seed does, too."""

_NAMED = 4  # differences named in a message


def build(
    settings: Mapping[str, Any],
    sources: Sequence[Source],
    counts: Mapping[str, Any],
    chosen: str,
    tokenizer: TextTokenizer,
    splits: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Return the manifest. Its `fingerprint` covers what decides the rows and nothing else: not where the
    text lay, and not how the rows are cut into shards.
    """
    facts = {
        "sha256": tokenizer.sha256,
        "vocab_size": tokenizer.vocab_size,
        "eos_id": tokenizer.eos_id,
        "kind": tokenizer.kind,
    }
    deciding = (*_DECIDING, *(("seed",) if settings["layout"] == "pairs" else ()))
    decides = {
        "version": VERSION,
        **{name: settings[name] for name in deciding if name in settings},
        "tokenizer": facts["sha256"],
        "texts": {name: [split["text_sha256"], split["rows"]] for name, split in splits.items()},
    }
    return {
        "version": VERSION,
        "settings": dict(settings),
        "chosen_split": chosen,
        "sources": [asdict(source) for source in sources],
        "counts": dict(counts),
        "splits": {name: dict(split) for name, split in splits.items()},
        "tokenizer": facts,
        "fingerprint": hashlib.sha256(canonical(decides)).hexdigest(),
    }


def write(folder: Path, value: Mapping[str, Any]) -> None:
    """Write the manifest, indented for people, with sorted keys and without NaN."""
    text = json.dumps(value, sort_keys=True, allow_nan=False, ensure_ascii=False, indent=1)
    (folder / MANIFEST).write_bytes(text.encode() + b"\n")


def earlier(folder: Path, settings: Mapping[str, Any], sources: Sequence[Source]) -> dict[str, Any] | None:
    """Return the manifest that `folder` has already, or None where nothing is there.

    Raises UserError where it is of other settings or sources, naming those that differ, and where the folder
    holds something else.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    if not (folder / MANIFEST).exists():
        raise UserError(
            f"{folder}: exists and holds no prepared data; choose another folder, or empty this one"
        )
    found = manifest(folder)
    now = json.loads(
        canonical({"settings": dict(settings), "sources": [asdict(source) for source in sources]})
    )
    differing = _differences(found["settings"], now["settings"])
    before, after = ({s["path"]: s for s in value["sources"]} for value in (found, now))
    for path in sorted({*before, *after}):
        if before.get(path) != after.get(path):
            change = "is gone" if path not in after else "is new" if path not in before else "changed"
            differing.append(f"the source {path} {change}")
    if differing:
        more = f" and {len(differing) - _NAMED} more" if len(differing) > _NAMED else ""
        raise UserError(
            f"{folder}: was prepared otherwise: {'; '.join(differing[:_NAMED])}{more}; "
            "choose another folder, or delete this one"
        )
    return found


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    keys = sorted(
        key for key in {*before, *now} if before.get(key) != now.get(key) or (key in before) != (key in now)
    )
    return [f"{key} was {before.get(key, 'not set')!r}, is {now.get(key, 'not set')!r}" for key in keys]
