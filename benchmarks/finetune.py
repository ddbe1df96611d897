"""Fine-tuning a BERT on SST-2: lmx's whole feed against transformers on torch eager, the same batches, f32.

    python benchmarks/finetune.py --start MINILM --data sst2/train.tsv
    python benchmarks/finetune.py --start MINILM --parity

MINILM is a Hugging Face folder, such as that of all-MiniLM-L6-v2. Batches of 32 of like length, AdamW with
clipping, as `finetune/sst2` says. torch gets the same rows in the same order, once filled up to lmx's widths
and once ("own padding") to the longest row alone. Each side has a process of its own, held to the same cores;
the rounds alternate, and medians are compared. Before that, each side makes one step of every width, in which
lmx compiles. --parity trains each task on both sides and compares the losses. Needs the parity extra.
"""

from __future__ import annotations

import argparse
import os
import pickle
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from _processes import Process, answer, close, environment, hold_cores, machine, threads
from _torch import groups

RATE, DECAY, CLIP, WARMUP, SIZE = 5e-5, 0.01, 1.0, 22, 32
Arrays = dict[str, np.ndarray]
Run = Callable[[Arrays], float]
"""Batch -> its loss; returns when the step is done."""


def prepared(start: Path, data: Path, work: Path, *, dropout: bool) -> Any:
    """Return lmx's (examples, model, feed) of the run, as `lmx train` makes them."""
    from lmx.commands import _build, _supervised
    from lmx.core import config as config_
    from lmx.core import mesh as mesh_

    config = config_.load("finetune/sst2")
    changes: dict[str, Any] = {"start": str(start), "data.train": str(data), "data.validation": "2%"}
    if not dropout:
        changes |= {"model.dropout_hidden": 0.0, "model.dropout_attention": 0.0, "task.dropout": 0.0}
    config_.override(config, {**changes, "batch.size": SIZE})
    found = _supervised.prepare(config_.expanded(config_.plain(config)), work, say=lambda _: None)
    model = _build.model(found.config)
    return found, model, _supervised.Supervised(found, model=model, mesh=mesh_.make(1))


def epoch(feed: Any) -> list[Arrays]:
    """Return the batches of one epoch."""
    return [feed.batches.batch(k) for k in range(round(feed.batches.steps_per_epoch))]


def write(start: Path, data: Path, work: Path, *, dropout: bool) -> None:
    """Write what torch starts from: lmx's weights with the new head, and the batches."""
    from lmx.commands import _bodies, _export
    from lmx.core.types import Checkpoint

    found, model, feed = prepared(start, data, work, dropout=dropout)
    params = _bodies.params(found.config, model, say=lambda _: None)
    _export.write(Checkpoint(params, found.config), work / "start", certify=False)
    (work / "batches").write_bytes(pickle.dumps(epoch(feed)))


def lmx_side(
    start: Path, data: Path, work: Path, dropout: bool
) -> tuple[Run, Iterator[Arrays], list[Arrays]]:
    """The path that `lmx train` takes, its feed a thread of its own."""
    from lmx.core import memory

    memory.tune_allocator()
    from lmx import optim
    from lmx.commands import _bodies
    from lmx.core import mesh as mesh_
    from lmx.training import state as state_
    from lmx.training import step as step_

    found, model, feed = prepared(start, data, work, dropout=dropout)
    mesh = mesh_.make(1)
    _, optimizer = optim.make(
        "adamw", rate=RATE, schedule="linear", warmup=WARMUP, total=10 * WARMUP, decay=DECAY, clip=CLIP
    )
    state = state_.start(
        model,
        optimizer,
        seed=0,
        mesh=mesh,
        params=_bodies.params(found.config, model, say=lambda _: None),
    )
    step = step_.build(model, feed.objective(), optimizer, seed=0, mesh=mesh)

    def run(batch: Arrays) -> float:
        nonlocal state
        state, sums = step(state, mesh_.put(batch, mesh))
        return float(sums["loss"]) / float(sums["weight"])

    return run, feed.batches.iterate(), epoch(feed)


