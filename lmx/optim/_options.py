"""Optimizers and schedules found by name, and their options read from signatures and checked."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lmx.core import plugin
from lmx.core.errors import UserError, did_you_mean

DURATIONS = ("warmup", "every", "cooldown", "timescale")
"""Options that are durations: a config gives them in any unit, what is called here gets them in steps."""


def find(what: str, name: str, known: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
    """Return the named function of a table, or the user's own where the name is dotted.

    what: "optimizer" or "schedule". Raises UserError for an unknown name, with the nearest one, and for a
    dotted name under which there is no function.
    """
    key = "optim.name" if what == "optimizer" else f"optim.{what}"
    if name in known:
        return known[name]
    place, _, attribute = str(name).rpartition(".")
    if not (place and attribute):
        raise UserError(
            f"{key}: no {what} {name!r}{did_you_mean(str(name), known)}; there is: {', '.join(known)}, "
            "or a dotted name of your own"
        )
    return plugin.own_function(name, said=f"{key}={name!r}")


def options(function: Callable[..., Any], supplied: Sequence[str]) -> tuple[dict[str, bool], bool]:
    """Return ({option: whether it must be set}, whether any other is taken, too) of a function's signature.

    The first parameter and those in `supplied` come from the toolkit and are no options.
    """
    _, *rest = inspect.signature(function).parameters.values()
    named = {
        p.name: p.default is p.empty
        for p in rest
        if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD) and p.name not in supplied
    }
    return named, any(p.kind is p.VAR_KEYWORD for p in rest)


SYNONYMS = {
    "lr": "rate",
    "learning_rate": "rate",
    "weight_decay": "decay",
    "wd": "decay",
    "eps": "epsilon",
    "beta1": "b1",
    "beta2": "b2",
    "warmup_steps": "warmup",
}
"""What other libraries call an option -> its name here, for messages."""

ALWAYS = ("name", "rate", "schedule", "warmup")
"""Fields of the section that are nobody's option."""


def bind(
    what: str,
    function: Callable[..., Any],
    given: Sequence[str],
    *,
    supplied: Sequence[str] = (),
    common: Sequence[str] = (),
) -> None:
    """Raise UserError for options that the function has not, and for one that it needs and lacks.

    what: its name, as the message shows it. common: what may be given besides.
    """
    known, more = options(function, supplied)
    known |= dict.fromkeys(common, False)
    for key in given:
        if key not in known and not more:
            there = [*(ALWAYS if common else ()), *known]
            has = f"it has: {', '.join(there)}" if there else "it has none"
            hint = did_you_mean(SYNONYMS.get(key, key), [*ALWAYS, *known])
            raise UserError(f"optim.{key}: {what} has no such option{hint}; {has}")
    for key, needed in known.items():
        if needed and key not in given:
            raise UserError(f"optim.{key} is not set; {what} needs it")


def in_range(given: Mapping[str, Any], *, texts: bool = False) -> None:
    """Raise UserError for a value that makes no sense; texts: whether a duration may still be a text."""
    for key, value in given.items():
        still = texts and key in DURATIONS and isinstance(value, str)
        if key in RANGES and not still and not RANGES[key][0](value):
            raise UserError(f"optim.{key}={value!r}; expected {RANGES[key][1]}")


def _number(fits: Callable[[float], bool]) -> Callable[[Any], bool]:
    return lambda x: (
        isinstance(x, (int, float)) and not isinstance(x, bool) and math.isfinite(x) and fits(float(x))
    )


def _count(least: int) -> Callable[[Any], bool]:
    return lambda x: isinstance(x, int) and not isinstance(x, bool) and x >= least


def _flag(x: Any) -> bool:
    return isinstance(x, bool)


def _pattern(x: Any) -> bool:
    try:
        return isinstance(x, str) and re.compile(x) is not None
    except re.error:
        return False


def _rules(x: Any) -> bool:
    pairs = isinstance(x, (tuple, list)) and all(isinstance(y, (tuple, list)) and len(y) == 2 for y in x)
    return pairs and all(_pattern(y[0]) and _number(lambda factor: factor >= 0)(y[1]) for y in x)


def _one_of(*words: str) -> tuple[Callable[[Any], bool], str]:
    return lambda x: x in words, " or ".join(map(repr, words))


_SHARE = (_number(lambda x: 0 <= x < 1), "a number from 0 to below 1")
_ABOVE = (_number(lambda x: x > 0), "a number above 0")
_NONE_OR_MORE = (_number(lambda x: x >= 0), "0 (none) or more")
_STEPS = "a duration of at least one step"

RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    # of every run
    "rate": _ABOVE,
    "warmup": (_count(0), "a duration"),
    "clip": (_number(lambda x: x > 0), "a norm above 0, or None for no clipping"),
    "l1": _NONE_OR_MORE,
    "l2": _NONE_OR_MORE,
    "scales": (_rules, "pairs of a regular expression and a factor of 0 or more"),
    "average": (_number(lambda x: 0 < x < 1), "a number between 0 and 1, or None for no average"),
    # of optimizers
    "decay": _NONE_OR_MORE,
    "b1": _SHARE,
    "b2": _SHARE,
    "epsilon": _ABOVE,
    "momentum": _SHARE,
    "nesterov": (_flag, "True or False"),
    "exponent": _ABOVE,
    "threshold": _ABOVE,
    "scale_parameter": (_flag, "True or False"),
    "epsilon_scale": _ABOVE,
    "factor_from": (_count(1), "a whole number of at least 1"),
    "iterations": (_count(1), "a whole number of at least 1"),
    "adjust": _one_of("rms", "shape"),
    "body": (_pattern, "a regular expression"),
    "others": (_number(lambda x: x >= 0), "a factor of 0 or more"),
    # of schedules
    "end": (_number(lambda x: 0 <= x <= 1), "a share of the rate, from 0 to 1"),
    "cycles": (_count(1), "a whole number of at least 1"),
    "power": _ABOVE,
    "gamma": (_number(lambda x: 0 < x <= 1), "a number above 0, at most 1"),
    "every": (_count(1), _STEPS),
    "cooldown": (_count(1), _STEPS),
    "timescale": (_count(1), _STEPS),
    "tail": _one_of("linear", "cosine", "1-sqrt"),
}
"""What each option may be: (whether a value fits, how to say it)."""
