"""Fine-tuning on several tasks end to end on a tiny BERT: figures, resuming, exports, a task taken out."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import lmx
from lmx.__main__ import main
from lmx.commands import _bodies, _build
from lmx.core import tree
from lmx.hf import oracle
from lmx.training import predict

from . import _film


@pytest.fixture(autouse=True)
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oracle, "present", lambda: False)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder of a random BERT with its tokenizer."""
    return _film.saved(tmp_path_factory.mktemp("start"))


def sentences(count: int, seed: int) -> list[tuple[str, str]]:
    """Sentences of which one word tells the label."""
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        label = int(draw.integers(2))
        filler = " ".join(draw.choice(["the", "film", "was", "it", "and"], int(draw.integers(1, 9))))
        found.append((f"{filler} {draw.choice((_film.BAD, _film.GOOD)[label])}", ("neg", "pos")[label]))
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mood: a label of each sentence; words: a tag of each word, B-GOOD for a good one."""
    root = tmp_path_factory.mktemp("data")
    for name, count, seed in (("train", 96, 0), ("dev", 24, 1)):
        rows = sentences(count, seed)
        lines = ["text\tlabel", *("\t".join(row) for row in rows)]
        (root / f"mood-{name}.tsv").write_text("\n".join(lines) + "\n")
        tagged = [
            "\n".join(f"{word}\t{'B-GOOD' if word in _film.GOOD else 'O'}" for word in text.split())
            for text, _ in rows[: count // 4]
        ]
        (root / f"words-{name}.tsv").write_text("\n\n".join(tagged) + "\n")
    return root


def words(folder: Path, data: Path, workdir: Path, **changes: Any) -> list[str]:
    fields = {
        "start": folder,
        "tasks.mood.task.name": "sequence_classification",
        "tasks.mood.data.train": data / "mood-train.tsv",
        "tasks.mood.data.validation": data / "mood-dev.tsv",
        "tasks.words.task.name": "token_classification",
        "tasks.words.data.format": "conll",
        "tasks.words.data.train": data / "words-train.tsv",
        "tasks.words.data.validation": data / "words-dev.tsv",
        "mix.temperature": 2.0,
        "batch.size": 16,
        "batch.length": 16,
        "optim.rate": "1e-2",
        "optim.warmup": "40 steps",
        "total": "120 steps",
        "log": "20 steps",
        "evaluate": "60 steps",
        "save": "60 steps",
        "keep.last": 2,
        "mesh.data": 1,
        **changes,
    }
    found = ["train", "--config", "finetune/multi_base", "--workdir", str(workdir)]
    return [*found, *(f"--config.{name}={value}" for name, value in fields.items() if value is not None)]


@pytest.fixture(scope="module")
def finished(start: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never interrupted; not to be changed."""
    folder = tmp_path_factory.mktemp("run") / "run"
    assert main(words(start, data, folder)) == 0
    return folder


def test_a_run_learns_every_task_and_tells(finished: Path) -> None:
    whole = json.loads((finished / "metrics.json").read_text())["tasks"]
    scores = {"mood": whole["mood"]["figures"]["accuracy"], "words": whole["words"]["figures"]["f1"]}
    assert min(scores.values()) > 0.9
    assert [whole[name]["examples"] for name in ("mood", "words")] == [24, 6]
    low, high = whole["mood"]["intervals"]["accuracy"]
    assert low <= scores["mood"] <= high
    for name, field, count in (("mood", "label", 24), ("words", "tags", 6)):
        rows = [
            json.loads(line) for line in (finished / f"predictions-{name}.jsonl").read_text().splitlines()
        ]
        assert len(rows) == count
        assert sum(row[field] == row["reference"][field] for row in rows) > 0.8 * count
    assert not (finished / "predictions.jsonl").exists()
    assert not (finished / ".finish").exists()
    told = json.loads((finished / "run.json").read_text())["data"]
    assert told["shares"] == pytest.approx({"mood": 2 / 3, "words": 1 / 3})  # 96 and 24 rows: roots 2 to 1
    assert told["tasks"]["words"]["examples"] == {"train": 24, "validation": 6}


