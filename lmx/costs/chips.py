"""The chips that a step is compiled for, as their maker describes them, and the slices that they come in.

Source: Google Cloud's pages "TPU v5e", "TPU v5p" and "TPU v6e" (specifications, as of November 2026).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from lmx.core.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Chip:
    """One chip. flops: bf16 operations a second; memory: bytes; bandwidth: of that memory, bytes a second;
    links: bytes a second that it can send to its neighbours, all links together; None where nobody says.
    """

    name: str
    flops: float | None
    memory: float | None
    bandwidth: float | None
    links: float | None


CHIPS: Mapping[str, Chip] = {
    "v5e": Chip("v5e", 197e12, 16e9, 819e9, 1600e9 / 8),
    "v5p": Chip("v5p", 459e12, 95e9, 2765e9, 4800e9 / 8),
    "v6e": Chip("v6e", 918e12, 32e9, 1600e9, 3200e9 / 8),
    "cpu": Chip("cpu", None, None, None, None),
}

DIMENSIONS: Mapping[str, int] = {"v5e": 2, "v5p": 3, "v6e": 2, "cpu": 1}

FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")

SHAPES: Mapping[str, tuple[str, ...]] = {"v5e": FLAT, "v6e": FLAT}
"""The shapes in which slices come. The compiler takes others for granted, and aborts compiling for them.
v5p's are left to it, but for CHIPS_OF: the chips of the smallest and of the largest job. CPUs are simulated,
and a thousand of them take seconds."""

CHIPS_OF: Mapping[str, tuple[int, int]] = {"v5p": (4, 6144), "cpu": (1, 1024)}


@dataclass(frozen=True)
class Slice:
    """Chips that are wired together. shape: how many there are along each dimension."""

    chip: Chip
    shape: tuple[int, ...]

    @property
    def chips(self) -> int:
        """How many there are."""
        return math.prod(self.shape)

    @property
    def name(self) -> str:
        """Its name, such as v5e:4x4."""
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"


def parsed(name: str) -> Slice:
    """Return the slice of a name such as v5e:4x4, v5p:2x2x2 or cpu:8.

    Errors: UserError for an unknown chip, listing those known, and for a shape that it does not come in.
    """
    known = ", ".join(f"{one}:{example(one)}" for one in CHIPS)
    kind, _, shape = name.partition(":")
    if kind not in CHIPS:
        hint = did_you_mean(kind, CHIPS)
        raise UserError(f"topology {name!r}: {kind!r} is no chip known here{hint}; expected such as {known}")
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", shape):
        raise UserError(
            f"topology {name!r}: expected the chips along each dimension, "
            f"numbers with x between them, such as {known}"
        )
    sizes = tuple(map(int, shape.split("x")))
    if len(sizes) != DIMENSIONS[kind]:
        raise UserError(
            f"topology {name!r} has {len(sizes)} dimension{'s' * (len(sizes) > 1)}, but {kind} is wired in "
            f"{DIMENSIONS[kind]}; write it such as {kind}:{example(kind)}"
        )
    if shape not in SHAPES.get(kind, (shape,)):
        raise UserError(f"topology {name!r}: {kind} comes in the shapes {', '.join(SHAPES[kind])}")
    count = math.prod(sizes)
    least, most = CHIPS_OF.get(kind, (1, count))
    if not least <= count <= most:
        told = f"{count} chip{'s' * (count > 1)}"
        raise UserError(f"topology {name!r} has {told}; slices of {kind} have {least} to {most}")
    return Slice(CHIPS[kind], sizes)


def example(kind: str) -> str:
    """Return a shape that a kind of chip comes in."""
    return {1: "8", 2: "4x4", 3: "2x2x2"}[DIMENSIONS[kind]]
