"""Tasks asked for by name: the folder's own, another one, one of a class that lmx has not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

import lmx
from lmx.__main__ import main
from lmx.core import mesh, tree

from . import _hf_folders as made

TASK = {"name": "sequence_classification"}


def classifier(folder: Path, labels: int = 3, **changes: Any) -> Path:
    config = {
        **made.BERT,
        "architectures": ["BertForSequenceClassification"],
        "num_labels": labels,
        **changes,
    }
    return made.folder(folder, config, made.bert(pooler=True) | made.classifier(labels))


def test_the_folders_own_task_by_name_keeps_its_trained_head(tmp_path: Path) -> None:
    folder = classifier(tmp_path, labels=5)
    own = tree.flatten(lmx.load(folder).params)
    for task in ("sequence_classification", TASK, {**TASK, "labels": 5}):
        found = lmx.load(folder, task=task)
        assert found.config["task"]["labels"] == 5
        for path, leaf in tree.flatten(found.params).items():
            np.testing.assert_array_equal(leaf, own[path], err_msg=path)


def test_options_of_the_folders_own_task_are_laid_over_its_own(tmp_path: Path) -> None:
    folder = classifier(tmp_path, classifier_dropout=0.25)
    found = lmx.load(folder, task={**TASK, "dropout": 0.5})
    assert (found.config["task"]["dropout"], found.config["task"]["labels"]) == (0.5, 3)
    assert lmx.load(folder, task=TASK).config["task"]["dropout"] == 0.25


def test_another_number_of_labels_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lmx.load(classifier(tmp_path), task={**TASK, "labels": 7})
    said = capsys.readouterr().err
    assert "started anew with labels=7: head/kernel, head/bias" in said
    assert "(the head for another number of labels): classifier.weight" in said


def test_labels_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = made.folder(tmp_path / "gpt2", made.GPT2, made.gpt2())
    words = ["import-hf", "--source", str(folder), "--output", str(tmp_path / "out"), "--labels", "4"]
    assert main(words) == 2
    assert "--labels needs the task that it is for" in capsys.readouterr().err
    assert main([*words, "--task", "sequence_classification"]) == 0
    assert "started anew with labels=4: head/kernel" in capsys.readouterr().err
    assert lmx.load(tmp_path / "out").config["task"]["labels"] == 4


def test_a_class_that_lmx_has_not_gives_its_body(tmp_path: Path) -> None:
    config = {**made.GPT2, "architectures": ["GPT2DoubleHeadsModel"]}
    tensors = made.gpt2() | {
        "multiple_choice_head.summary.weight": np.zeros((1, made.D), np.float32),
        "multiple_choice_head.summary.bias": np.zeros(1, np.float32),
    }
    folder = made.folder(tmp_path, config, tensors)
    with pytest.raises(lmx.UserError, match="a task, such as features, reads the body alone"):
        lmx.load(folder)
    with pytest.raises(lmx.UserError, match="multiple_choice_head"):
        lmx.load(folder, task="features")
    plain = made.folder(tmp_path / "plain", config, made.gpt2())
    found = tree.flatten(lmx.load(plain, task="causal_lm").params)
    for path, leaf in made.leaves(made.gpt2()).items():
        np.testing.assert_array_equal(found[path], leaf, err_msg=path)


@pytest.mark.parametrize("labels", [10**6 + 1, 10**12])
def test_a_head_larger_than_any(tmp_path: Path, labels: int) -> None:
    with pytest.raises(lmx.UserError, match=f"labels={labels}; expected at most 1,000,000"):
        lmx.load(classifier(tmp_path), task={**TASK, "labels": labels})


def test_what_starts_anew_goes_to_its_place_too(tmp_path: Path) -> None:
    folder = made.folder(tmp_path, {**made.BERT, "architectures": ["BertModel"]}, made.bert(""))
    last = SingleDeviceSharding(jax.devices()[3])
    found = tree.flatten(lmx.load(folder, task=TASK, sharding=last).params)
    assert {leaf.sharding.device_set.pop().id for leaf in found.values()} == {jax.devices()[3].id}
    whole = NamedSharding(mesh.make(4), PartitionSpec())
    spread = tree.flatten(lmx.load(folder, task=TASK, sharding=lambda path, shape: whole).params)
    assert all(len(leaf.sharding.device_set) == 4 for leaf in spread.values())


@pytest.mark.parametrize(
    "sharding", ["cpu", 3, PartitionSpec("data"), lambda path: None, lambda path, shape: "cpu"]
)
def test_what_is_no_sharding(tmp_path: Path, sharding: Any) -> None:
    folder = made.folder(tmp_path, made.GPT2, made.gpt2())
    with pytest.raises(lmx.UserError, match=r"expected a jax sharding, or a function of \(path, shape\)"):
        lmx.load(folder, sharding=sharding)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.dtype("float16"), np.float32])
def test_a_type_as_numpy_and_jax_have_it(tmp_path: Path, dtype: Any) -> None:
    found = lmx.load(made.folder(tmp_path, made.GPT2, made.gpt2()), dtype=dtype)
    assert {leaf.dtype for leaf in jax.tree.leaves(found.params)} == {np.dtype(dtype)}


def test_switches_are_switches(tmp_path: Path) -> None:
    folder = made.folder(tmp_path, made.GPT2, made.gpt2())
    with pytest.raises(lmx.UserError, match="allow_nonfinite='no'; expected True or False"):
        lmx.load(folder, allow_nonfinite="no")  # type: ignore[arg-type]
    for wrong in (object(), None, {}, [1], int):
        with pytest.raises(lmx.UserError, match="dtype="):
            lmx.load(folder, dtype=wrong)
