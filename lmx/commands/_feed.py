"""What a run is fed with: packed rows of text, or the examples of a task. One file for each kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from lmx.batches import Stream
from lmx.core.types import Objective


class Feed(Protocol):
    """Data of a run, ready for training."""

    unit: str
    """What steps are counted in besides: "tokens" or "examples"."""

    per_step: int
    """How many of them one step reads."""

    score: str
    """The figure by which the best checkpoint is chosen."""

    better: int
    """1 where a higher score is the better one, -1 where a lower one is."""

    fingerprint: str
    """What a resumed run must find again."""

    tokenizer: Path
    """The folder in which it lies."""

    @property
    def batches(self) -> Stream:
        """Those to train on."""
        ...

    @property
    def facts(self) -> Mapping[str, Any]:
        """What run.json says of the data."""
        ...

    def check_samples(self) -> None:
        """Raise UserError where `samples` asks for what cannot be written."""
        ...

    def objective(self) -> Objective:
        """Return what is trained."""
        ...

    def figures(self, params: Any, before: Callable[[], None] | None = None) -> dict[str, float]:
        """Return the figures of the held-out split; `loss` is among them.

        before: called before each batch, of several processes in all alike; what it raises ends the pass.
        """
        ...

    def finish(self, params: Any, workdir: Path) -> None:
        """Write what the end of a run leaves beside its checkpoints."""
        ...

    def samples(self, params: Any, step: int) -> list[tuple[str, str]]:
        """Return (prompt, continuation) where the model writes text, else nothing."""
        ...
