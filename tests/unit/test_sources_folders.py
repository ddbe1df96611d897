"""Parquet files and the folders of `datasets` and TFDS, made by these libraries where installed."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lmx.core.errors import UserError
from lmx.sources import datasets, table, tfds
from lmx.sources._arrow import _naming

CLASSES: dict[str, Any] = {"fields": ["id", "text", "label"], "required": ["text"]}
TAGGED: dict[str, Any] = {"fields": ["words", "tags"], "required": ["words", "tags"]}
ASKED: dict[str, Any] = {"fields": ["context", "answers"], "required": ["context", "answers"]}

MAKE_SAVED = """
import sys
import datasets as d

features = d.Features({
    "text": d.Value("string"),
    "label": d.ClassLabel(names=["bad", "good"]),
    "words": d.List(d.Value("string")),
    "tags": d.List(d.ClassLabel(names=["O", "B"])),
    "answers": d.Sequence({"text": d.Value("string"), "answer_start": d.Value("int32")}),
})
answers = {"text": ["te", "x"], "answer_start": [0, 2]}
rows = [{"text": f"text {i}", "label": i % 2 if i < 9 else -1, "words": ["a"] * i, "tags": [0, 1, 0, 0] * 3,
         "answers": answers} for i in range(10)]
for i, row in enumerate(rows):
    row["tags"] = row["tags"][:i]
made = d.Dataset.from_list(rows, features=features)
folder = sys.argv[1]
d.DatasetDict({"train": made, "test": made.select([3, 1])}).save_to_disk(
    f"{folder}/dict", num_shards={"train": 2, "test": 1})
made.save_to_disk(f"{folder}/one")
made.to_parquet(f"{folder}/made.parquet")
"""

MAKE_PREPARED = """
import sys
import numpy as np
import tensorflow_datasets as tfds

