"""Prepare the data of a config: read, clean, dedup, split, tokenize, pack, write shards."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import data_prep
from lmx.commands import _arguments
from lmx.core.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from lmx import tokenizer


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
        folder, manifests = every(config, options.workdir, say=say)
    for manifest in manifests:
        for name, split in manifest["splits"].items():
            counts = {of: f"{split[of]:,} {of}" for of in ("rows", "tokens", "documents")}
            print(f"{name}: {', '.join(counts.values())}")
    print(f"prepared: {folder}")
    return 0


TOKENIZERS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "packed": {"bpe": ("size",), "characters": (), "file": ("path",), "start": ()},
    "pieces": {"wordpiece": ("size", "lowercase"), "file": ("path",), "start": ()},
    "pairs": {"wordpiece": ("size", "lowercase"), "file": ("path",), "start": ()},
}
"""Layout of the rows -> each name of a tokenizer with the fields that it reads."""

PAIRED = {"short": 0.1, "copies": 1}
"""Fields of `data` that rows of pairs alone read, as the base has them."""

PIECES = 16
"""Ids of a WordPiece vocabulary at least."""

SMALLEST = 257
"""Ids of a byte-level vocabulary at least: the bytes and the end symbol."""


def check(config: Mapping[str, Any]) -> None:
    """Raise UserError for what `data` and `tokenizer` cannot mean, before any text is read.

    Fields that the chosen names do not use are refused: whoever set them expects something of them.
    """
    data, words, layout = config["data"], config["tokenizer"], layout_of(config)
    known = TOKENIZERS[layout]
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
    if words["name"] not in known:
        hint = did_you_mean(words["name"], known)
        raise UserError(
            f"no tokenizer {words['name']!r}{hint} for {config['task']['name']}; there is: {', '.join(known)}"
        )
    if words["name"] == "start" and config["start"] == "scratch":
        raise UserError("tokenizer.name='start' takes that of config.start, which is 'scratch'; name another")
    if words["name"] != "file" and words["path"]:
        raise UserError(
            f"tokenizer.path is not read by tokenizer.name={words['name']!r}; set tokenizer.name=file"
        )
    if words["name"] == "file" and not words["path"]:
        raise UserError(
            "tokenizer.path is not set, and tokenizer.name='file' reads it: --config.tokenizer.path=FOLDER"
        )
    for name, usual in PAIRED.items():
        if layout != "pairs" and data.get(name, usual) != usual:
            raise UserError(
                f"data.{name}={data[name]!r} is read by rows of pairs only, and those of "
                f"{config['task']['name']} are none; set --config.data.{name}={usual}"
            )
    if words["name"] == "characters" and data["boundary"]:
        raise UserError(
            "data.boundary=True puts an end symbol around documents, which tokenizer.name='characters' has "
            "not; set --config.data.boundary=False"
        )
    if words["name"] == "wordpiece" and words["size"] < PIECES:
        raise UserError(
            f"tokenizer.size={words['size']}; expected at least {PIECES} (special tokens and characters)"
        )
    if words["name"] == "bpe" and words["size"] < SMALLEST:
        raise UserError(
            f"tokenizer.size={words['size']}; expected at least {SMALLEST} (the bytes and the end symbol)"
        )


def layout_of(config: Mapping[str, Any]) -> str:
    """Return the layout of the rows that the config's task reads."""
    from lmx.commands import _build

    layout: str = getattr(_build.task(config), "LAYOUT", "packed")
    return layout


def prepare(
    config: Mapping[str, Any],
    workdir: Path,
    *,
    say: Any,
    made: tokenizer.Tokenizer | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Return (folder, manifest) of the prepared rows of a checked config, preparing them where they are not
    there yet. made: the tokenizer of the config, where it has been made before."""
    from lmx import tokenizer
    from lmx.commands import _wire
    from lmx.core import rows

    data, words, layout = config["data"], config["tokenizer"], layout_of(config)
    options = {name: words[name] for name in TOKENIZERS[layout][words["name"]]}
    folder = _wire.data_folder(config, workdir)
    # A run that has begun has checkpoints, which know the rows they want.
    begun = _wire.resumes(workdir) and (folder / rows.MANIFEST).exists()
    gone = [path for path in (data["path"], options.get("path")) if path and not Path(path).exists()]
    if words["name"] == "start":
        try:
            options = {"path": str(_wire.tokenizer_folder(config["start"]))}
        except UserError:
            if not begun:
                raise
            gone.append(config["start"])
    if begun and gone:
        say(f"{gone[0]} is gone; going on with the rows prepared from it in {folder}")
        return folder, rows.manifest(folder)
    kind = "file" if words["name"] == "start" else words["name"]

    def make(texts: Iterable[str]) -> tokenizer.Tokenizer:
        return made if made is not None else tokenizer.make(kind, texts, **options)

    packed = {"boundary": data["boundary"]} if layout == "packed" else {}
    paired = {name: data[name] for name in PAIRED} if layout == "pairs" else {}
    manifest = data_prep.prepare(
        _documents(data),
        folder=folder,
        make_tokenizer=make,
        length=config["batch"]["length"],
        layout=layout,
        seed=config["seed"] if data["seed"] is None else data["seed"],
        holdout=data["holdout"],
        split=data["split"],
        settings=_settings(data, kind, options),
        say=say,
        **packed,
        **paired,
    )
    return folder, manifest


def every(config: Mapping[str, Any], workdir: Path, *, say: Any) -> tuple[Path, tuple[dict[str, Any], ...]]:
    """Return (folder, manifests) of all rows of a config: where its end has longer ones, of these as well."""
    from lmx import tokenizer
    from lmx.commands import _packed

    first, *later = _packed.stages(config, workdir)
    folder, manifest = prepare(first, workdir, say=say)
    manifests = [manifest]
    for stage in later:
        made = tokenizer.load(folder / "tokenizer")
        manifests.append(prepare(stage, workdir, say=say, made=made)[1])
    return folder, tuple(manifests)


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
