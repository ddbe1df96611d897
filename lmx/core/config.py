"""Configs: files with get_config(), overridden by dotted keys, with durations in any unit.

A ConfigDict iterates alphabetically, so ordered chains are tuples of dicts. Values below `commands` are plain
keyword arguments: nothing but this file knows ml_collections.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict as ConfigDict

from lmx.core.durations import canonical
from lmx.core.durations import interval as interval
from lmx.core.durations import nothing as nothing
from lmx.core.durations import steps as steps
from lmx.core.errors import UserError, did_you_mean, one_line


def shelf() -> Path:
    """Return the folder of the shipped configs: inside an installed package, beside it in a checkout."""
    package = Path(__file__).parents[1]
    return package / "configs" if (package / "configs").is_dir() else package.parent / "configs"


def names() -> list[str]:
    """Return the names of the shipped configs, such as `pretrain/from_text`."""
    root = shelf()
    found = (path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.py"))
    return sorted(name for name in found if not name.startswith("_") and name not in FREE)


NULLABLE = ("samples.top_k", "start")
"""Fields that may be None: switched off; those of `optim` are then as the optimizer has them by itself."""

TEXT = ("text", "stdlib")
"""Values of `data.name` by which a config is one of pretraining; any other is a source of examples."""

FREE = {
    "base": ("model", "optim", "task"),
    "pretrain/encoder": ("model", "optim", "task"),
    "finetune/base": ("model", "optim", "task", "data"),
    "finetune/multi_base": ("model", "optim", "tasks"),
}
"""Base -> sections whose fields belong to the file that they name, which checks them itself."""

OPEN = {
    "base": ("optim", "task"),
    "pretrain/encoder": ("optim", "task"),
    "finetune/base": ("optim", "task", "data"),
    "finetune/multi_base": ("optim", "tasks"),
}
"""Base -> sections that may get fields which the base has not; so may a model that is the start's."""

DURATIONS = (
    *("total", "log", "evaluate", "save", "sample", "long.last"),
    *("optim.warmup", "optim.every", "optim.cooldown", "optim.timescale"),
)
"""Fields that hold a duration."""

PATHS = ("start", "data.path", "data.folder", "tokenizer.path", "data.train", "data.validation", "data.test")
"""Fields that hold a path, in which `~` is the user's home."""

TEXTS = ("start", "score", "data.path", "data.folder", "tokenizer.path")
"""Fields that hold a text or None, whichever of them stands in the base."""


def check(config: Mapping[str, Any], prefix: str = "", base: Mapping[str, Any] | None = None) -> None:
    """Raise UserError unless a plain config has the keys of the shipped base, no more and no fewer.

    Values have to be of the base's types, too.
    """
    kind = base_of(config) if base is None else ""
    if kind == "finetune/base" and "tokenizer" in config and base is None:
        raise UserError(
            f"data.name={config['data']['name']!r}; expected {' or '.join(TEXT)}, or, for examples, "
            "a config that begins with inherit('finetune/base')"
        )
    wanted = plain(_run(shelf() / f"{kind}.py")) if base is None else base
    free = FREE.get(kind, ())
    for key in config:
        if key not in wanted:
            known = sorted(wanted)
            hint = did_you_mean(str(key), known)
            raise UserError(f"unknown config key {f'{prefix}{key}'!r}{hint}; there is: {', '.join(known)}")
    for key, value in wanted.items():
        if key not in config:
            raise UserError(f"the config has no {prefix + key!r}; begin it with inherit({kind or 'base'!r})")
        if isinstance(value, dict):
            if not isinstance(config[key], Mapping):
                raise UserError(
                    f"config.{prefix}{key}={config[key]!r}; expected keys: {', '.join(sorted(value))}"
                )
            if key not in free:
                check(config[key], f"{prefix}{key}.", value)
        else:
            _fitting(config[key], value, f"{prefix}{key}")


def base_of(config: Any) -> str:
    """Return the name of the shipped base that a config follows: one of pretraining, of fine-tuning, or of
    fine-tuning on several tasks."""
    if "tasks" in config:
        return "finetune/multi_base"
    data = config.get("data")
    name = data["name"] if isinstance(data, (Mapping, ConfigDict)) and "name" in data else "text"
    if name not in TEXT:
        return "finetune/base"
    return "pretrain/encoder" if "long" in config else "base"


