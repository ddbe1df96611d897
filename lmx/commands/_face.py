"""The Python face of the commands: load, build, train, generate, save_hf."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from lmx.commands import _arguments, _build, _export, _fine_tune, _members, _responses, _wire
from lmx.commands.train import RESUME
from lmx.commands.train import train as _train
from lmx.core import config as config_
from lmx.core import rng
from lmx.core.errors import UserError
from lmx.core.types import Checkpoint, Model
from lmx.generation import sample


def load(
    path: str | os.PathLike[str],
    *,
    task: str | Mapping[str, Any] | None = None,
    dtype: Any = "float32",
    allow_nonfinite: bool = False,
    seed: int = 0,
    sharding: Any = None,
) -> Checkpoint:
    """Return a checkpoint: of a run (`FOLDER`, `FOLDER@best`, `FOLDER@STEP`), of a Hugging Face folder, or of
    a model of the hub (`hf://ORG/NAME@REVISION`).

    task: of a run on several tasks, the name of one of them; of a Hugging Face model, another task than the
    class that config.json names, with options, such as `{"name": "sequence_classification", "labels": 3}`; a
    head that the files have not starts anew from `seed`, and is named. The rest is for Hugging Face models.
    dtype: the parameters' type, by name or as numpy and jax have it. allow_nonfinite: read NaN and infinite
    weights. sharding: where the parameters shall lie, a jax sharding for all, or a function of (path, shape)
    that returns one; each tensor goes straight there.
    Errors: UserError where there is none, or where it is damaged; missing, surplus and mis-shaped tensors in
    one line.
    """
    _expect("path", path, "a path", isinstance(path, (str, os.PathLike)))
    _expect("task", task, "a name, or a dict with one", task is None or isinstance(task, (str, Mapping)))
    _expect("dtype", dtype, "a name such as 'bfloat16'", dtype is not None)  # numpy takes None for float64
    if not isinstance(dtype, str):
        try:
            dtype = np.dtype(dtype).name
        except (TypeError, ValueError):
            _expect("dtype", dtype, "a name such as 'bfloat16'", False)
    _expect("allow_nonfinite", allow_nonfinite, "True or False", isinstance(allow_nonfinite, bool))
    _expect_seed(seed)
    options: dict[str, Any] = {}
    if task is not None:
        options["task"] = {"name": task} if isinstance(task, str) else dict(task)
        if isinstance(task, str) and _wire.is_run(os.fspath(path)):
            return _wire.checkpoint(os.fspath(path), member=task)
    options |= {"dtype": dtype} if dtype != "float32" else {}
    options |= {"allow_nonfinite": True} if allow_nonfinite else {}
    options |= {"seed": seed} if seed else {}
    options |= {"sharding": sharding} if sharding is not None else {}
    return _wire.checkpoint(os.fspath(path), **options)


def build(config: Mapping[str, Any]) -> Model:
    """Return the model of a config's `model` and `task` sections, such as `Checkpoint.config`.

    `vocab_size` must be set. Errors: UserError for an unknown model, task or field.
    """
    _expect("config", config, "a dict or a ConfigDict", isinstance(config, (Mapping, config_.ConfigDict)))
    sections = config_.plain(config)
    for name in ("model",) if "tasks" in sections else ("model", "task"):
        if not isinstance(sections.get(name), dict) or "name" not in sections[name]:
            raise UserError(
                f"the config has no {name}.name; expected sections `model` and `task`, each with a name"
            )
    if sections["model"].get("vocab_size") is None and "vocab_size" in sections["model"]:
        raise UserError("model.vocab_size is not set; expected the number of the tokenizer's ids")
    return _build.model(sections)


def train(config: Mapping[str, Any] | str | os.PathLike[str], workdir: str | os.PathLike[str]) -> Checkpoint:
    """Train as the command does, from where the folder's run stands, and return the last checkpoint.

    config: a ConfigDict, a plain dict, or a shipped name or file. Errors: UserError as on the command line.
    The first Ctrl-C, SIGTERM or SIGHUP lets the step finish and saves; then Ctrl-C raises KeyboardInterrupt,
    the others SystemExit(75). The same call goes on from there.
    """
    fits = isinstance(config, (str, os.PathLike, Mapping, config_.ConfigDict))
    _expect("config", config, "a ConfigDict, a dict, or a config's name or file", fits)
    found = config_.load(os.fspath(config)) if isinstance(config, (str, os.PathLike)) else config
    try:
        folder = _arguments.folder(workdir)
    except UserError as error:
        raise UserError(f"workdir={error}") from error
    checkpoint, stopped = _train(config_.plain(found), folder)
    if stopped is None:
        return checkpoint
    said = f"stopped at step {checkpoint.step} and saved; the same call goes on"
    raise KeyboardInterrupt(said) if stopped == signal.SIGINT else SystemExit(RESUME)


def fine_tune(
    rows: Any,
    *,
    start: str | os.PathLike[str],
    task: str | Mapping[str, Any] | None = None,
    validation: Any = "10%",
    workdir: str | os.PathLike[str] | None = None,
    epochs: float = 3,
    batch_size: int = 16,
    learning_rate: float = 5e-5,
    length: int = 128,
    seed: int = 0,
    changes: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """Fine-tune a checkpoint on rows, and return the best checkpoint by the validation score.

    rows: dicts with the task's fields, such as `{"text": ..., "label": ...}`, or a data frame with such
    columns; with no task texts, on which a language model goes on. start: a Hugging Face folder, an hf://
    reference, or a run. task: a name, or a dict with one and options. validation: rows of the same kind, or
    a share to hold out. workdir: the run's folder, which the same call resumes; None for a temporary one.
    learning_rate: the highest; it rises for a tenth of the steps and falls in a straight line. length: the
    most tokens of an example. changes: {dotted config key: value} for everything else.
    Errors: UserError, one line, before anything is compiled. It is the command `train` underneath.
    """
    fits = task is None or isinstance(task, str) or (isinstance(task, Mapping) and "name" in task)
    _expect("task", task, "a name, a dict with one, or None for texts", fits)
    _expect("start", start, "a path", isinstance(start, (str, os.PathLike)))
    _expect("epochs", epochs, "a number above 0", _number(epochs) and epochs > 0)
    _expect("batch_size", batch_size, "a whole number of at least 1", _whole(batch_size) and batch_size >= 1)
    _expect("length", length, "a whole number of at least 1", _whole(length) and length >= 1)
    _expect("learning_rate", learning_rate, "a number above 0", _number(learning_rate) and learning_rate > 0)
    _expect_seed(seed)
    return _fine_tune.fine_tune(
        rows,
        start=start,
        task=task,
        validation=validation,
        workdir=workdir,
        epochs=epochs,
        batch_size=batch_size,
        rate=learning_rate,
        length=length,
        seed=seed,
        changes=changes or {},
    )


def generate(
    checkpoint: Checkpoint,
    prompts: Sequence[str],
    *,
    tokens: int = 64,
    temperature: float = 0.8,
    top_k: int | None = 40,
    seed: int = 0,
) -> list[str]:
    """Return a continuation of each prompt; of a run that was trained on instructions, its response to each,
    in the run's template.

    Errors: UserError where the checkpoint has no tokenizer, and for arguments that are not what they must be.
    """
    _expect_checkpoint(checkpoint)
    texts = (
        [] if isinstance(prompts, (str, bytes)) else list(prompts) if isinstance(prompts, Iterable) else []
    )
    listed = bool(texts) and all(isinstance(prompt, str) for prompt in texts)
    _expect("prompts", prompts, "a list of texts, such as ['The']", listed)
    for prompt in texts:
        _expect("prompts", prompt, "texts of whole characters (UTF-8)", _encodes(prompt))
    _expect("tokens", tokens, "a whole number of at least 1", _whole(tokens) and tokens >= 1)
    _expect("temperature", temperature, "a number", _number(temperature))
    _expect("top_k", top_k, "a whole number, or None", top_k is None or _whole(top_k))
    _expect_seed(seed)
    sample.check(temperature, top_k)
    checkpoint = _members.one(checkpoint)
    if _responses.writes(checkpoint.config):
        drawn: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "seed": seed}
        return _responses.answers(checkpoint, texts, tokens=tokens, **drawn)
    text = _wire.tokenizer(checkpoint)
    return _wire.continuations(
        build(checkpoint.config),
        checkpoint.params,
        text,
        texts,
        rng.stream_key(seed, 0, "generate"),
        begin=checkpoint.config.get("data", {}).get("boundary", True),
        positions=checkpoint.config["model"].get("positions"),
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
    allow_nonfinite: bool = False,
) -> None:
    """Write a checkpoint as a Hugging Face folder that transformers opens, with its certificate.

    dtype: the type to store; None for that of the folder it was read from, else float32. shard_size: GB, of
    10^9 bytes, at which the weights are cut into several files. allow_nonfinite: write NaN and infinite
    weights.
    Errors: UserError where the folder exists already or cannot be written, and, before anything is, where the
    parameters are not those of the config's model, leaf by leaf in one line.
    """
    _expect_checkpoint(checkpoint)
    try:
        target = _arguments.new_folder(folder)
    except UserError as error:
        raise UserError(f"folder={error}") from error
    _expect("dtype", dtype, "a name such as 'bfloat16', or None", dtype is None or isinstance(dtype, str))
    fits = _number(shard_size) and 1e-9 <= shard_size <= 1e9
    shards = "GB above 0, from 1e-9 (a file for each tensor) to 1e9, a GB being 10^9 bytes"
    _expect("shard_size", shard_size, shards, fits)
    _expect("allow_nonfinite", allow_nonfinite, "True or False", isinstance(allow_nonfinite, bool))
    checkpoint = _members.one(checkpoint)
    build(checkpoint.config)
    checkpoint = dataclasses.replace(checkpoint, config=config_.plain(checkpoint.config))
    size = max(1, int(shard_size * 1e9))
    _export.write(checkpoint, target, dtype=dtype, shard_bytes=size, allow_nonfinite=allow_nonfinite)


def _expect(name: str, value: Any, expected: str, fits: bool) -> None:
    """Raise UserError, naming the argument, unless its value fits."""
    if not fits:
        shown = repr(value)
        shown = f"{shown[:60]}..." if len(shown) > 60 else shown
        raise UserError(f"{name}={' '.join(shown.split())}; expected {expected}")


def _expect_checkpoint(checkpoint: Any) -> None:
    expected = "a Checkpoint, as lmx.load and lmx.train return it"
    _expect("checkpoint", checkpoint, expected, isinstance(checkpoint, Checkpoint))


def _expect_seed(seed: Any) -> None:
    _expect("seed", seed, "0 to 4294967295", _whole(seed) and 0 <= seed < 2**32)


def _whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
