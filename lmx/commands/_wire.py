"""Where names become things: configs, models, tokenizers, data and checkpoint references, in one place."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import jax

from lmx import tokenizer as tokenizers_
from lmx.commands import _build, _hf, _members
from lmx.core import config as config_
from lmx.core import layout, log, rng, tree
from lmx.core import mesh as mesh_
from lmx.core.errors import UserError
from lmx.core.types import Checkpoint, Model
from lmx.generation import sample
from lmx.hf import hub, settings
from lmx.runs.checkpoints import Checkpoints


def checkpoint(reference: str, *, member: str | None = None, cut: bool = False, **options: Any) -> Checkpoint:
    """Return the checkpoint that a reference names.

    member: the task, of a run on several. cut: read a run's parameters onto its own mesh, where that cuts
    them and fits the devices that are there; else, and without it, they lie on the first device.

    A run's folder (its newest checkpoint), `FOLDER@best`, `FOLDER@STEP`, a Hugging Face folder, or
    `hf://ORG/NAME@REVISION`. options: those of `_hf.read`, for Hugging Face folders only; what was dropped,
    started anew or ignored there is said.
    Errors: UserError where there is none, or where it is damaged.
    """
    folder, which = located(reference)
    if which is None:
        return _members.one(_from_hf(folder, options), member, reference)
    if options:
        raise UserError(f"{folder} is a run; {', '.join(options)} are for Hugging Face folders")
    return _members.one(run(folder, which, cut=cut), member, reference)


def run(folder: Path, which: str, *, cut: bool = False) -> Checkpoint:
    """Return a run's checkpoint, as `located` tells them; of a run on several tasks, that of all of them."""
    with closing(Checkpoints(folder / "checkpoints")) as kept:
        return _read_run(kept, folder, which, cut)


def located(reference: str) -> tuple[Path, str | None]:
    """Return (folder, what stands after its @) of a run, (folder, None) of a Hugging Face folder.

    Errors: UserError where there is no such folder, and for a run that has saved nothing yet.
    """
    if hub.is_reference(reference):
        return hub.fetch(reference), None
    whole = Path(reference).expanduser()
    name, at, which = (str(whole), "", "") if whole.is_dir() else str(whole).rpartition("@")
    folder = Path(name or which)
    if not reference.strip() or not folder.is_dir():
        found = (
            f"{folder}: is a file" if folder.is_file() else f"{reference or repr(reference)}: no such folder"
        )
        meant = hub.suggestion(reference)
        raise UserError(f"{found}; expected a run of lmx or a Hugging Face folder{meant}")
    if at and not which:
        raise UserError(f"{reference}: nothing after the @; expected {name}@best or {name}@STEP")
    if (folder / "checkpoints").is_dir():
        return folder, which if name else ""
    if begun(folder):
        raise UserError(f"{folder}: no checkpoint yet; train it first")
    if at:
        raise UserError(f"{reference}: @{which} chooses among a run's checkpoints, but {name} is not a run")
    return folder, None


def is_run(reference: str) -> bool:
    """Tell whether a reference names a run of lmx that has a checkpoint. Errors: as `located`."""
    return not hub.is_reference(reference) and located(reference)[1] is not None


def begun(folder: Path) -> bool:
    """Tell whether a folder holds the config.json of a run, which has sections, and not that of a model."""
    try:
        found = settings.read(folder)
    except UserError:
        return False
    return all(isinstance(found.get(name), dict) for name in ("model", "task"))


def _from_hf(folder: Path, options: Mapping[str, Any]) -> Checkpoint:
    found = _hf.read(folder, **options)
    for note in found.notes:
        log.say(f"{folder}: {note}")
    return found.checkpoint


def chosen(kept: Checkpoints, folder: Path, which: str) -> int:
    """Return the step that `which` chooses in a run: "best", a step, or "" for what the run gives away, which
    is the newest, or with `keep.restore` the best."""
    steps = kept.steps()
    if not steps:
        raise UserError(f"{folder}: no checkpoint yet; train it first")
    if which and which != "best" and not (which.isascii() and which.isdigit()):
        raise UserError(f"{folder}@{which}: expected @best or @STEP, with a step of {steps}")
    if not which:
        restores = kept.facts(steps[-1])["config"].get("keep", {}).get("restore", False)
        best = kept.best() if restores else None
        return steps[-1] if best is None else best
    step = kept.best() if which == "best" else int(which)
    if step is None:
        raise UserError(
            f"{folder}: no checkpoint was evaluated, so none is the best; there are steps {steps}"
        )
    if step not in steps:
        raise UserError(f"{folder}: no checkpoint of step {step}; there are steps {steps}")
    return step


def _read_run(kept: Checkpoints, folder: Path, which: str, cut: bool) -> Checkpoint:
    step = chosen(kept, folder, which)
    try:
        facts = kept.facts(step)
        shapes = _build.shapes(_build.model(facts["config"]))
        places = _places(shapes, facts["config"], cut)
        types = facts["leaves"]["params"]  # "bfloat16(8,)": an import may be in half precision
        wanted = tree.map_named(
            lambda path, x: jax.ShapeDtypeStruct(
                x.shape, types.get(path, str(x.dtype)).partition("(")[0], sharding=places[path]
            ),
            shapes,
        )
        params, _, facts = kept.restore(step, wanted)
    except UserError as error:
        others = [f"{folder}@{other}" for other in reversed(kept.steps()) if other != step]
        hint = f"; there is also {', '.join(others)}" if others else ""
        raise UserError(f"{error}{hint}") from error
    data = data_folder(facts["config"], folder)
    config = dict(facts["config"])
    if config_.pretraining(config):
        config["data"] = {**config["data"], "folder": str(data)}
    text = data / "tokenizer"
    return Checkpoint(params, config, folder=str(text) if tokenizers_.exists(text) else None, step=step)


