"""Bad examples of every task: one line that says what to mend, exit code 2, and nothing was run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lmx import tokenizer
from lmx.__main__ import main
from lmx.commands import _arguments, _supervised
from lmx.core import config, plugin
from lmx.core.errors import UserError
from lmx.training import loop, predict

Row = dict[str, Any]
TASKS = [name for name in plugin.names("lmx.tasks") if hasattr(plugin.find("lmx.tasks", name), "FIELDS")]
CONTEXT = "We keep your name for a year."


def good(task: str) -> list[Row]:
    """Eight rows of a task that train."""
    words = "cat dog hen pig cow fox owl bee".split()
    kinds: dict[str, Any] = {
        "sequence_classification": lambda i, word: {"text": f"a {word}", "label": i % 2},
        "sequence_regression": lambda i, word: {"text": f"a {word}", "value": i / 2},
        "sentence_similarity": lambda i, word: {"text": f"a {word}", "text_pair": "a cat", "value": i / 8},
        "token_classification": lambda i, word: {"words": ["a", word], "tags": ["O", "B-X"]},
        "question_answering": lambda i, word: {
            "question": f"a {word}?",
            "context": CONTEXT,
            "answers": [{"text": "name", "start": CONTEXT.index("name")}],
        },
        "multiple_choice": lambda i, word: {"text": word, "choices": ["a", "the cat"], "label": i % 2},
        "next_sentence": lambda i, word: {"text": f"a {word}", "text_pair": "it ran", "label": i % 2},
        "instruction": lambda i, word: {"prompt": f"say {word}", "response": word},
    }
    return [{"id": f"n{i}", **kinds[task](i, word)} for i, word in enumerate(words)]


@pytest.fixture
def refused(
    tiny_starts: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Any:
    """`refused(task, rows, validation, **fields)` -> the one line that was said; nothing was run."""

    def never(*args: Any, **kwargs: Any) -> Any:
        pytest.fail("the run began")

    monkeypatch.setattr(loop, "run", never)
    monkeypatch.setattr(predict, "over", never)
    monkeypatch.setattr(tokenizer, "probe", lambda folder: None)  # a process each; tried elsewhere

    def run(task: str, rows: list[Row], validation: list[Row] | None = None, **fields: Any) -> str:
        for name, some in (("train", rows), ("dev", validation or good(task))):
            text = "".join(json.dumps(row) + "\n" for row in some)
            (tmp_path / f"{name}.jsonl").write_text(text)
        given = {
            "start": tiny_starts["bert" if "bert" in plugin.find("lmx.tasks", task).HF else "gpt2"],
            "task.name": task,
            "data.train": tmp_path / "train.jsonl",
            "data.validation": tmp_path / "dev.jsonl",
            **fields,
        }
        words = [f"--config.{name}={value}" for name, value in given.items()]
        words = ["train", "--config", "finetune/classify", "--workdir", str(tmp_path / "run"), *words]
        assert main(words) == 2
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert said.startswith("lmx train: "), said
        assert not (tmp_path / "run" / "checkpoints").exists()
        return said

    return run


def test_columns_of_the_command_line_are_names_positions_or_none() -> None:
    found = _arguments.columns(["text=sentence", "label=3", "id=none"])
    assert found == {"text": "sentence", "label": 3, "id": None}
    with pytest.raises(UserError, match="--columns text; expected FIELD=COLUMN"):
        _arguments.columns(["text"])


def changed(task: str, index: int = 2, **fields: Any) -> list[Row]:
    """The good rows, one of them with other fields; None takes a field away."""
    rows = good(task)
    rows[index] = {name: value for name, value in {**rows[index], **fields}.items() if value is not None}
    return rows


@pytest.mark.parametrize("task", TASKS)
def test_a_column_that_is_not_there(task: str, refused: Any) -> None:
    """What there is instead is listed."""
    fields = [one.name for one in plugin.find("lmx.tasks", task).FIELDS]
    last = [name for name in good(task)[0] if name in fields][-1]
    first = [name for name in good(task)[0] if name in fields][1]
    for name in (first, last):
        bare = [{k: v for k, v in row.items() if k != name} | {"other": 1} for row in good(task)]
        said = refused(task, bare)
        assert name in said
        if task != "instruction" and not (task == "sequence_classification" and name == "label"):
            assert f"train.jsonl, line 1: no column '{name}' for {name}" in said and "'other'" in said
    said = refused(task, good(task), **{f"data.columns.{first}": "txt"})
    assert f"no column 'txt' for {first}" in said and f"'{last}'" in said


@pytest.mark.parametrize("task", TASKS)
def test_rows_that_are_in_train_too_are_counted_and_other_columns_named(
    task: str, tiny_starts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither ends a run; ids and targets make no row another one."""
    monkeypatch.setattr(tokenizer, "probe", lambda folder: None)
    new = {"question": "why?", "prompt": "new", "words": ["new", "one"], "text": "new"}
    held = good(task)[:3]
    held[2] = {name: new.get(name, value) for name, value in held[2].items()}
    for name, some in (("train", good(task)), ("dev", [{**row, "id": f"d{row['id']}"} for row in held])):
        text = "".join(json.dumps({**row, "source": "web"}) + "\n" for row in some)
        (tmp_path / f"{name}.jsonl").write_text(text)
    found = config.load("finetune/classify")
    start = tiny_starts["bert" if "bert" in plugin.find("lmx.tasks", task).HF else "gpt2"]
    places = {"data.train": tmp_path / "train.jsonl", "data.validation": tmp_path / "dev.jsonl"}
    config.override(found, {"start": start, "task.name": task, **places})
    said: list[str] = []
    _supervised.prepare(config.plain(found), tmp_path / "run", say=said.append)
    assert "warning: 2 of the 3 validation rows are also in train" in said
    assert f"columns that {task} does not read: source" in said