def torch_side(
    start: Path, data: Path, work: Path, dropout: bool
) -> tuple[Run, Iterator[Arrays], list[Arrays]]:
    """The plain loop of a torch user, over batches that are arrays already."""
    import torch
    from transformers import BertForSequenceClassification, get_linear_schedule_with_warmup, logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(threads())
    model = BertForSequenceClassification.from_pretrained(work / "start")
    optimizer = torch.optim.AdamW(groups(model, DECAY), lr=RATE)
    schedule = get_linear_schedule_with_warmup(optimizer, WARMUP, 10 * WARMUP)
    batches = pickle.loads((work / "batches").read_bytes())
    model.train()

    def run(batch: Arrays) -> float:
        inputs = {n: torch.from_numpy(x).long() for n, x in batch.items() if n != "example_index"}
        optimizer.zero_grad()
        loss = model(**inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        schedule.step()
        return float(loss.detach())

    return run, iter(batches), batches


def own_padding(
    start: Path, data: Path, work: Path, dropout: bool
) -> tuple[Run, Iterator[Arrays], list[Arrays]]:
    """As `torch_side`, each batch no wider than its longest row."""
    run, stream, batches = torch_side(start, data, work, dropout)

    def cut(batch: Arrays) -> float:
        most = int(batch["attention_mask"].sum(1).max())
        return run({name: x[:, :most] if x.ndim == 2 else x for name, x in batch.items()})

    return cut, stream, batches


SIDES = {"lmx": lmx_side, "torch": torch_side, "torch, own padding": own_padding}


def serve(side: str, start: Path, data: Path, work: Path, dropout: bool) -> None:
    """Answer each line, `warm` or a number of steps, with what these steps gave."""
    if side == "write":
        hold_cores()
        write(start, data, work, dropout=dropout)
    else:
        answer(lambda: _steps(*SIDES[side](start, data, work, dropout)))


def _steps(run: Run, stream: Iterator[Arrays], batches: list[Arrays]) -> Callable[[str], dict[str, Any]]:
    widths = {batch["input_ids"].shape[1]: batch for batch in batches}

    def made(line: str) -> dict[str, Any]:
        warm = line == "warm"
        todo = iter([widths[w] for w in sorted(widths)]) if warm else stream
        steps = []
        for _ in range(len(widths) if warm else int(line)):
            began, worked = time.perf_counter(), time.process_time()
            batch = next(todo)
            loss = run(batch)
            took = 1e3 * (time.perf_counter() - began), 1e3 * (time.process_time() - worked)
            steps.append((batch["input_ids"].shape[1], loss, *took))
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return {"steps": steps, "rss": most, "epoch": _count(batches)}

    return made


def _count(batches: list[Arrays]) -> dict[int, int]:
    widths = [batch["input_ids"].shape[1] for batch in batches]
    return {width: widths.count(width) for width in sorted(set(widths))}


class Side(Process):
    """One side, and what it has measured: (width, loss, wall ms, CPU ms) of steps."""

    def __init__(self, name: str, command: list[str]) -> None:
        super().__init__(name, command, environment())
        self.receive()
        self.rss, self.epoch = 0.0, dict[int, int]()
        self.steps: list[tuple[int, float, float, float]] = []
        self.warm = self.made("warm")

    def made(self, line: str) -> list[tuple[int, float, float, float]]:
        """Send a line; return the steps that it made."""
        found = self.ask(line)
        self.rss = found["rss"]
        self.epoch = {int(width): count for width, count in found["epoch"].items()}
        return [tuple(step) for step in found["steps"]]

    def whole(self, column: int) -> float:
        """Return the seconds of an epoch: the median step of each width, as often as it comes."""
        seen = {step[0] for step in self.steps}
        medians = {w: statistics.median(s[column] for s in self.steps if s[0] == w) for w in seen}
        return sum(count * medians[width] for width, count in self.epoch.items() if width in seen) / 1e3


@contextmanager
def sides(start: Path, data: Path, dropout: bool) -> Iterator[list[Side]]:
    """Start the processes, all from the same weights."""
    with tempfile.TemporaryDirectory() as folder:

        def command(name: str) -> list[str]:
            places = ["--start", str(start), "--data", str(data), "--work", folder]
            return [
                sys.executable,
                __file__,
                *places,
                "--side",
                name,
                "--dropout",
                "on" if dropout else "off",
            ]

        subprocess.run(command("write"), env=environment(), check=True)
        begun: list[Side] = []
        try:
            for name in SIDES:
                begun.append(Side(name, command(name)))
            yield begun
        finally:
            close(begun)


def measure(start: Path, data: Path, dropout: bool, rounds: int, count: int) -> list[str]:
    """Return the rows of the table: with dropout, or without."""
    said = "on" if dropout else "off"
    with sides(start, data, dropout) as begun:
        ours, same, own = begun
        first = [[loss for _, loss, _, _ in side.warm] for side in begun]
        gap = max(abs(a - b) for a, b in zip(first[0], first[1], strict=True))
        if not dropout and gap > 1e-4:
            raise SystemExit(f"the first losses differ: {first[0]} and {first[1]}")
        for number in range(rounds):
            for side in begun if number % 2 == 0 else reversed(begun):
                side.steps += side.made(str(count))
    rows = []
    for side in begun:
        wall, work = side.whole(2), side.whole(3)
        median = statistics.median(step[2] for step in side.steps)
        warm = sum(step[2] for step in side.warm) / 1e3
        rows.append(
            f"| {said} | {side.name} | {median:.0f} | {wall:.1f} | {work:.1f} | {warm:.1f} "
            f"| {wall + warm:.1f} | {side.rss:.0f} |"
        )
    for side in (same, own):
        ratio = [side.whole(column) / ours.whole(column) for column in (2, 3)]
        rows.append(
            f"| {said} | **{side.name} / lmx** | | **{ratio[0]:.2f}** | {ratio[1]:.2f} | | "
            f"| lmx / torch {ours.rss / side.rss:.2f} |"
        )
    if not dropout:
        rows.append(f"| {said} | first losses differ by {gap:.0e} | | | | | | |")
    return rows


def parity(start: Path) -> None:
    """Print, for each task, how far the losses of 50 steps are apart; end with exit code 1 where too far."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import transformers

    from tests.parity import _training as training

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    print("| task | loss, first and last | gap, 10 steps | gap, 50 steps |\n| --- | --- | --- | --- |")
    far = False
    for name, case in training.CASES.items():
        if case.family != "bert":
            continue
        with tempfile.TemporaryDirectory() as folder:
            found = training.compare(
                case, start, Path(folder) / "start", recipe=training.Recipe(rate=RATE), steps=50
            )
        early, late = found.gaps[:10].max(), found.gaps.max()
        far = far or early > 1e-4 or late > 1e-3
        print(
            f"| {name} | {found.losses[0]:.4f}, {found.losses[-1]:.4f} | {early:.0e} | {late:.0e} |",
            flush=True,
        )
    if far:
        raise SystemExit("further apart than 1e-4 in 10 steps, or 1e-3 in 50")


def main() -> None:
    """Run the cases and print the table."""
    shared = Path(
        os.environ.get("LMX_SHARED_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data"
    )
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--start", type=Path, required=True, help="the Hugging Face folder of a BERT")
    parser.add_argument(
        "--data", type=Path, default=shared / "sst2" / "train.tsv", help="SST-2's training file"
    )
    parser.add_argument("--dropout", choices=("on", "off", "both"), default="both")
    parser.add_argument("--rounds", type=int, default=8, help="of each side (default: 8)")
    parser.add_argument("--steps", type=int, default=20, help="in a round (default: 20)")
    parser.add_argument("--parity", action="store_true", help="compare losses instead")
    parser.add_argument("--side", choices=[*SIDES, "write"], help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.parity:
        parity(options.start)
        return
    if not options.data.is_file():
        raise SystemExit(f"no {options.data}; name SST-2's training file (sentence, label) with --data")
    if options.side:
        serve(options.side, options.start, options.data, options.work, options.dropout == "on")
        return
    print(
        "| dropout | side | ms a step, median | epoch, s | epoch, CPU s | first steps, s "
        "| epoch with those, s | peak RSS, MB |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for dropout in {"on": (True,), "off": (False,), "both": (True, False)}[options.dropout]:
        print(
            "\n".join(measure(options.start, options.data, dropout, options.rounds, options.steps)),
            flush=True,
        )
    print(f"\n{machine()}")


if __name__ == "__main__":
    main()
