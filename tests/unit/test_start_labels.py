"""A start whose head has labels already: mapped where they are the data's, a new head where they are not."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lmx
from lmx.commands import _bodies, _build, _labels, _supervised
from lmx.core import config as config_
from lmx.core import tree


@pytest.mark.parametrize(
    ("theirs", "ours", "order"),
    [
        (["pos", "neg"], ["neg", "pos"], ["pos", "neg"]),
        (["POSITIVE", "NEGATIVE"], ["negative", "positive"], ["positive", "negative"]),
        (["a", "A"], ["A", "a"], ["a", "A"]),  # case tells them apart, so it is kept
        (["LABEL_0", "LABEL_1"], ["neg", "pos"], ["neg", "pos"]),
        (["LABEL_0", "LABEL_1", "LABEL_2"], ["neg", "pos"], None),
        (["neg", "neutral"], ["neg", "pos"], None),
        (["neg", "pos", "neutral"], ["neg", "pos"], None),
        (["A", "a"], ["a", "b"], None),
    ],
)
def test_the_order_of_the_start(theirs: list[str], ours: list[str], order: list[str] | None) -> None:
    assert _labels.ordered(theirs, ours) == order


@pytest.fixture(scope="module")
def made(tiny_starts: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`made(*names, task=)` -> a folder of a tiny BERT whose head has these labels."""
    root = tmp_path_factory.mktemp("heads")

    @cache
    def make(*names: str, task: str = "sequence_classification") -> Path:
        body = lmx.load(tiny_starts["bert"])
        fields = {**body.config["model"], "pooler": task == "sequence_classification"}
        config: dict[str, Any] = {"model": fields, "task": {"name": task, "labels": len(names) or 2}}
        config |= {"facts": {"names": names}} if names else {}
        params = jax.jit(_build.model(config).init)(jax.random.key(7))
        folder = root / "_".join([task, *names])
        lmx.save_hf(lmx.Checkpoint(params, config, folder=str(tiny_starts["bert"])), folder)
        return folder

    return make


def started(folder: Path, workdir: Path, rows: list[dict[str, Any]], **fields: Any) -> tuple[Any, ...]:
    """Return (names, the head's kernel, the start's, what was said)."""
    workdir.mkdir()
    (workdir / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = config_.load("finetune/base")
    where = {"start": str(folder), "data.train": str(workdir / "rows.jsonl")}
    config_.override(config, {**where, "data.validation": str(workdir / "rows.jsonl"), **fields})
    said: list[str] = []
    prepared = _supervised.prepare(config_.plain(config), workdir, say=said.append)
    found = _bodies.params(prepared.config, _build.model(prepared.config), say=said.append)
    theirs = tree.flatten(lmx.load(folder).params)["head/kernel"]
    return prepared.config["facts"]["names"], tree.flatten(found)["head/kernel"], theirs, "\n".join(said)


ROWS = [{"text": "a b", "label": "neg"}, {"text": "c d", "label": "pos"}] * 3


def test_the_same_labels_in_another_order_are_mapped(made: Any, tmp_path: Path) -> None:
    names, head, theirs, said = started(made("pos", "neg"), tmp_path / "run", ROWS)
    assert names == ["pos", "neg"]
    np.testing.assert_array_equal(head, theirs)
    assert "2 labels: pos, neg" in said and "started anew" not in said


def test_class_weights_follow_the_order(made: Any) -> None:
    task = _build.task({"task": {"name": "sequence_classification"}})
    config = {"start": str(made("pos", "neg")), "model": {"name": "bert"}}
    config |= {"task": {"name": "sequence_classification", "class_weights": {"pos": 3.0}}}
    assert _labels.learn(config, task, [*ROWS]) == {"names": ["pos", "neg"], "weights": [3.0, 1.0]}


def test_other_labels_get_a_new_head(made: Any, tmp_path: Path) -> None:
    names, head, theirs, said = started(made("cat", "dog"), tmp_path / "run", ROWS)
    assert names == ["neg", "pos"]
    assert head.shape == theirs.shape and not np.array_equal(head, theirs)
    assert "its head is for cat, dog, the data has neg, pos" in said
    assert "started anew: head/" in said


def test_the_order_that_a_user_asks_for_stands(made: Any, tmp_path: Path) -> None:
    folder = made("pos", "neg")
    asked = {"task.names": ("neg", "pos")}
    names, head, theirs, said = started(folder, tmp_path / "run", ROWS, **asked)
    assert names == ["neg", "pos"] and not np.array_equal(head, theirs)
    assert "its head is for pos, neg, the data has neg, pos" in said


def test_labels_without_names_are_taken_in_order_and_this_is_said(made: Any, tmp_path: Path) -> None:
    _, head, theirs, said = started(made(), tmp_path / "run", ROWS)
    np.testing.assert_array_equal(head, theirs)
    assert "its head names no labels; they are taken to be neg, pos" in said


def test_another_count_of_labels_gets_a_new_head(made: Any, tmp_path: Path) -> None:
    _, head, theirs, said = started(made("neg", "pos", "mixed"), tmp_path / "run", ROWS)
    assert (theirs.shape[1], head.shape[1]) == (3, 2)
    assert "started anew with labels=2: head/kernel, head/bias" in said


def test_a_head_of_other_units_starts_anew(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head that learnt (value - 3) / 2 would be off by that, and nothing in its shape says so."""
    found = lmx.load(made("neg", "pos"))
    config = {"seed": 0, "start": "run", "task": {"name": "sequence_regression"}}
    config["model"] = found.config["model"]
    built = _build.model(config)
    head = {
        path: jnp.ones(x.shape) for path, x in tree.flatten(_build.shapes(built)).items() if "head" in path
    }
    params = tree.merge(found.params, tree.unflatten(head))
    theirs = lmx.Checkpoint(params, {**config, "facts": {"mean": [3.0], "deviation": [2.0]}})
    monkeypatch.setattr(_bodies._wire, "located", lambda _: (Path("run"), ""))
    monkeypatch.setattr(_bodies._wire, "run", lambda *_: theirs)
    for facts, kept in (
        (theirs.config["facts"], True),
        ({}, False),
        ({"mean": [3.0], "deviation": [1.0]}, False),
    ):
        said: list[str] = []
        ours = tree.flatten(_bodies.params({**config, "facts": facts}, built, say=said.append))
        assert bool((ours["head/kernel"] == 1).all()) == kept
        assert any("other units" in line for line in said) == (not kept)


def test_tags_are_mapped_too(made: Any, tmp_path: Path) -> None:
    folder = made("B-X", "I-X", "O", task="token_classification")
    rows = [{"words": ["a", "b", "c"], "tags": ["B-X", "I-X", "O"]}] * 4
    fields = {"task.name": "token_classification"}
    names, head, theirs, _ = started(folder, tmp_path / "run", rows, **fields)
    assert names == ["B-X", "I-X", "O"]
    np.testing.assert_array_equal(head, theirs)