def pretraining(config: Any) -> bool:
    """Tell whether a config is one of pretraining, on rows of text, and not of fine-tuning on examples."""
    return base_of(config) in ("base", "pretrain/encoder")


def load(reference: str) -> ConfigDict:
    """Return the config of a file (`configs/quickstart.py`) or of a shipped name (`quickstart`).

    Errors: UserError for an unknown name, and for a file without get_config().
    """
    path = Path(reference)
    if path.suffix != ".py":
        path = shelf() / f"{reference}.py"
        if not path.is_file():
            known = names()
            hint = did_you_mean(reference, known)
            raise UserError(
                f"no config {reference!r}{hint}; there is: {', '.join(known)}, or a .py file of yours"
            )
    elif not path.is_file():
        raise UserError(f"{reference}: no such config file; shipped configs go by name: {', '.join(names())}")
    return _run(path)


def inherit(name: str) -> ConfigDict:
    """Return a shipped config to start from, unlocked: a derived config names only its differences."""
    config = _run(shelf() / f"{name}.py")
    config.unlock()
    return config


def _run(path: Path) -> ConfigDict:
    spec = importlib.util.spec_from_file_location(f"lmx_config_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (SyntaxError, ImportError, NameError) as error:
        raise UserError(f"{path}: {type(error).__name__}: {error}") from error
    if not hasattr(module, "get_config"):
        raise UserError(f"{path}: no get_config() in it; a config file defines get_config() -> ConfigDict")
    try:
        config = module.get_config()
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        kind = type(error).__name__
        raise UserError(f"{path}: get_config() failed: {kind}: {one_line(error)}") from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"{path}: get_config() gave a {type(config).__name__}, expected a ConfigDict")
    config.lock()
    return config


def override(config: ConfigDict, changes: Mapping[str, Any]) -> None:
    """Write `{"optim.rate": "1e-3"}` into the config, each text read as the type that stands there.

    A value that is no text has to be of that type: `{"optim.rate": 1e-3}`. Paths reach into tuples, too:
    `wrappers[0].rank`. Errors: UserError for an unknown key ("did you mean") and for a value of another type.
    """
    spacious = OPEN[base_of(config)] + (("model",) if "name" not in config.get("model", {"name": ""}) else ())
    for path, value in changes.items():
        parts = re.findall(r"[^.\[\]]+|\[\d+\]", path)
        if not parts:
            raise UserError(f"--config.{path}={value}: no key; expected --config.KEY=VALUE")
        holder: Any = config
        for depth, part in enumerate(parts):
            if depth > 0 and parts[0] in spacious and isinstance(holder, ConfigDict) and part not in holder:
                with holder.unlocked():
                    holder[part] = None if depth == len(parts) - 1 else ConfigDict()
            part = _key(holder, part, path)
            if depth == len(parts) - 1:
                free = parts[:2] == [
                    "data",
                    "columns",
                ]  # a name, a position, or several: whatever stood there
                off = _optional(parts) and str(value).lower() == "none"
                present = None if free else holder[part]
                _assign(config, parts, None if off else _parse(value, present, path))
            else:
                holder = holder[part]


def _optional(parts: Sequence[str]) -> bool:
    """Tell whether a field may be None even where a text stands in it: options of the source and the task."""
    return parts == ["score"] or (parts[0] in ("data", "task") and parts[-1] != "name")


def _key(holder: Any, part: str, path: str) -> Any:
    """Return the key or index of one step of a path, checked against what is there."""
    if part.startswith("["):
        index = int(part[1:-1])
        if not isinstance(holder, (tuple, list)) or index >= len(holder):
            raise UserError(f"config.{path}: no place {part} there")
        return index
    if not isinstance(holder, (Mapping, ConfigDict)):
        raise UserError(f"config.{path}: {part!r} lies below a value that has no keys")
    if part not in holder:
        known = sorted(holder.keys())
        raise UserError(
            f"unknown config key {path!r}{did_you_mean(part, known)}; there is: {', '.join(known)}"
        )
    return part


