"""What a run writes down: metrics.jsonl, samples.jsonl, TensorBoard events, and the progress bar."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import jax

from lmx.core import log, progress
from lmx.core.errors import UserError
from lmx.core.types import Sums


def diverged(workdir: Path, step: int, what: str) -> str:
    """Return what to say of a run whose numbers are no longer finite, with the checkpoint to start from."""
    saved = [int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit()]
    before = max((made for made in saved if made < step), default=None)
    advice = "start again with a lower optim.rate"
    if before is not None:
        advice = f"with a lower optim.rate go on from --config.start={workdir}@{before} in another workdir"
    return f"training has diverged at step {step}: {what}; nothing of it was saved; {advice}"


def _losses(values: Sequence[Sums]) -> tuple[float, dict[str, float]]:
    """Return (the mean loss of some steps, {NAME/loss: that of each task})."""

    def mean(loss: str, weight: str) -> float:
        here = [one for one in values if loss in one]
        return sum(float(one[loss]) for one in here) / (sum(float(one[weight]) for one in here) or 1.0)

    tasks = sorted({name.removesuffix("/loss") for one in values for name in one if name.endswith("/loss")})
    if not tasks:
        return mean("loss", "weight"), {}
    steps = [float(one["loss"]) / (float(one["weight"]) or 1.0) for one in values]
    return sum(steps) / len(steps), {f"{task}/loss": mean(f"{task}/loss", f"{task}/weight") for task in tasks}


def _checked(workdir: Path, step: int, window: Sequence[Sums]) -> tuple[float, dict[str, float], float]:
    """Return (loss, those of the tasks, gradient norm) of some steps. Errors: UserError where not finite."""
    values = jax.device_get(list(window))
    loss, by_task = _losses(values)
    norm = float(values[-1]["grad_norm"])
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise UserError(diverged(workdir, step, f"the loss is {loss}, the gradient norm {norm}"))
    return loss, by_task, norm


class Listener:
    """What another process records; here nothing is written but errors are the same."""

    def __init__(self, workdir: Path) -> None:
        self.workdir = workdir
        self.progress = self

    def paused(self, what: str) -> AbstractContextManager[None]:
        """Do nothing: no bar is there."""
        return nullcontext()

    def reach(self, step: int) -> None:
        """Do nothing."""

    def train(self, step: int, window: Sequence[Sums], rate: float) -> None:
        """Raise UserError where the loss or the gradient is not finite."""
        _checked(self.workdir, step, window)

    def evaluation(self, step: int, split: str, figures: Mapping[str, float]) -> None:
        """Write nothing."""

    def sample(self, step: int, prompt: str, text: str) -> None:
        """Write nothing."""

    def close(self) -> None:
        """Close nothing."""


class Recorder:
    """The record of one run.

    workdir: the run's folder. start: the step it goes on from; what was recorded after it is dropped, so that
    no step appears twice. owed: the evaluation and samples of that step are yet to be made; what is there of
    them, by a start that died before it could save, is dropped too. per_step: what one step reads, in units
    of "tokens" or "examples". cost: what the steps since its last call cost, such as `mfu`; asked once all of
    them are made.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        start: int,
        owed: bool,
        total: int,
        per_step: int,
        unit: str,
        cost: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        for name in ("metrics.jsonl", "samples.jsonl"):
            log.truncate_after(workdir / name, start)
            if owed:
                log.drop(workdir / name, lambda one: one.get("step") == start and one.get("kind") != "train")
        self.workdir = workdir
        self.metrics = log.Jsonl(workdir / "metrics.jsonl")
        self.samples = log.Jsonl(workdir / "samples.jsonl")
        self.events = log.TensorBoard(workdir / "events", resumed=start or None)
        self.progress = progress.Progress(total, start, per_step, unit=unit)
        self._per_step, self._unit, self._cost = per_step, unit, cost
        before = log.read_jsonl(workdir / "metrics.jsonl") if start else []
        self._began = time.monotonic() - (float(before[-1]["seconds"]) if before else 0.0)

    def train(self, step: int, window: Sequence[Sums], rate: float) -> None:
        """Write the mean loss over the steps since the last record, their gradient norm, speed and cost.

        Of a mixture, whose sums are by task (`NAME/loss`, `NAME/weight`), also the mean of each task that has
        come; the loss is then the mean of the steps, for the weights of tasks, such as tokens and sentences,
        do not add up.
        Errors: UserError where the loss or the gradient is not finite.
        """
        loss, by_task, norm = _checked(self.workdir, step, window)
        cost = self._cost()
        self.progress.update(step, loss, mfu=cost.get("mfu"))
        record = {"loss": loss, **by_task, "rate": rate, "grad_norm": norm, **cost}
        speed = self.progress.per_second
        if speed is not None:
            record[f"{self._unit}_per_second"] = speed
        read = {self._unit: step * self._per_step}
        self.metrics.write({"kind": "train", "step": step, **record, **read, "seconds": self.seconds()})
        self.events.scalars(step, {f"train/{name}": value for name, value in record.items()})

    def evaluation(self, step: int, split: str, figures: Mapping[str, float]) -> None:
        """Write the figures of one evaluation."""
        self.metrics.write(
            {"kind": "evaluation", "split": split, "step": step, **figures, "seconds": self.seconds()}
        )
        self.events.scalars(step, {f"{split}/{name}": value for name, value in figures.items()})

    def sample(self, step: int, prompt: str, text: str) -> None:
        """Write one sample."""
        self.samples.write({"step": step, "prompt": prompt, "text": text})
        self.events.text(step, f"sample/{prompt or '(start)'}", f"{prompt}{text}")

    def seconds(self) -> float:
        """Return the seconds of the run, those of earlier starts up to their last record included."""
        return round(time.monotonic() - self._began, 3)

    def close(self) -> None:
        """Close the bar and the files."""
        self.progress.close()
        self.events.close()
