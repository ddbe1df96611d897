"""What fine-tuning starts from: a model, its tokenizer, and its parameters with a head for the task."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lmx import tokenizer as tokenizers_
from lmx.commands import _build, _hf, _labels, _members, _start, _wire
from lmx.core import tree
from lmx.core.errors import UserError
from lmx.core.types import Model

NEEDED = ("embed", "block", "final")
"""Parts of a model that no task can begin without."""

UNITS = ("mean", "deviation")
"""What a regression's facts say of the units that its head predicts in."""


def model(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the start's `model` section with the fields that the config changes, checked; no weights are
    read. Errors: UserError for a field that the model has not, or that would change its shapes."""
    theirs = _start.fields(config["start"])
    head = _build.head_table({**config, "model": theirs})
    changed = {**theirs, **(head.model if head is not None else {}), **config["model"]}
    found = {"name": theirs["name"], **dataclasses.asdict(_build.model_config(changed))}
    sizes = ("vocab_size", "positions", "width", "layers", "heads", "mlp_width", "types")
    for name in sizes:
        if found.get(name) != theirs.get(name):
            raise UserError(
                f"model.{name}={found[name]}, but {config['start']} has {theirs[name]}; "
                "its weights fit no other"
            )
    return found


def completed(config: Mapping[str, Any], workdir: Path) -> dict[str, Any]:
    """Return a pretraining config with its model: where that has no name, the start's, with the fields
    changed that the config names.

    A run that has begun knows its model itself. Errors: UserError where there is no start to take it from,
    and for a field that would change a shape.
    """
    if "name" in config["model"]:
        return dict(config)
    if config["start"] in (None, "scratch"):
        raise UserError(
            f"config.start={config['start']!r}, and the config names no model; name a start to take it from: "
            "--config.start=FOLDER, or a model: --config.model.name=gpt2"
        )
    reference = str(workdir) if _wire.resumes(workdir) else config["start"]
    return {**config, "model": model({**config, "start": reference})}


def standing(config: Mapping[str, Any], workdir: Path) -> Mapping[str, Any]:
    """Return the config; where its run has begun and its start is gone, with the run in the start's place,
    which holds the start's model, tokenizer and labels."""
    if not _wire.resumes(workdir):
        return config
    try:
        _wire.located(config["start"])
    except UserError:
        return {**config, "start": str(workdir)}
    return config


def tokenizer(reference: str) -> tokenizers_.Tokenizer:
    """Return the tokenizer that lies with a checkpoint; no weights are read.

    Errors: UserError where there is none.
    """
    return tokenizers_.load(_wire.tokenizer_folder(reference))


def params(
    config: Mapping[str, Any], built: Model, *, say: Callable[[str], None], name: str | None = None
) -> Any:
    """Return the start's parameters for the config's model: its body, and its head where that fits the task.

    name: that of the task, among several: a start that has several, too, has the head under this name.
    A head of another task, size, of other labels or units starts anew from the seed, and this is said.
    Errors: UserError where the body does not fit.
    """
    reference, seed, ours = config["start"], config["seed"], config.get("facts", {})
    folder, which = _wire.located(reference)
    if which is None:
        options = _build.options_of(config, "attach")
        read = _hf.read(folder, task={"name": config["task"]["name"], **options}, seed=seed)
        for note in read.notes:
            say(f"{reference}: {note}")
        found, same, theirs = read.checkpoint.params, True, ours
    else:
        whole = _wire.run(folder, which)
        whole = _members.several(whole).get(name or "", whole)
        found, same = whole.params, "task" in whole.config and _alike(whole.config, config)
        theirs = whole.config.get("facts", {})
    stays, told = _labels.judged(config, name)
    if same and stays and any(theirs.get(key) != ours.get(key) for key in UNITS):
        stays, told = False, "its head predicts in other units (task.standardize, or other training values)"
    if told:
        say(f"{reference}: {told}")
    return _fitted(reference, found, built, seed, same and stays, say)


def _alike(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> bool:
    """Tell whether the heads of two tasks mean the same: those of one task, or of two whose classes share
    tensors, as BERT's two pretraining tasks do."""
    if theirs["task"]["name"] == ours["task"]["name"]:
        return True
    heads = [_build.head_table({**ours, "task": one["task"]}) for one in (theirs, ours)]
    names = [{entry.tensor for entry in head.entries} if head and head.shared else set() for head in heads]
    return bool(names[0] & names[1])


def _fitted(
    reference: str, found: Any, built: Model, seed: int, same: bool, say: Callable[[str], None]
) -> Any:
    wanted, held = tree.flatten(_build.shapes(built)), tree.flatten(found)
    kept = {
        path: leaf
        for path, leaf in held.items()
        if path in wanted and leaf.shape == wanted[path].shape and (same or path.split("/")[0] in _build.BODY)
    }
    fresh = tuple(path for path in wanted if path not in kept)
    if lines := tree.diff(
        {path: wanted[path].shape for path in fresh if path.split("/")[0] in NEEDED},
        {path: leaf.shape for path, leaf in held.items() if path in fresh and path.split("/")[0] in NEEDED},
    ):
        raise UserError(
            f"start={reference}: not the body of the config's model (- missing, + surplus, ! shape): "
            f"{', '.join(lines[:3])}"
        )
    if fresh:
        say(f"{reference}: started anew: {', '.join(fresh)}")
    if left := sorted({path.split("/")[0] for path in held if path not in wanted}):
        say(f"{reference}: left out, for this task has no use for it: {', '.join(left)}")
    whole = tree.merge(tree.unflatten(kept), _hf.started(built, fresh, seed, "float32"))
    return jax.tree.map(lambda leaf: leaf.astype(np.float32), whole)
