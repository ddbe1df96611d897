"""Libraries of the `eval` extra, which lmx does without until a metric that is theirs is asked for."""

from __future__ import annotations

from lmx.core.errors import UserError


def missing(metric: str, library: str) -> UserError:
    """Return the error of a metric whose library is not installed."""
    return UserError(
        f"the metric {metric} needs {library}, which is missing; get it with: pip install 'lmx[eval]'"
    )
