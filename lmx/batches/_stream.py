"""Batches: batch k is a function of (seed, k), whatever the number of processes."""

from __future__ import annotations

import math
import queue
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import grain
import numpy as np

from lmx.core.errors import UserError

Arrays = dict[str, np.ndarray]
Encode = Callable[[Arrays], Mapping[str, np.ndarray]]
"""A task's function: stacked rows, each array leading with B, -> a batch. Among the arrays are `index` (B,),
the row's place in its source, and `epoch` (B,), int64, which count from 0."""
Places = Sequence[int] | np.ndarray | None
"""Which rows of a global batch this process makes, as `lmx.core.mesh.places` says; None for all of them."""


class Examples(Protocol):
    """A source: rows by index, each a dict of arrays of the same shapes.

    One that has `take(indices)` as well, several rows at once in that order, is asked by it.
    """

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Mapping[str, np.ndarray]: ...


class Stream(Protocol):
    """Training batches without an end, any of which can be asked for: what a run is fed with.

    steps_per_epoch: rows / size, not rounded.
    """

    @property
    def steps_per_epoch(self) -> float: ...
    def iterate(self, start: int = 0, *, ahead: int = 2) -> Prefetch:
        """Return an endless iterator over batches start, start + 1, ...; close it at the end."""
        ...


class Batches:
    """An endless stream of training batches, any of which can be asked for.

    The stream of rows is the source, shuffled anew with (seed, epoch) for every epoch, one epoch after
    another. Global batch k holds rows k * size .. (k + 1) * size - 1 of it, so a batch may span two epochs;
    this process makes those at its places. Nothing else is remembered: to resume is to ask for k.

    `rows`: of one epoch. `size`: B, of the global batch. `steps_per_epoch`: rows / size, not rounded.
    """

    def __init__(
        self,
        source: Examples,
        *,
        size: int,
        seed: int,
        encode: Encode,
        shuffle: bool = True,
        places: Places = None,
    ) -> None:
        """Raise UserError where the source has fewer rows than a batch."""
        self._places = placed(size, places)
        self.rows, self.size = len(source), size
        if self.rows < size:
            raise UserError(
                f"too little text for one batch: {self.rows} rows, and batch.size={size} takes {size}; "
                f"give {math.ceil(10 * size / max(self.rows, 1)) / 10:g} times as much text, "
                "or lower batch.size or batch.length"
            )
        if not 0 <= seed < 1 << 32:
            raise UserError(f"seed={seed}; expected 0 .. 4294967295")
        self.steps_per_epoch = self.rows / size
        self._source, self._encode = source, encode
        stream = grain.MapDataset.range(self.rows)
        self._stream = (stream.seed(seed).shuffle() if shuffle else stream).repeat()

    def batch(self, k: int) -> Arrays:
        """Return this process's part of global batch k, (places, ...) each, as `encode` makes it.

        `example_index` (places,) int32 is added: each example's place in the global batch, 0 .. B - 1.
        """
        seats = [k * self.size + place for place in self._places.tolist()]
        index = [int(self._stream[seat]) for seat in seats]
        rows = _taken(self._source, index)
        return _batch(rows, index, [seat // self.rows for seat in seats], self._encode, self._places)

    def iterate(self, start: int = 0, *, ahead: int = 2) -> Prefetch:
        """Return an endless iterator over batches start, start + 1, ...; a thread makes up to `ahead` of them
        early. Close it, or use it in a `with` block."""
        return Prefetch(self.batch, start, ahead)


def whole(source: Examples, *, size: int, encode: Encode, places: Places = None) -> Iterator[Arrays]:
    """Yield every row of the source once, in order, in batches of equal shapes.

    All are of epoch 0. The last batch is filled up with rows of zeros: segment 0, which is padding, so that
    nothing in them has a label and no row counts twice. 5 rows with size 2 give rows (0, 1), (2, 3), (4,
    zeros).
    """
    mine = placed(size, places)
    if len(source) == 0:
        raise UserError("no rows to evaluate on")
    blank = {name: np.zeros_like(value) for name, value in source[0].items()}
    for first in range(0, len(source), size):
        here = [first + place for place in mine.tolist()]
        rows = _taken(source, [index for index in here if index < len(source)])
        rows += [blank] * (len(here) - len(rows))
        yield _batch(rows, here, [0] * len(here), encode, mine)


class Prefetch:
    """An iterator over `make(start)`, `make(start + 1)`, ..., made ahead of time by one thread.

    What `make` raises comes out of `next` at its place in the order. The thread ends with `close`, at the end
    of a `with` block, when the iterator is dropped, or with the program.
    """

    def __init__(self, make: Callable[[int], Arrays], start: int, ahead: int) -> None:
        """Start the thread."""
        ready: queue.Queue[Any] = queue.Queue(max(ahead, 1))
        stop = threading.Event()
        # The thread must not hold this iterator, or dropping it would never end the thread.
        thread = threading.Thread(target=_fill, args=(make, start, ready, stop), name="batches", daemon=True)
        self._ready = ready
        self._closed = False
        self._shut = weakref.finalize(self, _shut, ready, stop, thread)
        thread.start()

    def __iter__(self) -> Prefetch:
        return self

    def __next__(self) -> Arrays:
        if self._closed:
            raise StopIteration
        item, error = self._ready.get()
        if error is not None:
            self.close()
            raise error
        return item

    def close(self) -> None:
        """End the thread and wait for it; the iterator is then at its end."""
        self._closed = True
        self._shut()

    def __enter__(self) -> Prefetch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _fill(make: Callable[[int], Arrays], k: int, ready: queue.Queue[Any], stop: threading.Event) -> None:
    while not stop.is_set():
        item: tuple[Arrays | None, BaseException | None]
        try:
            item = (make(k), None)
        except BaseException as error:
            item = (None, error)
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
                break
            except queue.Full:
                continue
        if item[1] is not None:
            return
        k += 1


def _shut(ready: queue.Queue[Any], stop: threading.Event, thread: threading.Thread) -> None:
    stop.set()
    while not ready.empty():  # a full queue would hold the thread up for one more moment
        try:
            ready.get_nowait()
        except queue.Empty:
            break
    if thread is not threading.current_thread() and thread.is_alive():
        thread.join()


def placed(size: int, places: Places) -> np.ndarray:
    """Return places of a global batch of `size` as an array. Errors: UserError for a batch of no rows."""
    if size < 1:
        raise UserError(f"batch.size={size}; expected at least 1")
    return np.arange(size) if places is None else np.asarray(places)


def _taken(source: Examples, indices: list[int]) -> list[Mapping[str, np.ndarray]]:
    take = getattr(source, "take", None)
    return [source[index] for index in indices] if take is None else list(take(indices))


def _batch(
    rows: list[Mapping[str, np.ndarray]],
    index: list[int],
    epoch: list[int],
    encode: Encode,
    places: np.ndarray,
) -> Arrays:
    stacked = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    stacked |= {"index": np.array(index, np.int64), "epoch": np.array(epoch, np.int64)}
    return {**encode(stacked), "example_index": places.astype(np.int32)}
