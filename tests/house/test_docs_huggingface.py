"""The commands and scripts of docs/huggingface.md, run as they stand on a small folder."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import lmx
from lmx.__main__ import main

PAGE = Path(__file__).resolve().parents[2] / "docs" / "huggingface.md"
BLOCKS = re.findall(r"^```(bash|python)\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
CONFIG: dict[str, Any] = {
    "model": dict(
        name="bert", vocab_size=31, positions=16, width=12, layers=1, heads=2, mlp_width=20, pooler=False
    ),
    "task": {"name": "masked_lm"},
}


def test_the_page_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import jax

    monkeypatch.chdir(tmp_path)
    params = lmx.build(CONFIG).init(jax.random.key(0))
    lmx.save_hf(lmx.Checkpoint(params, CONFIG), "some-bert")
    assert [kind for kind, _ in BLOCKS] == ["python", "python", "bash", "bash", "python"]
    names: dict[str, Any] = {}
    for kind, block in BLOCKS:
        if "from transformers import" in block:
            continue  # the last one needs torch: tests/parity opens what lmx writes
        if kind == "python":
            exec(compile(block, str(PAGE), "exec"), names)
            continue
        for line in block.splitlines():
            words = shlex.split(line)
            assert words[0] == "lmx"
            assert main(words[1:]) == 0
    assert names["classifier"].params["head"]["kernel"].shape == (12, 3)


def test_the_table_of_classes_is_the_shelf() -> None:
    from lmx.core import plugin

    rows = re.findall(r"^\| `(\w+)` \| (\w*) ?\| (\w*) ?\|$", PAGE.read_text("utf-8"), re.MULTILINE)
    told = {task: {"gpt2": gpt2, "bert": bert} for task, gpt2, bert in rows}
    shelf = {name: plugin.find("lmx.tasks", name).HF for name in plugin.names("lmx.tasks")}
    found = {
        task: {model: heads[model].architecture if model in heads else "" for model in ("gpt2", "bert")}
        for task, heads in shelf.items()
    }
    assert told == found
