"""Prepare the data of a config: read, clean, dedup, split, tokenize, pack, write shards."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import data_prep
from lmx.core.errors import UserError


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare --config and --workdir."""
    parser.add_argument("--config", required=True, help="a shipped name, such as quickstart, or a .py file")
    parser.add_argument(
        "--workdir", required=True, type=Path, help="the run's folder; rows go to WORKDIR/data"
    )


def run(options: argparse.Namespace, overrides: Mapping[str, str]) -> int:
    """Prepare and say what is there."""
    from lmx.core import config as config_
    from lmx.core.log import say
    from lmx.runs import lock

    config = config_.load(options.config)
    config_.override(config, overrides)
    config_.check(config_.plain(config))
    with lock.hold(options.workdir):
        folder, manifest = prepare(config_.plain(config), options.workdir, say=say)
    for name, split in manifest["splits"].items():
        print(f"{name}: {split['rows']:,} rows, {split['tokens']:,} tokens, {split['documents']:,} documents")
    print(f"prepared: {folder}")
    return 0


def prepare(config: Mapping[str, Any], workdir: Path, *, say: Any) -> tuple[Path, dict[str, Any]]:
    """Return (folder, manifest) of the prepared rows, preparing them where they are not there yet."""
    from lmx import tokenizer
    from lmx.commands import _wire
    from lmx.core import rows

    data, words = config["data"], config["tokenizer"]
    options = {name: words[name] for name in {"bpe": ("size",), "file": ("path",)}.get(words["name"], ())}

    def make(texts: Iterable[str]) -> tokenizer.Tokenizer:
        return tokenizer.make(words["name"], texts, **options)

    _check_fields(data, words)
    folder = _wire.data_folder(config, workdir)
    resumed = any((workdir / "checkpoints").glob("[0-9]*"))  # its checkpoints know the rows they want
    if resumed and data["path"] and not Path(data["path"]).exists() and (folder / rows.MANIFEST).exists():
        say(f"{data['path']} is gone; going on with the rows prepared from it in {folder}")
        return folder, rows.manifest(folder)
    manifest = data_prep.prepare(
        _documents(data),
        folder=folder,
        make_tokenizer=make,
        length=config["batch"]["length"],
        seed=config["seed"],
        holdout=data["holdout"],
        split=data["split"],
        boundary=data["boundary"],
        settings=_settings(data, words["name"], options),
        say=say,
    )
    return folder, manifest


def _settings(data: Mapping[str, Any], name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what else decides the rows; a tokenizer's file counts by what is in it, not by its name."""
    from lmx import tokenizer

    if name == "file":
        options = {"sha256": tokenizer.load(options["path"]).sha256}
    kind = {
        "name": data["name"],
        **({"code": data["code"]} if data["name"] == "stdlib" else {"field": data["field"]}),
    }
    return {"data": kind, "tokenizer": {"name": name, **options}}


def _check_fields(data: Mapping[str, Any], words: Mapping[str, Any]) -> None:
    """Refuse fields that the chosen names do not use: whoever set them expects something of them."""
    if data["name"] == "stdlib" and data["path"]:
        raise UserError(f"data.path={data['path']!r} is not read by data.name='stdlib'; set data.name=text")
    if data["name"] == "text" and data["code"]:
        raise UserError("data.code is for data.name='stdlib' only")
    if words["name"] != "file" and words["path"]:
        raise UserError(
            f"tokenizer.path is not read by tokenizer.name={words['name']!r}; set tokenizer.name=file"
        )


def _documents(data: Mapping[str, Any]) -> data_prep.Corpus:
    if data["name"] == "stdlib":
        from data_prep.stdlib import stdlib

        return stdlib(code=data["code"])
    if data["name"] != "text":
        raise UserError(f"data.name={data['name']!r}; there is: text (with data.path), stdlib")
    if not data["path"]:
        raise UserError("data.path is not set; name your text: --config.data.path=FILE_OR_FOLDER")
    return data_prep.read(data["path"], text=data["field"])
