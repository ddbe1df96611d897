"""Fine-tuning against torch: from the same weights, the same losses step after step, for every task."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the parity extra is not installed: pip install '.[parity]'")

import torch
import transformers

from tests.parity import _peers as peers
from tests.parity import _training as training

RECIPE = training.Recipe(rate=1e-3, decay=0.5, clip=0.3)
"""So that ten steps show the schedule, the groups of decay and the clipping; see the planted mistakes."""

FAST = (
    "sequence_classification, class weights",
    "question_answering",
    "bert_pretraining",
    "gpt2 sequence_classification",
)

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module", autouse=True)
def quiet_torch() -> Iterator[None]:
    """transformers shows progress and says much that is not ours to mend."""
    verbosity, threads = transformers.logging.get_verbosity(), torch.get_num_threads()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)  # the matrices are tiny
    yield
    torch.set_num_threads(threads)
    transformers.logging.enable_progress_bar()
    transformers.logging.set_verbosity(verbosity)


def check(name: str, folder: Path, *, layers: int, steps: int) -> None:
    """Losses to 1e-4 over ten steps and to 1e-3 over fifty, and gradient norms to a thousandth over ten."""
    case = training.CASES[name]
    found = training.compare(
        case, training.tiny(case.family, layers), folder, recipe=RECIPE, steps=steps, options=peers.QUICK
    )
    assert found.clipped > 0
    assert found.losses[-1] < 0.97 * found.losses[0]
    assert found.gaps[:10].max() < 1e-4
    assert found.gaps.max() < 1e-3
    assert found.norms[:10].max() < 1e-3


@pytest.mark.parametrize("name", FAST)
def test_ten_steps(name: str, tmp_path: Path) -> None:
    check(name, tmp_path / "start", layers=1, steps=10)


@pytest.mark.slow  # three minutes for all of them
@pytest.mark.parametrize("name", training.CASES)
def test_fifty_steps(name: str, tmp_path: Path) -> None:
    check(name, tmp_path / "start", layers=2, steps=50)


def test_planted_mistake_is_seen(tmp_path: Path) -> None:
    """A schedule that is one step early, no clipping, no decay, another decay of biases and norms."""
    case = training.CASES["sequence_classification"]
    found, model = training.start(case, training.tiny("bert", 1), tmp_path / "start")
    weights = {name: x.clone() for name, x in model.state_dict().items()}
    batches = [training.draw(case, 61, seed) for seed in range(3)]
    on = training.decayed(found, {name for name, _ in model.named_parameters()})
    mine, _ = training.ours(case, found, batches, RECIPE, 10, peers.QUICK)

    def gap(recipe: training.Recipe, groups: dict[str, bool] = on) -> float:
        model.load_state_dict(weights)
        losses, _ = training.theirs(case, model, batches, recipe, 10, groups)
        return float(np.abs(np.array(mine) - np.array(losses)).max())

    assert gap(RECIPE) < 1e-5
    for fields in ({"warmup": 3}, {"clip": 100.0}, {"decay": 0.0}, {"total": 30}):
        assert gap(dataclasses.replace(RECIPE, **fields)) > 1e-4, fields
    assert gap(RECIPE, dict.fromkeys(on, True)) > 1e-4
    assert 0 < sum(on.values()) < len(on)
