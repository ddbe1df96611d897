"""What a run's steps cost, wired: operations of its batches, peak of its devices, memory, and its seconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from lmx.commands import _build
from lmx.core import mesh as mesh_
from lmx.core import processes, tree
from lmx.core.types import TASK
from lmx.costs import flops, memory, peak
from lmx.training import goodput
from lmx.training.meter import Meter


class Operations:
    """Those that training on a batch of a config's run needs, by the shapes of the batch.

    Batches of examples are as long as their longest, so that each counts by its own length, padding among
    them. That all parameters are trained is taken for granted. parts: how many times what this process has of
    a batch makes the whole.
    """

    def __init__(self, config: Mapping[str, Any], params: Any, parts: float = 1.0) -> None:
        model, self._parts = config["model"], parts
        self._layers, self._width = model["layers"], model["width"]
        sizes = {path: leaf.size for path, leaf in tree.flatten(params).items()}
        self._body = sum(
            size
            for path, size in sizes.items()
            if path.split("/")[0] in ("embed", "block", "final") and not path.endswith("/embedding")
        )
        own = config.get("tasks") or {"": {"task": config["task"]}}
        self._heads = {
            name: _vocabulary(sizes, f"heads/{name}/head/" if name else "head/")
            if any(hasattr(_build.task(one), what) for what in ("LAYOUT", "writing"))
            else 0
            for name, one in own.items()
        }

    def __call__(self, batch: Mapping[str, np.ndarray]) -> float:
        """Return those of the global batch, of which this process has one of `parts`."""
        ids, parts = batch["input_ids"], self._parts
        task = next((key.removeprefix(TASK) for key in batch if key.startswith(TASK)), "")
        scored = batch.get("hidden_positions", ids).size
        return flops.batch(
            round(ids.size * parts),
            body=self._body,
            layers=self._layers,
            width=self._width,
            length=ids.shape[-1],
            head=self._heads[task],
            scored=round(scored * parts),
        )


def _vocabulary(sizes: Mapping[str, int], head: str) -> int:
    """Return the parameters of a head on the vocabulary, the embeddings among them where they are tied."""
    own = sum(size for path, size in sizes.items() if path.startswith(head))
    return own + (0 if f"{head}kernel" in sizes else sizes["embed/token/embedding"])


class Cost:
    """The accounts of one start of a run.

    began: when it began, by time.monotonic; None for now. made: the steps before it. compiled: how many
    programs this process has compiled so far.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        workdir: Path,
        params: Any,
        mesh: Mesh,
        *,
        began: float | None,
        made: int,
        compiled: Callable[[], int],
    ) -> None:
        self.watch = goodput.Stopwatch(began)
        parts = mesh_.ways(mesh) / len(mesh_.blocks(mesh))
        self.meter = Meter(self.watch, Operations(config, params, parts), compiled)
        self._workdir, self._devices = workdir, list(mesh.devices.flat)
        self._ledger: goodput.Ledger | None = None
        self._peak: peak.Peak | None = None
        if processes.first():
            self._peak = peak.of(self._devices)
            self._ledger = goodput.Ledger(workdir, self.watch)
            self._ledger.mark(made)

    def mark(self, step: int) -> None:
        """Write what the time has gone into, where this process is the one that writes."""
        if self._ledger is not None:
            self._ledger.mark(step)

    def figures(self) -> dict[str, float]:
        """Return `mfu`, the share of the peak that the steps since the last call reached, and `memory`, bytes
        in use at the most, as far as they are known. To be asked when all steps are made."""
        rate, used, found = self.meter.rate(), self._memory(), {}
        if rate is not None and self._peak is not None:
            found["mfu"] = rate / self._peak.flops
        return found if used is None else {**found, "memory": used.bytes}

    def _memory(self) -> memory.Used | None:
        here = jax.process_index()
        return memory.peak(device for device in self._devices if device.process_index == here)

    def facts(self) -> dict[str, Any]:
        """Return what run.json says of this start: operations of a step (the mean, where batches differ), the
        devices' peak, what compiling took in how many steps, and memory."""
        used, found = self._memory(), self._peak
        return {
            "flops_per_step": self.meter.operations / max(self.meter.steps, 1),
            "peak_flops": None if found is None else {"flops": found.flops, "source": found.source},
            "compile_seconds": round(self.watch.seconds()["compiling"], 3),
            "compiled_steps": self.meter.compiles,
            "memory": None if used is None else {"bytes": used.bytes, "of": used.of},
        }