def _assign(config: ConfigDict, parts: list[str], value: Any) -> None:
    """Set the value at a path; tuples on the way are rebuilt, for they cannot be written to."""

    def place(holder: Any, rest: list[str]) -> Any:
        if not rest:
            return value
        head = rest[0]
        if head.startswith("["):
            index = int(head[1:-1])
            return tuple(place(item, rest[1:]) if i == index else item for i, item in enumerate(holder))
        if isinstance(holder, dict):
            return {**holder, head: place(holder[head], rest[1:])}
        changed = place(holder[head], rest[1:])
        if changed is not holder[head]:
            with holder.ignore_type():
                holder[head] = changed
        return holder

    place(config, parts)


def _parse(given: Any, present: Any, path: str) -> Any:
    """Read a text as the type of the present value; a str stays as typed, None takes any literal."""
    if isinstance(present, ConfigDict):
        raise UserError(f"config.{path} holds keys ({', '.join(sorted(present.keys()))}); set one of them")
    if isinstance(present, str) or (path in TEXTS and isinstance(given, str) and given.lower() != "none"):
        return _fitting(given, present, path)
    value = os.fspath(given) if isinstance(given, os.PathLike) else given
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            value = {"true": True, "false": False, "none": None}.get(value.lower(), value)
    if (
        isinstance(present, int)
        and isinstance(value, float)
        and value.is_integer()
        and isinstance(given, str)
    ):
        value = int(value)  # 1e3
    return _fitting(value, present, path, given)


_KINDS = {bool: "True or False", int: "a whole number", float: "a number", str: "a text", list: "a tuple"}


def _switched(path: str) -> bool:
    """Tell whether a field is an option of the optimizer or schedule; None leaves one as it is by itself."""
    return path.startswith("optim.") and path not in ("optim.name", "optim.rate", "optim.schedule")


def _fitting(value: Any, present: Any, path: str, shown: Any = None) -> Any:
    """Return a value that may stand where `present` stands. Errors: UserError for another type.

    shown: what the user gave, where that is not the value.
    """
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    kind: type = list if isinstance(present, tuple) else str if path in TEXTS else type(present)
    if value is None:
        fits = path in (*NULLABLE, *TEXTS) or present is None or _switched(path)
    elif present is None and path not in TEXTS:
        fits = isinstance(value, (str, bool, int, float, tuple, list))
    elif kind is bool or isinstance(value, bool):
        fits = kind is bool and isinstance(value, bool)
    elif kind is float:
        fits = isinstance(value, (int, float))
        value = float(value) if fits else value
    else:
        fits = isinstance(value, (list, tuple) if kind is list else kind)
    if not fits:
        wanted = "a text, a number, True, False or None" if present is None else _KINDS.get(kind, str(kind))
        like = "" if present is None else f", like {present!r}"
        if present == () and isinstance(value, str):
            like = f", like ({value!r},)"
        raise UserError(f"config.{path}={(value if shown is None else shown)!r}: expected {wanted}{like}")
    return value


def expanded(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a plain config with `~` in its paths replaced by the user's home; references to the hub stay."""
    found: dict[str, Any] = {
        key: dict(value) if isinstance(value, Mapping) else value for key, value in config.items()
    }
    for path in PATHS:
        *section, key = path.split(".")
        holder = found.get(section[0], {}) if section else found
        value = holder.get(key)
        if isinstance(value, (str, list, tuple, Mapping)):
            holder[key] = _at_home(value)
    return found


def _at_home(value: Any) -> Any:
    """Return a path, or paths in a list or by column, with `~` replaced."""
    if isinstance(value, Mapping):
        return {key: _at_home(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_at_home(each) for each in value]
    return os.path.expanduser(value) if isinstance(value, str) else value


def plain(config: Any) -> Any:
    """Return the config as plain dicts, lists and scalars: what JSON holds."""
    if isinstance(config, (ConfigDict, Mapping)):
        return {key: plain(config[key]) for key in sorted(config.keys())}
    if isinstance(config, (tuple, list)):
        return [plain(item) for item in config]
    if isinstance(config, Path):
        return str(config)
    return config


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Yield (dotted key, old value, new value) wherever two plain configs differ; absent is None.

    Durations differ where they mean different things: '100steps' is '100 steps'.
    """
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from differences(before, after, f"{prefix}{key}.")
        elif f"{prefix}{key}" in DURATIONS and canonical(before) == canonical(after):
            continue
        elif before != after:
            yield f"{prefix}{key}", before, after