@pytest.mark.parametrize("task", TASKS)
def test_an_id_that_two_rows_have(task: str, refused: Any) -> None:
    said = refused(task, changed(task, id="n1"))
    assert "train.jsonl, line 3: id 'n1' is that of" in said and "(1 of 8 rows in all)" in said


@pytest.mark.parametrize("task", TASKS)
def test_a_text_that_is_empty(task: str, refused: Any) -> None:
    row = good(task)[0]
    texts = [name for name, value in row.items() if isinstance(value, str) and name != "id"]
    if "choices" in row:
        said = refused(task, changed(task, choices=["a", " "]))
        assert "train.jsonl, line 3: choices[1] is empty" in said
    if task == "token_classification":
        assert "train.jsonl, line 3: words is []" in refused(task, changed(task, words=[], tags=[]))
    for name in texts:
        wanted = "line 3: 'name' is not at" if name == "context" else f"line 3: {name} is empty"
        assert wanted in refused(task, changed(task, **{name: " "})), name


CLASSES = ("sequence_classification", "next_sentence", "multiple_choice")
NUMBERS = ("sequence_regression", "sentence_similarity")


@pytest.mark.parametrize(
    ("task", "fields", "parts"),
    [
        ("sequence_classification", {"label": 1.5}, ["label=1.5", "a whole number"]),
        ("sequence_classification", {"label": [0]}, ["label=[0]", "expected a name"]),
        ("next_sentence", {"label": 2}, ["2"]),
        ("next_sentence", {"label": "maybe"}, ["maybe"]),
        ("multiple_choice", {"label": 2}, ["label=2", "0 to 1"]),
        ("multiple_choice", {"label": "first"}, ["label='first'", "0 to 1"]),
        ("multiple_choice", {"choices": ["one"]}, ["two texts or more"]),
        ("sequence_regression", {"value": "high"}, ["value='high'", "finite number"]),
        ("sequence_regression", {"value": [1, 2]}, ["value=[1, 2]", "finite number"]),
        ("sequence_regression", {"value": True}, ["value=True", "finite number"]),
        ("sequence_regression", {"value": float("nan")}, ["'value' is empty (null)"]),
        ("sequence_regression", {"value": float("inf")}, ["value=inf", "finite number"]),
        ("sentence_similarity", {"value": float("nan")}, ["'value' is empty (null)"]),
        ("sentence_similarity", {"value": 7}, ["7"]),
        ("token_classification", {"tags": ["O"]}, ["1 tags for 2 words", "1 of 8 rows"]),
        ("token_classification", {"tags": ["O", "X"]}, ["'X'", "BIO"]),
        ("token_classification", {"tags": ["O", 1]}, ["tags[1] is 1"]),
        ("question_answering", {"answers": [{"text": "age", "start": 3}]}, ["'age' is not at character 3"]),
        ("question_answering", {"answers": [{"text": "name", "start": 99}]}, ["first at 13"]),
        ("question_answering", {"answers": "name"}, ["answers"]),
        ("instruction", {"response": 3}, ["response"]),
    ],
)
def test_a_target_of_another_kind_or_beyond_its_range(
    task: str, fields: Row, parts: list[str], refused: Any
) -> None:
    said = refused(task, changed(task, **fields), **({"task.values": (0, 1)} if 7 in fields.values() else {}))
    assert "train.jsonl, line 3: " in said
    for part in parts:
        assert part in said


@pytest.mark.parametrize("task", [*CLASSES, *NUMBERS, "token_classification"])
def test_one_class_or_one_value_only(task: str, refused: Any) -> None:
    first = good(task)[0]
    target = next(name for name in first if name in ("label", "value", "tags"))
    only = ["O", "O"] if target == "tags" else first[target]
    said = refused(task, [{**row, target: only} for row in good(task)])
    assert "nothing to learn" in said or "every tag of the training split is 'O'" in said


