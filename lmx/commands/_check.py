"""What is checked before a run costs anything: every field of its config, and that its folder is its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lmx import optim
from lmx.commands import _bodies, _build, _packed, _start, _watch, _wire, prepare
from lmx.core import config as config_
from lmx.core import execution, log
from lmx.core.errors import UserError
from lmx.generation import sample
from lmx.runs import lock


def fields(config: Mapping[str, Any], workdir: Path) -> None:
    """Raise UserError where a field of the config asks for what cannot be, as far as no data is needed."""
    common(config)
    task = _build.task(config, needs=_build.TRAINED)
    if hasattr(task, "FIELDS"):
        raise UserError(
            f"task.name={config['task']['name']!r} is trained on examples; begin the config with "
            "inherit('finetune/base')"
        )
    _layout(config)
    _build.check_options(config)
    if hasattr(task, "check"):
        task.check(**_build.options_of(config, "encode"))
    given, config = config, _bodies.completed(config, workdir)
    model = _build.model_config({**config["model"], "vocab_size": config["model"]["vocab_size"] or 1})
    _build.head_table(config)
    batch(config)
    size, length = config["batch"]["size"], config["batch"]["length"]
    _build.mesh(config)
    attention(config, model, length)
    durations(config, tokens_per_step=size * length)
    _packed.check_long(config)
    if "samples" in config:
        _samples(config["samples"])
    prepare.check(config)
    if config["start"] is None:
        raise UserError("config.start=None; expected 'scratch', a run of lmx or a Hugging Face folder")
    if not _wire.resumes(workdir) and "name" in given["model"]:
        _start.check(config)  # whoever goes on needs no longer what the run started from


def _layout(config: Mapping[str, Any]) -> None:
    """Raise UserError where the task reads rows that the config's base does not describe."""
    name, layout = config["task"]["name"], prepare.layout_of(config)
    wanted = "base" if layout == "packed" else "pretrain/encoder"
    if config_.base_of(config) != wanted:
        raise UserError(f"task.name={name!r} reads other rows; begin the config with inherit({wanted!r})")


def batch(config: Mapping[str, Any]) -> None:
    """Raise UserError where a batch has no rows, these no tokens, or more than the model has positions."""
    size, length, positions = config["batch"]["size"], config["batch"]["length"], config["model"]["positions"]
    if size < 1 or length < 1:
        raise UserError(f"batch.size={size}, batch.length={length}; both must be at least 1")
    if length > positions:
        raise UserError(
            f"batch.length={length} is longer than model.positions={positions}; raise one or lower the other"
        )


def common(config: Mapping[str, Any]) -> None:
    """Check what every run has: seed, how many checkpoints are kept, the optimizer."""
    if not 0 <= config["seed"] < 2**32:
        raise UserError(f"seed={config['seed']}; expected 0 to 4294967295")
    last, best = config["keep"]["last"], config["keep"]["best"]
    if last < 1 or best < 0:
        raise UserError(f"keep.last={last}, keep.best={best}; expected at least 1 and at least 0")
    _watch.Watch(config, better=1)
    _build.execution(config, backend="cpu")  # whichever, for JAX may not have started yet
    parts = config["batch"]["parts"]
    if parts < 1 or config["batch"]["size"] % parts:
        raise UserError(
            f"batch.parts={parts}; expected a divisor of batch.size={config['batch']['size']}, at least 1"
        )
    optim.check(**config["optim"])


def attention(config: Mapping[str, Any], model: Any, *lengths: int) -> None:
    """Raise UserError where the attention that the config asks for cannot do what its model does on rows of
    these lengths. model: its own Config."""
    with execution.on(_build.execution(config)):
        for length in lengths:
            execution.kernel(length, dropout=getattr(model, "dropout_attention", 0.0) > 0)


def durations(config: Mapping[str, Any], *, tokens_per_step: int | None) -> None:
    """Refuse what is no duration, and a warm-up longer than the run where both can be told without data."""
    # An epoch has steps, whatever their number.
    unit: dict[str, Any] = {"tokens_per_step": tokens_per_step, "steps_per_epoch": 1000.0}
    total, warmup = config["total"], config["optim"]["warmup"]
    steps = config_.steps(total, field="total", **unit)
    if steps < 1:
        raise UserError(f"config.total={total!r}; expected at least one step")
    for name in ("log", "evaluate", "save", "sample"):
        if name in config:
            config_.steps(config[name], field=name, total=steps, **unit)
    if "long" in config:
        config_.steps(config["long"]["last"], field="long.last", total=steps, **unit)
    for name in optim.DURATIONS:
        if config["optim"].get(name) is not None:
            config_.steps(config["optim"][name], field=f"optim.{name}", total=steps, **unit)
    rising = config_.steps(warmup, field="optim.warmup", total=steps, **unit)
    known = "epoch" not in f"{total} {warmup}".lower()
    if known and rising > steps:
        raise UserError(f"optim.warmup is {rising} steps, but the run has {steps}")


def _samples(wanted: Mapping[str, Any]) -> None:
    try:
        sample.check(wanted["temperature"], wanted["top_k"])
    except UserError as error:
        raise UserError(f"samples.{error}") from error
    if wanted["tokens"] < 1:
        raise UserError(f"samples.tokens={wanted['tokens']}; expected at least 1")
    for prompt in wanted["prompts"]:
        if not isinstance(prompt, str):
            raise UserError(f"samples.prompts: {prompt!r} is no text; expected such as ('', 'The')")


ELSEWHERE = ("mesh", "execution")
"""Sections that say where and how a run is computed: who goes on may change them, and is told so."""


def folder(config: Mapping[str, Any], workdir: Path, *, cosmetic: Sequence[str]) -> None:
    """Raise UserError where the folder holds another run, or what is left of one.

    Errors name the differing keys; fields under `cosmetic` may differ.
    """
    path = workdir / "config.json"
    if (workdir / "seeds.json").exists() or any(workdir.glob("seed-*/config.json")):
        raise UserError(
            f"workdir {workdir} holds the runs of several seeds; repeat --seeds, or name another workdir"
        )
    if _wire.resumes(workdir):
        if not path.exists():
            raise UserError(f"{workdir} holds checkpoints without a config.json; name another folder")
    else:
        others = sorted({path.name for path in workdir.glob("*")} - {lock.NAME})
        if others and not {"config.json", "run.json", "data", "given"} & set(others):
            shown = ", ".join(others[:4]) + ", ..." * (len(others) > 4)
            raise UserError(f"workdir {workdir} holds other files ({shown}) and no run; name a new folder")
        left = [name for name in ("run.json", "export") if (workdir / name).exists()]
        if left:
            raise UserError(
                f"{workdir} holds {' and '.join(left)} of a run whose checkpoints are gone; "
                f"name another workdir, or delete {' and '.join(left)} to begin anew"
            )
        return  # a start that came to nothing binds nobody
    changed = [
        (key.partition(".")[0], f"{key} ({old!r} there, {new!r} now)")
        for key, old, new in config_.differences(_wire.read_json(path), config)
        if key not in cosmetic and key.partition(".")[0] not in cosmetic
    ]
    elsewhere = [told for section, told in changed if section in ELSEWHERE]
    differing = [told for section, told in changed if section not in ELSEWHERE]
    if elsewhere and not differing:
        log.say(f"{', '.join(elsewhere)}: the numbers stay, but for rounding; the bits do not")
    if differing:
        raise UserError(
            f"workdir {workdir} holds a run with another config: {', '.join(differing)}; "
            "name another workdir, or repeat its config"
        )
