"""A folder is a shelf, a file on it is found by name; a dotted name reaches the user's own code."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from types import ModuleType
from typing import Any

from lmx.core.errors import UserError, did_you_mean, one_line


def names(shelf: str) -> list[str]:
    """Return the names on a shelf, such as `names("lmx.tasks")`; files that begin with `_` are not on it."""
    package = importlib.import_module(shelf)
    return sorted(
        info.name for info in pkgutil.iter_modules(package.__path__) if not info.name.startswith("_")
    )


def find(shelf: str, name: str, needs: tuple[str, ...] = ()) -> ModuleType:
    """Return the module `name` of the shelf, or the user's own module where the name is dotted.

    needs: what such a module of the user's must define.

    Raises UserError for an unknown name, naming the nearest one, and for a module that cannot be found.
    """
    if "." in name.strip("."):
        found = own(name.strip("."), said=repr(name))
        missing = [need for need in needs if not hasattr(found, need)]
        if missing:
            raise UserError(f"{name!r} does not define {', '.join(missing)}; a file of {shelf} must")
        return found
    known = names(shelf)
    if name not in known:
        kind = shelf.rsplit(".", 1)[-1]
        hint = did_you_mean(name, known)
        raise UserError(
            f"no {name!r} in {kind}{hint}; there is: {', '.join(known)}, or a dotted name of your own"
        )
    return importlib.import_module(f"{shelf}.{name}")


def own(name: str, *, said: str) -> ModuleType:
    """Return a module of the user's own, by its dotted name. said: how a message begins: "loss='x.y'".

    Raises UserError where there is none, and where it cannot be imported, whatever its code raises.
    """
    if not all(part.isidentifier() for part in name.split(".")):
        raise UserError(f"{said}: {name!r} is no name of a module; expected words with dots between them")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UserError(f"{said}: no module {error.name!r}; is its folder on PYTHONPATH?") from error
    except Exception as error:  # the user's own code: whatever it raises
        kind = type(error).__name__
        raise UserError(f"{said}: {name} cannot be imported: {kind}: {one_line(error)}") from error


def own_function(name: str, *, said: str) -> Callable[..., Any]:
    """Return a function of the user's own, by the dotted name of its module and itself; said: as in `own`.

    Raises UserError as `own` does, and where the module has no such function.
    """
    place, _, attribute = name.rpartition(".")
    module = own(place, said=said)
    found = getattr(module, attribute, None)
    if not callable(found):
        near = did_you_mean(attribute, [word for word in dir(module) if not word.startswith("_")])
        raise UserError(f"{said}: {place} has no function {attribute!r}{near}")
    chosen: Callable[..., Any] = found
    return chosen
