"""One pretraining step: lmx against transformers' GPT2LMHeadModel on torch eager, same shapes, f32.

    python benchmarks/pretrain_step.py --case all --repeats 20

Both sides start from the same weights and must give the same first losses. Each side has a process of its own
(and so its own peak memory), held to the same cores; the rounds alternate, so that a busy machine slows both
sides alike, and medians are compared. Needs the parity extra (torch).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Case:
    """Sizes by their letters (lmx/core/types.py); positions of the model; steps in one round."""

    V: int
    positions: int
    D: int
    L: int
    H: int
    B: int
    T: int
    rate: float
    round: int

    def flops(self) -> float:
        """Of one step: 6 a token and parameter (positions apart), and 12 L D T a token for the attention."""
        parameters = self.V * self.D + self.L * (12 * self.D**2 + 13 * self.D) + 2 * self.D
        return self.B * self.T * (6 * parameters + 12 * self.L * self.D * self.T)

    def batch(self, step: int) -> np.ndarray:
        """Return the ids of one batch, (B, T)."""
        return np.random.default_rng(step).integers(0, self.V, (self.B, self.T))


CASES = {
    "small": Case(V=65, positions=64, D=128, L=4, H=4, B=12, T=64, rate=1e-3, round=20),
    "124m": Case(V=50257, positions=1024, D=768, L=12, H=12, B=4, T=256, rate=1e-4, round=1),
}
DECAY, CLIP, B1, B2, EPSILON = 0.1, 1.0, 0.9, 0.95, 1e-8
PEAK_SIZE = 2048
Run = Callable[[int], float]
"""Number of the step -> its loss, or any figure; returns when the work is done."""


def lmx_model(case: Case) -> tuple[Any, Any]:
    """Return lmx's (config, model) of a case, without dropout."""
    from lmx.models import gpt2
    from lmx.tasks import causal_lm

    config: Any = gpt2.Config(
        vocab_size=case.V,
        positions=case.positions,
        width=case.D,
        layers=case.L,
        heads=case.H,
        dropout_embed=0.0,
        dropout_attention=0.0,
        dropout_residual=0.0,
    )
    return config, causal_lm.attach(gpt2.build(config), config)


def weights_side(case: Case, weights: Path) -> None:
    """Write lmx's starting weights under transformers' names, for the other side to start from."""
    from safetensors.numpy import save_file

    from lmx.core import mesh as mesh_
    from lmx.core import rng
    from lmx.hf import convert
    from lmx.models import gpt2
    from lmx.tasks import causal_lm

    config, model = lmx_model(case)
    params = mesh_.gather(model.init(rng.stream_key(0, 0, "init")))
    save_file(convert.to_tensors(params, gpt2.HF, causal_lm.HF["gpt2"], config.layers), weights)


def lmx_side(case: Case, weights: Path) -> Run:
    """The path that `lmx train` takes."""
    from lmx.core import memory

    memory.tune_allocator()
    from lmx import optim
    from lmx.core import mesh as mesh_
    from lmx.tasks import causal_lm
    from lmx.training import state as state_
    from lmx.training import step as step_

    (_, model), mesh = lmx_model(case), mesh_.make(1)
    rate = optim.schedule("constant", rate=case.rate, warmup=0, total=1)
    optimizer = optim.build("adamw", rate, decay=DECAY, clip=CLIP, b1=B1, b2=B2, epsilon=EPSILON)
    state = state_.start(model, optimizer, seed=0, mesh=mesh)
    step = step_.build(model, causal_lm.objective(model), optimizer, seed=0, mesh=mesh)

    def run(number: int) -> float:
        nonlocal state
        batch = mesh_.put({"input_ids": case.batch(number).astype(np.int32)}, mesh)
        state, sums = step(state, batch)
        return float(sums["loss"]) / float(sums["tokens"])

    return run


