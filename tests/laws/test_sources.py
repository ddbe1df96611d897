"""Laws of every source of examples: the same rows, whatever they are kept in."""

import csv
import inspect
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmx import sources
from lmx.core import plugin
from lmx.core.errors import UserError
from lmx.core.examples import Records

NAMES = [name for name in plugin.names("lmx.sources") if name != "rows"]  # of packed tokens, not of examples
ROWS = [
    {"text": f"text {i}, “quoted” \U0001f600", "label": ["bad", "good"][i % 2], "part": f"{i % 7}"}
    for i in range(60)
]
FIELDS: dict[str, Any] = {"fields": ["id", "text", "label"], "required": ["text", "label"]}

WITH_DATASETS = """
import json, sys
import datasets
rows = json.load(open(sys.argv[1] + "/rows.json"))
datasets.DatasetDict(train=datasets.Dataset.from_list(rows)).save_to_disk(sys.argv[1] + "/made")
"""

WITH_TFDS = """
import json, sys
import tensorflow_datasets as tfds

class Made(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {name: tfds.features.Text() for name in ("text", "label", "part")}
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True)

    def _split_generators(self, _):
        return {"train": enumerate(json.load(open(sys.argv[1] + "/rows.json")))}

    def _generate_examples(self):
        pass

Made(data_dir=sys.argv[1], file_format="array_record").download_and_prepare()
"""


def delimited(mark: str, folder: Path) -> dict[str, Any]:
    file = folder / ("rows.csv" if mark == "," else "rows.tsv")
    with open(file, "w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, list(ROWS[0]), delimiter=mark)
        writer.writeheader()
        writer.writerows(ROWS)
    return {"train": file}


def text(name: str, whole: str, folder: Path) -> dict[str, Any]:
    (folder / name).write_text(whole, encoding="utf-8")
    return {"train": folder / name}


def parquet(folder: Path) -> dict[str, Any]:
    pyarrow, module = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    module.write_table(pyarrow.Table.from_pylist(ROWS), folder / "rows.parquet")
    return {"train": folder / "rows.parquet"}


def foreign(library: str, program: str, made: str, folder: Path) -> dict[str, Any]:
    pytest.importorskip(library, reason=f"{library} makes the folder that this reads")
    text("rows.json", json.dumps(ROWS), folder)
    done = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {"folder": folder / made}


LAWS: dict[str, dict[str, Callable[[Path], dict[str, Any]]]] = {
    "table": {
        "csv": lambda folder: delimited(",", folder),
        "tsv": lambda folder: delimited("\t", folder),
        "jsonl": lambda folder: text("rows.jsonl", "\n".join(map(json.dumps, ROWS)), folder),
        "json": lambda folder: text("rows.json", json.dumps(ROWS), folder),
        "parquet": parquet,
    },
    "memory": {"dicts": lambda _: {"train": ROWS}},
    "datasets": {"saved": lambda folder: foreign("datasets", WITH_DATASETS, "made", folder)},
    "tfds": {
        "prepared": lambda folder: foreign("tensorflow_datasets", WITH_TFDS, "made/1.0.0", folder),
    },
}
"""Source -> what it reads -> how the rows are put there, and the options that name the place."""

CASES = [(name, kind) for name in LAWS for kind in LAWS[name]]

Load = Callable[..., Records]


@pytest.fixture(scope="module", params=CASES, ids=["-".join(case) for case in CASES])
def load(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Load:
    name, kind = request.param
    place = LAWS[name][kind](tmp_path_factory.mktemp("rows"))
    module = plugin.find("lmx.sources", name)

    def call(split: str = "train", **options: Any) -> Records:
        found: Records = module.source(split, **{**place, **FIELDS, **options})
        return found

    return call


def values(found: Records) -> list[dict[str, Any]]:
    return [dict(found[index]) for index in range(len(found))]


def test_every_source_has_its_laws() -> None:
    assert sorted(LAWS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_signature_is_that_of_the_shelf(name: str) -> None:
    parameters = inspect.signature(plugin.find("lmx.sources", name).source).parameters
    assert next(iter(parameters)) == "split"
    assert {"fields", "required", "columns", "train", "validation", "test"} <= set(parameters)
    assert all(one.kind is one.KEYWORD_ONLY for one in list(parameters.values())[1:])


def test_the_rows_are_those_put_there(load: Load) -> None:
    found = load()
    assert values(found) == [{"text": row["text"], "label": row["label"]} for row in ROWS]
    assert sorted(found.columns) == sorted(ROWS[0])
    assert len({found.where(index) for index in range(len(found))}) == len(ROWS)
    for index in (len(ROWS), -1):
        with pytest.raises(IndexError):
            found[index]


def test_records_can_be_pickled(load: Load) -> None:
    found = load()
    copy = pickle.loads(pickle.dumps(found))
    assert values(copy) == values(found) and copy.where(7) == found.where(7)


def test_fingerprint_and_sides_depend_on_the_examples_alone(load: Load) -> None:
    from lmx.sources import memory

    for options in ({}, {"validation": "30%"}, {"validation": "30%", "group": "part"}):
        for split in ("train", "validation") if options else ("train",):
            there = load(split, **options)
            here = memory.source(split, train=ROWS, **FIELDS, **options)
            assert sources.fingerprint(there) == sources.fingerprint(here)
            assert sources.overlap(there, here) == len(here)


def test_columns_may_have_other_names(load: Load) -> None:
    options = {"fields": ["prompt", "both"], "required": ["both"]}
    found = load(columns={"prompt": "label", "both": ["part", "text"]}, **options)
    assert values(found)[8] == {"prompt": "bad", "both": ["1", ROWS[8]["text"]]}


def test_what_is_missing_is_refused(load: Load) -> None:
    refused: list[tuple[dict[str, Any], str]] = [
        (
            {"columns": {"label": "lable"}},
            "no column 'lable' for label (did you mean 'label'?); there is: '",
        ),
        ({"columns": {"lable": "label"}}, "columns.lable: no such field (did you mean 'label'?)"),
        ({"required": ["id"]}, "no column 'id' for id"),
        ({"columns": {"id": "part"}}, "id '0' is that of "),
        ({"train": None}, "train is None: there is no such split"),
        ({"split": "dev"}, "no split 'dev'; there is: train, validation, test"),
        ({"group": "part"}, "group='part', but neither"),
        ({"validation": "100%"}, "validation='100%'; expected more than 0% and less than 100%"),
    ]
    for options, said in refused:
        with pytest.raises(UserError) as caught:
            load(**options)
        assert said in str(caught.value) and "\n" not in str(caught.value)
