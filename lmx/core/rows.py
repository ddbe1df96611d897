"""Prepared rows: what a row's bytes mean, and the manifest that names the shards (written by data_prep, read
by lmx.sources).
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmx.core.errors import UserError, one_line

VERSION = 2
"""Of the row's bytes and of the manifest; a reader refuses any other."""

MANIFEST = "manifest.json"

_SHARD = {"name": str, "rows": int, "bytes": int, "sha256": str}
_SPLIT = {**dict.fromkeys(("documents", "bytes", "tokens", "labels", "rows"), int), "shards": [_SHARD]}
_SHAPE = {
    "settings": {"length": int, "layout": str},
    "sources": [{"path": str, "bytes": int, "sha256": str}],
    "counts": {},
    "splits": {"train": _SPLIT, "validation": _SPLIT},
    "tokenizer": {"sha256": str, "vocab_size": int},
    "fingerprint": str,
}
"""What is used of a manifest: an object's keys (it may have more), a list's one element, str or int."""

_KINDS: dict[type, str] = {
    dict: "an object",
    list: "a list",
    str: "a string",
    int: "an integer",
    float: "a fraction",
    bool: "a boolean",
}

_HEAD = struct.Struct("<BBHHI")  # version, bytes of a token, label, segments, tokens
_TOKEN: dict[int, np.dtype[Any]] = {2: np.dtype("<u2"), 4: np.dtype("<u4")}


def token_bytes(vocab_size: int) -> int:
    """Return 2 where every id fits into 16 bits, else 4."""
    return 2 if vocab_size <= 1 << 16 else 4


def encode_row(
    tokens: Sequence[int] | np.ndarray, lengths: Sequence[int], itemsize: int, label: int = 0
) -> bytes:
    """Return the bytes of one row: a head of 10 bytes, the segments' lengths, the tokens.

    tokens: the real tokens, one segment after another, without padding; lengths: of the segments, adding up
    to the tokens; itemsize: 2 or 4 bytes a token; label: what the row is an example of, where it is one.
    Everything is little-endian, so shards travel.
    """
    assert sum(lengths) == len(tokens) and all(n >= 1 for n in lengths), "segments must cover the tokens"
    head = _HEAD.pack(VERSION, itemsize, label, len(lengths), len(tokens))
    return head + np.asarray(lengths, "<u4").tobytes() + np.asarray(tokens, _TOKEN[itemsize]).tobytes()


def decode_row(record: bytes, width: int) -> dict[str, np.ndarray]:
    """Return `tokens`, `segment_ids` and `position_ids`, each (width,) int32, padded at the end, and `label`
    () int32.

    Segments count from 1, positions restart at 0 in each; padding is token 0, segment 0, position 0. Raises
    UserError for bytes that are no row.

    >>> {k: v.tolist() for k, v in decode_row(encode_row([7, 8, 9, 5], [3, 1], 2), 5).items()}
    {'tokens': [7, 8, 9, 5, 0], 'segment_ids': [1, 1, 1, 2, 0], 'position_ids': [0, 1, 2, 0, 0], 'label': 0}
    """
    try:
        version, itemsize, label, segments, count = _HEAD.unpack_from(record)
        lengths = np.frombuffer(record, "<u4", segments, _HEAD.size).astype(np.int64)
        real = np.frombuffer(record, _TOKEN[itemsize], count, _HEAD.size + 4 * segments)
    except (struct.error, KeyError, ValueError) as error:
        raise UserError(
            f"a row of {len(record)} bytes cannot be read ({error}): its shard is damaged"
        ) from error
    if version != VERSION or count > width or lengths.sum() != count:
        raise UserError(
            f"a row of {count} tokens in {segments} segments does not fit into {width}: wrong shard?"
        )
    tokens, segment_ids, position_ids = (np.zeros(width, np.int32) for _ in range(3))
    tokens[:count] = real
    segment_ids[:count] = np.repeat(np.arange(1, segments + 1), lengths)
    starts = np.cumsum(lengths) - lengths
    position_ids[:count] = np.arange(count) - np.repeat(starts, lengths)
    return {
        "tokens": tokens,
        "segment_ids": segment_ids,
        "position_ids": position_ids,
        "label": np.array(label, np.int32),
    }


def width(settings: Mapping[str, Any]) -> int:
    """Return how many tokens a row has: T, and one more where each is predicted from those before it."""
    return int(settings["length"]) + (settings["layout"] == "packed")


def canonical(value: Any) -> bytes:
    """Return the JSON of the value as bytes that depend on the value alone: sorted keys, no NaN, UTF-8."""
    return json.dumps(
        value, sort_keys=True, allow_nan=False, ensure_ascii=False, separators=(",", ":")
    ).encode()


def file_sha256(path: str | Path) -> str:
    """Return the sha256 of a file's bytes, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def manifest(folder: str | Path) -> dict[str, Any]:
    """Return the manifest of a prepared folder.

    Raises UserError, in one line, where it is missing, broken, or of another version; a field that is missing
    or of the wrong type is named.
    """
    path = Path(folder) / MANIFEST
    again = f"delete {folder} and prepare the data again"
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(
            f"{folder}: no prepared data ({MANIFEST} is missing); prepare the data first"
        ) from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: the manifest is broken ({one_line(error)}); {again}") from error
    version = found.get("version") if isinstance(found, dict) else None
    if type(version) is not int or version != VERSION:
        raise UserError(f"{path}: manifest version {version!r}, this lmx reads {VERSION}; {again}")
    wrong = _misshapen(found, _SHAPE)
    wrong = wrong or _misshapen(found["splits"], dict.fromkeys(found["splits"], _SPLIT), "splits")
    if wrong is not None:
        raise UserError(f"{path}: the manifest is broken ({wrong}); {again}")
    return found


def _misshapen(value: Any, shape: Any, field: str = "") -> str | None:
    """Return which field of a JSON value is missing or of another type than `shape` says, or None."""
    plain = shape in (str, int)
    kind = shape if plain else type(shape)
    if type(value) is not kind:  # a bool is an int, too
        return f"{field}: expected {_KINDS[kind]}, found {_KINDS.get(type(value), 'null')}"
    if plain:
        return f"{field}: expected at least 0, found {value}" if kind is int and value < 0 else None
    if isinstance(shape, list):
        parts = ((item, shape[0], f"{field}[{index}]") for index, item in enumerate(value))
        return next(filter(None, (_misshapen(*part) for part in parts)), None)
    dot = f"{field}." if field else ""
    lacking = sorted(shape.keys() - value.keys())
    if lacking:
        return f"no {', '.join(dot + key for key in lacking)}"
    return next(filter(None, (_misshapen(value[key], of, dot + key) for key, of in shape.items())), None)
