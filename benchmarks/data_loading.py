"""Data loading: how fast batches come from prepared rows, against how fast lmx's own step takes them.

    python benchmarks/data_loading.py --case all

The rows are the reference texts of the running Python, as the quickstart prepares them, in the sizes of
`small` (4 layers, width 128, 12 x 64 characters) and of GPT-2 124M (4 x 256 tokens). "made": batches read
from the shards by the one thread that feeds a run, to a consumer that does nothing with them; "taken": by the
training loop of `lmx train` at its fastest ten steps (124m: its fastest step). In that loop, the time that it
waits for a batch is counted, and as much of it as the device stands idle. Every other stretch of the loop is
given a batch that is at hand: what loading costs the step in all, its share of the cores included, is the
difference.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _cases import CASES, Case
from _processes import environment, hold_cores, machine
from _runs import Watched, session

PACKAGES = ("jax", "numpy", "grain", "array-record")
LOOPS = {"small": (10, 200), "124m": (1, 10)}
"""Case -> (steps of one stretch, steps of the loop)."""

COLUMNS = (
    "case",
    "rows/s made",
    "rows/s taken",
    "made / taken",
    "ms a step",
    "batch at hand, ms",
    "waiting, share of the step",
    "device idle",
)


def made(batches: Any, rounds: int, seconds: float = 1.0) -> float:
    """Return rows a second, the median of some rounds, each of about so many seconds."""
    rates = []
    for number in range(rounds):
        with batches.iterate(1000 * number) as stream:
            next(stream)
            began, count = time.perf_counter(), 0
            while (took := time.perf_counter() - began) < seconds:
                next(stream)
                count += 1
        rates.append(count * batches.size / took)
    return statistics.median(rates)


def loop(case: Case, run: Any, stretch: int, total: int) -> tuple[list[float], list[float], float, float]:
    """Train; return (ms a step of each stretch that loads, of each with a batch at hand, the share of the
    former in which the loop waits, and in which the device is idle for it)."""
    batch, log, watched = run.feed.batches.batch(0), run._log, Watched(run)

    def switched(step: int, *rest: Any) -> None:
        log(step, *rest)  # waits for the step, so that stretches do not overlap
        watched.at_hand = None if watched.at_hand is not None else batch

    run._log = switched
    run.run(0, lambda: False)
    loading, at_hand, waits, idle = [], [], 0.0, 0.0
    for first in range(2 * stretch, total - stretch, stretch):  # the first two compile and settle
        took = watched.times[first + stretch] - watched.times[first]
        if (first // stretch) % 2:
            at_hand.append(1e3 * took / stretch)
        else:
            loading.append(1e3 * took / stretch)
            waits += sum(watched.waits[first : first + stretch])
            idle += sum(watched.idle[first : first + stretch])
    whole = sum(loading) * stretch / 1e3
    return loading, at_hand, waits / whole, idle / whole


def measure(name: str, rounds: int, folder: Path) -> str:
    """Return one case's row of the table."""
    from lmx.core import memory

    memory.tune_allocator()
    case, (stretch, total) = CASES[name], LOOPS[name]
    run = session(case, folder, log=stretch, total=total)
    rate = made(run.feed.batches, rounds)
    loading, at_hand, waits, idle = loop(case, run, stretch, total)
    taken = 1e3 * case.B / min(loading)
    return (
        f"| {name} | {rate:.0f} | {taken:.1f} | **{rate / taken:.0f}** | {statistics.median(loading):.1f} "
        f"| {statistics.median(at_hand):.1f} | {waits:.2%} | {idle:.2%} |"
    )


def main() -> None:
    """Run the cases, each in a process of its own, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--case", choices=[*LOOPS, "all"], default="all")
    parser.add_argument("--rounds", type=int, default=5, help="seconds of reading (default: 5)")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder:
        hold_cores()
        print(measure(options.case, options.rounds, options.folder))
        return
    print(f"| {' | '.join(COLUMNS)} |\n{'| --- ' * len(COLUMNS)}|", flush=True)
    for name in LOOPS if options.case == "all" else [options.case]:
        with tempfile.TemporaryDirectory() as folder:
            words = ["--case", name, "--rounds", str(options.rounds), "--folder", folder]
            command = [sys.executable, __file__, *words]
            done = subprocess.run(command, env=environment(), capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        print(done.stdout.splitlines()[-1], flush=True)
    print(f"\n{machine(PACKAGES)}")


if __name__ == "__main__":
    main()
