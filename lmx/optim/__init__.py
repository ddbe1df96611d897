"""Optimizers and learning-rate schedules, by name or by dotted name, and what steers them during a run."""

from lmx.optim import ema
from lmx.optim._chain import COMMON, ChainState, averaged, build, check, exchanged, make, rescaled, stacks
from lmx.optim._options import DURATIONS, RANGES
from lmx.optim.optimizers import OPTIMIZERS, decayed
from lmx.optim.plateau import Patience, Plateau
from lmx.optim.schedules import SCHEDULES, Schedule, schedule

__all__ = [
    "COMMON",
    "DURATIONS",
    "OPTIMIZERS",
    "RANGES",
    "SCHEDULES",
    "ChainState",
    "Patience",
    "Plateau",
    "Schedule",
    "averaged",
    "build",
    "check",
    "decayed",
    "ema",
    "exchanged",
    "make",
    "rescaled",
    "schedule",
    "stacks",
]
