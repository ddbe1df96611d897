"""Fields of a config's section as keyword arguments of the function that they are for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lmx.core.errors import UserError, did_you_mean


def names(function: Callable[..., Any]) -> list[str]:
    """Return the names of a function's keyword-only arguments."""
    found = inspect.signature(function).parameters.values()
    return [one.name for one in found if one.kind is one.KEYWORD_ONLY]


def known(
    function: Callable[..., Any],
    options: Mapping[str, Any],
    *,
    section: str,
    owner: str,
    given: Sequence[str] = (),
    also: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the options, all of which the function takes and none of which it lacks.

    section, owner: what they are called in the config, and whose they are, for messages. given: arguments
    that do not come from the config. also: what the section may hold besides.
    Errors: UserError, with did-you-mean.
    """
    takes = [name for name in names(function) if name not in given]
    for name in options:
        if name not in takes:
            there = [*also, *takes]
            raise UserError(
                f"{section}.{name}: {owner} has no such option{did_you_mean(name, there)}; it has: "
                f"{', '.join(there) or 'none'}"
            )
    empty = inspect.Parameter.empty
    parameters = inspect.signature(function).parameters
    if lacking := [name for name in takes if name not in options and parameters[name].default is empty]:
        raise UserError(f"{section}.{lacking[0]} is not set; {owner} needs it")
    return dict(options)
