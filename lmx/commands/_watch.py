"""What a run watches between its evaluations, wired: when to stop early, when to lower the rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmx import optim


class Watch:
    """The config's `stop` and `plateau`, and where they stand.

    config: `stop.patience` 0 and `plateau.factor` 1 switch them off. better: 1 where a higher score is the
    better one, else -1. Errors: UserError for values that make no sense.
    """

    def __init__(self, config: Mapping[str, Any], *, better: int) -> None:
        mode = "max" if better > 0 else "min"
        stop, plateau = config["stop"], config["plateau"]
        stops, falls = stop["patience"] != 0, plateau["factor"] != 1
        # Those that are off are made as well, for a value that makes no sense is an error in them too.
        patience = optim.Patience(mode=mode, **(stop if stops else {**stop, "patience": 1}))
        lowers = optim.Plateau(mode=mode, **(plateau if falls else {**plateau, "factor": 0.5}))
        self.patience = patience if stops else None
        self.plateau = lowers if falls else None

    @property
    def stop(self) -> bool:
        """Whether the run has waited long enough."""
        return self.patience is not None and self.patience.stop

    @property
    def scale(self) -> float:
        """The factor of the learning rate."""
        return 1.0 if self.plateau is None else self.plateau.scale

    def update(self, score: float) -> None:
        """Take the score of one more evaluation."""
        self.patience = None if self.patience is None else self.patience.update(score)
        self.plateau = None if self.plateau is None else self.plateau.update(score)

    def state(self) -> dict[str, Any]:
        """Return where they stand, as a checkpoint keeps it."""
        watched = {"stop": self.patience, "plateau": self.plateau}
        return {name: one.state() for name, one in watched.items() if one is not None}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from where a checkpoint stood."""
        if self.patience is not None and "stop" in state:
            self.patience = self.patience.resumed(state["stop"])
        if self.plateau is not None and "plateau" in state:
            self.plateau = self.plateau.resumed(state["plateau"])
