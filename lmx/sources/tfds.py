"""Folders that TensorFlow Datasets prepared as array_record, read without TensorFlow.

Source: tensorflow_datasets 4.9, `builder_from_directory` and `as_data_source`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from array_record.python.array_record_module import ArrayRecordReader

from lmx.core.errors import UserError, did_you_mean, one_line
from lmx.core.examples import Records
from lmx.sources._arrow import class_name
from lmx.sources._columns import Plan, make_plan, pick
from lmx.sources._files import folder as existing
from lmx.sources._files import read_json, regular
from lmx.sources._records import Held, hold
from lmx.sources._split import choose

_OWN = "tensorflow_datasets.core.features."
"""Where the classes of features come from; TFDS would import any module that features.json names."""


def source(
    split: str,
    *,
    fields: Sequence[str],
    required: Sequence[str],
    columns: Mapping[str, Any] | None = None,
    folder: str | Path,
    train: str | None = "train",
    validation: str | None = "validation",
    test: str | None = "test",
    group: str | None = None,
) -> Records:
    """Return the rows of a split ("train", "validation", "test") under the names of a task's fields.

    folder: of one version and config, with dataset_info.json in it. train, validation, test: splits there in
    TFDS's own writing, such as "train[:90%]" or "train+test", or None; for validation and test also a share
    of train by hash, such as "10%". fields, required, columns, group: as in `lmx.sources.table`.

    Bytes become text, classes (ClassLabel) their names, and -1, which stands for no label, no value. Errors:
    UserError in one line for a folder that is of another format or not whole, and as in `lmx.sources.table`.
    """
    plan = make_plan(columns, fields, required)
    builder = _builder(existing(folder, "folder"))

    def load(name: str, place: Any, plan: Plan) -> Held:
        return _read(builder, name, place, plan)

    return choose(split, {"train": train, "validation": validation, "test": test}, plan, group, load)


def _builder(root: Path) -> Any:
    for name in ("dataset_info.json", "features.json"):
        if not (root / name).exists():
            below = sorted(str(found.parent) for found in root.glob("*/dataset_info.json"))
            hint = f"; did you mean {below[-1]}?" if below else "; name one that TFDS prepared"
            raise UserError(f"{root}: {name} is not there{hint}")
    info = read_json(regular(root / "dataset_info.json", "folder"))
    form = info.get("fileFormat", "tfrecord") if isinstance(info, dict) else None
    if form != "array_record":
        raise UserError(
            f"{root}: its file_format is {form!r}, expected 'array_record'; prepare it again with "
            "builder(file_format='array_record')"
        )
    for name in _classes(read_json(regular(root / "features.json", "folder"))):
        if not str(name).startswith(_OWN):
            raise UserError(
                f"{root / 'features.json'}: a feature of class {name!r}; expected TFDS's own only"
            )
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise UserError(
            f"{root}: reading it needs tensorflow-datasets; pip install tensorflow-datasets"
        ) from error
    try:
        return tensorflow_datasets.builder_from_directory(str(root))
    except Exception as error:  # whatever its parsers raise, the folder is not one that TFDS wrote
        raise UserError(f"{root}: cannot be opened ({one_line(error)}); prepare it again") from error


def _classes(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        if "pythonClassName" in value:
            yield value["pythonClassName"]
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _classes(each)


def _read(builder: Any, name: str, place: Any, plan: Plan) -> Held:
    where = f"{builder.data_dir}, {place}"
    splits = builder.info.splits
    try:
        facts = splits[place]
        used = {Path(str(each.filename)).name for each in facts.file_instructions}
        expected = facts.num_examples
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        plain = str(place).split("[")[0]
        hint = "" if plain in splits else did_you_mean(plain, splits)
        raise UserError(
            f"{builder.data_dir}: no split {place!r} for {name}{hint} ({one_line(error)}); "
            f"there is: {', '.join(splits)}"
        ) from error
    for split in splits.values():
        for file, length in zip(split.filenames, split.shard_lengths, strict=True):
            if file in used:
                _check_shard(Path(builder.data_dir) / file, length)
    try:
        records = builder.as_data_source(split=place)
        names = {column: _naming(feature) for column, feature in builder.info.features.items()}
        rows = [
            {column: names[column](value) for column, value in records[index].items()}
            for index in range(len(records))
        ]
    except Exception as error:  # a damaged record raises whatever its parser does
        raise UserError(f"{where}: cannot be read ({one_line(error)}); prepare it again") from error
    if len(rows) != expected or not rows:
        raise UserError(f"{where}: holds {len(rows)} rows, expected {expected or 'some'}; prepare it again")
    columns, found = pick(rows, plan, lambda index: f"{where}, row {index + 1}")
    return hold(columns, plan.columns, found, range(1, len(rows) + 1), (f"{where}, row ", ""))


def _check_shard(path: Path, length: int) -> None:
    """Refuse a shard that does not hold as many rows as dataset_info.json says, as parquet's once did not."""
    try:
        reader = ArrayRecordReader(str(regular(path, "folder")))
        found = reader.num_records()
        reader.close()
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"{path}: is no whole array_record file ({one_line(error)}); prepare it again"
        ) from error
    if found != length:
        raise UserError(f"{path}: holds {found} rows, dataset_info.json says {length}; prepare it again")


def _naming(feature: Any) -> Callable[[Any], Any]:
    """Return what turns the numbers of classes in a feature's values into their names."""
    kind = type(feature).__name__
    if kind == "ClassLabel" and feature.names:
        return lambda value: class_name(feature.names, int(value))
    if kind in ("FeaturesDict", "Translation"):
        parts = {name: _naming(each) for name, each in feature.items()}
        return lambda value: {name: parts[name](each) for name, each in value.items()}
    if kind == "Sequence":
        inner = _naming(feature.feature)
        # A sequence of dicts is stored as a dict of sequences.
        if type(feature.feature).__name__ == "FeaturesDict":
            parts = {name: _naming(each) for name, each in feature.feature.items()}
            return lambda value: {name: list(map(parts[name], each)) for name, each in value.items()}
        return lambda value: list(map(inner, value))
    return lambda value: value
