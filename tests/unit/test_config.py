"""Configs: loading, overriding, durations, differences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lmx.commands import train
from lmx.core import config
from lmx.core.errors import UserError

UNIT = {"tokens_per_step": 4096, "steps_per_epoch": 148.6}


@pytest.mark.parametrize(
    ("duration", "steps"),
    [
        ("500 steps", 500), ("500", 500), (500, 500), ("1 step", 1), ("2 epochs", 297), ("0.5 epochs", 74),
        ("1e6 tokens", 244), ("2_000 steps", 2000), ("6%", 60), ("0.5 %", 5), ("0 steps", 0), ("0.001%", 1),
    ],
)  # fmt: skip
def test_durations(duration: str | int, steps: int) -> None:
    assert config.steps(duration, total=1000, **UNIT) == steps


@pytest.mark.parametrize(
    "duration", ["3 parsecs", "", "epochs", "-1 steps", "1,000 steps", "nan", "1 2 steps"]
)
def test_what_is_no_duration(duration: str) -> None:
    with pytest.raises(UserError, match=r"config\.save=.*expected a duration such as"):
        config.steps(duration, total=1000, field="save", **UNIT)


def test_percent_needs_a_total() -> None:
    with pytest.raises(UserError, match=r"config\.total='5%'"):
        config.steps("5%", field="total", **UNIT)


@pytest.mark.parametrize("name", config.names())
def test_shipped_configs_load_and_are_plain(name: str) -> None:
    found = config.load(name)
    whole = config.plain(found)
    assert all(one["task"]["name"] for one in whole.get("tasks", {"": whole}).values())
    assert config.plain(found) == config.plain(config.load(str(config.shelf() / f"{name}.py")))


def test_an_option_of_data_can_be_taken_away() -> None:
    found = config.load("finetune/policyqa")
    config.override(found, {"data.group": "None", "data.validation": "dev.json", "score": "rmse"})
    assert config.plain(found)["data"]["group"] is None and found.score == "rmse"
    config.override(found, {"score": "None"})
    assert found.score is None


def test_a_column_given_by_position_may_get_a_name() -> None:
    found = config.load("finetune/stsb")
    changes = {"text": "one", "text_pair": "4", "value": "('joy', 'anger')", "id": "none"}
    config.override(found, {f"data.columns.{field}": column for field, column in changes.items()})
    wanted = {"text": "one", "text_pair": 4, "value": ["joy", "anger"], "id": None}
    assert config.plain(found)["data"]["columns"] == wanted


def test_files_in_a_list_may_lie_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    found = config.load("finetune/rte")
    config.override(found, {"data.train": "('~/a.tsv', '~/b.tsv')"})
    fields = config.plain(found)
    fields["data"]["test"] = {"prompt": "~/a.en"}
    data = config.expanded(fields)["data"]
    assert data["train"] == ["/home/me/a.tsv", "/home/me/b.tsv"]
    assert data["test"] == {"prompt": "/home/me/a.en"}


def test_names_hold_what_the_readme_promises() -> None:
    assert {"quickstart", "pretrain/from_text"} <= set(config.names())
    assert "base" not in config.names()


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("optim.rate", "3e-4", 3e-4), ("optim.rate", "1", 1.0), ("model.layers", "6", 6),
        ("seed", "1e3", 1000),
        ("export", "false", False), ("model.tie_embeddings", "False", False),
        ("data.path", "a/b.txt", "a/b.txt"),
        ("model.mlp_width", "99", 99), ("optim.clip", "None", None), ("total", "7", "7"),
        ("samples.prompts[1]", "New", ("", "New")), ("samples.prompts", "('a', 'b')", ("a", "b")),
    ],
)  # fmt: skip
def test_overrides_take_the_type_that_stands_there(path: str, text: str, value: Any) -> None:
    found = config.inherit("base")
    found.samples.prompts = ("", "Old")
    found.lock()
    config.override(found, {path: text})
    if "[" in path:
        assert tuple(found.samples.prompts) == value
    else:
        holder: Any = found
        for part in path.split("."):
            holder = holder[part]
        assert holder == value
        assert type(holder) is type(value)


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("modell.layers", "1", "did you mean 'model'"), ("model.layer", "1", "did you mean 'layers'"),
        ("model.layers", "many", "a whole number"), ("model.layers", "True", "a whole number"),
        ("export", "2", "True or False"), ("model", "gpt2", "holds keys"), ("seed.x", "1", "has no keys"),
        ("samples.prompts[9]", "x", "no place"), ("model.layers", "2.5", "expected a whole number"),
    ],
)  # fmt: skip
def test_wrong_overrides(path: str, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        config.override(config.load("quickstart"), {path: text})


@pytest.mark.parametrize(
    ("path", "given", "value"),
    [
        ("optim.rate", 3e-4, 3e-4), ("optim.rate", 1, 1.0), ("model.layers", 6, 6), ("export", False, False),
        ("optim.clip", None, None), ("data.path", Path("a/b"), "a/b"), ("data.path", "5", "5"),
        ("data.path", None, None), ("samples.prompts", ["a"], ("a",)), ("total", "3 epochs", "3 epochs"),
    ],
)  # fmt: skip
def test_overrides_take_values_of_the_type_that_stands_there(path: str, given: Any, value: Any) -> None:
    found = config.load("quickstart")
    config.override(found, {path: given})
    holder: Any = config.plain(found)
    for part in path.split("."):
        holder = holder[part]
    assert (tuple(holder) if isinstance(holder, list) else holder) == value
    assert type(holder) in (type(value), list)


@pytest.mark.parametrize(
    ("path", "given", "message"),
    [
        ("total", 3, r"config\.total=3: expected a text, like '1.2e6 tokens'"),
        ("model.layers", True, "expected a whole number"), ("model.layers", 2.0, "expected a whole number"),
        ("optim.rate", True, "expected a number"), ("export", 1, "expected True or False"),
        ("optim.rate", None, "expected a number"), ("data.path", 5, "expected a text"),
        ("samples.prompts", "The", "expected a tuple"), ("model", {"layers": 2}, "holds keys"),
        ("model.mlp_width", {}, "expected a text, a number"),
    ],
)  # fmt: skip
def test_values_of_another_type_are_refused(path: str, given: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        config.override(config.load("quickstart"), {path: given})


def test_a_chain_of_dicts_keeps_its_order_and_can_be_reached_into() -> None:
    """A ConfigDict iterates alphabetically; a tuple of dicts does not."""
    found = config.ConfigDict({"wrappers": (dict(name="b", rank=8), dict(name="a"))})
    config.override(found, {"wrappers[0].rank": "4"})
    assert [w["name"] for w in config.plain(found)["wrappers"]] == ["b", "a"]
    assert config.plain(found)["wrappers"][0]["rank"] == 4


def test_differences_name_dotted_keys() -> None:
    old = {"a": {"b": 1, "c": 2}, "d": 3}
    new = {"a": {"b": 1, "c": 9}, "e": 4}
    assert list(config.differences(old, new)) == [("a.c", 2, 9), ("d", 3, None), ("e", None, 4)]
    same = ({"total": "100steps", "save": 5}, {"total": "1e2 step", "save": "5 steps"})
    assert not list(config.differences(*same))
    assert list(config.differences({"total": "1 epoch"}, {"total": "1 step"}))


def test_every_key_of_a_config_decides_something_or_is_cosmetic() -> None:
    """A new key must be thought about: does it move a parameter (identity), or not (cosmetic)?"""
    identity = {
        "seed", "start", "model", "task", "data", "tokenizer", "batch", "optim", "total", "evaluate",
        "save", "mesh", "execution", "stop", "plateau",
    }  # fmt: skip
    cosmetic = {key.partition(".")[0] for key in train.COSMETIC}
    assert identity | cosmetic == set(config.load("quickstart").keys())
    assert not identity & cosmetic


def test_a_config_file_is_found_by_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from lmx.core.config import inherit\n\n\n"
        "def get_config():\n    c = inherit('base')\n    c.seed = 7\n    return c\n"
    )
    assert config.load(str(path)).seed == 7
