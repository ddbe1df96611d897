"""The page of a run: one self-contained HTML file from the files that the run left in its folder."""

from lmx.report.facts import Report, read
from lmx.report.page import render, write

__all__ = ["Report", "read", "render", "write"]
