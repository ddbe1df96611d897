"""Prepare the data of a config: read, clean, dedup, split, tokenize, pack, write shards."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import data_prep
from lmx.commands import _arguments
from lmx.core.errors import UserError, did_you_mean


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare --config and --workdir."""
    parser.add_argument("--config", required=True, help="a shipped name, such as quickstart, or a .py file")
    workdir = _arguments.option(_arguments.folder)
    parser.add_argument(
        "--workdir", required=True, type=workdir, help="the run's folder; rows go to WORKDIR/data"
    )


def run(options: argparse.Namespace, overrides: Mapping[str, str]) -> int:
    """Prepare and say what is there."""
    from lmx.commands import _wire  # noqa: F401 - imported before Ctrl-C may raise
    from lmx.core import config as config_
    from lmx.core import stop
    from lmx.core.log import say
    from lmx.runs import lock

    found = config_.load(options.config)
    config_.override(found, overrides)
    config_.check(config_.plain(found))
    config = config_.expanded(config_.plain(found))
    check(config)
    stop.begun()
    with lock.hold(options.workdir):
        folder, manifest = prepare(config, options.workdir, say=say)
    for name, split in manifest["splits"].items():
        print(f"{name}: {split['rows']:,} rows, {split['tokens']:,} tokens, {split['documents']:,} documents")
    print(f"prepared: {folder}")
    return 0


TOKENIZERS = {"bpe": ("size",), "characters": (), "file": ("path",)}
"""Each name with the fields that it reads."""

SMALLEST = 257
"""Ids of a byte-level vocabulary at least: the bytes and the end symbol."""


def check(config: Mapping[str, Any]) -> None:
    """Raise UserError for what `data` and `tokenizer` cannot mean, before any text is read.

    Fields that the chosen names do not use are refused: whoever set them expects something of them.
    """
    data, words = config["data"], config["tokenizer"]
    if data["name"] not in ("text", "stdlib"):
        hint = did_you_mean(data["name"], ("text", "stdlib"))
        raise UserError(f"data.name={data['name']!r}{hint}; there is: text (with data.path), stdlib")
    if data["name"] == "stdlib" and data["path"]:
        raise UserError(f"data.path={data['path']!r} is not read by data.name='stdlib'; set data.name=text")
    if data["name"] == "text" and data["code"]:
        raise UserError("data.code is for data.name='stdlib' only")
    if data["name"] == "text" and not data["path"]:
        raise UserError("data.path is not set; name your text: --config.data.path=FILE_OR_FOLDER")
    seed = data["seed"]
    if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool) or seed < 0):
        raise UserError(f"data.seed={seed!r}; expected a whole number from 0, or None for that of the run")
    if words["name"] not in TOKENIZERS:
        hint = did_you_mean(words["name"], TOKENIZERS)
        raise UserError(f"no tokenizer {words['name']!r}{hint}; there is: {', '.join(TOKENIZERS)}")
    if words["name"] != "file" and words["path"]:
        raise UserError(
            f"tokenizer.path is not read by tokenizer.name={words['name']!r}; set tokenizer.name=file"
        )
    if words["name"] == "file" and not words["path"]:
        raise UserError(
            "tokenizer.path is not set, and tokenizer.name='file' reads it: --config.tokenizer.path=FOLDER"
        )
    if words["name"] == "characters" and data["boundary"]:
        raise UserError(
            "data.boundary=True puts an end symbol around documents, which tokenizer.name='characters' has "
            "not; set --config.data.boundary=False"
        )
    if words["name"] == "bpe" and words["size"] < SMALLEST:
        raise UserError(
            f"tokenizer.size={words['size']}; expected at least {SMALLEST} (the bytes and the end symbol)"
        )


def prepare(config: Mapping[str, Any], workdir: Path, *, say: Any) -> tuple[Path, dict[str, Any]]:
    """Return (folder, manifest) of the prepared rows of a checked config, preparing them where they are not
    there yet."""
    from lmx import tokenizer
    from lmx.commands import _wire
    from lmx.core import rows

    data, words = config["data"], config["tokenizer"]
    options = {name: words[name] for name in TOKENIZERS[words["name"]]}

    def make(texts: Iterable[str]) -> tokenizer.Tokenizer:
        return tokenizer.make(words["name"], texts, **options)

    folder = _wire.data_folder(config, workdir)
    # A run that has begun has checkpoints, which know the rows they want.
    gone = data["path"] and not Path(data["path"]).exists()
    if gone and _wire.resumes(workdir) and (folder / rows.MANIFEST).exists():
        say(f"{data['path']} is gone; going on with the rows prepared from it in {folder}")
        return folder, rows.manifest(folder)
    manifest = data_prep.prepare(
        _documents(data),
        folder=folder,
        make_tokenizer=make,
        length=config["batch"]["length"],
        seed=config["seed"] if data["seed"] is None else data["seed"],
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
        tokenizer.probe(options["path"])
        options = {"sha256": tokenizer.load(options["path"]).sha256}
    kind = {
        "name": data["name"],
        **({"code": data["code"]} if data["name"] == "stdlib" else {"field": data["field"]}),
    }
    return {"data": kind, "tokenizer": {"name": name, **options}}


def _documents(data: Mapping[str, Any]) -> data_prep.Corpus:
    if data["name"] == "stdlib":
        from data_prep.stdlib import stdlib

        return stdlib(code=data["code"])
    return data_prep.read(data["path"], text=data["field"])
