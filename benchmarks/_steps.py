"""One training step on several sides that start from the same weights: rounds in turn, one table.

Each side has a process of its own (and so its own peak memory), held to the same cores; the rounds alternate,
so that a busy machine slows all sides alike, and medians are compared.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from _cases import B1, CASES, CLIP, EPSILON, Case, write
from _processes import Process, answer, close, environment, listed, machine, threads
from _torch import groups

PEAK_SIZE, PRODUCTS = 2048, 5
"""Rows of the square matrices whose product shows the peak, and how many products are made in a round."""

GAP = 1e-4
"""Nats by which the first losses may differ."""

COLUMNS = (
    "case",
    "side",
    "ms, median",
    "ms, best",
    "CPU ms, median",
    "tokens/s",
    "share of peak",
    "peak RSS, MB",
)

Run = Callable[[int], float]
"""Number of the step -> its loss, or any figure; returns when the work is done."""

Start = Callable[[Case, Path], Run]
"""(case, the folder that `_cases.write` wrote) -> the steps of a side."""


def lmx_side(case: Case, weights: Path) -> Run:
    """The path that `lmx train` takes; its start is that of the folder, which is drawn with the same seed."""
    from lmx.core import memory

    memory.tune_allocator(alike=True)  # as `lmx train` does where all rows have one length
    from lmx import optim
    from lmx.commands import _build
    from lmx.core import mesh as mesh_
    from lmx.training import state as state_
    from lmx.training import step as step_

    model, mesh = _build.model(case.sections()), mesh_.make(1)
    rate = optim.schedule("constant", rate=case.rate, warmup=0, total=1)
    optimizer = optim.build("adamw", rate, decay=case.decay, clip=CLIP, b1=B1, b2=case.b2, epsilon=EPSILON)
    state = state_.start(model, optimizer, seed=0, mesh=mesh)
    objective = _build.objective(case.sections(), model)
    step = step_.build(model, objective, optimizer, seed=0, mesh=mesh)

    def run(number: int) -> float:
        nonlocal state
        state, sums = step(state, mesh_.put(case.batch(number), mesh))
        return float(sums["loss"]) / float(sums["weight"])

    return run


def torch_side(case: Case, weights: Path) -> Run:
    """The plain loop of a torch user: forward with labels, backward, clip, AdamW."""
    import torch
    import transformers
    from safetensors import safe_open

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(threads())
    config = transformers.AutoConfig.from_pretrained(weights)
    config.use_cache = False
    model = getattr(transformers, config.architectures[0])(config)
    with safe_open(weights / "model.safetensors", "pt") as stored:
        for name, tensor in model.state_dict().items():
            if name != "lm_head.weight":  # tied, and so not stored
                tensor.copy_(stored.get_tensor(name))
    optimizer = torch.optim.AdamW(groups(model, case.decay), lr=case.rate, betas=(B1, case.b2), eps=EPSILON)
    model.train()

    def run(number: int) -> float:
        batch = {name: torch.from_numpy(rows).long() for name, rows in case.batch(number).items()}
        optimizer.zero_grad()
        loss = model(**{"labels": batch["input_ids"], **batch}).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        return float(loss.detach())

    return run


def peak_side(case: Case, weights: Path) -> Run:
    """A product of two square f32 matrices: what the machine can do at best."""
    import jax
    import jax.numpy as jnp

    matrix = jax.random.normal(jax.random.key(0), (PEAK_SIZE, PEAK_SIZE))
    product = jax.jit(lambda a: jnp.dot(a, a, precision="highest"))
    return lambda number: float(product(matrix).block_until_ready()[0, 0])


def serve(start: Start, case: Case, weights: Path) -> None:
    """Answer each line `first count` with the losses and times of those steps."""

    def begin() -> Callable[[str], dict[str, object]]:
        run = start(case, weights)

        def steps(line: str) -> dict[str, object]:
            first, count = map(int, line.split())
            made = []
            for number in range(first, first + count):
                began, worked = time.perf_counter(), time.process_time()
                loss = run(number)
                took = time.perf_counter() - began, time.process_time() - worked
                made.append((loss, 1e3 * took[0], 1e3 * took[1]))
            return {"steps": made, "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}

        return steps

    answer(begin)


class Side(Process):
    """One side, and what it has measured: losses, wall and CPU milliseconds of steps, peak MB."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        super().__init__(name, command, environment())
        self.versions: dict[str, str] = self.receive()
        self.done, self.rss = 0, 0.0
        self.losses: list[float] = []
        self.wall: list[float] = []
        self.cpu: list[float] = []

    def steps(self, count: int, *, timed: bool = True) -> None:
        """Make the next `count` steps."""
        found = self.ask(f"{self.done} {count}")
        self.done, self.rss = self.done + count, found["rss"]
        self.losses += [loss for loss, _, _ in found["steps"]]
        if timed:
            self.wall += [wall for _, wall, _ in found["steps"]]
            self.cpu += [cpu for _, _, cpu in found["steps"]]


