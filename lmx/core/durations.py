"""Durations of a run: "500 steps", "3 epochs", "2e9 tokens", or a share such as "6%"."""

from __future__ import annotations

import math
import re
from typing import Any

from lmx.core.errors import UserError

_DURATION = re.compile(r"\s*([0-9][0-9_.]*(?:e[+-]?\d+)?)\s*(%|[a-z]*)\s*")


def steps(
    duration: str | int,
    *,
    tokens_per_step: int | None,
    steps_per_epoch: float,
    total: int | None = None,
    field: str = "",
) -> int:
    """Return a duration in steps: that of `interval`, rounded to the nearest; above nothing it is at least 1.

    >>> steps("2 epochs", tokens_per_step=100, steps_per_epoch=7.5)
    15
    """
    exact = interval(
        duration, tokens_per_step=tokens_per_step, steps_per_epoch=steps_per_epoch, total=total, field=field
    )
    return max(1, round(exact)) if exact > 0 else 0


def interval(
    duration: str | int,
    *,
    tokens_per_step: int | None,
    steps_per_epoch: float,
    total: int | None = None,
    field: str = "",
) -> float:
    """Return a duration in steps: "500 steps" (or 500), "3 epochs", "6%" of the total, "2e9 tokens".

    Not rounded, but a duration above nothing is at least one step. tokens_per_step: None where
    steps have no fixed number of tokens.
    Errors: UserError for another unit, and for a percentage where there is no total.
    """
    match = _DURATION.fullmatch(str(duration).lower())
    try:
        amount, unit = (float(match[1]), match[2]) if match else (math.inf, "")
    except ValueError:
        amount, unit = math.inf, ""
    per_unit = {"": 1.0, "epoch": steps_per_epoch, "token": math.inf}
    if tokens_per_step:
        per_unit["token"] = 1 / tokens_per_step
    per_unit |= {"step": 1.0, "steps": 1.0, "epochs": per_unit["epoch"], "tokens": per_unit["token"]}
    if unit == "%" and total is not None:
        exact = amount / 100 * total
    else:
        exact = amount * per_unit.get(unit, math.inf)
    if not exact < 2**53:
        raise UserError(
            f"config.{field}={duration!r}: expected a duration such as '500 steps', '3 epochs', "
            + ("'2e9 tokens'" if total is None else "'2e9 tokens' or '6%'")
            + ("" if tokens_per_step else "; examples of a task have no fixed number of tokens")
        )
    return max(1.0, exact) if exact > 0 else 0.0


def canonical(duration: Any) -> Any:
    """Return (amount, unit) of a duration, so that '100steps' is '100 steps'; what is none stays.

    >>> canonical("1e2 step") == canonical("100steps") == canonical(100)
    True
    """
    match = _DURATION.fullmatch(str(duration).lower())
    try:
        return (float(match[1]), match[2].removesuffix("s") or "step") if match else duration
    except ValueError:
        return duration


def nothing(duration: Any) -> bool:
    """Tell whether a duration is none at all, such as '0%'."""
    amount = canonical(duration)
    return isinstance(amount, tuple) and amount[0] == 0
