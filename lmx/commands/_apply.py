"""A checkpoint applied to examples, wired: for `evaluate` and `predict`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from lmx.commands import _build, _examples, _hf, _judge, _options, _supervised, _wire
from lmx.core import config as config_
from lmx.core import mesh as mesh_
from lmx.core.errors import UserError, did_you_mean
from lmx.core.examples import Example, Records
from lmx.core.types import Checkpoint

BATCH = {"size": 32, "length": 512, "multiple": 16, "window": 1, "parts": 1}
"""For a Hugging Face folder, which has no batches of its own; `length` is at most the model's positions."""


NAMED = (".jsonl", ".json", ".parquet")
"""Endings of files whose columns have names: the positions that a run's own table had say nothing there."""


@dataclass(frozen=True)
class Applied:
    """A checkpoint with what its task needs: the config, whole, the task's module, the tokenizer's judge."""

    found: Checkpoint
    config: dict[str, Any]
    task: ModuleType
    judge: _judge.Judge

    def read(self, rows: Records, *, targets: bool = True) -> list[Example]:
        """Return rows as the task reads them. targets: the last turn of a dialogue answers those before it;
        else it is what shall be answered."""
        options = _build.options_of(self.config, "read")
        if not targets and "answered" in _options.names(self.task.read):
            options["answered"] = False
        return _examples.read(rows, self.task, options)

    def split(self, rows: Records, *, targets: bool) -> _examples.Split:
        """Return rows as the model reads them. targets: keep what they say themselves."""
        examples = self.read(rows, targets=targets)
        if not targets:
            told = {field.name for field in self.task.FIELDS if field.target}
            examples = [{name: v for name, v in one.items() if name not in told} for one in examples]
        text = _wire.tokenizer(self.found)
        _examples.alike(rows, examples, self.config["facts"], how="--columns text_pair=")
        with _examples.located(rows):
            encoded = _examples.encode(examples, self.task, text, self.config, self.config["facts"])
            if targets:
                self.task.references(examples, facts=self.config["facts"])  # a row without one is told of
        return _examples.Split(rows, examples, encoded)


def supervised(found: Checkpoint) -> bool:
    """Tell whether a checkpoint's task is one of examples."""
    return all(hasattr(_build.task(found.config), need) for need in _supervised.NEEDS)


def no_task(found: Checkpoint) -> str:
    """Return what to say of a checkpoint that has no task of examples."""
    name = found.config["task"]["name"]
    if name == "causal_lm":
        return "a language model that was taught no task of examples; lmx generate continues texts with it"
    what = "a body without a head" if name == "features" else f"a model of {name}"
    return f"{what}, which was taught no task of examples; lmx train --config finetune/classify teaches one"


def opened(found: Checkpoint, *, batch: int | None = None) -> Applied:
    """Return a checkpoint ready to be applied.

    Errors: UserError where its task is not one of examples, or it has no tokenizer.
    """
    task = _build.task(found.config)
    if not supervised(found):
        raise UserError(no_task(found))
    config, told = dict(found.config), found.config.get("told") or {}
    if "facts" not in config:
        config["facts"] = {**_facts(found), **told.get("facts", {})}
        config["task"] = {**config["task"], **told.get("task", {})}
    mesh = mesh_.under(found.params) or mesh_.make()
    shape = dict(config.get("batch", {**BATCH, **told.get("batch", {})}))
    shape["length"] = min(shape["length"], _hf.sections(found.config)["model"]["positions"])
    shape["size"] = mesh_.filled(batch or shape["size"], mesh)
    config = {"seed": 0, **config, "batch": shape}
    model = _build.model(found.config)
    text = _wire.tokenizer(found)
    return Applied(found, config, task, _judge.Judge(config, task, text=text, model=model, mesh=mesh))


def _facts(found: Checkpoint) -> dict[str, Any]:
    """Return what a Hugging Face folder tells in place of a training split: the names of its labels."""
    facts: dict[str, Any] = {"unanswerable": False, "turns": False}
    sections = _hf.sections(found.config)
    count = sections["task"].get("labels")
    if found.config["task"]["name"] == "next_sentence":
        return {**facts, "names": ["0", "1"]}
    if count is None:
        return facts
    names = found.config.get("hf", {}).get("config", {}).get("id2label") or {}
    return {**facts, "names": [str(names.get(str(i), f"LABEL_{i}")) for i in range(count)]}


def rows(
    applied: Applied,
    path: str | None,
    *,
    split: str,
    where: Mapping[str, Any],
    format: str | None,
    targets: bool,
) -> Records:
    """Return the rows of a file, or, without one, of a split of the run's own data.

    Errors: UserError where there is neither.
    """
    given = applied.config.get("data")
    known = [field.name for field in applied.task.FIELDS]
    for field in where:
        if field not in known:
            hint = did_you_mean(field, known)
            raise UserError(f"--columns {field}=...: no such field{hint}; the task has: {', '.join(known)}")
    if path is not None:
        kept = given if given is not None and given.get("name") == "table" else {"columns": {}}
        options = {name: kept[name] for name in ("header", "quoting", "delimiter") if name in kept}
        plain = path.lower().removesuffix(".gz").endswith((".jsonl", ".parquet"))  # the ending says it all
        form = format or (None if plain else kept.get("format"))
        own = kept["columns"]
        if path.lower().removesuffix(".gz").endswith(NAMED):
            own = {field: column for field, column in own.items() if not isinstance(column, int)}
        data = {
            "name": "table",
            "test": path,
            "columns": {**own, **where},
            **options,
            **({} if form is None else {"format": form}),
        }
        given = {**applied.config, "data": data}
        typed = _examples.as_argument
        return _examples.records(given, "test", applied.task, targets=targets, typed=typed)
    if given is None or config_.pretraining(applied.config):
        raise UserError("this checkpoint has no examples of its own; name some: --data FILE")
    return _examples.records(applied.config, split, applied.task, targets=targets)