def test_the_score_is_the_mean_of_the_tasks(finished: Path) -> None:
    records = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    for one in records:
        if one["kind"] == "evaluation":
            assert one["score"] == pytest.approx((one["mood/accuracy"] + one["words/f1"]) / 2)
            assert one["loss"] == pytest.approx((one["mood/loss"] + one["words/loss"]) / 2)
        else:
            assert {"mood/loss", "words/loss", "loss"} <= one.keys()
    assert [one["step"] for one in records if one["kind"] == "evaluation"] == [60, 120]


def test_each_export_gives_the_logits_of_its_task(finished: Path) -> None:
    """Opened by transformers, as the class of its task, with the run's own numbers."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    classes = {"mood": "BertForSequenceClassification", "words": "BertForTokenClassification"}
    ids = np.array([[2, 5, 6, 7, 10, 3], [2, 9, 16, 3, 0, 0]], np.int32)
    mask = (ids > 0).astype(np.int32)
    for name, kind in classes.items():
        folder = finished / "export" / name
        theirs = getattr(transformers, kind).from_pretrained(folder).eval()
        with torch.no_grad():
            wanted = theirs(torch.tensor(ids).long(), torch.tensor(mask).long()).logits.numpy()
        found = lmx.load(finished, task=name)
        model = lmx.build(found.config)
        ours = model.apply(found.params, {"input_ids": ids, "attention_mask": mask})["logits"]
        real = slice(None) if name == "mood" else mask.astype(bool)
        np.testing.assert_allclose(np.asarray(ours)[real], wanted[real], atol=1e-5)
        assert found.step == lmx.load(finished, task="mood").step
    names = json.loads((finished / "export" / "words" / "config.json").read_text())["id2label"]
    assert sorted(names.values()) == ["B-GOOD", "O"]


def test_evaluation_repeats_the_figures(
    finished: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = json.loads((finished / "metrics.json").read_text())["tasks"]
    for name, source in (
        ("words", ["--checkpoint", str(finished), "--task", "words"]),
        ("mood", ["--checkpoint", str(finished / "export" / "mood"), "--data", str(data / "mood-dev.tsv")]),
    ):
        capsys.readouterr()
        assert main(["evaluate", *source]) == 0
        found = json.loads(capsys.readouterr().out)
        wanted = known[name]["figures"]
        assert {figure: found[figure] for figure in wanted} == pytest.approx(wanted, abs=1e-6)


def test_predictions_of_one_task(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "new.jsonl"
    file.write_text('{"text": "the film was lovely"}\n{"text": "it was dull"}\n')
    asked = ["predict", "--checkpoint", str(finished), "--data", str(file)]
    assert main([*asked, "--task", "mood"]) == 0
    assert [json.loads(line)["label"] for line in capsys.readouterr().out.splitlines()] == ["pos", "neg"]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ([], "has several tasks: mood, words; name one: --task NAME"),
        (["--task", "word"], "has no task 'word' (did you mean 'words'?); it has: mood, words"),
    ],
)
def test_which_task_must_be_told(
    finished: Path, more: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "--checkpoint", str(finished), *more]) == 2
    assert told in capsys.readouterr().err
    assert main(["export-hf", "--checkpoint", str(finished), "--output", "out", *more]) == 2
    assert told in capsys.readouterr().err


def test_a_checkpoint_of_one_task_has_no_other(
    start: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = finished / "export" / "mood"
    assert main(["predict", "--checkpoint", str(one), "--data", "x", "--task", "mood"]) == 2
    assert "has one task, sequence_classification; leave out the name" in capsys.readouterr().err
    with pytest.raises(lmx.UserError, match="several tasks: mood, words"):
        lmx.load(finished)


def test_a_run_that_is_stopped_ends_in_the_same_bits(
    start: Path, data: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second half is cut off and made again: the same tasks in the same order, the same batches. A stop
    while the second task is evaluated puts off the evaluation of both."""
    half = tmp_path / "half"
    shutil.copytree(finished, half)
    shutil.rmtree(half / "checkpoints" / "120")
    for path in (*half.glob("predictions-*"), half / "metrics.json"):
        path.unlink()
    shutil.rmtree(half / "export")
    with monkeypatch.context() as patch:
        plain, passes = predict.over, list[int]()

        def over(*args: Any, before: Callable[[], None], **kwargs: Any) -> Any:
            passes.append(len(passes) + 1)
            if passes == [1, 2]:
                signal.raise_signal(signal.SIGTERM)
            return plain(*args, before=before, **kwargs)

        patch.setattr(predict, "over", over)
        assert main(words(start, data, half)) == 75
    assert passes == [1, 2]
    assert json.loads((half / "metrics.jsonl").read_text().splitlines()[-1])["kind"] == "train"
    assert main(words(start, data, half)) == 0
    for name in ("mood", "words"):
        ours, theirs = (lmx.load(f"{path}@120", task=name).params for path in (half, finished))
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    ours, theirs = ((path / "metrics.jsonl").read_text().splitlines()[-1] for path in (half, finished))
    assert {**json.loads(ours), "seconds": 0} == {**json.loads(theirs), "seconds": 0}


