"""A folder is a shelf, a file on it is found by name; a dotted name reaches the user's own code."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from lmx.core.errors import UserError, did_you_mean


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
        try:
            found = importlib.import_module(name.strip("."))
        except ModuleNotFoundError as error:
            raise UserError(f"{name!r}: no module {error.name!r}; is its folder on PYTHONPATH?") from error
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