def torch_side(case: Case, weights: Path) -> Run:
    """The plain loop of a torch user: forward with labels, backward, clip, AdamW."""
    import torch
    from safetensors import safe_open
    from transformers import GPT2Config, GPT2LMHeadModel, logging

    logging.set_verbosity_error()
    torch.set_num_threads(threads())
    config = GPT2Config(
        vocab_size=case.V,
        n_positions=case.positions,
        n_embd=case.D,
        n_layer=case.L,
        n_head=case.H,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = GPT2LMHeadModel(config)
    with safe_open(weights, "pt") as stored:
        for name, tensor in model.state_dict().items():
            if name != "lm_head.weight":  # tied, and so not stored
                tensor.copy_(stored.get_tensor(name))
    groups = [
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": DECAY},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=case.rate, betas=(B1, B2), eps=EPSILON)
    model.train()

    def run(number: int) -> float:
        ids = torch.from_numpy(case.batch(number))
        optimizer.zero_grad()
        loss = model(input_ids=ids, labels=ids).loss
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


SIDES = {"lmx": lmx_side, "torch": torch_side, "peak": peak_side}


def threads() -> int:
    """Return how many cores each side may use: 2, where there are as many."""
    return min(2, os.cpu_count() or 1)


def serve(side: str, case: Case, weights: Path) -> None:
    """Answer each line `first count` on stdin with the losses and times of those steps, in JSON."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: threads()])
    if side == "weights":
        weights_side(case, weights)
        return
    run = SIDES[side](case, weights)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        first, count = map(int, line.split())
        steps = []
        for number in range(first, first + count):
            began, worked = time.perf_counter(), time.process_time()
            loss = run(number)
            steps.append((loss, 1e3 * (time.perf_counter() - began), 1e3 * (time.process_time() - worked)))
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"steps": steps, "rss": most}), flush=True)


def command(side: str, case: str, weights: Path) -> list[str]:
    """Return the command of one side's process."""
    return [sys.executable, __file__, "--side", side, "--case", case, "--weights", str(weights)]


def environment() -> dict[str, str]:
    """Return the environment of a side: this checkout's lmx, the CPU alone."""
    here = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"}


class Side:
    """One side in a process of its own, and what it has measured."""

    def __init__(self, name: str, case: str, weights: Path) -> None:
        self._process = subprocess.Popen(
            command(name, case, weights),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        self.name, self.done, self.rss = name, 0, 0.0
        self.losses: list[float] = []
        self.wall: list[float] = []
        self.cpu: list[float] = []
        self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the {self.name} side ended with exit code {self._process.wait()}")
        return json.loads(line)

    def steps(self, count: int, *, timed: bool = True) -> None:
        """Make the next `count` steps."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{self.done} {count}\n")
        self._process.stdin.flush()
        answer = self._answer()
        self.done, self.rss = self.done + count, answer["rss"]
        self.losses += [loss for loss, _, _ in answer["steps"]]
        if timed:
            self.wall += [wall for _, wall, _ in answer["steps"]]
            self.cpu += [cpu for _, _, cpu in answer["steps"]]

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


@contextmanager
def sides(case: str) -> Iterator[tuple[Side, Side, Side]]:
    """Start the three processes, all from the same weights."""
    with tempfile.TemporaryDirectory() as folder:
        weights, started = Path(folder) / "weights.safetensors", list[Side]()
        subprocess.run(command("weights", case, weights), env=environment(), check=True)
        try:
            for name in SIDES:
                started.append(Side(name, case, weights))
            yield started[0], started[1], started[2]
        finally:
            for side in started:
                side.close()


def measure(name: str, repeats: int) -> list[str]:
    """Run one case; return its rows of the table."""
    case = CASES[name]
    with sides(name) as (ours, theirs, peak):
        for side in (ours, theirs, peak):
            side.steps(3, timed=False)
        gap = max(abs(a - b) for a, b in zip(ours.losses, theirs.losses, strict=True))
        if gap > 1e-4:
            raise SystemExit(f"{name}: the first losses differ: {ours.losses} and {theirs.losses}")
        for number in range(repeats):
            for side in (ours, theirs) if number % 2 == 0 else (theirs, ours):
                side.steps(case.round)
            peak.steps(1)
    best = 2 * PEAK_SIZE**3 / (min(peak.wall) / 1e3)
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
        f"| {name} | **torch / lmx** | **{ratio[0]:.2f}** | {ratio[1]:.2f} | {work:.2f} | | "
        f"| lmx / torch {ours.rss / theirs.rss:.2f} |"
    )
    rows.append(f"| {name} | first losses differ by {gap:.0e}; peak {best / 1e9:.0f} GFLOP/s | | | | | | |")
    return rows


def processor() -> str:
    """Return the name of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def machine() -> str:
    """Return what the figures were measured on."""
    packages = ", ".join(
        f"{name} {version(name)}" for name in ("jax", "flax", "optax", "torch", "transformers")
    )
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    cores = f"{processor()}, {threads()} of {os.cpu_count()} cores{load}"
    return f"{cores}; Python {platform.python_version()}, {packages}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--case", choices=[*CASES, "all"], default="all")
    parser.add_argument("--repeats", type=int, default=15, help="rounds of each side (default: 15)")
    parser.add_argument("--side", choices=[*SIDES, "weights"], help=argparse.SUPPRESS)
    parser.add_argument("--weights", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        serve(options.side, CASES[options.case], options.weights)
        return
    print(
        "| case | side | ms, median | ms, best | CPU ms, median | tokens/s | share of peak | peak RSS, MB |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for name in CASES if options.case == "all" else [options.case]:
        print("\n".join(measure(name, options.repeats)), flush=True)
    print(f"\n{machine()}")


if __name__ == "__main__":
    main()