@pytest.mark.slow
def test_a_mixture_of_one_task_is_the_run_on_it_alone(start: Path, data: Path, tmp_path: Path) -> None:
    """With dropout, decay and clipping on; a checkpoint of the one task needs no name."""
    less = {
        f"tasks.words.{key}": None for key in ("task.name", "data.format", "data.train", "data.validation")
    }
    short = {
        "optim.warmup": "2 steps",
        "total": "6 steps",
        "evaluate": "6 steps",
        "save": "6 steps",
        "export": False,
    }
    assert main(words(start, data, tmp_path / "mixture", **less, **short)) == 0
    single = words(start, data, tmp_path / "single", **less, **short)
    single[2] = "finetune/base"
    single = [word.replace("tasks.mood.", "") for word in single if "mix." not in word]
    assert main(single) == 0
    ours, theirs = (tree.flatten(lmx.load(tmp_path / name).params) for name in ("mixture", "single"))
    assert ours.keys() == theirs.keys()
    for path, leaf in theirs.items():
        np.testing.assert_allclose(ours[path], leaf, atol=1e-6, rtol=0, err_msg=path)


def test_a_run_may_start_from_one_on_several_tasks(finished: Path, start: Path) -> None:
    """The body comes along, the pooler too; a head for a task of the same name and kind, and for no other."""
    config = dict(lmx.load(finished, task="mood").config)
    config["start"] = str(finished)
    built = _build.model(config)
    theirs = tree.flatten(lmx.load(finished, task="mood").params)
    for name, kept in (("mood", True), (None, False), ("words", False)):
        said: list[str] = []
        ours = tree.flatten(_bodies.params(config, built, say=said.append, name=name))
        assert ours.keys() == theirs.keys()
        for path, leaf in theirs.items():
            alike = np.array_equal(ours[path], leaf)
            body = path.startswith(("embed", "block")) or (path.startswith("pooler") and name != "words")
            assert alike == (kept or body) or path == "head/bias", (name, path)
        assert any("started anew: " in line for line in said) == (not kept)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"tasks.word.data.train": "x"}, "tasks.word has no task.name (did you mean 'words'?)"),
        ({"tasks.mood.weigth": 2}, "tasks.mood.weigth: no such key (did you mean 'weight'?)"),
        ({"tasks.mood.weight": 0}, "tasks.mood.weight=0; expected a number above 0"),
        ({"tasks.mood.weight": "'a'"}, "tasks.mood.weight='a'; expected a number above 0"),
        ({"tasks.a/b.task.name": "sequence_classification"}, "tasks.a/b: files are called so"),
        ({"tasks.Mood.task.name": "sequence_classification"}, "repeats tasks."),
        ({"mix.temperature": 0.0}, "mix.temperature=0.0; expected a number above 0"),
        ({"mix.temperatur": 1.0}, "did you mean 'temperature'?"),
        ({"tasks.mood.task.labells": 3}, "tasks.mood: task.labells"),
        ({"tasks.mood.task.name": "causal_lm"}, "tasks.mood: task.name='causal_lm'"),
        ({"tasks.mood.data.formt": "csv"}, "tasks.mood: data.formt"),
        ({"tasks.mood.data": 3}, "config.tasks.mood.data holds keys"),
        ({"tasks.words.data.train": "nothing.tsv"}, "tasks.words: nothing.tsv"),
        ({"tasks.words.data.format": "csv"}, "tasks.words: "),
        ({"data.train": "x"}, "unknown config key 'data.train'"),
        ({"start": "nowhere"}, "nowhere"),
    ],
)
def test_wrong_input_is_one_line_that_names_the_task(
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


def test_a_run_on_no_task_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "--config", "finetune/multi_base", "--workdir", str(tmp_path / "run")]
    assert main([*command, "--config.start=x"]) == 2
    assert "config.tasks is empty" in capsys.readouterr().err
