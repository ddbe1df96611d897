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
    assert config.plain(found)["task"]["name"]
    assert config.plain(found) == config.plain(config.load(str(config.shelf() / f"{name}.py")))


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
        ("model.layers", "many", "expected a int"), ("model.layers", "True", "expected a int"),
        ("export", "2", "expected a bool"), ("model", "gpt2", "holds keys"), ("seed.x", "1", "has no keys"),
        ("samples.prompts[9]", "x", "no place"), ("model.layers", "2.5", "expected a int"),
    ],
)  # fmt: skip
def test_wrong_overrides(path: str, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        config.override(config.load("quickstart"), {path: text})


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


def test_every_key_of_a_config_decides_something_or_is_cosmetic() -> None:
    """A new key must be thought about: does it move a parameter (identity), or not (cosmetic)?"""
    identity = {
        "seed", "start", "model", "task", "data", "tokenizer", "batch", "optim", "total", "evaluate",
        "save", "mesh",
    }  # fmt: skip
    assert identity | set(train.COSMETIC) == set(config.load("quickstart").keys())
    assert not identity & set(train.COSMETIC)


def test_a_config_file_is_found_by_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from lmx.core.config import inherit\n\n\n"
        "def get_config():\n    c = inherit('base')\n    c.seed = 7\n    return c\n"
    )
    assert config.load(str(path)).seed == 7
