"""The least time that a step can take on a chip, by operations, memory and messages; which one binds.

Source: Williams et al. 2009, "Roofline: An Insightful Visual Performance Model for Multicore Architectures".
"""

from __future__ import annotations

from dataclasses import dataclass

from lmx.costs.chips import Chip


@dataclass(frozen=True)
class Bounds:
    """Seconds that a step takes at least, if nothing but one thing held it up; and what that implies.

    compute: products at the peak; memory: each byte read and written once at full bandwidth; links: messages
    at all links' bandwidth; 0 where that is not known. model: operations that training needs, per chip.
    """

    compute: float
    memory: float
    links: float
    model: float
    peak: float

    @property
    def binds(self) -> str:
        """What takes longest."""
        times = {"operations": self.compute, "memory": self.memory, "links": self.links}
        return max(times, key=lambda name: times[name])

    @property
    def least(self) -> float:
        """Seconds of a step that hides all else behind what takes longest."""
        return max(self.compute, self.memory, self.links)

    @property
    def mfu(self) -> float:
        """The highest share of the peak that the model's own operations can reach."""
        return self.model / (self.least * self.peak)


def bounds(chip: Chip, *, operations: float, moved: float | None, sent: float, model: float) -> Bounds | None:
    """Return the bounds of a step on a chip; None for one whose figures nobody publishes.

    operations, moved, sent: floating-point operations, bytes of memory and bytes over links, of one chip in
    one step; moved is None where nobody knows it. model: the operations that training needs
    (`flops.trained`), of one chip.
    """
    if chip.flops is None or chip.bandwidth is None or chip.links is None:
        return None
    return Bounds(
        operations / chip.flops, (moved or 0.0) / chip.bandwidth, sent / chip.links, model, chip.flops
    )
