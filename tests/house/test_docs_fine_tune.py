"""The commands and scripts of docs/fine_tune.md, run as they stand on a tiny BERT, and its tables."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import lmx
from lmx.__main__ import main
from lmx.core import plugin

PAGE = Path(__file__).resolve().parents[2] / "docs" / "fine_tune.md"
TEXT = PAGE.read_text("utf-8")
BLOCKS = re.findall(r"^```(bash|python)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] a fine dull film".split()
CONFIG: dict[str, Any] = {
    "model": dict(name="bert", vocab_size=9, positions=128, width=12, layers=1, heads=2, mlp_width=20),
    "task": {"name": "features"},
}


def test_the_page_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import jax

    monkeypatch.chdir(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    params = lmx.build(CONFIG).init(jax.random.key(0))
    lmx.save_hf(lmx.Checkpoint(params, CONFIG, folder=str(tmp_path)), "BERT")
    rows = [f"{'a ' * (i % 40 + 1)}{word} film\t{word}" for i in range(80) for word in ("fine", "dull")]
    (tmp_path / "train.tsv").write_text("\n".join(["text\tlabel", *rows]))
    (tmp_path / "new.jsonl").write_text(json.dumps({"text": "a fine film"}))
    assert [kind for kind, _ in BLOCKS] == ["bash", "python"]
    for line in BLOCKS[0][1].replace("\\\n", " ").splitlines():
        words = shlex.split(line)
        assert words[0] == "lmx"
        assert main(words[1:]) == 0, line
    assert json.loads((tmp_path / "said.jsonl").read_text()).keys() == {"label", "scores"}
    names: dict[str, Any] = {}
    exec(compile(BLOCKS[1][1], str(PAGE), "exec"), names)
    assert names["checkpoint"].config["facts"]["names"] == ["bad", "good"]


def test_the_table_names_the_tasks_of_examples_and_their_fields() -> None:
    told = dict(re.findall(r"^\| `(\w+)`[^|]*\| (.*) \|$", TEXT, re.MULTILINE))
    shelf = {name: plugin.find("lmx.tasks", name) for name in plugin.names("lmx.tasks")}
    assert told.keys() == {name for name, module in shelf.items() if hasattr(module, "FIELDS")}
    for name, fields in told.items():
        known = {field.name for field in shelf[name].FIELDS}
        assert set(re.findall(r"`(\w+)`", fields)) <= known | {"multi_label"}, name
        targets = {field.name for field in shelf[name].FIELDS if field.target and field.required}
        assert targets <= set(re.findall(r"`(\w+)`", fields)), name
