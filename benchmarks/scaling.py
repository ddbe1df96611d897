"""Scaling law of the software: a step of the same load per device, on more and more simulated devices.

    python benchmarks/scaling.py --repeats 20

4 layers, width 128, 12 x 64 tokens for each device. All devices are simulated on the same cores, so N of them
have N times the work for the same cores: the time to compare with is N times that of one device. The other
side is one device that takes all N x 12 rows itself. Beside it, what all devices do besides: "all-reduce",
the sum over devices of as many numbers as the gradient has, and "update", AdamW and clipping, which each
device does whole; each alone. Two processes have half of the devices each and join as LMX_COORDINATOR says.
All settings of equal rows must give the same first losses. Each has processes of its own; the rounds
alternate, and medians are compared. benchmarks/host_time.py tells what a step costs the host.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from _cases import B1, CASES, CLIP, EPSILON
from _processes import Process, answer, close, environment, machine

PACKAGES = ("jax", "flax", "optax")
CASE = CASES["small"]
SETTINGS = {n: ((1, 1), (n, 1), (n, 2)) if n > 1 else ((1, 1),) for n in (1, 2, 4, 8)}
"""Times the rows of one device -> (devices, processes) that take them."""

GAP = 1e-4
"""Nats by which the first losses may differ."""

COLUMNS = (
    "rows",
    "devices",
    "processes",
    "ms a step",
    "/ (rows / 12 x one device)",
    "/ one device with all rows",
    "all-reduce, ms",
    "update, ms",
)


class Work:
    """What one process of a setting does."""

    def __init__(self) -> None:
        from lmx.core import memory, processes

        memory.tune_allocator(alike=True)
        processes.join()
        from lmx import optim
        from lmx.commands import _build
        from lmx.core import mesh as mesh_
        from lmx.training import state as state_
        from lmx.training import step as step_

        sections, self._mesh = CASE.sections(), mesh_.make()
        model = _build.model(sections)
        rate = optim.schedule("constant", rate=CASE.rate, warmup=0, total=1)
        options = {"decay": CASE.decay, "clip": CLIP, "b1": B1, "b2": CASE.b2, "epsilon": EPSILON}
        self._optimizer = optim.build("adamw", rate, **options)
        self._state = state_.start(model, self._optimizer, seed=0, mesh=self._mesh)
        objective = _build.objective(sections, model)
        self._step = step_.build(model, objective, self._optimizer, seed=0, mesh=self._mesh)
        self._alone: dict[str, Callable[[], Any]] = {}

    def step(self, number: int, rows: int) -> tuple[float, float]:
        """Make one step of so many rows in all; return (ms, loss)."""
        from lmx.core import mesh

        batch = mesh.put(mesh.part(CASE.batch(number, rows), self._mesh), self._mesh)
        began = time.perf_counter()
        self._state, sums = self._step(self._state, batch)
        loss = float(sums["loss"]) / float(sums["weight"])
        return 1e3 * (time.perf_counter() - began), loss

    def alone(self, what: str) -> tuple[float, float]:
        """Do one part of a step alone, `reduce` or `update`; return (ms, 0)."""
        import jax

        if what not in self._alone:
            self._alone[what] = getattr(self, f"_{what}")()
            jax.block_until_ready(self._alone[what]())
        began = time.perf_counter()
        jax.block_until_ready(self._alone[what]())
        return 1e3 * (time.perf_counter() - began), 0.0

    def _reduce(self) -> Callable[[], Any]:
        """Return the sum over devices of arrays of the parameters' shapes."""
        import jax
        import jax.numpy as jnp

        from lmx.core import mesh

        apart, same, ways = mesh.by_example(self._mesh), mesh.replicated(self._mesh), self._mesh.size
        shapes = [(ways, *leaf.shape) for leaf in jax.tree.leaves(self._state.params)]
        parts = jax.jit(lambda: [jnp.ones(shape) for shape in shapes], out_shardings=apart)()
        add = jax.jit(lambda leaves: [leaf.sum(0) for leaf in leaves], out_shardings=same)
        return lambda: add(parts)

    def _update(self) -> Callable[[], Any]:
        """Return the optimizer's update by a gradient that is at hand, on every device."""
        import jax
        import optax

        def update(params: Any, state: Any) -> Any:
            updates, state = self._optimizer.update(params, state, params)
            return optax.apply_updates(params, updates), state

        made = jax.jit(update)
        return lambda: made(self._state.params, self._state.optimizer)


