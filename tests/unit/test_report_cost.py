"""The page's section on cost: its figures are those of the files, and what is missing is left out."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from lmx.report import cost, render, write
from lmx.report.facts import Report

RUN = {
    "flops_per_step": 416_808_960.0,
    "peak_flops": {"flops": 989.5e12 * 8, "source": "published"},
    "compile_seconds": 8.6,
    "compiled_steps": 1,
    "memory": {"bytes": 62_400_000_000, "of": "device"},
    "goodput": {
        "share": 0.75,
        "wall": 4000,
        "starts": 2,
        "seconds": {"steps": 3000, "again": 600, "new": 400},
    },
    "device_kind": "cpu",
}


def told(**changes: Any) -> str:
    shares = [{"kind": "train", "step": step, "loss": 1.0, "mfu": mfu} for step, mfu in enumerate(MFU)]
    facts = Report("run", {}, run={**RUN, **changes}, train=tuple(shares))
    return re.sub(r"<[^>]+>", "|", cost.section(facts))


MFU = (0.1, 0.5, 0.41, float("nan"))


def test_the_figures_are_those_of_the_run() -> None:
    found = told()
    for shown in (
        "416.8 MFLOP",
        "7.916 PFLOP/s, published",
        "41.0% (median of 3 records)",
        "8.6 s, in 1 step|",
        "62.4 GB, of a device",
        "75.0% of 1:06:40, in 2 starts",
        "|steps that count||3,000.0||75.0%|",
        "|steps made again after a kill||600.0||15.0%|",
        "|new||400.0||10.0%|",
    ):
        assert shown in found, shown


def test_they_stand_in_no_other_table(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "run.json").write_text(json.dumps(RUN))
    page = write(tmp_path).read_text(encoding="utf-8")
    assert page.count("<h2>Cost</h2>") == 1
    assert "goodput.share" not in page
    assert "device_kind" in page


@pytest.mark.parametrize("broken", [None, "much", [1], {"share": "half", "seconds": 3}])
def test_what_is_missing_or_no_number_is_left_out(broken: Any) -> None:
    found = told(**dict.fromkeys(cost.FACTS, broken))
    assert "41.0%" in found
    assert "goodput" not in found
    assert "FLOP" not in found
    assert "<h2>Cost" not in render(Report("run", {}))
