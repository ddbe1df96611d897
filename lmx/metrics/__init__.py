"""Metrics in sums form: each file exports metric(**options) -> Metric; `intervals` tells how sure it is.

`spread` tells how far the figures of several runs lie apart, `confusion` which class is taken for which.
"""

from lmx.metrics._confusion import confusion
from lmx.metrics._intervals import intervals
from lmx.metrics._spread import spread

__all__ = ["confusion", "intervals", "spread"]
