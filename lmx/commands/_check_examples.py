"""What is checked of a fine-tuning run before its data is read: every field of its config."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmx.commands import _bodies, _build, _check, _judge, _members, _options, _supervised, _wire
from lmx.core import plugin
from lmx.core.errors import UserError


def fields(config: Mapping[str, Any], workdir: Path) -> None:
    """Raise UserError where a field of the config asks for what cannot be, as far as no data is needed."""
    shared(config)
    if "tasks" not in config:
        _own(config, workdir)
        return
    _members.check(config)
    for name, one in _members.configs(config).items():
        with _members.named(name):
            _own(one, workdir)


def shared(config: Mapping[str, Any]) -> None:
    """Check what does not depend on the task."""
    _check.common(config)
    if not isinstance(config["start"], str):
        raise UserError(
            "config.start is not set; name what to fine-tune: --config.start=FOLDER, "
            "hf://ORG/NAME@REVISION, or a run of lmx"
        )
    batch = config["batch"]
    for name in ("size", "length", "multiple", "window"):
        if batch[name] < 1:
            raise UserError(f"batch.{name}={batch[name]}; expected at least 1")
    _build.mesh(config)
    _check.durations(config, tokens_per_step=None)


def _own(config: Mapping[str, Any], workdir: Path) -> None:
    """Check a task and its data."""
    task = _build.task(config, needs=_supervised.NEEDS)
    _judge.metrics_of(config, task)
    _build.check_options(config)
    if hasattr(task, "writing"):
        task.writing(**_build.options_of(config, "writing"))
    data = config["data"]
    source = plugin.find("lmx.sources", data["name"], needs=("source",)).source
    own = {name: value for name, value in data.items() if name not in ("name", "columns")}
    given = ("columns", "fields", "required")
    _options.known(source, own, section="data", owner=data["name"], given=given, also=("columns",))
    if not isinstance(data.get("columns"), Mapping):
        raise UserError(
            f"data.columns={data.get('columns')!r}; expected field -> column, such as text=sentence"
        )
    if not _wire.resumes(workdir):
        batch, model = config["batch"], _build.model_config(_bodies.model(config))
        _check.attention(config, model, batch["length"], min(batch["multiple"], batch["length"]))
