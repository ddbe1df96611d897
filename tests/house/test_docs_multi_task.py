"""The commands of docs/multi_task.md, run as they stand on a tiny BERT, and its arithmetic."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import lmx
from lmx.__main__ import main
from lmx.batches._mixed import shares

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "multi_task.md").read_text("utf-8")
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] a fine dull film".split()
CONFIG: dict[str, Any] = {
    "model": dict(name="bert", vocab_size=9, positions=128, width=12, layers=1, heads=2, mlp_width=20),
    "task": {"name": "features"},
}


@pytest.mark.slow
def test_the_commands_run_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import jax

    monkeypatch.chdir(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    params = lmx.build(CONFIG).init(jax.random.key(0))
    lmx.save_hf(lmx.Checkpoint(params, CONFIG, folder=str(tmp_path)), "BERT")
    for name, column, values in (("mood", "label", ("good", "bad")), ("score", "value", ("2.5", "0.5"))):
        rows = [f"{'a ' * (i % 9 + 1)}{word} film {i}\t{value}" for i in range(40)
                for word, value in zip(("fine", "dull"), values, strict=True)]  # fmt: skip
        (tmp_path / f"{name}.tsv").write_text("\n".join([f"text\t{column}", *rows]))
    (tmp_path / "new.jsonl").write_text(json.dumps({"text": "a fine film"}))
    (block,) = BLOCKS
    for line in block.replace("\\\n", " ").splitlines():
        words = shlex.split(line)
        assert words[0] == "lmx"
        more = ["--config.total=4 steps", "--config.mesh.data=1"] if words[1] == "train" else []
        capsys.readouterr()
        assert main([*words[1:], *more]) == 0, line
    assert json.loads(capsys.readouterr().out).keys() == {"label", "scores"}
    assert lmx.load("runs/several", task="mood").config["facts"]["names"] == ["bad", "good"]


def test_the_shares_are_what_the_page_says() -> None:
    rows = {"large": 9000, "small": 100}
    assert f"{100 * shares(rows, 2.0)['small']:.1f} % of the steps" in TEXT
    assert f"instead of {100 * shares(rows, 1.0)['small']:.1f} %" in TEXT
