"""The Python face of the commands: load, build, train, generate, save_hf."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lmx.commands import _build, _hf, _wire
from lmx.commands.train import train as _train
from lmx.core import config as config_
from lmx.core import rng
from lmx.core.errors import UserError
from lmx.core.types import Checkpoint, Model


def load(
    path: str | os.PathLike[str],
    *,
    task: str | Mapping[str, Any] | None = None,
    dtype: str = "float32",
    allow_nonfinite: bool = False,
    seed: int = 0,
    sharding: Any = None,
) -> Checkpoint:
    """Return a checkpoint: of a run (`FOLDER`, `FOLDER@best`, `FOLDER@STEP`), of a Hugging Face folder, or of
    a model of the hub (`hf://ORG/NAME@REVISION`).

    The rest is for Hugging Face models. task: another task than the class that config.json names, with its
    options, such as `{"name": "sequence_classification", "labels": 3}`; a head that the files have not starts
    anew from `seed`, and is named. dtype: the parameters' type. allow_nonfinite: read NaN and infinite
    weights. sharding: where the parameters shall lie, a jax sharding for all, or a function of (path, shape)
    that returns one; each tensor goes straight there.
    Errors: UserError where there is none, or where it is damaged; missing, surplus and mis-shaped tensors in
    one line.
    """
    options: dict[str, Any] = {}
    if task is not None:
        options["task"] = {"name": task} if isinstance(task, str) else dict(task)
    options |= {"dtype": dtype} if dtype != "float32" else {}
    options |= {"allow_nonfinite": True} if allow_nonfinite else {}
    options |= {"seed": seed} if seed else {}
    options |= {"sharding": sharding} if sharding is not None else {}
    return _wire.checkpoint(os.fspath(path), **options)


def build(config: Mapping[str, Any]) -> Model:
    """Return the model of a config's `model` and `task` sections, such as `Checkpoint.config`.

    `vocab_size` must be set. Errors: UserError for an unknown model, task or field.
    """
    sections = config_.plain(config)
    for name in ("model", "task"):
        if not isinstance(sections.get(name), dict) or "name" not in sections[name]:
            raise UserError(
                f"the config has no {name}.name; expected sections `model` and `task`, each with a name"
            )
    if sections["model"].get("vocab_size") is None and "vocab_size" in sections["model"]:
        raise UserError("model.vocab_size is not set; expected the number of the tokenizer's ids")
    return _build.model(sections)


def train(config: Mapping[str, Any] | str, workdir: str | os.PathLike[str]) -> Checkpoint:
    """Train as the command does, from where the folder's run stands, and return the last checkpoint.

    config: a ConfigDict, a plain dict, or a shipped name or file. Errors: UserError as on the command line.
    """
    found = config_.load(config) if isinstance(config, str) else config
    return _train(config_.plain(found), Path(workdir))[0]


def generate(
    checkpoint: Checkpoint,
    prompts: Sequence[str],
    *,
    tokens: int = 64,
    temperature: float = 0.8,
    top_k: int | None = 40,
    seed: int = 0,
) -> list[str]:
    """Return a continuation of each prompt. Errors: UserError where the checkpoint has no tokenizer."""
    if not 0 <= seed < 2**32:
        raise UserError(f"seed={seed}; expected 0 to 4294967295")
    text = _wire.tokenizer(checkpoint)
    begin = checkpoint.config.get("data", {}).get("boundary", True)
    return _wire.continuations(
        build(checkpoint.config),
        checkpoint.params,
        text,
        list(prompts),
        rng.stream_key(seed, 0, "generate"),
        begin=begin,
        tokens=tokens,
        temperature=temperature,
        top_k=top_k,
    )


def save_hf(
    checkpoint: Checkpoint,
    folder: str | os.PathLike[str],
    *,
    dtype: str | None = None,
    shard_size: float = 5.0,
) -> None:
    """Write a checkpoint as a Hugging Face folder that transformers opens, with its certificate.

    dtype: the type to store; None for that of the folder it was read from, else float32. shard_size: GB at
    which the weights are cut into several files.
    Errors: UserError where the folder exists already or cannot be written.
    """
    if not shard_size > 0:
        raise UserError(f"shard_size={shard_size}; expected GB above 0")
    _hf.write(checkpoint, Path(folder), dtype=dtype, shard_bytes=max(1, int(shard_size * 1e9)))
