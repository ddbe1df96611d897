"""Every source end to end: a run from files of each kind, from TFDS, from a saved data set."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmx.__main__ import main
from lmx.core import log

TFDS = """
import sys
import tensorflow_datasets as tfds

class Tiny(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        f = tfds.features
        features = {"said": f.Text(), "kind": f.ClassLabel(names=["bad", "good"])}
        return tfds.core.DatasetInfo(builder=self, disable_shuffling=True, features=f.FeaturesDict(features))

    def _split_generators(self, _):
        return {"train": self._generate_examples(0, 50), "test": self._generate_examples(100, 6)}

    def _generate_examples(self, first, count):
        for i in range(first, first + count):
            yield i, {"said": f"text {i}", "kind": i % 2}

Tiny(data_dir=sys.argv[1], file_format="array_record").download_and_prepare()
"""

SAVED = """
import sys
import datasets as d

features = d.Features({"said": d.Value("string"), "kind": d.ClassLabel(names=["bad", "good"])})
rows = [{"said": f"text {i}", "kind": i % 2} for i in range(56)]
made = d.Dataset.from_list(rows, features=features)
d.DatasetDict({"train": made.select(range(50)), "test": made.select(range(50, 56))}).save_to_disk(sys.argv[1])
"""


def made(program: str, folder: Path, library: str) -> Path:
    """A folder that a library of data sets filled, in a process of its own."""
    pytest.importorskip(library, reason=f"{library} makes the folder that this test trains on")
    done = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def trained(start: Path, workdir: Path, **data: Any) -> dict[str, int]:
    """Run two steps; return how many examples each split has, test as `evaluate` counts it."""
    fields: dict[str, Any] = {
        "start": start, "total": "2 steps", "batch.size": 8, "batch.multiple": 64, "batch.length": 64,
        "mesh.data": 1, "export": False, "data.columns.text": "said", "data.columns.label": "kind",
        **{f"data.{name}": value for name, value in data.items()},
    }  # fmt: skip
    words = [f"--config.{name}={value}" for name, value in fields.items()]
    assert main(["train", "--config", "finetune/classify", "--workdir", str(workdir), *words]) == 0
    facts = json.loads((workdir / "run.json").read_text())["data"]["examples"]
    told = log.read_jsonl(workdir / "predictions.jsonl")
    assert len(told) == facts["validation"]
    assert set(told[0]["scores"]) == {"bad", "good"} and told[0]["reference"]["label"] in ("bad", "good")
    return facts


def examined(workdir: Path, capsys: pytest.CaptureFixture[str]) -> int:
    capsys.readouterr()
    assert main(["evaluate", "--checkpoint", str(workdir), "--split", "test"]) == 0
    return json.loads(capsys.readouterr().out)["examples"]


def test_files_of_every_kind(
    tiny_starts: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One split from five files, compressed where that goes; each other split from a file of another kind."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    def rows(first: int, count: int) -> list[dict[str, str]]:
        return [{"said": f"text {i}", "kind": ("bad", "good")[i % 2]} for i in range(first, first + count)]

    def text(kind: str, some: list[dict[str, str]]) -> str:
        if kind.startswith("jsonl"):
            return "".join(json.dumps(row) + "\n" for row in some)
        if kind.startswith("json"):
            return json.dumps(some)
        mark = "," if kind.startswith("csv") else "\t"
        return "".join(mark.join(row) + "\n" for row in [("said", "kind"), *(row.values() for row in some)])

    files = []
    for place, kind in enumerate(("csv", "tsv", "jsonl", "json", "csv.gz", "tsv.gz", "jsonl.gz", "json.gz")):
        files.append(tmp_path / f"part{place}.{kind}")
        content = text(kind, rows(10 * place, 4)).encode()
        files[-1].write_bytes(gzip.compress(content) if kind.endswith("gz") else content)
    files.append(tmp_path / "part9.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(rows(90, 4)), files[-1])
    (tmp_path / "dev.jsonl.gz").write_bytes(gzip.compress(text("jsonl", rows(200, 9)).encode()))
    parquet.write_table(pyarrow.Table.from_pylist(rows(300, 7)), tmp_path / "test.parquet")
    places = {"train": tuple(map(str, files)), "validation": tmp_path / "dev.jsonl.gz"}
    run = tmp_path / "run"
    found = trained(tiny_starts["bert"], run, **places, test=tmp_path / "test.parquet")
    assert found == {"train": 36, "validation": 9}
    assert examined(run, capsys) == 7


def test_several_numbers_for_a_text(
    tiny_starts: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two columns make one value; figures are of each and their mean; the export counts two labels."""
    rows = [f"text {i},{i % 5},{i * i % 7}\n" for i in range(24)]
    (tmp_path / "all.csv").write_text("text,joy,anger\n" + "".join(rows))
    fields: dict[str, Any] = {
        "start": tiny_starts["bert"], "total": "2 steps", "batch.size": 8, "batch.multiple": 64,
        "task.name": "sequence_regression", "task.targets": 2, "task.standardize": True,
        "data.train": tmp_path / "all.csv", "data.validation": "40%", "score": "spearman",
        "data.columns.value": "('joy', 'anger')", "mesh.data": 1,
    }  # fmt: skip
    run = tmp_path / "run"
    words = [f"--config.{name}={value}" for name, value in fields.items()]
    assert main(["train", "--config", "finetune/classify", "--workdir", str(run), *words]) == 0
    figures = json.loads((run / "metrics.json").read_text())["figures"]
    for name in ("pearson", "spearman", "mse", "rmse", "mae"):
        each = [figures[f"{name}/{i}"] for i in (0, 1)]
        assert figures[name] == pytest.approx(sum(each) / 2)
    assert len(json.loads((run / "export" / "config.json").read_text())["id2label"]) == 2
    told = log.read_jsonl(run / "predictions.jsonl")
    texts = {(i % 5, i * i % 7): f"text {i}" for i in range(24)}
    held = [{"text": texts[tuple(map(int, one["reference"]["value"]))], **one["reference"]} for one in told]
    (tmp_path / "held.jsonl").write_text("".join(json.dumps(row) + "\n" for row in held))
    said = []
    for where in (run, run / "export"):  # the folder tells values in the units of the data, too
        capsys.readouterr()
        assert main(["predict", "--checkpoint", str(where), "--data", str(tmp_path / "held.jsonl")]) == 0
        said.append([json.loads(line)["value"] for line in capsys.readouterr().out.splitlines()])
    np.testing.assert_allclose(said[1], said[0], rtol=1e-4, atol=1e-5)
    assert np.ptp(np.mean(said[0], axis=0)) > 0.1  # the two have means of their own


def test_tfds_with_its_own_slices(
    tiny_starts: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = made(TFDS, tmp_path / "data", "tensorflow_datasets") / "tiny" / "1.0.0"
    slices = {"train": "train[:80%]", "validation": "train[80%:]"}
    found = trained(tiny_starts["bert"], tmp_path / "run", name="tfds", folder=folder, **slices)
    assert found == {"train": 40, "validation": 10}
    assert examined(tmp_path / "run", capsys) == 6


def test_a_saved_data_set_with_a_share(
    tiny_starts: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = made(SAVED, tmp_path / "data", "datasets")
    found = trained(tiny_starts["bert"], tmp_path / "run", name="datasets", folder=folder, validation="20%")
    assert found["train"] + found["validation"] == 50 and 3 <= found["validation"] <= 20
    assert examined(tmp_path / "run", capsys) == 6
