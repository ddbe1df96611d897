"""Metrics in sums form: each file exports metric(**options) -> Metric; `intervals` tells how sure it is."""

from lmx.metrics._intervals import intervals

__all__ = ["intervals"]
