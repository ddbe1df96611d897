"""Plateau and Patience against torch's ReduceLROnPlateau and transformers' EarlyStoppingCallback."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lmx.core.errors import UserError
from lmx.optim import Patience, Plateau


def figures(seed: int) -> list[float]:
    """A noisy curve that flattens, with some that are not numbers."""
    draw = np.random.default_rng(seed)
    curve = [float(2 * math.exp(-k / 8) + draw.normal(0, 0.05)) for k in range(60)]
    return [math.nan if k % 17 == 11 else figure for k, figure in enumerate(curve)]


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize(
    "options",
    [
        {"factor": 0.5, "patience": 3},
        {"factor": 0.1, "patience": 0, "least": 0.02, "floor": 0.005},
        {"factor": 0.7, "patience": 1, "rest": 3},
    ],
)
def test_a_plateau_is_that_of_torch(mode: str, options: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer,
        mode=mode,
        factor=options["factor"],
        patience=options["patience"],
        threshold=options.get("least", 0.0),
        threshold_mode="abs",
        cooldown=options.get("rest", 0),
        min_lr=options.get("floor", 0.0),
        eps=0.0,
    )
    ours = Plateau(mode=mode, **options)
    seen = []
    for k, figure in enumerate(figures(0)):
        figure = figure if mode == "min" else -figure
        theirs.step(figure)
        # Through JSON at every step, as a resumed run gets it.
        ours = Plateau(mode=mode, **options).resumed(json.loads(json.dumps(ours.update(figure).state())))
        assert ours.scale == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12), k
        seen.append(ours.scale)
    assert len(set(seen)) > 3


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize(("patience", "least"), [(1, 0.0), (3, 0.0), (2, 0.05)])
def test_patience_is_that_of_transformers(mode: str, patience: int, least: float) -> None:
    pytest.importorskip("torch")
    from transformers import EarlyStoppingCallback

    theirs = EarlyStoppingCallback(patience, least)
    args = SimpleNamespace(greater_is_better=mode == "max")
    ours, best = Patience(patience, mode, least), None
    for figure in figures(1):
        if math.isnan(figure):
            continue
        figure = figure if mode == "min" else -figure
        theirs.check_metric_value(args, SimpleNamespace(best_metric=best), None, figure)
        better = theirs.early_stopping_patience_counter == 0
        best = figure if better else best
        ours = Patience(patience, mode, least).resumed(json.loads(json.dumps(ours.update(figure).state())))
        assert ours.waited == theirs.early_stopping_patience_counter
        assert ours.best == best
        assert ours.stop == (theirs.early_stopping_patience_counter >= patience)
        if ours.stop:
            break
    assert ours.stop


def test_what_is_not_a_number_is_no_improvement() -> None:
    watch = Patience(2).update(math.nan)
    assert watch.best is None
    assert watch.update(math.nan).stop
    assert not watch.update(5.0).stop
    assert Plateau(factor=0.5, patience=0).update(math.nan).scale == 0.5


def test_values_are_pure() -> None:
    first = Plateau(factor=0.5, patience=0).update(1.0)
    assert first.update(2.0).scale == 0.5
    assert first.scale == 1.0


@pytest.mark.parametrize(
    ("make", "pattern"),
    [
        (lambda: Plateau(factor=1.0), r"plateau\.factor=1\.0; expected a number between 0 and 1"),
        (lambda: Plateau(mode="mini"), r"plateau\.mode='mini' \(did you mean 'min'\?\)"),
        (lambda: Plateau(patience=-1), r"plateau\.patience=-1; expected 0 evaluations or more"),
        (lambda: Plateau(floor=1.0), r"plateau\.floor=1\.0"),
        (lambda: Plateau(rest=-1), r"plateau\.rest=-1"),
        (lambda: Patience(0), r"stop\.patience=0; expected 1 evaluations or more"),
        (lambda: Patience(2, "min", -1.0), r"stop\.least=-1\.0"),
        (lambda: Patience(2).resumed({"best": 1.0}), "saved state of stop holds best; expected best, waited"),
    ],
)
def test_what_makes_no_sense_is_refused(make: Any, pattern: str) -> None:
    with pytest.raises(UserError, match=pattern):
        make()
