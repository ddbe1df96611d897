"""What watches a figure of evaluation: when to lower the rate, and when to stop. Pure values of the host.

Source: torch's ReduceLROnPlateau (absolute threshold) and transformers' EarlyStoppingCallback.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from lmx.core.errors import UserError, did_you_mean

MODES = ("min", "max")

Watch = TypeVar("Watch", "Plateau", "Patience")


@dataclass(frozen=True)
class Plateau:
    """A factor of the learning rate that falls when a figure no longer improves.

    factor: what the scale is multiplied by. patience: evaluations in a row without improvement that are
    borne; the next one lowers the scale. mode: "min" or "max", which way is better. least: an improvement is
    larger than this, absolutely. floor: the smallest scale. rest: evaluations after a fall that do not count.
    scale, best, waited, resting: where it stands.

    Raises UserError for values that make no sense.

    >>> watch = Plateau(factor=0.5, patience=0)
    >>> [(watch := watch.update(loss)).scale for loss in (3.0, 2.0, 2.0, 1.0, 1.5)]
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """

    factor: float = 0.1
    patience: int = 10
    mode: str = "min"
    least: float = 0.0
    floor: float = 0.0
    rest: int = 0
    scale: float = 1.0
    best: float | None = None
    waited: int = 0
    resting: int = 0

    def __post_init__(self) -> None:
        _check("plateau", self, patience=0)
        if not 0 < self.factor < 1:
            raise UserError(f"plateau.factor={self.factor!r}; expected a number between 0 and 1")
        if not 0 <= self.floor < 1:
            raise UserError(f"plateau.floor={self.floor!r}; expected a share of the rate, 0 to below 1")
        if self.rest < 0:
            raise UserError(f"plateau.rest={self.rest!r}; expected 0 evaluations or more")

    def update(self, figure: float) -> Plateau:
        """Return what it is after one more evaluation; its `scale` is the factor of the rate from now on."""
        better = _better(self, figure)
        waited = 0 if better or self.resting else self.waited + 1
        resting, scale = max(0, self.resting - 1), self.scale
        if waited > self.patience:
            scale, resting, waited = max(scale * self.factor, self.floor), self.rest, 0
        best = figure if better else self.best
        return dataclasses.replace(self, scale=scale, best=best, waited=waited, resting=resting)

    def state(self) -> dict[str, Any]:
        """Return where it stands, as JSON holds it."""
        return {name: getattr(self, name) for name in ("scale", "best", "waited", "resting")}

    def resumed(self, state: Mapping[str, Any]) -> Plateau:
        """Return it with these options where a saved state stood. Raises UserError for another state."""
        return _resumed("plateau", self, state)


@dataclass(frozen=True)
class Patience:
    """Early stopping, counted in evaluations.

    patience: `stop` is true after so many evaluations in a row without improvement. mode, least: as for
    Plateau. best, waited: where it stands.

    Raises UserError for values that make no sense.

    >>> watch = Patience(2)
    >>> [(watch := watch.update(loss)).stop for loss in (3.0, 2.0, 2.5, 1.9, 2.0, 2.0)]
    [False, False, False, False, False, True]
    """

    patience: int
    mode: str = "min"
    least: float = 0.0
    best: float | None = None
    waited: int = 0

    def __post_init__(self) -> None:
        _check("stop", self, patience=1)

    @property
    def stop(self) -> bool:
        """Whether the run has waited long enough."""
        return self.waited >= self.patience

    def update(self, figure: float) -> Patience:
        """Return what it is after one more evaluation."""
        if _better(self, figure):
            return dataclasses.replace(self, best=figure, waited=0)
        return dataclasses.replace(self, waited=self.waited + 1)

    def state(self) -> dict[str, Any]:
        """Return where it stands, as JSON holds it."""
        return {"best": self.best, "waited": self.waited}

    def resumed(self, state: Mapping[str, Any]) -> Patience:
        """Return it with these options where a saved state stood. Raises UserError for another state."""
        return _resumed("stop", self, state)


def _better(watch: Plateau | Patience, figure: float) -> bool:
    """Tell whether a figure beats the best so far; what is not a number never does."""
    if math.isnan(figure):
        return False
    if watch.best is None:
        return True
    gain = watch.best - figure if watch.mode == "min" else figure - watch.best
    return gain > watch.least


def _check(section: str, watch: Plateau | Patience, *, patience: int) -> None:
    if watch.mode not in MODES:
        hint = did_you_mean(str(watch.mode), MODES)
        raise UserError(f"{section}.mode={watch.mode!r}{hint}; expected 'min' or 'max'")
    if isinstance(watch.patience, bool) or not isinstance(watch.patience, int) or watch.patience < patience:
        raise UserError(f"{section}.patience={watch.patience!r}; expected {patience} evaluations or more")
    if not 0 <= watch.least < math.inf:
        raise UserError(f"{section}.least={watch.least!r}; expected 0 or more")


def _resumed(section: str, watch: Watch, state: Mapping[str, Any]) -> Watch:
    if set(state) != set(watch.state()):
        found, wanted = ", ".join(sorted(state)), ", ".join(sorted(watch.state()))
        raise UserError(f"the saved state of {section} holds {found or 'nothing'}; expected {wanted}")
    return dataclasses.replace(watch, **state)
