"""Rows of packed tokens that data_prep wrote, by index."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from lmx.core.errors import UserError, did_you_mean
from lmx.core.rows import decode_row, file_sha256, manifest, width

# One row at a time, anywhere in the file: reading ahead would only cost.
_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"


class Rows:
    """R rows: `rows[i]` is a dict of `tokens`, `segment_ids` and `position_ids`, each (T,) int32, and `label`
    () int32. Packed rows have T + 1 tokens, since each predicts the next.

    `manifest` is that of the folder, `facts` the part of it about this split. Threads may share it; it can be
    pickled, and opens its shards when they are first read.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any], split: str) -> None:
        """Take over a folder whose shards were checked; see `source`."""
        self.folder, self.manifest, self.split = folder, manifest, split
        self.facts: dict[str, Any] = manifest["splits"][split]
        self._width = width(manifest["settings"])
        self._names = [shard["name"] for shard in self.facts["shards"]]
        self._ends = list(accumulate(shard["rows"] for shard in self.facts["shards"]))
        self._open()

    def _open(self) -> None:
        self._readers: dict[int, Any] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return self.take([index])[0]

    def take(self, indices: Sequence[int]) -> list[dict[str, np.ndarray]]:
        """Return the rows of these indices, each 0 .. R - 1, in their order.

        Each shard is asked once: a read of one row alone takes longer to begin than to do.
        """
        places: dict[int, list[int]] = {}
        for place, index in enumerate(indices):
            if not 0 <= index < len(self):
                raise IndexError(f"row {index} of {len(self)}")
            places.setdefault(bisect_right(self._ends, index), []).append(place)
        found: dict[int, bytes] = {}
        for shard, here in places.items():
            first = self._ends[shard - 1] if shard else 0
            try:
                with self._lock:  # a reader is opened once, and has one file position
                    records = self._reader(shard).read([int(indices[place]) - first for place in here])
            except (RuntimeError, ValueError) as error:
                raise _damaged(self.folder / self._names[shard], "is no whole ArrayRecord file") from error
            found.update(zip(here, records, strict=True))
        return [decode_row(found[place], self._width) for place in range(len(indices))]

    def _reader(self, shard: int) -> Any:
        if shard not in self._readers:
            self._readers[shard] = ArrayRecordReader(str(self.folder / self._names[shard]), _OPTIONS)
        return self._readers[shard]

    def close(self) -> None:
        """Close the shards; the next row opens them again."""
        with self._lock:
            for reader in self._readers.values():
                reader.close()
            self._readers = {}

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_readers", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()


def source(split: str, *, folder: str | Path, verify: bool = True) -> Rows:
    """Return the rows of one split ("train", "validation") of a prepared folder.

    verify: read every shard once and compare its sha256 with the manifest's; False compares sizes only.
    Raises UserError, in one line, for a broken manifest and for a shard that is missing, short or changed.
    """
    folder = Path(folder)
    found = manifest(folder)
    try:
        splits = found["splits"]
        if split not in splits:
            hint = did_you_mean(split, splits)
            raise UserError(f"{folder}: no split {split!r}{hint}; there is: {', '.join(splits)}")
        for shard in splits[split]["shards"]:
            _check(folder / shard["name"], shard, verify)
        rows = Rows(folder, found, split)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{folder}: the manifest is broken ({type(error).__name__}: {error}); "
            "delete the folder and prepare again"
        ) from error
    if len(rows) != rows.facts["rows"]:
        raise UserError(
            f"{folder}: shards of {split} hold {len(rows)} rows, the manifest says {rows.facts['rows']}"
        )
    return rows


def _check(path: Path, shard: dict[str, Any], verify: bool) -> None:
    if Path(shard["name"]).name != shard["name"]:  # never read outside the folder
        raise _damaged(path, "has no plain file name")
    try:
        size = path.stat().st_size
        if size != shard["bytes"]:
            raise _damaged(path, f"has {size} bytes, the manifest says {shard['bytes']}")
        if verify and file_sha256(path) != shard["sha256"]:
            raise _damaged(path, "is not what was written (its sha256 differs)")
    except OSError as error:
        raise _damaged(path, f"cannot be read ({error.strerror})") from error


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(
        f"{path}: this shard {reason}; delete the folder {path.parent} and prepare the data again"
    )