def serve() -> None:
    """Answer `step NUMBER ROWS`, `reduce` and `update`."""

    def begin() -> Callable[[str], tuple[float, float]]:
        work = Work()

        def to(line: str) -> tuple[float, float]:
            words = line.split()
            return work.step(*map(int, words[1:])) if words[0] == "step" else work.alone(words[0])

        return to

    answer(begin)


class Setting:
    """So many rows on so many devices in so many processes, and what they have measured."""

    def __init__(self, rows: int, devices: int, processes: int) -> None:
        self.rows, self.devices, self.processes = rows, devices, processes
        self.losses: list[float] = []
        self.times: dict[str, list[float]] = {"step": [], "reduce": [], "update": []}
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"localhost:{free.getsockname()[1]}"
        count = f"--xla_force_host_platform_device_count={devices // processes}"
        shared = {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {count}".strip()}
        self._started = []
        for index in range(processes):
            joined = {"LMX_COORDINATOR": address, "LMX_PROCESSES": str(processes), "LMX_PROCESS": str(index)}
            own = environment(**shared, **(joined if processes > 1 else {}))
            name = f"{devices} devices, process {index}"
            self._started.append(Process(name, [sys.executable, __file__, "--serve"], own))
        for process in self._started:
            process.receive()

    def ask(self, what: str, *, timed: bool = True) -> None:
        """Let all processes make a step, or a part of it alone, at once."""
        line = f"step {len(self.losses)} {self.rows}" if what == "step" else what
        for process in self._started:
            process.send(line)
        found = [process.receive() for process in self._started]
        if what == "step":
            self.losses.append(found[0][1])
        if timed:
            self.times[what].append(max(ms for ms, _ in found))

    def median(self, what: str) -> float:
        """Return the median, in ms."""
        return statistics.median(self.times[what])

    def close(self) -> None:
        """End the processes."""
        close(self._started)


def measure(repeats: int, most: int) -> list[str]:
    """Return the rows of the table, of at most so many devices."""
    settings: list[Setting] = []
    try:
        for times, places in SETTINGS.items():
            if times <= most:
                settings += [Setting(times * CASE.B, *place) for place in places]
        for setting in settings:
            for _ in range(3):
                setting.ask("step", timed=False)
        for number in range(repeats):
            for setting in settings if number % 2 == 0 else reversed(settings):
                for what in setting.times:
                    setting.ask(what)
    finally:
        for setting in settings:
            setting.close()
    return [row(setting, settings) for setting in settings]


def row(setting: Setting, settings: Sequence[Setting]) -> str:
    """Return one setting's row. Ends the program where its losses are not those of the one device."""
    one = settings[0]
    whole = next(other for other in settings if other.rows == setting.rows)  # on one device
    gap = max(abs(a - b) for a, b in zip(setting.losses[:3], whole.losses[:3], strict=True))
    if not gap <= GAP:
        raise SystemExit(f"the first losses differ: {setting.losses[:3]} and {whole.losses[:3]}")
    took = setting.median("step")
    law, equal = took * one.rows / (setting.rows * one.median("step")), took / whole.median("step")
    return (
        f"| {setting.rows} | {setting.devices} | {setting.processes} | {took:.1f} | **{law:.2f}** "
        f"| {equal:.2f} | {setting.median('reduce'):.1f} | {setting.median('update'):.1f} |"
    )


def main() -> None:
    """Print the table, or be one of the processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20, help="rounds (default: 20)")
    parser.add_argument("--most", type=int, choices=[*SETTINGS], default=8, help="devices (default: 8)")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve()
        return
    print(f"| {' | '.join(COLUMNS)} |\n{'| --- ' * len(COLUMNS)}|", flush=True)
    print("\n".join(measure(options.repeats, options.most)))
    print(f"\n{machine(PACKAGES)}")


if __name__ == "__main__":
    main()
