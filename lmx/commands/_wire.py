"""Where names become things: configs, models, tokenizers, data and checkpoint references, in one place."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import jax

from lmx import tokenizer as tokenizers_
from lmx.commands import _build, _hf
from lmx.core import log, rng, tree
from lmx.core.errors import UserError
from lmx.core.types import Checkpoint, Model
from lmx.generation import sample
from lmx.hf import hub
from lmx.runs.checkpoints import Checkpoints


def checkpoint(reference: str, **options: Any) -> Checkpoint:
    """Return the checkpoint that a reference names.

    A run's folder (its newest checkpoint), `FOLDER@best`, `FOLDER@STEP`, a Hugging Face folder, or
    `hf://ORG/NAME@REVISION`. options: those of `_hf.read`, for Hugging Face folders only; what was dropped,
    started anew or ignored there is said.
    Errors: UserError where there is none, or where it is damaged.
    """
    if hub.is_reference(reference):
        return _from_hf(hub.fetch(reference), options)
    name, _, which = (reference, "", "") if Path(reference).is_dir() else reference.partition("@")
    folder = Path(name)
    if not folder.is_dir():
        raise UserError(f"{name}: no such folder; expected a run of lmx or a Hugging Face folder")
    if (folder / "checkpoints").is_dir():
        if options:
            raise UserError(f"{folder} is a run; {', '.join(options)} are for Hugging Face folders")
        return _from_run(folder, which)
    if which:
        raise UserError(f"{reference}: @{which} chooses among a run's checkpoints, but {name} is not a run")
    return _from_hf(folder, options)


def _from_hf(folder: Path, options: Mapping[str, Any]) -> Checkpoint:
    found = _hf.read(folder, **options)
    for note in found.notes:
        log.say(f"{folder}: {note}")
    return found.checkpoint


def _from_run(folder: Path, which: str) -> Checkpoint:
    with closing(Checkpoints(folder / "checkpoints")) as kept:
        return _read_run(kept, folder, which)


def _read_run(kept: Checkpoints, folder: Path, which: str) -> Checkpoint:
    steps = kept.steps()
    if not steps:
        raise UserError(f"{folder}: no checkpoint yet; train it first")
    if which and which != "best" and not which.isdigit():
        raise UserError(f"{folder}@{which}: expected @best or @STEP, with a step of {steps}")
    step = steps[-1] if not which else kept.best() if which == "best" else int(which)
    if step is None:
        raise UserError(
            f"{folder}: no checkpoint was evaluated, so none is the best; there are steps {steps}"
        )
    if step not in steps:
        raise UserError(f"{folder}: no checkpoint of step {step}; there are steps {steps}")
    facts = kept.facts(step)
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    wanted = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here),
        _build.shapes(_build.model(facts["config"])),
    )
    params, _, facts = kept.restore(step, wanted)
    data = data_folder(facts["config"], folder)
    config = {**facts["config"], "data": {**facts["config"]["data"], "folder": str(data)}}
    text = data / "tokenizer"
    return Checkpoint(params, config, folder=str(text) if tokenizers_.exists(text) else None, step=step)


def data_folder(config: Mapping[str, Any], workdir: Path) -> Path:
    """Return where the prepared rows of a config lie: a folder of its own, or the run's."""
    return Path(config["data"]["folder"] or workdir / "data")


def tokenizer(found: Checkpoint) -> tokenizers_.Tokenizer:
    """Return the tokenizer that lies with a checkpoint. Errors: UserError where there is none."""
    if found.folder is None:
        raise UserError("this checkpoint has no tokenizer with it")
    return tokenizers_.load(found.folder)


def read_json(path: Path) -> Any:
    """Return a JSON file of a run. Errors: UserError where it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON ({error})") from error


def start(config: Mapping[str, Any], built: Model) -> Any:
    """Return the parameters that `start` names, checked against the model's shapes."""
    found = checkpoint(config["start"])
    expected = {path: leaf.shape for path, leaf in tree.flatten(_build.shapes(built)).items()}
    lines = tree.diff(expected, {path: leaf.shape for path, leaf in tree.flatten(found.params).items()})
    if lines:
        raise UserError(
            f"start={config['start']}: not the model of the config (- missing, + surplus, ! shape): {lines}"
        )
    return found.params


def samples(
    built: Model, params: Any, config: Mapping[str, Any], data: Path, step: int
) -> list[tuple[str, str]]:
    """Return (prompt, continuation) for each prompt of the config; data: the prepared rows' folder."""
    wanted = config["samples"]
    options = {name: wanted[name] for name in ("tokens", "temperature", "top_k")}
    text = tokenizers_.load(data / "tokenizer")
    key = rng.stream_key(config["seed"], step, "samples")
    prompts = list(wanted["prompts"])
    begin = config["data"]["boundary"]
    return list(
        zip(prompts, continuations(built, params, text, prompts, key, begin=begin, **options), strict=True)
    )


def check_tokenizer(data: Path, manifest: Mapping[str, Any]) -> None:
    """Raise UserError where the tokenizer beside the rows is not the one that made them."""
    found, wanted = tokenizers_.load(data / "tokenizer").sha256, manifest["tokenizer"]["sha256"]
    if found != wanted:
        raise UserError(
            f"{data / 'tokenizer'}: not the tokenizer that made the rows (sha256 {found[:12]}, expected "
            f"{wanted[:12]}); delete {data} and run again"
        )


def check_samples(config: Mapping[str, Any], data: Path) -> None:
    """Raise UserError where a sample prompt cannot be continued, before any time is spent on training."""
    wanted, positions = config["samples"], config["model"]["positions"]
    sample.check(wanted["temperature"], wanted["top_k"])
    text = tokenizers_.load(data / "tokenizer")
    for prompt, ids in zip(
        wanted["prompts"], _prompts(text, wanted["prompts"], config["data"]["boundary"]), strict=True
    ):
        if not ids:
            raise UserError(f"samples.prompts: {prompt!r} has no token to go on from; name a longer one")
        if wanted["tokens"] < 1 or len(ids) + wanted["tokens"] > positions:
            raise UserError(
                f"samples.tokens={wanted['tokens']} after the {len(ids)} tokens of {prompt!r} does not fit "
                f"model.positions={positions}; expected 1 to {positions - len(ids)}"
            )


def _prompts(text: tokenizers_.Tokenizer, prompts: Sequence[str], begin: bool) -> list[list[int]]:
    """Return the ids of each prompt, after the end symbol, which begins documents, where `begin` is set."""
    first = [text.eos_id] if begin and text.eos_id is not None else []
    return [[*first, *text.encode(prompt)] for prompt in prompts]


def continuations(
    built: Model,
    params: Any,
    text: tokenizers_.Tokenizer,
    prompts: Sequence[str],
    key: Any,
    *,
    begin: bool,
    **options: Any,
) -> list[str]:
    """Return the continuation of each prompt. begin: put the end symbol, which begins documents, in front."""
    ids = _prompts(text, prompts, begin)
    new = sample.generate(built, params, ids, key, eos_id=text.eos_id, **options)
    return [text.decode(tokens, skip_special=True) for tokens in new]
