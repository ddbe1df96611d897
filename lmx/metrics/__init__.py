"""Metrics in sums form: each file exports metric(**options) -> Metric."""
