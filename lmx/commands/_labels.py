"""The labels of a start's head held against the data's: in which order, and whether the head can stay."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from types import ModuleType
from typing import Any

from lmx.commands import _build, _wire
from lmx.core.errors import UserError, printable
from lmx.core.examples import Example
from lmx.hf import settings
from lmx.runs.checkpoints import Checkpoints

SHOWN = 10
"""Labels that a line names."""

_NAMELESS = re.compile(r"LABEL_\d+")
"""What transformers calls the labels of a head that was told none."""


def learn(
    config: Mapping[str, Any], task: ModuleType, examples: Sequence[Example], *, name: str | None = None
) -> dict[str, Any]:
    """Return what the training split tells a task, its labels in the order of the start's head where the two
    have the same ones.

    name: that of the task, among several. Errors: UserError as the task's own `learn`.
    """
    options = _build.options_of(config, "learn")
    facts: dict[str, Any] = task.learn(examples, **options)
    theirs = of_start(config, name)
    if theirs is None or "names" not in facts or options.get("names") is not None:
        return facts
    order = ordered(theirs, facts["names"])
    if order is None or order == facts["names"] or "names" not in inspect.signature(task.learn).parameters:
        return facts
    return {**task.learn(examples, **{**options, "names": order})}


def of_start(config: Mapping[str, Any], name: str | None = None) -> list[str] | None:
    """Return the labels of the start's head in its order; None where it has no head for the task.

    name: that of the task, among several, under which a start that has several, too, has the head. No
    weights are read. Where a head has as many outputs whatever the data, as next sentence's has, the task
    says what they mean, and there is nothing to hold against it.
    """
    tables = _build.task(config).HF.values()
    if not any(theirs == "num_labels" for head in tables for _, theirs in head.options):
        return None
    folder, which = _wire.located(config["start"])
    if which is not None:
        with closing(Checkpoints(folder / "checkpoints")) as kept:
            whole = kept.facts(_wire.chosen(kept, folder, which))["config"]
        whole = whole.get("tasks", {}).get(name, {}) if "tasks" in whole else whole
        same = whole.get("task", {}).get("name") == config["task"]["name"]
        return whole.get("facts", {}).get("names") if same else None
    stored = settings.read(folder)
    names = stored.get("id2label")
    if not isinstance(names, dict) or not all(str(key).isdecimal() for key in names):
        return None
    try:
        own = settings.choose(stored, _build.tables(str(stored["model_type"]))[1], folder)
    except UserError:  # a class that lmx has not: its head is not read
        return None
    return [str(names[key]) for key in sorted(names, key=int)] if own == config["task"]["name"] else None


def ordered(theirs: Sequence[str], ours: Sequence[str]) -> list[str] | None:
    """Return our labels in the order of theirs; None where they are not the same, whatever their case.

    Labels without names (LABEL_0, LABEL_1, ...) are ours as they stand, where there are as many.

    >>> ordered(["POSITIVE", "NEGATIVE"], ["negative", "positive"])
    ['positive', 'negative']
    """
    if nameless(theirs):
        return list(ours) if len(theirs) == len(ours) else None
    for key in (str, str.casefold):
        known = {key(name): name for name in ours}
        wanted = [key(name) for name in theirs]
        if len(known) == len(ours) == len(wanted) and set(wanted) == set(known):
            return [known[name] for name in wanted]
    return None


def nameless(names: Sequence[str]) -> bool:
    """Tell whether labels have no names but LABEL_0, LABEL_1 and so on."""
    return all(_NAMELESS.fullmatch(name) for name in names)


def judged(config: Mapping[str, Any], name: str | None = None) -> tuple[bool, str]:
    """Return (whether the start's head can stay, what to say of it) for a config with what the data told.

    It cannot where it has as many labels, but others, or in another order.
    """
    ours = config.get("facts", {}).get("names")
    theirs = None if ours is None else of_start(config, name)
    if theirs is None or len(theirs) != len(ours):
        return True, ""
    order = ordered(theirs, ours)
    if nameless(theirs):
        silent = all(name.isdecimal() for name in ours)
        return True, "" if silent else f"its head names no labels; they are taken to be {listed(ours)}"
    if order != list(ours):
        return False, f"its head is for {listed(theirs)}, the data has {listed(ours)}"
    return True, ""


def listed(names: Sequence[str]) -> str:
    """Return the first names in one line, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(printable, names[:SHOWN])) + more
