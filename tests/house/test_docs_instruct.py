"""The commands of docs/instruct.md, run as they stand on a tiny GPT-2, and the tables that name things."""

from __future__ import annotations

import inspect
import json
import re
import shlex
from pathlib import Path

import pytest

import lmx
from lmx import tokenizer
from lmx.__main__ import main
from lmx.core import config, log
from lmx.tasks import instruction

PAGE = Path(__file__).resolve().parents[2] / "docs" / "instruct.md"
TEXT = PAGE.read_text("utf-8")
BLOCKS = re.findall(r"^```(bash|python)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)

pytest.importorskip("sacrebleu", reason="sacrebleu comes with pip install 'lmx[eval]'")


@pytest.mark.slow
def test_the_page_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import jax

    monkeypatch.chdir(tmp_path)
    german = [f"Ein Hund schläft {i} Tage." for i in range(40)]
    english = [f"A dog sleeps for {i} days." for i in range(40)]
    (tmp_path / "train.de").write_text("\n".join(german) + "\n")
    (tmp_path / "train.en").write_text("\n".join(english) + "\n")
    (tmp_path / "new.jsonl").write_text(json.dumps({"prompt": "Ein Hund."}))
    text = tokenizer.train_bpe([*german, *english], 300)
    text.save(tmp_path / "text")
    sizes = dict(vocab_size=text.vocab_size, positions=128, width=16, layers=1, heads=2)
    start = {"model": {"name": "gpt2", **sizes}, "task": {"name": "causal_lm"}}
    params = lmx.build(start).init(jax.random.key(0))
    lmx.save_hf(lmx.Checkpoint(params, start, folder=str(tmp_path / "text")), "GPT2")
    assert [kind for kind, _ in BLOCKS] == ["bash"]
    for line in BLOCKS[0][1].replace("\\\n", " ").splitlines():
        words = shlex.split(line)
        assert words[0] == "lmx"
        capsys.readouterr()
        assert main(words[1:]) == 0, line
        if words[1] == "evaluate":
            assert json.loads(capsys.readouterr().out).keys() >= {"bleu", "ended", "loss", "responses"}
    assert json.loads((tmp_path / "said.jsonl").read_text()).keys() == {"text", "ended"}
    rows = log.read_jsonl(tmp_path / "runs" / "translation" / "predictions.jsonl")
    assert rows
    assert all(row["prompt"].endswith(". =") for row in rows)


def test_the_tables_name_configs_templates_and_options() -> None:
    rows = re.findall(r"^\| `finetune/(\w+)` \| (.*) \| `(\w+)`: .* \|$", TEXT, re.MULTILINE)
    assert [(name, template) for name, _, template in rows] == [
        (name, config.load(f"finetune/{name}").task.template)
        for name in ("dialogue", "summary", "translation", "completion")
    ]
    assert {template for _, _, template in rows} == instruction.TEXT_METRICS.keys()
    fields = {field.name for field in instruction.FIELDS}
    for _, told, _ in rows:
        assert set(re.findall(r"`(\w+)`", told)) <= fields
    options = {
        name: one.default
        for function in (instruction.writing, instruction.text_metrics, instruction.encode, instruction.read)
        for name, one in inspect.signature(function).parameters.items()
    }
    named = set(re.findall(r"task\.(\w+)", TEXT))
    assert named <= options.keys()
    assert named >= {"new_tokens", "temperature", "top_k", "limit", "tokenize"}
    defaults = dict(re.findall(r"^\| `task\.(\w+)=(\d+)`", TEXT, re.MULTILINE))
    for name in ("new_tokens", "temperature"):
        assert float(defaults[name]) == options[name]
