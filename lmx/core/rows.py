"""Prepared rows: what a row's bytes mean, and the manifest that names the shards (written by data_prep, read
by lmx.sources).
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmx.core.errors import UserError

VERSION = 1
"""Of the row's bytes and of the manifest; a reader refuses any other."""

MANIFEST = "manifest.json"

_HEAD = struct.Struct("<BBHI")  # version, bytes of a token, segments, tokens
_TOKEN: dict[int, np.dtype[Any]] = {2: np.dtype("<u2"), 4: np.dtype("<u4")}


def token_bytes(vocab_size: int) -> int:
    """Return 2 where every id fits into 16 bits, else 4."""
    return 2 if vocab_size <= 1 << 16 else 4


def encode_row(tokens: Sequence[int] | np.ndarray, lengths: Sequence[int], itemsize: int) -> bytes:
    """Return the bytes of one packed row: a head of 8 bytes, the segments' lengths, the tokens.

    tokens: the real tokens, one segment after another, without padding; lengths: of the segments, adding up
    to the tokens; itemsize: 2 or 4 bytes a token. Everything is little-endian, so shards travel.
    """
    assert sum(lengths) == len(tokens) and all(n >= 1 for n in lengths), "segments must cover the tokens"
    head = _HEAD.pack(VERSION, itemsize, len(lengths), len(tokens))
    return head + np.asarray(lengths, "<u4").tobytes() + np.asarray(tokens, _TOKEN[itemsize]).tobytes()


def decode_row(record: bytes, width: int) -> dict[str, np.ndarray]:
    """Return `tokens`, `segment_ids` and `position_ids`, each (width,) int32, padded at the end.

    width is T + 1: the row's tokens 0..T-1 are inputs and 1..T their labels. Segments count from 1, positions
    restart at 0 in each; padding is token 0, segment 0, position 0. Raises UserError for bytes that are no
    row.

    >>> {k: v.tolist() for k, v in decode_row(encode_row([7, 8, 9, 5, 6], [3, 2], 2), 6).items()}
    {'tokens': [7, 8, 9, 5, 6, 0], 'segment_ids': [1, 1, 1, 2, 2, 0], 'position_ids': [0, 1, 2, 0, 1, 0]}
    """
    try:
        version, itemsize, segments, count = _HEAD.unpack_from(record)
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
    return {"tokens": tokens, "segment_ids": segment_ids, "position_ids": position_ids}


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

    Raises UserError, in one line, where it is missing, broken, or of another version.
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
        raise UserError(f"{path}: the manifest is broken ({_line(error)}); {again}") from error
    if not isinstance(found, dict) or found.get("version") != VERSION:
        version = found.get("version") if isinstance(found, dict) else None
        raise UserError(f"{path}: manifest version {version!r}, this lmx reads {VERSION}; {again}")
    lacking = sorted({"settings", "sources", "splits", "tokenizer", "fingerprint"} - found.keys())
    if lacking:
        raise UserError(f"{path}: the manifest is broken (no {', '.join(lacking)}); {again}")
    return found


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
