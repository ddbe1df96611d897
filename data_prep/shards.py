"""Shards: rows into ArrayRecord files of bounded size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from lmx.core.rows import file_sha256

# Each record for itself, so that reading one row unpacks one row.
_OPTIONS = "group_size:1"


class ShardWriter:
    """Writes records one after another; a new file begins after every `shard_rows` of them."""

    def __init__(self, folder: Path, split: str, shard_rows: int) -> None:
        """Write into `folder`, which exists."""
        self._folder, self._split, self._shard_rows = folder, split, shard_rows
        self._rows: list[int] = []  # of each shard
        self._writer: Any = None

    def write(self, record: bytes) -> None:
        """Append one record."""
        if self._writer is None or self._rows[-1] == self._shard_rows:
            self.close()
            self._writer = ArrayRecordWriter(str(self._part(len(self._rows))), _OPTIONS)
            self._rows.append(0)
        self._writer.write(record)
        self._rows[-1] += 1

    def close(self) -> None:
        """Close the open file, without naming it."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def finish(self) -> list[dict[str, Any]]:
        """Close, give the files their final names, and return {name, rows, bytes, sha256} of each.

        Names tell how many there are (train-00000-of-00003.array_record), which is known only now.
        """
        self.close()
        shards = []
        for index, rows in enumerate(self._rows):
            name = f"{self._split}-{index:05d}-of-{len(self._rows):05d}.array_record"
            path = self._part(index).rename(self._folder / name)
            reader = ArrayRecordReader(str(path))
            written = reader.num_records()
            reader.close()
            if written != rows:  # a full disk need not raise in the writer
                raise OSError(f"{name} holds {written} of {rows} rows")
            shards.append(
                {"name": name, "rows": rows, "bytes": path.stat().st_size, "sha256": file_sha256(path)}
            )
        return shards

    def _part(self, index: int) -> Path:
        return self._folder / f"{self._split}-{index:05d}.part"
