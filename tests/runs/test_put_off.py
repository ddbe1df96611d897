"""A stop waits for no evaluation: the state is saved at once, and what its step still owes is made when the
run goes on, so that nothing tells the run from one that was never stopped."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmx.commands import _packed
from lmx.core import log
from lmx.runs.checkpoints import Checkpoints
from lmx.training import evaluate

from .conftest import Train, digest

SAMPLED = {"sample": "6 steps", "keep.last": "9"}
WATCHED = {
    **SAMPLED,
    "evaluate": "2 steps",
    "plateau.factor": "0.5",
    "plateau.patience": "0",
    "plateau.least": "9",
}
"""No score is better by 9 than the one before, so that each evaluation but the first halves the rate."""


def at_evaluation(patch: pytest.MonkeyPatch, number: int, batch: int = 1) -> list[int]:
    """Send SIGTERM within the given evaluation of this process, before the given batch of it; return a list
    that grows by one with each batch that is looked at."""
    plain, begun, seen = evaluate.over, [0], list[int]()

    def over(*args: Any, before: Callable[[], None], **kwargs: Any) -> Any:
        begun[0] += 1
        own = [0]

        def counted() -> None:
            own[0] += 1
            seen.append(begun[0])
            if (begun[0], own[0]) == (number, batch):
                signal.raise_signal(signal.SIGTERM)
            before()

        return plain(*args, before=counted, **kwargs)

    patch.setattr(_packed.evaluate, "over", over)
    return seen


def records(workdir: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    """What a run has told, without its seconds."""
    found = log.read_jsonl(workdir / name) if (workdir / name).exists() else []
    return [{name: value for name, value in one.items() if name != "seconds"} for one in found]


def facts(workdir: Path, step: int) -> dict[str, Any]:
    found = Checkpoints(workdir / "checkpoints").facts(step)
    return {name: found[name] for name in ("figures", "rank", "watch", "owed", "digests")}


@pytest.fixture(scope="module")
def whole(
    text: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[dict[str, str]], Path]:
    """The run of some fields that nobody stops."""
    from lmx.__main__ import main

    from .conftest import options

    made: dict[str, Path] = {}

    def run(fields: dict[str, str]) -> Path:
        key = json.dumps(fields)
        if key not in made:
            made[key] = tmp_path_factory.mktemp("whole") / "run"
            words = ["--config", "pretrain/from_text", "--workdir", str(made[key])]
            assert main(["train", *words, *options(text, rows, **fields)]) == 0
        return made[key]

    return run


@pytest.mark.parametrize(
    ("fields", "evaluation", "step"),
    [
        (SAMPLED, 2, 8),
        (SAMPLED, 3, 12),
        ({**SAMPLED, "evaluate": "3 steps"}, 3, 6),
        (WATCHED, 4, 8),
        ({**WATCHED, "stop.patience": "2", "stop.least": "9"}, 3, 6),
    ],
    ids=["saved", "the end", "not saved", "rate halved", "early stop"],
)
def test_an_evaluation_is_put_off(
    train: Train,
    whole: Callable[[dict[str, str]], Path],
    tmp_path: Path,
    capsys: Any,
    fields: dict[str, str],
    evaluation: int,
    step: int,
) -> None:
    alone, run = whole(fields), tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        seen = at_evaluation(patch, evaluation, batch=2)
        assert train(run, **fields) == 75
    assert seen.count(evaluation) == 2 < seen.count(1), "no batch after the signal"
    assert f"stopped at step {step} of 12 and saved" in capsys.readouterr().err
    stopped = Checkpoints(run / "checkpoints").facts(step)
    assert (stopped["owed"], stopped["figures"], stopped["rank"]) == (True, {}, None)
    assert not any(one["step"] == step and one["kind"] == "evaluation" for one in records(run))
    assert not any(one["step"] == step for one in records(run, "samples.jsonl"))

    assert train(run, **fields) == 0
    assert digest(run) == digest(alone)
    told = [one for one in records(run) if one["kind"] == "evaluation"]
    assert told == [one for one in records(alone) if one["kind"] == "evaluation"]
    assert records(run, "samples.jsonl") == records(alone, "samples.jsonl")
    kept = Checkpoints(alone / "checkpoints").steps()
    assert [s for s in Checkpoints(run / "checkpoints").steps() if s != step or s in kept] == kept
    for each in kept:
        assert facts(run, each) == facts(alone, each)
    assert not list((run / "checkpoints").glob("*.before"))


def test_stopped_again_while_it_settles_and_killed_before_it_has(
    train: Train, whole: Callable[[dict[str, str]], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second stop puts off again; a start that dies between its record and its checkpoint leaves the old
    one, and its record does not come twice."""
    alone, run = whole(WATCHED), tmp_path / "run"
    with monkeypatch.context() as patch:
        at_evaluation(patch, 3)
        assert train(run, **WATCHED) == 75
    with monkeypatch.context() as patch:
        at_evaluation(patch, 1)
        assert train(run, **WATCHED) == 75
    assert Checkpoints(run / "checkpoints").facts(6)["owed"] is True
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "manager", property(_full(Checkpoints.manager)))
        assert train(run, **WATCHED) == 2
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["4", "6.before"]
    assert [one["step"] for one in records(run) if one["kind"] == "evaluation"] == [2, 4, 6]
    assert train(run, **WATCHED) == 0
    assert digest(run) == digest(alone)
    told, wanted = ([one for one in records(path) if one["kind"] == "evaluation"] for path in (run, alone))
    assert told == wanted
    assert records(run, "samples.jsonl") == records(alone, "samples.jsonl")
    assert facts(run, 6)["owed"] is False


def test_samples_that_have_not_begun_are_put_off(
    train: Train, whole: Callable[[dict[str, str]], Path], tmp_path: Path, signal_at: Any
) -> None:
    """At a step that has neither an evaluation nor a checkpoint; a start that dies while it makes them leaves
    none of them twice."""
    alone, run = whole(SAMPLED), tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_packed.Packed, "samples", lambda *given: pytest.fail("a stop waits for samples"))
        signal_at(6, signal.SIGTERM)
        assert train(run, **SAMPLED) == 75
    assert Checkpoints(run / "checkpoints").facts(6)["owed"] is True
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "manager", property(_full(Checkpoints.manager)))
        assert train(run, **SAMPLED) == 2
    assert {one["step"] for one in records(run, "samples.jsonl")} == {6}
    assert train(run, **SAMPLED) == 0
    assert records(run, "samples.jsonl") == records(alone, "samples.jsonl")
    assert digest(run) == digest(alone)


def _full(manager: Any) -> Callable[[Checkpoints], Any]:
    """Orbax's manager on a disk that is full."""

    class Full:
        def __init__(self, plain: Any) -> None:
            self.restore, self.close = plain.restore, plain.close
            self.wait_until_finished = plain.wait_until_finished

        def save(self, *args: Any, **kwargs: Any) -> None:
            raise OSError(28, "No space left on device")

    return lambda kept: Full(manager.fget(kept))