@pytest.mark.parametrize(
    ("task", "fields"),
    [("sequence_classification", {"label": 7}), ("token_classification", {"tags": ["O", "B-Y"]})],
)
def test_a_label_that_the_training_split_has_not(task: str, fields: Row, refused: Any) -> None:
    said = refused(task, good(task), changed(task, **fields))
    assert (
        "dev.jsonl, line 3: " in said
        and "the task's labels are: " in said
        and ("'7'" in said or "'B-Y'" in said)
    )


@pytest.mark.parametrize(
    ("kernel", "told"), [("cudnn", "cudnn is for GPUs"), ("splash", "rows of a multiple of 128 tokens")]
)
def test_attention_that_cannot_be_is_told_before_rows_are_read(kernel: str, told: str, refused: Any) -> None:
    changes = {"execution.attention": kernel, "model.dropout_attention": 0}
    assert told in refused(
        "sequence_classification", changed("sequence_classification", label=1.5), **changes
    )


@pytest.mark.parametrize("task", ["sequence_classification", "token_classification"])
def test_a_head_whose_labels_are_not_as_many_as_the_data_s(task: str, refused: Any) -> None:
    said = refused(task, good(task), **{"task.labels": 5})
    assert "task.labels=5, but the training split has 2; leave it out" in said


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"metrics": "('matthew',)"}, "did you mean 'matthews'"),
        ({"metrics": "({'name': 'f1', 'positiv': '1'},)"}, "metrics.positiv: f1 has no such option"),
        ({"metrics": "({'name': 'f1', 'positive': 'yes'},)"}, "f1 got positive='yes'"),
        ({"metrics": "({'name': 'f1', 'positive': 1},)"}, "f1 got positive=1, but no label is 1"),
        ({"metrics": "({'name': 'f1', 'labels': ('1', '7')},)"}, "no label is '7'; there is: 0, 1"),
        ({"metrics": "('matthews', 'matthews')"}, "both give the figure 'matthews'; leave one"),
        ({"metrics": "(3,)"}, "config.metrics: 3; expected a name"),
        ({"metrics": "('correlation',)"}, "'value'"),
        ({"score": "acuracy"}, "config.score='acuracy': no such figure (did you mean 'accuracy'?)"),
        ({"score": "matthews"}, "config.metrics adds others"),
    ],
)
def test_a_score_that_is_not_there(fields: dict[str, str], told: str, refused: Any) -> None:
    assert told in refused("sequence_classification", good("sequence_classification"), **fields)


def test_pairs_and_single_texts_are_not_mixed(refused: Any) -> None:
    said = refused(
        "sequence_classification",
        good("sequence_classification"),
        changed("sequence_classification", text_pair="x"),
    )
    assert "dev.jsonl, line 3 has a second text, but the model learnt from single texts" in said
    assert said.endswith("--config.data.columns.text_pair=None")


def test_a_row_of_validation_without_a_target_has_a_place(refused: Any) -> None:
    said = refused("sequence_classification", good("sequence_classification"), [{"id": "a", "text": "b"}])
    assert "dev.jsonl, line 1 has no label" in said and "there is: id, text" in said


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"task.loss": "fokal"}, "task.loss='fokal' (did you mean 'focal'?)"),
        ({"task.threshold": 2}, "task.threshold=2"),
        (
            {"data.test": "nosuch.jsonl"},
            "nosuch.jsonl: no such file; give another path with --config.data.test",
        ),
        ({"data.group": "tekst", "data.validation": "20%"}, "name one with --config.data.group"),
        ({"data.colums.text": "x"}, "data.colums: table has no such option (did you mean 'columns'?)"),
        (
            {"data.format": "squad"},
            "train.jsonl: ends as jsonl, but is read as squad; set --config.data.format=jsonl",
        ),
        (
            {"data.train": "nosuch.tsv"},
            "nosuch.tsv: no such file; give another path with --config.data.train",
        ),
        ({"data.columns.text": "tekst"}, "name one with --config.data.columns.text"),
        ({"metrics": "matthews"}, "expected a tuple, like ('matthews',)"),
        ({"optim.rat": 1}, "optim.rat: adamw has no such option (did you mean 'rate'?); it has: name, rate,"),
    ],
)
def test_what_a_newcomer_typed(fields: dict[str, Any], told: str, refused: Any) -> None:
    said = refused("sequence_classification", good("sequence_classification"), **fields)
    assert told in said
    assert "\n" not in said


def test_a_folder_of_other_files_is_no_workdir(refused: Any, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.tsv").write_text("x")
    said = refused("sequence_classification", good("sequence_classification"))
    assert "/run holds other files (mine.tsv) and no run; name a new folder" in said
    assert sorted(path.name for path in (tmp_path / "run").iterdir() if path.name != ".lock") == ["mine.tsv"]
