"""What an export says of its task in lmx.json: it is judged as the run was, and a wrong file is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import pytest

import lmx
from lmx.commands import _apply, _build, _export, _wire
from lmx.core.errors import UserError
from lmx.core.types import Checkpoint
from lmx.sources import memory
from lmx.tasks import question_answering

CONTEXT = " ".join(f"on day {i} the cat saw {'two dogs' if i % 3 else 'an owl'}." for i in range(20))
ROWS = [{"question": f"what was on day {i}?", "context": CONTEXT[i * 20 :]} for i in range(6)]
OPTIONS = {"stride": 5, "max_answer": 3, "no_answer_threshold": 3.0, "n_best": 2}
FACTS = {"unanswerable": True}
BATCH = {"size": 4, "length": 48, "multiple": 16, "window": 1, "parts": 1}


@pytest.fixture(scope="module")
def answering(tiny_starts: dict[str, Path]) -> Checkpoint:
    """What a run on questions that may have no answer leaves, its head drawn wide, so that answers differ."""
    started = lmx.load(tiny_starts["bert"])
    task = {"name": "question_answering", **OPTIONS}
    config = {"model": {**started.config["model"], "pooler": False}, "task": task}
    params = jax.jit(_build.model(config).init)(jax.random.key(3))
    params["head"]["kernel"] = 40 * params["head"]["kernel"]
    return Checkpoint(params, {**config, "facts": FACTS, "batch": BATCH}, folder=started.folder)


@pytest.fixture(scope="module")
def exported(answering: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its export; not to be changed."""
    folder = tmp_path_factory.mktemp("told") / "export"
    _export.write(answering, folder, certify=False)
    return folder


def said(found: Checkpoint) -> list[dict[str, Any]]:
    applied = _apply.opened(found)
    names = [field.name for field in question_answering.FIELDS]
    rows = memory.source("train", train=ROWS, fields=names, required=["question", "context"])
    return applied.judge.said(found.params, applied.split(rows, targets=False))


def test_an_export_answers_as_the_run(answering: Checkpoint, exported: Path, tmp_path: Path) -> None:
    wanted = said(answering)
    assert len({one["answer"] for one in wanted}) > 1
    found = _wire.checkpoint(str(exported))
    assert said(found) == wanted
    _export.write(found, tmp_path / "again")  # and so does the export of an export
    assert (tmp_path / "again" / "lmx.json").read_bytes() == (exported / "lmx.json").read_bytes()
    assert said(_wire.checkpoint(str(tmp_path / "again"))) == wanted
    (tmp_path / "again" / "lmx.json").unlink()
    assert said(_wire.checkpoint(str(tmp_path / "again"))) != wanted  # the test would see it missing


def test_another_task_takes_nothing_of_it(exported: Path) -> None:
    found = _wire.checkpoint(str(exported), task={"name": "sequence_classification"})
    assert "told" not in found.config


def test_a_folder_that_was_never_fine_tuned_has_none(tiny_starts: dict[str, Path]) -> None:
    assert not any((folder / "lmx.json").exists() for folder in tiny_starts.values())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"facts": {"unanswerable": 1}}, "facts.unanswerable=1"),
        ({"facts": {"labels": 3}}, "facts.labels=3"),
        ({"facts": {"values": [2, 1]}}, "facts.values=[2, 1]"),
        ({"facts": []}, "no 'facts'"),
        ({"batch": {"length": 0}}, "batch.length=0"),
        ({"batch": {"length": True}}, "batch.length=true"),
        ({"batch": {"size": 8}}, "batch.size=8"),
        (
            {"task": {"name": "question_answering", "loss": "os.system"}},
            "task.loss: question_answering has no",
        ),
        ({"task": 3}, "no 'task'"),
    ],
)
def test_what_no_export_writes_is_refused(
    exported: Path, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for path in exported.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    file = folder / "lmx.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    with pytest.raises(UserError) as caught:
        _wire.checkpoint(str(folder))
    assert str(file) in str(caught.value) and told in str(caught.value)


@pytest.mark.parametrize("options", [{"stride": "many"}, {"stride": -1}, {"max_answer": [3]}, {"n_best": 0}])
def test_options_are_checked_by_the_task(exported: Path, options: dict[str, Any], tmp_path: Path) -> None:
    found = _wire.checkpoint(str(exported))
    told = found.config["told"]
    config = {**found.config, "told": {**told, "task": {**told["task"], **options}}}
    with pytest.raises(UserError, match=f"task.{next(iter(options))}"):
        said(Checkpoint(found.params, config, folder=found.folder))
