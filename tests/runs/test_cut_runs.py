"""A run whose parameters are cut over devices: its commands read them cut, and say what one device says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from lmx.__main__ import main
from lmx.commands import _build, _wire
from lmx.core import layout, tree

from .conftest import Train

PROMPTS = ["--prompt", "The ", "--prompt", "If the", "--tokens", "6", "--temperature", "2"]


@pytest.fixture
def cut(train: Train, tmp_path: Path) -> Path:
    """Two steps of a run on eight devices, four of which share the parameters by two."""
    cuts = {"mesh.data": "2", "mesh.fsdp": "2", "mesh.tensor": "2", "total": "2 steps"}
    assert train(tmp_path / "run", **cuts) == 0
    return tmp_path / "run"


def test_commands_read_it_cut(cut: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, read = _wire.checkpoint(str(cut)), _wire.checkpoint(str(cut), cut=True)
    assert layout.held(whole.params) == sum(leaf.nbytes for leaf in jax.tree.leaves(whole.params))
    assert layout.held(read.params) < 0.4 * layout.held(whole.params)  # a quarter, and the vectors
    for path, leaf in tree.flatten(whole.params).items():
        np.testing.assert_array_equal(np.asarray(tree.flatten(read.params)[path]), np.asarray(leaf))

    def said() -> tuple[float, str]:
        capsys.readouterr()
        assert main(["evaluate", "--checkpoint", str(cut)]) == 0
        loss = json.loads(capsys.readouterr().out)["loss"]
        assert main(["generate", "--checkpoint", str(cut), *PROMPTS]) == 0
        return loss, capsys.readouterr().out

    loss, texts = said()
    monkeypatch.setattr(_build, "cutting_mesh", lambda config: None)
    loss_on_one, texts_on_one = said()
    assert loss == pytest.approx(loss_on_one, rel=1e-5)
    assert texts == texts_on_one


def test_a_mesh_that_cuts_nothing_or_does_not_fit() -> None:
    def sizes(**asked: int) -> Any:
        found = _build.cutting_mesh({"mesh": asked})
        return found and tuple(found.shape.values())

    assert sizes(data=-1, fsdp=1, tensor=1) is None
    assert sizes(data=1, fsdp=4, tensor=1) == (2, 4, 1)  # the devices that are left copy the parameters
    assert sizes(data=1, fsdp=-1, tensor=2) == (1, 4, 2)
    assert sizes(data=-1, fsdp=3, tensor=1) is None  # of 8 devices
    assert _build.cutting_mesh({}) is None  # a Hugging Face folder
