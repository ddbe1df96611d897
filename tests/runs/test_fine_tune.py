"""Fine-tuning end to end on a tiny BERT: train, resume, evaluate, predict, export, one call from Python."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lmx
from lmx import tokenizer
from lmx.__main__ import main
from lmx.core import tree
from lmx.hf import oracle

from . import _film


@pytest.fixture(autouse=True)
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oracle, "present", lambda: False)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder of a random BERT with its tokenizer."""
    return _film.saved(tmp_path_factory.mktemp("start"))


def rows(count: int, seed: int) -> list[dict[str, str]]:
    """Sentences of which one word tells the label."""
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        label = int(draw.integers(2))
        word = str(draw.choice((_film.BAD, _film.GOOD)[label]))
        filler = " ".join(draw.choice(["the", "film", "was", "it", "and"], int(draw.integers(1, 9))))
        found.append({"sentence": f"{filler} {word}", "gold": ("neg", "pos")[label]})
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for name, count, seed in (("train", 160, 0), ("dev", 40, 1), ("test", 30, 2)):
        lines = ["sentence\tgold", *("\t".join(row.values()) for row in rows(count, seed))]
        (root / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    return root


def words(folder: Path, data: Path, workdir: Path, **changes: Any) -> list[str]:
    fields = {
        "start": folder,
        "data.train": data / "train.tsv",
        "data.validation": data / "dev.tsv",
        "data.test": data / "test.tsv",
        "data.columns.text": "sentence",
        "data.columns.label": "gold",
        "batch.size": 16,
        "batch.length": 16,
        "batch.multiple": 8,
        "optim.rate": "1e-2",
        "seed": 1,
        "total": "6 epochs",
        "mesh.data": 1,
        **changes,
    }
    found = ["train", "--config", "finetune/classify", "--workdir", str(workdir)]
    return [*found, *(f"--config.{name}={value}" for name, value in fields.items())]


@pytest.fixture(scope="module")
def finished(start: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    assert main(words(start, data, folder)) == 0
    return folder


def test_a_run_learns_and_tells(finished: Path, data: Path) -> None:
    whole = json.loads((finished / "metrics.json").read_text())
    assert whole["figures"]["accuracy"] == 1.0
    assert whole["intervals"]["accuracy"] == [1.0, 1.0]
    assert whole["examples"] == 40
    found = [json.loads(line) for line in (finished / "predictions.jsonl").read_text().splitlines()]
    gold = [line.split("\t")[1] for line in (data / "dev.tsv").read_text().splitlines()[1:]]
    assert [one["reference"]["label"] for one in found] == gold
    assert all(abs(sum(one["scores"].values()) - 1) < 1e-6 for one in found)


def test_the_export_names_its_labels(finished: Path) -> None:
    config = json.loads((finished / "export" / "config.json").read_text())
    assert config["id2label"] == {"0": "neg", "1": "pos"}
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert main(["verify", str(finished / "export")]) == 0


def test_evaluation_repeats_the_figures(
    finished: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = json.loads((finished / "metrics.json").read_text())["figures"]
    columns = ["--columns", "text=sentence", "label=gold"]
    for source in (
        ["--checkpoint", str(finished)],
        ["--checkpoint", str(finished), "--batch", "7"],
        ["--checkpoint", str(finished / "export"), "--data", str(data / "dev.tsv"), *columns],
    ):
        capsys.readouterr()
        assert main(["evaluate", *source]) == 0
        found = json.loads(capsys.readouterr().out)
        assert {name: found[name] for name in known} == pytest.approx(known, abs=1e-6)


def test_a_second_look_at_the_test_split_is_noted(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (finished / "test_uses.jsonl").unlink(missing_ok=True)
    said = []
    for _ in range(2):
        assert main(["evaluate", "--checkpoint", str(finished), "--split", "test"]) == 0
        said.append(capsys.readouterr().err)
    assert "test rows are also in train" in said[0]
    assert "test split was used" not in said[0]
    assert "the test split was used 1 time before" in said[1]
    assert len((finished / "test_uses.jsonl").read_text().splitlines()) == 2


def test_a_look_that_failed_is_none(finished: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (finished / "test_uses.jsonl").unlink(missing_ok=True)
    whole = (data / "test.tsv").read_text()
    (data / "test.tsv").write_text(f"{whole}the film\tgreenish\n")
    try:
        assert main(["evaluate", "--checkpoint", str(finished), "--split", "test"]) == 2
    finally:
        (data / "test.tsv").write_text(whole)
    assert "greenish" in capsys.readouterr().err
    assert not (finished / "test_uses.jsonl").exists()


def test_the_test_file_itself_is_the_test_split(
    finished: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (finished / "test_uses.jsonl").unlink(missing_ok=True)
    for name, uses in (("test", 1), ("dev", 1), ("test", 2)):
        assert main(["evaluate", "--checkpoint", str(finished), "--data", str(data / f"{name}.tsv")]) == 0
        assert len((finished / "test_uses.jsonl").read_text().splitlines()) == uses
    assert "the test split was used 1 time before" in capsys.readouterr().err


def test_rows_that_changed_since_training_are_told(
    finished: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", "--checkpoint", str(finished)]
    path = data / "dev.tsv"
    before = path.read_text()
    assert main(command) == 0
    assert "are not those of the run" not in capsys.readouterr().err
    try:
        path.write_text(before + "and one more bad\tneg\n")
        assert main(command) == 0
        assert "warning: the validation rows are not those of the run" in capsys.readouterr().err
    finally:
        path.write_text(before)


@pytest.mark.parametrize(
    ("command", "rows", "told"),
    [
        ("evaluate", [{"text": "bad"}], "no column 'label' for label; there is: 'text'"),
        (
            "predict",
            [{"text": "a", "text_pair": "b"}],
            "line 1 has a second text, but the model learnt from single",
        ),
        (
            "predict",
            [{"tekst": "a"}],
            "for text (did you mean 'tekst'?); there is: 'tekst'; name one with --columns text=COLUMN",
        ),
    ],
)
def test_rows_of_another_kind_are_told(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, rows: Any, told: str
) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    where = ["--data", str(tmp_path / "rows.jsonl"), "--columns", "text=text", "label=label"]
    assert main([command, "--checkpoint", str(finished), *where]) == 2
    assert told in capsys.readouterr().err


def test_an_unknown_field_of_columns_is_told(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "--checkpoint", str(finished), "--data", "x.tsv", "--columns", "txt=text"]) == 2
    assert "--columns txt=...: no such field (did you mean 'text'?)" in capsys.readouterr().err


def test_a_body_without_a_task_says_what_to_do(start: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["predict", "--data", "x.tsv"], ["evaluate"]):
        assert main([*command, "--checkpoint", str(start)]) == 2
        assert "taught no task of examples; lmx train --config finetune/classify" in capsys.readouterr().err


def test_predictions_need_no_labels(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "new.jsonl"
    file.write_text('{"sentence": "the film was lovely"}\n{"sentence": "it was dull"}\n')
    out = tmp_path / "out.jsonl"
    asked = ["predict", "--checkpoint", str(finished), "--data", str(file), "--output", str(out)]
    assert main(asked) == 0
    assert [json.loads(line)["label"] for line in out.read_text().splitlines()] == ["pos", "neg"]
    assert main(asked) == 2  # the file is there already


def test_a_run_that_is_stopped_ends_in_the_same_bits(
    start: Path, data: Path, finished: Path, tmp_path: Path
) -> None:
    """The end of the run is cut off and made again; `total` decides the schedule, so it stays."""
    import shutil

    half = tmp_path / "half"
    shutil.copytree(finished, half)
    steps = sorted(int(path.name) for path in (half / "checkpoints").iterdir() if path.name.isdigit())
    assert steps[-1] == 60
    shutil.rmtree(half / "checkpoints" / "60")
    for name in ("export", "metrics.json", "predictions.jsonl"):
        path = half / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert len(steps) > 1
    assert main(words(start, data, half)) == 0
    ours, theirs = (tree.flatten(lmx.load(path).params) for path in (half, finished))
    for path, leaf in theirs.items():
        np.testing.assert_array_equal(ours[path], leaf, err_msg=path)


def test_patience_ends_a_run_with_its_best(start: Path, data: Path, tmp_path: Path) -> None:
    changes = {
        "stop.patience": 2,
        "evaluate": "2 steps",
        "save": "2 steps",
        "total": "400 steps",
        "export": False,
    }
    assert main(words(start, data, tmp_path / "run", **changes)) == 0
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    scores = [(one["step"], one["accuracy"]) for one in records if one["kind"] == "evaluation"]
    best = max(score for _, score in scores)
    first = next(step for step, score in scores if score == best)
    assert scores[-1][0] == first + 4  # two evaluations without a better one
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["figures"]["accuracy"] == best
    assert main(words(start, data, tmp_path / "run", **changes)) == 0  # done already


def test_patience_without_a_best_gives_the_evaluated_step(start: Path, data: Path, tmp_path: Path) -> None:
    changes = {"stop.patience": 1, "evaluate": "2 steps", "save": "50 steps", "total": "400 steps"}
    changes |= {"keep.restore": False, "export": False, "stop.least": 2.0}  # no score is better by 2
    assert main(words(start, data, tmp_path / "run", **changes)) == 0
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    last = [one for one in records if one["kind"] == "evaluation"][-1]
    assert run["steps"] == last["step"] == 4
    assert lmx.load(tmp_path / "run").step == 4
    judged = json.loads((tmp_path / "run" / "metrics.json").read_text())["figures"]
    assert judged["accuracy"] == last["accuracy"]


@pytest.mark.slow
def test_an_average_is_what_a_run_gives_away(start: Path, data: Path, tmp_path: Path, capsys: Any) -> None:
    """The run judges and exports the average; who opens its checkpoint gets the same, and it resumes."""
    changes = {"optim.average": 0.9, "total": "6 steps", "save": "3 steps", "evaluate": "3 steps"}
    changes |= {"keep.restore": False, "keep.last": 3, "keep.best": 0, "optim.rate": 1e-2}
    whole, half = tmp_path / "whole", tmp_path / "half"
    assert main(words(start, data, whole, **changes)) == 0
    judged = json.loads((whole / "metrics.json").read_text())["figures"]
    capsys.readouterr()
    assert main(["evaluate", "--checkpoint", str(whole)]) == 0
    assert json.loads(capsys.readouterr().out)["loss"] == pytest.approx(judged["loss"], rel=1e-6)
    for path, leaf in tree.flatten(lmx.load(whole / "export").params).items():
        np.testing.assert_array_equal(tree.flatten(lmx.load(whole).params)[path], leaf)
    shutil.copytree(whole, half)
    shutil.rmtree(half / "checkpoints" / "6")
    shutil.rmtree(half / "export")
    (half / "metrics.json").unlink()
    assert main(words(start, data, half, **changes)) == 0
    assert json.loads((half / "metrics.json").read_text())["figures"] == judged


def test_an_undefined_figure_ends_no_run(start: Path, tmp_path: Path, capsys: Any) -> None:
    """The correlation with values that are all alike is 0 / 0."""
    for name, values in (("train", (1.0, 2.0, 3.0, 4.0) * 8), ("dev", (2.0,) * 8)):
        lines = [json.dumps({"text": f"the film {i}", "value": value}) for i, value in enumerate(values)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    given = {"data.train": tmp_path / "train.jsonl", "data.validation": tmp_path / "dev.jsonl"}
    fields = {**given, "start": start, "task.name": "sequence_regression", "total": "2 steps", "mesh.data": 1,
              "batch.length": 16, "batch.multiple": 8, "batch.size": 16, "stop.patience": 3}  # fmt: skip
    command = ["train", "--config", "finetune/classify", "--workdir", str(tmp_path / "run")]
    assert main([*command, *(f"--config.{name}={value}" for name, value in fields.items())]) == 0
    assert "spearman nan" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["figures"]["spearman"] == "NaN"


def test_a_call_leaves_the_rows_of_another_alone(start: Path, tmp_path: Path) -> None:
    given = [{"text": row["sentence"], "label": row["gold"]} for row in rows(40, 0)]
    call: dict[str, Any] = {
        "start": start,
        "task": "sequence_classification",
        "validation": "25%",
        "epochs": 1,
    }
    call |= {"batch_size": 8, "length": 16, "workdir": tmp_path / "run", "changes": {"mesh.data": 1}}
    lmx.fine_tune(given, **call)
    before = {path: path.read_bytes() for path in (tmp_path / "run" / "given").iterdir()}
    with pytest.raises(lmx.UserError, match=r"data\.train"):
        lmx.fine_tune(given[:-1], **call)
    assert {path: path.read_bytes() for path in (tmp_path / "run" / "given").iterdir()} == before
    with pytest.raises(lmx.UserError, match=r"^train\[40\] has no label"):  # no label called NaN
        lmx.fine_tune([*given, {"text": "x", "label": float("nan")}], **{**call, "workdir": tmp_path / "nan"})
    assert not (tmp_path / "nan").exists()
    with pytest.raises(lmx.UserError, match=r"train\[0\]: .*changes=\{'data.columns.text': \.\.\.\}"):
        lmx.fine_tune([{"txt": "x", "label": "pos"}] * 9, **{**call, "workdir": tmp_path / "nan"})
    with pytest.raises(lmx.UserError, match=r"changes has 'data\.train', but rows were given, too"):
        lmx.fine_tune(given, **{**call, "changes": {"data.train": "other.tsv"}})
    with pytest.raises(lmx.UserError, match=r"train\[40\]\['more'\]\[0\] is of type object"):
        lmx.fine_tune([*given, {"text": "x", "label": "pos", "more": [object()]}], **call)
    for wrong in ("ten", 1.5, True):
        with pytest.raises(lmx.UserError, match="expected a share"):
            lmx.fine_tune(given, **{**call, "validation": wrong})


@pytest.mark.slow
def test_a_run_goes_on_where_its_start_is_gone(start: Path, data: Path, tmp_path: Path, capsys: Any) -> None:
    here = shutil.copytree(start, tmp_path / "start")
    changes = {"total": "4 steps", "save": "2 steps", "keep.last": 3, "keep.restore": False, "export": False}
    assert main(words(here, data, tmp_path / "run", **changes)) == 0
    shutil.rmtree(here)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "4")
    (tmp_path / "run" / "metrics.json").unlink()
    capsys.readouterr()
    assert main(words(here, data, tmp_path / "run", **changes)) == 0
    assert "resuming at step 2 of 4" in capsys.readouterr().err


def test_one_call_from_python(start: Path, tmp_path: Path) -> None:
    given = [{"text": row["sentence"], "label": row["gold"]} for row in rows(160, 0)]
    found = lmx.fine_tune(
        given,
        start=start,
        task="sequence_classification",
        validation=[{"text": row["sentence"], "label": row["gold"]} for row in rows(40, 1)],
        workdir=tmp_path / "run",
        epochs=8,
        batch_size=8,
        learning_rate=1e-2,
        length=16,
        changes={"mesh.data": 1},
    )
    assert found.config["facts"]["names"] == ["neg", "pos"]
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["figures"]["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"data.columns.text": "text"}, "text"),
        ({"data.train": "nothing.tsv"}, "nothing.tsv"),
        ({"task.labells": 3}, "task.labells"),
        ({"task.loss": "crossentropy"}, "cross_entropy"),
        ({"optim.rat": 1}, "optim.rat"),
        ({"data.formt": "csv"}, "data.formt"),
        ({"model.width": 8}, "model.width=8"),
        ({"model.dropout": 0.1}, "model.dropout"),
        ({"batch.length": 64}, "32 positions"),
        ({"batch.parts": 3}, "batch.parts=3"),
        ({"total": "1e6 tokens"}, "no fixed number of tokens"),
        ({"start": "nowhere"}, "nowhere"),
        ({"task.name": "causal_lm"}, "causal_lm"),
        ({"task.labels": 5}, "task.labels=5"),
        ({"task.loss": "json.dumps"}, "task.loss='json.dumps' failed on what is predicted (16, 2)"),
        ({"stop.patience": -1}, "stop.patience"),
        ({"stop.least": -1.0}, "stop.least"),
        ({"plateau.least": -1.0}, "plateau.least"),
    ],
)
def test_wrong_input_is_one_line_before_anything_is_made(
    start: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    told: str,
) -> None:
    assert main(words(start, data, tmp_path / "run", **changes)) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert told in said[-1]
    assert said[-1].startswith("lmx train: ")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_the_tokenizer_lies_with_the_run(finished: Path) -> None:
    assert tokenizer.load(finished / "data" / "tokenizer").vocab_size == len(_film.WORDS)
