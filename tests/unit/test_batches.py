"""Batches: a function of (seed, k), cut over processes, made ahead by a thread that ends."""

import gc
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from lmx.batches import Arrays, Batches, Prefetch, whole
from lmx.core.errors import UserError


class Numbers:
    """Row i is the number i + 1."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Arrays:
        assert 0 <= index < self.count
        return {"tokens": np.array([index + 1, 5], np.int32), "segment_ids": np.ones(2, np.int32)}


def encode(rows: Arrays) -> Arrays:
    return {"input_ids": rows["tokens"][:, :1], "segment_ids": rows["segment_ids"]}


def make(seed: int = 0, size: int = 4, rows: int = 10, **kw: object) -> Batches:
    return Batches(Numbers(rows), size=size, seed=seed, encode=encode, **kw)  # type: ignore[arg-type]


def ids(batch: Arrays) -> list[int]:
    return batch["input_ids"][:, 0].tolist()


def stream(batches: Batches, count: int, start: int = 0) -> list[int]:
    return [i for k in range(start, start + count) for i in ids(batches.batch(k))]


def test_epochs_are_permutations_and_differ() -> None:
    found = stream(make(), 10)  # 40 rows: 4 epochs of 10, batches spanning them
    epochs = [found[i : i + 10] for i in range(0, 40, 10)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(1, 11))] * 4
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_the_order_is_this_one() -> None:
    """A new Grain that shuffles otherwise would silently change every run: it must fail here first."""
    assert stream(make(seed=3), 5) == [5, 7, 10, 8, 6, 4, 2, 9, 3, 1, 9, 2, 4, 8, 10, 1, 6, 5, 3, 7]


def test_seeds_differ_and_nothing_else_decides() -> None:
    assert stream(make(seed=1), 5) == stream(make(seed=1), 5)
    assert len({tuple(stream(make(seed=seed), 5)) for seed in range(5)}) == 5
    # Nor does one seed's second epoch begin another's first.
    assert stream(make(seed=1), 5)[10:] != stream(make(seed=2), 5)[:10]


def test_unshuffled_is_in_order() -> None:
    assert stream(make(shuffle=False), 5) == list(range(1, 11)) * 2


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_process_slices_make_up_the_whole(processes: int) -> None:
    parts = [make(places=places) for places in np.split(np.arange(4), processes)]
    for k in (0, 2, 7):
        one = make().batch(k)
        joined = [part.batch(k) for part in parts]
        for name in one:
            np.testing.assert_array_equal(np.concatenate([part[name] for part in joined]), one[name])


def test_example_index_is_the_place_in_the_global_batch() -> None:
    batch = make(places=[2, 3]).batch(5)
    assert batch["example_index"].tolist() == [2, 3]
    assert batch["example_index"].dtype == np.int32


@pytest.mark.parametrize("start", [0, 3, 1000])
def test_iterating_from_k(start: int) -> None:
    batches = make()
    with batches.iterate(start) as iterator:
        assert [ids(next(iterator)) for _ in range(6)] == [ids(batches.batch(start + i)) for i in range(6)]


class Together(Numbers):
    """The same rows, which can be had several at once."""

    def take(self, indices: list[int]) -> list[Arrays]:
        return [super(Together, self).__getitem__(index) for index in indices]


def test_rows_taken_together_make_the_same_batches() -> None:
    together = Batches(Together(10), size=4, seed=0, encode=encode)
    for k in (0, 2, 7):
        np.testing.assert_equal(together.batch(k), make().batch(k))
    one, other = (list(whole(numbers(5), size=2, encode=encode)) for numbers in (Together, Numbers))
    np.testing.assert_equal(one, other)


def test_steps_per_epoch_is_not_rounded() -> None:
    assert make().steps_per_epoch == 2.5
    assert make().rows == 10


def test_refusals() -> None:
    with pytest.raises(UserError, match=r"3 rows, and batch.size=4 takes 4; give 1.4 times"):
        make(rows=3)
    with pytest.raises(UserError, match="seed=-1"):
        make(seed=-1)
    with pytest.raises(UserError, match="no rows"):
        next(whole(Numbers(0), size=2, encode=encode))


@pytest.mark.parametrize(("rows", "size"), [(5, 2), (4, 2), (1, 4)])
def test_whole_counts_each_row_once(rows: int, size: int) -> None:
    found = list(whole(Numbers(rows), size=size, encode=encode))
    assert {batch["input_ids"].shape for batch in found} == {(size, 1)}
    real = [i for batch in found for i, s in zip(ids(batch), batch["segment_ids"][:, 0], strict=True) if s]
    assert real == list(range(1, rows + 1))
    parts = [
        list(whole(Numbers(rows), size=size, encode=encode, places=places))
        for places in np.split(np.arange(size), 2)
    ]
    for k, batch in enumerate(found):
        for name in batch:
            joined = np.concatenate([part[k][name] for part in parts])
            np.testing.assert_array_equal(joined, batch[name])


def running() -> int:
    return sum(thread.name == "batches" for thread in threading.enumerate())


def test_the_thread_ends_with_close_with_and_drop() -> None:
    iterator = make().iterate()
    next(iterator)
    assert running() == 1
    iterator.close()
    iterator.close()
    assert running() == 0
    with pytest.raises(StopIteration):
        next(iterator)
    with make().iterate() as inside:
        next(inside)
    assert running() == 0
    dropped = make().iterate()
    next(dropped)
    del dropped
    gc.collect()
    assert running() == 0


def test_it_is_bounded() -> None:
    made: list[int] = []

    def count(k: int) -> Arrays:
        made.append(k)
        return {}

    with Prefetch(count, 0, 3):
        deadline = time.monotonic() + 5
        while len(made) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
        assert made == [0, 1, 2, 3]  # three that wait, and the one that waits to join them


def test_errors_come_out_at_their_place() -> None:
    def fail(k: int) -> Arrays:
        if k == 2:
            raise UserError("a damaged shard")
        return {"k": np.array(k)}

    iterator = Prefetch(fail, 0, 4)
    assert [int(next(iterator)["k"]) for _ in range(2)] == [0, 1]
    with pytest.raises(UserError, match="a damaged shard"):
        next(iterator)
    assert running() == 0


PROGRAM = """
import hashlib, sys
sys.path.insert(0, {here!r})
from test_batches import make
iterator = make(seed=7).iterate(2)
print(hashlib.sha256(b"".join(v.tobytes() for _ in range(9) for v in next(iterator).values())).hexdigest())
# ends with the iterator open
"""


def test_any_process_makes_the_same_bytes_and_ends_quietly() -> None:
    code = PROGRAM.format(here=str(Path(__file__).parent))
    command = [sys.executable, "-W", "error", "-c", code]
    runs = [
        subprocess.Popen(
            command,
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in ("0", "1", "2")
    ]
    found = [run.communicate(timeout=60) for run in runs]
    assert {error for _, error in found} == {""}
    assert len({out for out, _ in found}) == 1
    assert len(found[0][0].strip()) == 64
