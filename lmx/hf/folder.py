"""Read and write the files of a Hugging Face folder."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from lmx.core.errors import UserError
from lmx.core.hf_table import HeadTable, Table
from lmx.hf import convert

TEMPORARY = ".lmx-writing"


def write(
    folder: Path,
    params: Mapping[str, Any],
    fields: Mapping[str, Any],
    *,
    table: Table,
    head: HeadTable,
    save_tokenizer: Callable[[Path], None] | None = None,
    special: Mapping[str, int | None] | None = None,
    card: str = "",
) -> None:
    """Write config.json, generation_config.json, model.safetensors, the tokenizer's files and a README.md.

    fields: the model's config, all fields. special: ids such as `eos_token_id`. The folder appears whole by a
    rename, or not at all. Errors: UserError where it exists already or cannot be written.
    """
    config, ids = _configs(fields, table, head, special)
    work = folder.with_name(folder.name + TEMPORARY)
    try:
        if folder.exists():
            raise UserError(f"{folder} exists already; name another folder, or remove it first")
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        _json(work / "config.json", config)
        _json(work / "generation_config.json", ids)
        tensors = convert.to_tensors(params, table, head, int(fields["layers"]))
        save_file(tensors, work / "model.safetensors", metadata={"format": "pt"})
        if save_tokenizer is not None:
            save_tokenizer(work)
        (work / "README.md").write_text(card, encoding="utf-8")
        _to_disk(work)
        os.replace(work, folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error})") from error
    except SafetensorError as error:  # a full disk, for one
        raise UserError(f"{folder}: cannot be written ({error})") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _configs(
    fields: Mapping[str, Any], table: Table, head: HeadTable, special: Mapping[str, int | None] | None
) -> tuple[dict[str, Any], dict[str, int]]:
    """Return what config.json and generation_config.json hold."""
    theirs = {hf: fields[own] for own, hf in table.fields}
    ids = dict(special or {})
    config = {
        "architectures": [head.architecture],
        "model_type": table.model_type,
        **theirs,
        **ids,
        "dtype": "float32",
    }
    return config, {name: value for name, value in ids.items() if value is not None}


def read_config(folder: Path) -> dict[str, Any]:
    """Return config.json. Errors: UserError where it is missing or not a JSON object."""
    path = folder / "config.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"{folder}: no config.json; expected a run of lmx or a Hugging Face folder"
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: expected a JSON object")
    return found


def own_fields(config: Mapping[str, Any], table: Table) -> dict[str, Any]:
    """Return the model's config fields from theirs; those that are absent keep the model's defaults.

    Errors: UserError where a field asks for what the model does not do.
    """
    for name, value in table.required.items():
        if config.get(name, value) != value:
            raise UserError(
                f"config.json: {name}={config[name]!r} is not supported for {table.model_type}; "
                f"only {value!r} is"
            )
    return {own: config[hf] for own, hf in table.fields if hf in config}


def read_params(
    folder: Path, shapes: Mapping[str, tuple[int, ...]], *, table: Table, head: HeadTable, layers: int
) -> dict[str, Any]:
    """Return the parameters of model.safetensors. Errors: UserError naming the file and the reason.

    A stored copy of a tied head is dropped where it equals the embeddings, and refused where it does not.
    """
    path = folder / "model.safetensors"
    try:
        tensors = load_file(path)
    except FileNotFoundError as error:
        raise UserError(f"{folder}: no model.safetensors in it") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: damaged or not a safetensors file ({error})") from error
    try:
        _untie(tensors, shapes, table, head)
        return convert.from_tensors(tensors, shapes, table, head, layers)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _untie(
    tensors: dict[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], table: Table, head: HeadTable
) -> None:
    """Drop stored copies of a tied head. The table's first entry holds the token embeddings."""
    first = table.entries[0].tensor
    source = tensors.get(table.prefix + first, tensors.get(first))
    for entry in head.entries:
        if entry.tensor in tensors and not any(path in shapes for path in entry.leaves):
            copy = tensors.pop(entry.tensor)
            if source is None or not np.array_equal(copy, source):
                raise UserError(
                    f"{entry.tensor} is tied to {first} by the config, but the stored tensors differ"
                )


def _to_disk(folder: Path) -> None:
    """Wait until every file has reached the disk, so that a rename never outlives what it names."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())


def _json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
