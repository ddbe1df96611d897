"""The one exception a user's mistake raises."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake the user can mend: what came, what was expected, what to do next.

    The message is one line; the command line prints it without a traceback and exits with code 2.
    """


def one_line(error: BaseException) -> str:
    """Return what an exception says as one line of at most 300 characters; its name where it says nothing."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `" (did you mean 'x'?)"` for the nearest known word, or an empty string.

    >>> did_you_mean("causal_ml", ["causal_lm", "masked_lm"])
    " (did you mean 'causal_lm'?)"
    """
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean {near[0]!r}?)" if near else ""


def printable(name: str) -> str:
    """Return a name from a foreign file as it may be shown: what is not printable escaped, 100 letters."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name[:101])
    return shown if len(name) <= 100 else f"{shown[:100]}..."