def _places(shapes: Any, config: Mapping[str, Any], cut: bool) -> dict[str, jax.sharding.Sharding]:
    """Return {path: where that leaf of a run's parameters is to lie}."""
    mesh = _build.cutting_mesh(config) if cut else None
    if mesh is None:
        return dict.fromkeys(tree.flatten(shapes), jax.sharding.SingleDeviceSharding(jax.local_devices()[0]))
    return tree.flatten(layout.shardings(shapes, _build.axes(config), mesh))


def resumes(workdir: Path) -> bool:
    """Tell whether a folder holds checkpoints of a run."""
    return any(path.name.isdigit() for path in (workdir / "checkpoints").glob("[0-9]*"))


def data_folder(config: Mapping[str, Any], workdir: Path) -> Path:
    """Return where the data of a run lie: prepared rows in a folder of their own, or the run's."""
    own = config["data"]["folder"] if config_.pretraining(config) else None
    return Path(own or workdir / "data")


def tokenizer_folder(reference: str) -> Path:
    """Return the folder of the tokenizer that lies with a checkpoint; no weights are read.

    Errors: UserError where there is none.
    """
    folder, which = located(reference)
    if which is not None:
        folder = folder / "data" / "tokenizer"
        own = read_json(folder.parents[1] / "config.json").get("data", {}).get("folder")
        folder = folder if own is None else Path(own) / "tokenizer"
    if not tokenizers_.exists(folder):
        raise UserError(f"{reference} has no tokenizer with it; put its files beside the weights")
    if which is None:
        tokenizers_.probe(folder)
    return folder


def tokenizer(found: Checkpoint) -> tokenizers_.Tokenizer:
    """Return the tokenizer that lies with a checkpoint. Errors: UserError where there is none."""
    text = _hf.tokenizer(found)
    if text is None:
        raise UserError("this checkpoint has no tokenizer with it")
    return text


def read_json(path: Path) -> Any:
    """Return a JSON file of a run. Errors: UserError where it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON ({error})") from error


def samples(
    built: Model, params: Any, config: Mapping[str, Any], data: Path, step: int
) -> list[tuple[str, str]]:
    """Return (prompt, continuation) for each prompt of the config; data: the prepared rows' folder."""
    wanted = config["samples"]
    options = {name: wanted[name] for name in ("tokens", "temperature", "top_k")}
    text = tokenizers_.load(data / "tokenizer")
    key = rng.stream_key(config["seed"], step, "samples")
    prompts = list(wanted["prompts"])
    made = continuations(
        built,
        params,
        text,
        prompts,
        key,
        begin=config["data"]["boundary"],
        positions=config["model"]["positions"],
        **options,
    )
    return list(zip(prompts, made, strict=True))


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
    wanted = config["samples"]
    text = tokenizers_.load(data / "tokenizer")
    try:
        _prompts(
            text,
            wanted["prompts"],
            config["data"]["boundary"],
            wanted["tokens"],
            config["model"]["positions"],
        )
    except UserError as error:
        raise UserError(f"samples.{error}") from error


def _prompts(
    text: tokenizers_.Tokenizer, prompts: Sequence[str], begin: bool, tokens: int, positions: int | None
) -> list[list[int]]:
    """Return the ids of each prompt, after the end symbol, which begins documents, where `begin` is set.

    Errors: UserError where one has no ids, and where `tokens` more do not fit the model's positions.
    """
    first = [text.eos_id] if begin and text.eos_id is not None else []
    found = [[*first, *text.encode(prompt)] for prompt in prompts]
    for prompt, ids in zip(prompts, found, strict=True):
        if not ids:
            raise UserError(f"prompts: {prompt!r} has no token to go on from; name a longer one")
        room = None if positions is None else positions - len(ids)
        if room is not None and room < 1:
            raise UserError(
                f"prompts: {prompt[:40]!r} has {len(ids)} tokens, but the model has {positions} positions; "
                "shorten it"
            )
        if room is not None and tokens > room:
            raise UserError(
                f"tokens={tokens} after the {len(ids)} of the prompt {prompt[:40]!r}, but the model has "
                f"{positions} positions; expected 1 to {room}"
            )
    return found


def continuations(
    built: Model,
    params: Any,
    text: tokenizers_.Tokenizer,
    prompts: Sequence[str],
    key: Any,
    *,
    begin: bool,
    tokens: int,
    positions: int | None,
    **options: Any,
) -> list[str]:
    """Return the continuation of each prompt. begin: put the end symbol, which begins documents, in front.
    positions: how many tokens the model takes, where that has a limit."""
    ids = _prompts(text, prompts, begin, tokens, positions)
    if (mesh := mesh_.under(params)) is not None:
        options |= {"mesh": mesh, "size": mesh_.filled(len(prompts), mesh)}
    new = sample.generate(built, params, ids, key, tokens=tokens, eos_id=text.eos_id, **options)
    return [text.decode(tokens, skip_special=True) for tokens in new]
