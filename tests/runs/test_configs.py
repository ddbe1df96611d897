"""Every shipped config runs as it is, made small: some steps, an evaluation, a save and the samples."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmx.__main__ import main
from lmx.core import config, log

SMALL = {
    "model.layers": "1", "model.width": "16", "model.heads": "2", "total": "2 steps", "sample": "1 steps",
    "batch.size": "8", "export": "False",
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in config.names() if "samples" in config.load(name)])
def test_a_shipped_config_runs(name: str, text: Path, tmp_path: Path) -> None:
    # Twice the same text: a vocabulary of characters knows what is held out.
    (tmp_path / "twice.txt").write_text(2 * text.read_text(encoding="utf-8"), encoding="utf-8")
    shipped = config.load(name)
    own = {} if shipped.data.name == "stdlib" else {"data.path": str(tmp_path / "twice.txt")}
    if shipped.start is None:
        pytest.skip("goes on with a model; see test_encoders.py")
    fields = {**SMALL, **own}
    words = [f"--config.{key}={value}" for key, value in fields.items()]
    assert main(["train", "--config", name, "--workdir", str(tmp_path / "run"), *words]) == 0
    prompts = config.load(name).samples.prompts
    assert len(log.read_jsonl(tmp_path / "run" / "samples.jsonl")) == 2 * len(prompts)
