"""Folders that Hugging Face's `datasets` wrote with `save_to_disk`, read without that library.

A folder is one split, or holds one folder a split. No code that a folder may carry is ever run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lmx.core.errors import UserError, did_you_mean, printable
from lmx.core.examples import Records
from lmx.sources._arrow import read_streams
from lmx.sources._columns import Plan, make_plan
from lmx.sources._files import folder as existing
from lmx.sources._files import read_json, regular
from lmx.sources._records import Held
from lmx.sources._split import choose

_AGAIN = "save it again with save_to_disk"


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

    folder: what save_to_disk wrote. train, validation, test: what the splits are called there, or None; for
    validation and test also a share of train, such as "10%". A folder of a single split is called "train",
    or as it says itself. fields, required, columns, group: as in `lmx.sources.table`.

    A class (ClassLabel) becomes its name, in lists too, and -1, which stands for no label, no value.
    Errors: UserError in one line for a folder that is not whole, and as in `lmx.sources.table`.
    """
    plan = make_plan(columns, fields, required)
    root = existing(folder, "folder")

    def load(_: str, place: Any, plan: Plan) -> Held:
        return _read(_folder(root, place), plan)

    return choose(split, {"train": train, "validation": validation, "test": test}, plan, group, load)


def _folder(root: Path, name: str) -> Path:
    """Return the folder of a split."""
    if (root / "dataset_dict.json").exists():
        splits = _value(root / "dataset_dict.json", "splits", list)
        if name in splits and Path(name).name == name:  # never read outside the folder
            return root / name
    elif (root / "state.json").exists():
        splits = [str(_object(root / "state.json").get("_split") or "train")]
        if name in splits:
            return root
    else:
        raise UserError(
            f"{root}: is no saved data set (neither dataset_dict.json nor state.json is there); "
            "name a folder that save_to_disk wrote"
        )
    known = [printable(str(split)) for split in splits]
    raise UserError(
        f"{root}: no split {name!r}{did_you_mean(str(name), known)}; there is: {', '.join(known) or 'none'}"
    )


def _read(where: Path, plan: Plan) -> Held:
    files = []
    for entry in _value(where / "state.json", "_data_files", list):
        name = entry.get("filename") if isinstance(entry, dict) else None
        if not isinstance(name, str) or Path(name).name != name:
            raise UserError(f"{where / 'state.json'}: a file is called {name!r}, no plain name; {_AGAIN}")
        files.append(_whole(where / name))
    features = _value(where / "dataset_info.json", "features", dict)
    return read_streams(files, features, plan, str(where))


def _whole(path: Path) -> Path:
    if not path.exists():
        raise UserError(f"{path}: is missing, though state.json names it; {_AGAIN}")
    return regular(path, "folder")


def _value(path: Path, name: str, kind: type) -> Any:
    found = _object(path).get(name)
    if not isinstance(found, kind):
        raise UserError(f"{path}: {name!r} is {type(found).__name__}, expected {kind.__name__}; {_AGAIN}")
    return found


def _object(path: Path) -> dict[str, Any]:
    found = read_json(_whole(path))
    if not isinstance(found, dict):
        raise UserError(f"{path}: is {type(found).__name__}, expected an object; {_AGAIN}")
    return found