class Tiny(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        f = tfds.features
        return tfds.core.DatasetInfo(builder=self, disable_shuffling=True, features=f.FeaturesDict({
            "text": f.Text(),
            "label": f.ClassLabel(names=["bad", "good"]),
            "score": np.float32,
            "words": f.Sequence(f.Text()),
            "tags": f.Sequence(f.ClassLabel(names=["O", "B"])),
            "answers": f.Sequence({"text": f.Text(), "answer_start": np.int32}),
        }))

    def _split_generators(self, _):
        return {"train": self._generate_examples(20), "test": self._generate_examples(5)}

    def _generate_examples(self, n):
        for i in range(n):
            yield i, {"text": f"t\\u00e9xt {i}", "label": i % 2 if n == 20 else -1, "score": i / 2,
                      "words": ["a"] * i, "tags": [1] * i,
                      "answers": {"text": ["t\\u00e9", "x"], "answer_start": [0, 2]}}

Tiny(data_dir=sys.argv[1], file_format="array_record").download_and_prepare()
assert "tensorflow" not in sys.modules
"""


def run(program: str, folder: Path, library: str) -> Path:
    """Return a folder that a library of data sets filled in a process of its own."""
    pytest.importorskip(library, reason=f"{library} makes the folders that these tests read")
    done = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(MAKE_SAVED, tmp_path_factory.mktemp("saved"), "datasets")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(MAKE_PREPARED, tmp_path_factory.mktemp("prepared"), "tensorflow_datasets") / "tiny" / "1.0.0"


@pytest.fixture
def changed(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a copy of what the fixture named by the parameter holds, to be damaged."""
    return Path(shutil.copytree(request.getfixturevalue(request.param), tmp_path / "copy"))


def rows(module: ModuleType, split: str, folder: Path, **options: Any) -> list[dict[str, Any]]:
    found = module.source(split, folder=folder, **{**CLASSES, **options})
    return [dict(found[index]) for index in range(len(found))]


def refusal(module: ModuleType, split: str, folder: Any, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        rows(module, split, folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ------------------------------------------------------------------------------------------- parquet


def test_parquet_keeps_types(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {
        "text": ["a", "b"],
        "meta": [{"label": 1}, {"label": None}],
        "list": [["x"], []],
        "day": [0, 0],
    }
    file = tmp_path / "a.parquet"
    parquet.write_table(
        pyarrow.table(columns).append_column("d", pyarrow.array([0, 0], pyarrow.date32())), file
    )
    found = table.source("train", train=file, columns={"label": "meta.label", "id": None}, **CLASSES)
    assert [found[0], found[1]] == [{"text": "a", "label": 1}, {"text": "b"}]
    assert found.columns == ("text", "meta", "list", "day", "d") and found.where(1) == f"{file}, row 2"
    for options, said in (
        ({"columns": {"label": "lst"}}, "no column 'lst' for label (did you mean 'list'?)"),
        ({"columns": {"label": "d"}}, f"{file}, row 1: label is of type date, expected text"),
        (
            {"columns": {"label": "meta.label"}, "required": ["label"]},
            f"{file}, row 2: column 'meta.label' is",
        ),
        ({"columns": {"id": "day"}}, "id '0' is that of"),
    ):
        with pytest.raises(UserError) as caught:
            table.source("train", train=file, **{**CLASSES, **options})
        assert said in str(caught.value)


def test_bad_parquet(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "a.parquet"
    file.write_bytes(b"PAR1 but no more")
    cases = [("is no readable Parquet file", None)]
    cases.append(("holds no rows", pyarrow.table({"text": pyarrow.array([], pyarrow.string())})))
    twice = pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 2, names=["text", "text"])
    cases.append(("two columns have one name", twice))
    for said, content in cases:
        if content is not None:
            parquet.write_table(content, file)
        with pytest.raises(UserError, match=said):
            table.source("train", train=file, **CLASSES)


def test_parquet_by_datasets_names_its_classes(saved: Path) -> None:
    found = table.source("train", train=saved / "made.parquet", **CLASSES)
    assert [found[i].get("label") for i in (0, 1, 9)] == ["bad", "good", None]


# ------------------------------------------------------------------------------------------ datasets


def test_a_saved_dict_of_splits(saved: Path) -> None:
    folder = saved / "dict"
    train = rows(datasets, "train", folder)
    assert train[:2] == [{"text": "text 0", "label": "bad"}, {"text": "text 1", "label": "good"}]
    assert len(train) == 10 and train[9] == {"text": "text 9"}  # two shards, in their order; -1 is no label
    assert [row["text"] for row in rows(datasets, "test", folder)] == ["text 3", "text 1"]
    assert rows(datasets, "validation", folder, validation="test") == rows(datasets, "test", folder)
    assert rows(datasets, "train", folder, **TAGGED)[4] == {"words": ["a"] * 4, "tags": ["O", "B", "O", "O"]}
    answers = rows(datasets, "train", folder, columns={"context": "text"}, **ASKED)[0]["answers"]
    assert answers == [{"text": "te", "start": 0}, {"text": "x", "start": 2}]
    found = datasets.source("test", folder=folder, **CLASSES)
    assert found.where(1) == f"{folder / 'test'}, row 2"
    assert found.columns == ("text", "label", "words", "tags", "answers")
    both = [rows(datasets, split, folder, validation="30%") for split in ("train", "validation")]
    assert sum(map(len, both)) == 10 and all(both)
    assert "row 10: column 'label' is empty (null)" in refusal(
        datasets, "train", folder, required=["text", "label"]
    )


def test_a_saved_single_split(saved: Path) -> None:
    assert rows(datasets, "train", saved / "one") == rows(datasets, "train", saved / "dict")
    assert "no split 'test'; there is: train" in refusal(datasets, "test", saved / "one")


def test_saved_folders_that_are_none(saved: Path, tmp_path: Path) -> None:
    assert "no split 'validation'; there is: train, test" in refusal(datasets, "validation", saved / "dict")
    assert "(did you mean 'test'?)" in refusal(datasets, "test", saved / "dict", test="tset")
    assert "is no saved data set" in refusal(datasets, "train", tmp_path)
    assert "no such folder" in refusal(datasets, "train", tmp_path / "dict")
    assert "folder=None; expected the path of a folder" in refusal(datasets, "train", None)
    assert "is a file, expected a folder" in refusal(datasets, "train", saved / "made.parquet")
    assert "validation is None" in refusal(datasets, "validation", saved / "dict", validation=None)


def rewrite(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize("changed", ["saved"], indirect=True)
def test_damaged_saved_folders(changed: Path) -> None:
    train = changed / "one"
    (shard,) = train.glob("*.arrow")
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    assert f"{shard}: is no whole Arrow file" in refusal(datasets, "train", train)
    shard.write_bytes(whole[:-8])  # cut between two batches, which pyarrow itself does not notice
    assert f"{shard}: is no whole Arrow file (it ends early)" in refusal(datasets, "train", train)
    shard.unlink()
    assert f"{shard}: is missing, though state.json names it" in refusal(datasets, "train", train)
    rewrite(train / "state.json", _data_files=[{"filename": "../dict/train/data-00000-of-00002.arrow"}])
    assert "no plain name" in refusal(datasets, "train", train)
    rewrite(train / "state.json", _data_files=[])
    assert "holds no rows" in refusal(datasets, "train", train)
    rewrite(train / "state.json", _data_files={})
    assert "'_data_files' is dict, expected list" in refusal(datasets, "train", train)
    (train / "dataset_info.json").write_text("[]")
    rewrite(train / "state.json", _data_files=[])
    assert "dataset_info.json: is list, expected an object" in refusal(datasets, "train", train)
    rewrite(changed / "dict" / "dataset_dict.json", splits=["../one"])
    assert "no split '../one'" in refusal(datasets, "train", changed / "dict", train="../one")


@pytest.mark.parametrize("changed", ["saved"], indirect=True)
def test_a_class_without_a_name(changed: Path) -> None:
    info = changed / "one" / "dataset_info.json"
    features = json.loads(info.read_text())["features"]
    features["label"]["names"] = ["bad"]
    rewrite(info, features=features)
    assert "class 1, but there are 1 names" in refusal(datasets, "train", changed / "one")


@pytest.mark.parametrize("changed", ["saved"], indirect=True)
def test_offsets_out_of_range_do_not_crash(changed: Path) -> None:
    """Where the texts of a column begin and end is believed by pyarrow unless it is asked to validate."""
    (shard,) = (changed / "one").glob("*.arrow")
    whole = shard.read_bytes()
    starts = b"".join((6 * i).to_bytes(4, "little") for i in range(11))  # ten texts of six letters
    assert whole.count(starts) == 1
    broken = starts[:-4] + (1 << 30).to_bytes(4, "little")
    shard.write_bytes(whole.replace(starts, broken))
    program = f"""
from lmx.sources import datasets
datasets.source("train", folder={str(changed / "one")!r}, fields=["text"], required=["text"])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1 and f"UserError: {shard}: is no whole Arrow file" in done.stderr


def test_libraries_that_are_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    file = tmp_path / "a.parquet"
    file.write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"a.parquet: reading it needs pyarrow"):
        table.source("train", train=file, **CLASSES)
    (tmp_path / "dataset_info.json").write_text('{"fileFormat": "array_record"}')
    (tmp_path / "features.json").write_text("{}")
    assert "reading it needs tensorflow-datasets" in refusal(tfds, "train", tmp_path)


def test_older_descriptions_of_lists() -> None:
    names = {"_type": "ClassLabel", "names": ["O", "B"]}
    for feature in ([names], {"_type": "Sequence", "feature": names, "length": -1}):
        naming = _naming(feature)
        assert naming is not None and naming([0, 1, -1]) == ["O", "B", None] and naming(None) is None
    of_dicts = _naming({"_type": "Sequence", "feature": {"a": names, "b": {"_type": "Value"}}})
    assert of_dicts is not None and of_dicts(None) is None and of_dicts([1]) == [1]
    assert of_dicts({"a": [0, 1], "b": [0, 1]}) == {"a": ["O", "B"], "b": [0, 1]}


# ---------------------------------------------------------------------------------------------- tfds


def test_a_prepared_folder(prepared: Path) -> None:
    train = rows(tfds, "train", prepared, required=["text", "label"])
    assert train[:2] == [{"text": "téxt 0", "label": "bad"}, {"text": "téxt 1", "label": "good"}]
    assert len(train) == 20
    test = rows(tfds, "test", prepared)
    assert test == [{"text": f"téxt {i}"} for i in range(5)]  # -1 is no label
    assert rows(tfds, "train", prepared, **TAGGED)[3] == {"words": ["a"] * 3, "tags": ["B"] * 3}
    asked = rows(tfds, "train", prepared, columns={"context": "text"}, **ASKED)[1]
    assert asked == {"context": "téxt 1", "answers": [{"text": "té", "start": 0}, {"text": "x", "start": 2}]}
    score = rows(tfds, "train", prepared, columns={"value": "score"}, fields=["value"], required=["value"])[3]
    assert score == {"value": 1.5} and type(score["value"]) is float


def test_prepared_splits_by_slice_and_by_share(prepared: Path) -> None:
    whole = rows(tfds, "train", prepared)
    assert rows(tfds, "train", prepared, train="train[:90%]") == whole[:18]
    assert rows(tfds, "validation", prepared, validation="train[90%:]") == whole[18:]
    assert len(rows(tfds, "train", prepared, train="train+test")) == 25
    found = tfds.source("train", folder=prepared, train="train[15:]", **CLASSES)
    assert found.where(4) == f"{prepared}, train[15:], row 5" and set(found.columns) >= {"text", "label"}
    both = [rows(tfds, split, prepared, validation="30%") for split in ("train", "validation")]
    assert sum(map(len, both)) == 20 and all(both)


def test_prepared_splits_that_are_none(prepared: Path, tmp_path: Path) -> None:
    assert "no split 'tset' for test (did you mean 'test'?)" in refusal(tfds, "test", prepared, test="tset")
    assert "no split 'validation' for validation" in refusal(tfds, "validation", prepared)
    for place in ("train[:x]", "train[200:]", ""):
        assert f"no split {place!r} for train" in refusal(tfds, "train", prepared, train=place)
    assert "dataset_info.json is not there; did you mean" in refusal(tfds, "train", prepared.parent)
    assert "dataset_info.json is not there; name one" in refusal(tfds, "train", tmp_path)
    assert "no column 'labl' for label (did you mean 'label'?)" in refusal(
        tfds, "train", prepared, columns={"label": "labl"}
    )


@pytest.mark.parametrize("changed", ["prepared"], indirect=True)
def test_a_shard_of_fewer_rows_than_promised(changed: Path) -> None:
    (test,) = changed.glob("*test.array_record*")
    (train,) = changed.glob("*train.array_record*")
    shutil.copyfile(test, train)
    assert refusal(tfds, "train", changed) == (
        f"{train}: holds 5 rows, dataset_info.json says 20; prepare it again"
    )
    train.write_bytes(b"no array_record")
    assert f"{train}: is no whole array_record file" in refusal(tfds, "train", changed)
    assert len(rows(tfds, "test", changed)) == 5  # of this one nothing is broken
    train.unlink()
    assert f"{train}: no such file" in refusal(tfds, "train", changed)


@pytest.mark.parametrize("changed", ["prepared"], indirect=True)
def test_damaged_prepared_folders(changed: Path) -> None:
    info, features = changed / "dataset_info.json", changed / "features.json"
    rewrite(info, fileFormat="tfrecord")
    assert "its file_format is 'tfrecord', expected 'array_record'" in refusal(tfds, "train", changed)
    rewrite(info, fileFormat="array_record")
    whole = features.read_text()
    features.write_text(
        whole.replace("tensorflow_datasets.core.features.text_feature.Text", "antigravity.Text")
    )
    assert "a feature of class 'antigravity.Text'; expected TFDS's own only" in refusal(
        tfds, "train", changed
    )
    assert "antigravity" not in sys.modules
    features.write_text(whole.replace("featuresDict", "features"))
    assert f"{changed}: cannot be opened" in refusal(tfds, "train", changed)
    features.write_text(whole[:-20])
    assert "features.json, line" in refusal(tfds, "train", changed)


def test_no_tensorflow_and_no_datasets_are_imported(saved: Path, prepared: Path) -> None:
    program = f"""
import sys
from lmx.sources import datasets, tfds
options = dict(fields=["text"], required=["text"])
assert len(datasets.source("train", folder={str(saved / "dict")!r}, **options)) == 10
assert len(tfds.source("train", folder={str(prepared)!r}, **options)) == 20
assert not {{"tensorflow", "datasets"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
