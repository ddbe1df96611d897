"""Host time: what a training step costs beside the device's work, in the loop of `lmx train`.

    python benchmarks/host_time.py --rounds 5

"loop": the whole loop with a batch at hand and a step that is done at once, so that nothing is left but
putting the batch on the device, hooks, and writing a record (metrics.jsonl, TensorBoard, progress) of every
step, or of every tenth as configs ask. "dispatch": the call of the jitted step itself, in CPU time of the
thread that calls; most of it is XLA's, for each leaf of the state; beside it a call that adds 1 to each leaf
and does nothing else. "in all": a loop that records each tenth step, and dispatch. `small` has 4 layers; `12
layers` has the leaves of GPT-2 124M, but narrow; scanned layers are held as one. Medians of rounds in turn.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _cases import CASES
from _processes import environment, hold_cores, machine
from _runs import Watched, session

PACKAGES = ("jax", "numpy", "tensorboardX")
NARROW = dataclasses.replace(CASES["124m"], V=2048, D=24, B=4, T=64)
HOSTS = {
    "small": (CASES["small"], "unrolled"),
    "small, scanned": (CASES["small"], "scanned"),
    "12 layers": (NARROW, "unrolled"),
    "12 layers, scanned": (NARROW, "scanned"),
}
STEPS = 200
LOGS = (1, 10)
COLUMNS = (
    "case",
    "leaves of the state",
    "loop, each step recorded, ms",
    "loop, each tenth, ms",
    "dispatch, ms",
    "leaves + 1, ms",
    "in all, ms",
)


def looped(run: Any, watched: Watched, log: int) -> float:
    """Run the loop with a step that is done at once; return ms a step, without the first ten."""
    watched.times.clear()
    run.every["log"] = log
    run.run(0, lambda: False)
    return 1e3 * (watched.times[-1] - watched.times[10]) / (len(watched.times) - 11)


def called(step: Any, state: Any, batch: Any, count: int = 20) -> tuple[Any, float]:
    """Return (the state after some steps, ms of CPU time of a call, the median of all but the first)."""
    import jax

    times = []
    for _ in range(count):
        began = time.thread_time()
        state, _ = step(state, batch)
        times.append(1e3 * (time.thread_time() - began))
        jax.block_until_ready(state)
    return state, statistics.median(times[1:])


def measure(name: str, rounds: int, folder: Path) -> str:
    """Return one case's row of the table."""
    import jax
    import jax.numpy as jnp

    from lmx.core import memory, mesh

    memory.tune_allocator(alike=True)
    case, layers = HOSTS[name]
    run = session(case, folder, log=1, total=STEPS, layers=layers)
    rows, step = run.feed.batches.batch(0), run.step
    batch = mesh.put(rows, run.mesh)
    run.state, sums = step(run.state, batch)
    sums = jax.block_until_ready(sums)
    run.step = lambda state, batch: (state, sums)
    watched = Watched(run)
    watched.at_hand = rows
    add = jax.jit(lambda state, batch: (jax.tree.map(lambda leaf: leaf + 1, state), {}), donate_argnums=0)
    apart = jax.tree.map(jnp.zeros_like, run.state)
    loops: dict[int, list[float]] = {log: [] for log in LOGS}
    calls, adds = [], []
    for _ in range(rounds):
        for log in LOGS:
            loops[log].append(looped(run, watched, log))
        run.state, call = called(step, run.state, batch)
        apart, plain = called(add, apart, batch)
        calls.append(call)
        adds.append(plain)
    each, tenth, call, plain = (statistics.median(times) for times in (*loops.values(), calls, adds))
    leaves = len(jax.tree.leaves(run.state))
    times = " | ".join(f"{ms:.2f}" for ms in (each, tenth, call, plain))
    return f"| {name} | {leaves} | {times} | **{tenth + call:.2f}** |"


def main() -> None:
    """Run the cases, each in a process of its own, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--case", choices=[*HOSTS, "all"], default="all")
    parser.add_argument("--rounds", type=int, default=5, help="of each kind (default: 5)")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder:
        hold_cores()
        print(measure(options.case, options.rounds, options.folder))
        return
    print(f"| {' | '.join(COLUMNS)} |\n{'| --- ' * len(COLUMNS)}|", flush=True)
    for name in HOSTS if options.case == "all" else [options.case]:
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