class Comparison:
    """lmx against a peer on some cases.

    peer: its name in the table. sides: {side: what starts it}, `lmx`, the peer and `peak` among them. python:
    {side: the interpreter that runs it}, where it is not this one.
    """

    def __init__(
        self, script: str, peer: str, sides: dict[str, Start], python: dict[str, str] | None = None
    ) -> None:
        self.script, self.peer, self.sides, self.python = script, peer, sides, python or {}
        self.versions: dict[str, dict[str, str]] = {}

    def command(self, side: str, case: str, weights: Path) -> list[str]:
        """Return the command of one side's process."""
        python = self.python.get(side, sys.executable)
        return [python, self.script, "--side", side, "--case", case, "--weights", str(weights)]

    @contextmanager
    def begun(self, case: str) -> Iterator[tuple[Side, Side, Side]]:
        """Start (lmx, the peer, the peak's), all from the same weights."""
        with tempfile.TemporaryDirectory() as folder:
            weights, started = Path(folder) / "start", list[Side]()
            subprocess.run(self.command("write", case, weights), env=environment(), check=True)
            try:
                for name in ("lmx", self.peer, "peak"):
                    started.append(Side(name, self.command(name, case, weights)))
                yield started[0], started[1], started[2]
            finally:
                close(started)

    def measure(self, name: str, repeats: int) -> list[str]:
        """Run one case; return its rows of the table."""
        case = CASES[name]
        with self.begun(name) as (ours, theirs, peak):
            for side in (ours, theirs, peak):
                side.steps(3, timed=False)
                self.versions[side.name] = side.versions
            gap = max(abs(a - b) for a, b in zip(ours.losses, theirs.losses, strict=True))
            if not gap <= GAP:
                raise SystemExit(f"{name}: the first losses differ: {ours.losses} and {theirs.losses}")
            for number in range(repeats):
                for side in (ours, theirs) if number % 2 == 0 else (theirs, ours):
                    side.steps(case.round)
                peak.steps(PRODUCTS)
        return _rows(name, case, ours, theirs, best=2 * PEAK_SIZE**3 / (min(peak.wall) / 1e3), gap=gap)

    def below(self) -> str:
        """Return the line below the table: the machine, and the versions of both sides."""
        ours, theirs = (self.versions[name] for name in ("lmx", self.peer))
        other = "" if ours == theirs else f"; {self.peer}: {listed(theirs)}"
        return f"{machine()}{other}"

    def main(self, doc: str | None, cases: Sequence[str], default: Sequence[str]) -> None:
        """Read the command line and print the table, or be one of the sides."""
        parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawTextHelpFormatter)
        parser.add_argument("--case", choices=[*cases, "all"], default="all")
        parser.add_argument("--repeats", type=int, default=15, help="rounds of each side (default: 15)")
        self.more(parser)
        parser.add_argument("--side", choices=[*self.sides, "write"], help=argparse.SUPPRESS)
        parser.add_argument("--weights", type=Path, help=argparse.SUPPRESS)
        options = parser.parse_args()
        if options.side == "write":
            write(CASES[options.case], options.weights)
        elif options.side:
            serve(self.sides[options.side], CASES[options.case], options.weights)
        else:
            self.ready(options)
            print(f"| {' | '.join(COLUMNS)} |\n{'| --- ' * len(COLUMNS)}|", flush=True)
            for name in default if options.case == "all" else [options.case]:
                print("\n".join(self.measure(name, options.repeats)), flush=True)
            print(f"\n{self.below()}")

    def more(self, parser: argparse.ArgumentParser) -> None:
        """Declare what else the script takes."""

    def ready(self, options: argparse.Namespace) -> None:
        """Make what the sides need."""


def _rows(name: str, case: Case, ours: Side, theirs: Side, *, best: float, gap: float) -> list[str]:
    """Return the rows of one case; best: the peak in FLOP/s."""
    rows = []
    for side in (ours, theirs):
        wall, cpu = statistics.median(side.wall), statistics.median(side.cpu)
        share = case.flops() / (min(side.wall) / 1e3) / best
        rows.append(
            f"| {name} | {side.name} | {wall:.1f} | {min(side.wall):.1f} | {cpu:.1f} "
            f"| {case.B * case.T / wall * 1e3:.0f} | {share:.0%} | {side.rss:.0f} |"
        )
    ratio = [statistics.median(theirs.wall) / statistics.median(ours.wall), min(theirs.wall) / min(ours.wall)]
    work = statistics.median(theirs.cpu) / statistics.median(ours.cpu)
    rows.append(
        f"| {name} | **{theirs.name} / lmx** | **{ratio[0]:.2f}** | {ratio[1]:.2f} | {work:.2f} | | "
        f"| lmx / {theirs.name} {ours.rss / theirs.rss:.2f} |"
    )
    rows.append(f"| {name} | first losses differ by {gap:.0e}; peak {best / 1e9:.0f} GFLOP/s | | | | | | |")
    return rows
