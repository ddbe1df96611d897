"""Hugging Face folders read, wired: which model and task, the tables, the tensors, the probe."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from lmx import tokenizer as tokenizers_
from lmx.commands import _build, _told
from lmx.core import plugin, rng, tree
from lmx.core.errors import UserError, printable
from lmx.core.hf_table import HeadTable, Table
from lmx.core.types import Checkpoint, Model
from lmx.hf import certificate, convert, probe, settings, transfer
from lmx.hf._open import open_folder
from lmx.hf._safetensors import quoted
from lmx.hf.convert import Layout, Plan
from lmx.hf.stored import Stored
from lmx.hf.types import named_type, narrower

Sharding: TypeAlias = jax.sharding.Sharding | Callable[[str, tuple[int, ...]], jax.sharding.Sharding]

PADDED = 1024
"""A stored vocabulary may be padded by fewer rows than this."""

MOST_LAYERS = 1000
"""Each takes milliseconds and memory before a tensor is read; the deepest models have a few hundred."""


@dataclass(frozen=True)
class Import:
    """A checkpoint read from a Hugging Face folder, and how: the plan, the config's ignored keys, notes."""

    checkpoint: Checkpoint
    plan: Plan
    ignored: tuple[str, ...]
    notes: tuple[str, ...]


def read(
    path: Path,
    *,
    task: Mapping[str, Any] | None = None,
    dtype: str = "float32",
    allow_nonfinite: bool = False,
    seed: int = 0,
    sharding: Sharding | None = None,
    digests: dict[str, str] | None = None,
) -> Import:
    """Return the checkpoint of a Hugging Face folder.

    task: name and options of a task; without options, those of the folder where the task is its own. What
    the task's head has and the folder has not starts anew, from the seed. dtype: the parameters' type.
    allow_nonfinite: read weights that are NaN or infinite. sharding: where the parameters shall lie, one jax
    sharding for all or a function of (path, shape); each tensor goes there as soon as it is read; None for
    the first device.
    digests: takes the SHA-256 of each tensor that is read, by its name in the file.
    Errors: UserError, one line, naming the file and the fault; nothing large is allocated before the config
    and the headers agree.
    """
    _check(seed, dtype)
    stored_config = settings.read(path)
    table, heads = _build.tables(_model_type(path, stored_config))
    place = _placing(sharding)
    own = _own_task(stored_config, heads, path, task)
    name = task.get("name") if task is not None else own
    if not isinstance(name, str) or name not in heads:
        raise UserError(f"{path}: a {table.model_type} has no task {name!r}; it has: {', '.join(heads)}")
    with open_folder(path) as stored:
        notes: list[str] = []
        ignored = settings.kept(stored_config, table)[1]
        config, built, lies, plan = _planned(
            path,
            stored,
            stored_config,
            table,
            heads,
            own,
            {**(task or {}), "name": name},
            notes,
            task is None,
        )
        params = transfer.read(
            stored,
            plan,
            dtype=dtype,
            place=place,
            allow_nonfinite=allow_nonfinite,
            digests=digests,
        )
        notes += _notes(path, stored, plan, ignored, dtype, sections(config)["task"])
        config |= _told.read(path, name) if task is None else {}
        config["hf"] |= {"generation": _generation(path), **_types(stored, plan, lies, dtype)}
        if any(leaf.startswith("head/") for leaf in plan.fresh):  # the names of labels were the other head's
            _forget_labels(config["hf"]["config"])
    fresh = tree.map_named(place, started(built, plan.fresh, seed, dtype))
    params = tree.merge(params, fresh)
    found = Checkpoint(params, config, folder=str(path) if tokenizers_.exists(path) else None)
    return Import(found, plan, ignored, tuple(notes))


def _planned(
    path: Path,
    stored: Stored,
    stored_config: Mapping[str, Any],
    table: Table,
    heads: Mapping[str, HeadTable],
    own: str | None,
    task: Mapping[str, Any],
    notes: list[str],
    as_stored: bool,
) -> tuple[dict[str, Any], Model, Layout, Plan]:
    """Return (the checkpoint's config, its model, how it lies in the file, what to read of it).

    own: the folder's task. task: that to read it for, with the options asked for. as_stored: nobody asked for
    a task, so that nothing may be missing, and faults of options are the file's.
    """
    name = task["name"]
    with _blamed(path / settings.CONFIG, table, heads[name]):
        chosen = {} if name != own else settings.task_options(stored_config, heads[name])
        config = _config(path, stored_config, stored, table, heads[name], {**chosen, **task}, notes)
    with _blamed(path / settings.CONFIG, table, heads[name]) if as_stored else nullcontext():
        built = _build.model(config)
    lies = layout(config, table, heads)
    try:
        plan = convert.plan(
            stored.specs,
            {where: leaf.shape for where, leaf in tree.flatten(_build.shapes(built)).items()},
            lies,
            may_start=not as_stored,
            another=name != own,
            assumed=settings.assumed(stored_config, table, config["model"]),
        )
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return config, built, lies, plan


def _check(seed: int, dtype: str) -> None:
    if not 0 <= seed < 2**32:
        raise UserError(f"seed={seed}; expected 0 to 4294967295")
    if jax.dtypes.canonicalize_dtype(named_type(dtype)) != named_type(dtype):
        raise UserError(f"dtype={dtype!r}; jax has it only where JAX_ENABLE_X64=1 is set; use float32")


def tokenizer(found: Checkpoint) -> tokenizers_.Tokenizer | None:
    """Return the tokenizer that lies with a checkpoint, tried in a process of its own first where it came
    from outside; None where there is none.
    """
    if found.folder is None:
        return None
    if found.step is None:
        tokenizers_.probe(found.folder)
    return tokenizers_.load(found.folder)


def _own_task(
    stored_config: Mapping[str, Any],
    heads: Mapping[str, HeadTable],
    path: Path,
    task: Mapping[str, Any] | None,
) -> str | None:
    """Return the task of the folder's class; None where lmx has not that class and another task is asked for.

    Errors: UserError where it has it not and none is.
    """
    try:
        return settings.choose(stored_config, heads, path)
    except UserError as error:
        if task is None:
            raise UserError(f"{error}; a task, such as features, reads the body alone") from error
        return None


def _model_type(path: Path, stored_config: Mapping[str, Any]) -> str:
    found, known = stored_config.get("model_type"), plugin.names("lmx.models")
    if found not in known:
        raise UserError(
            f"{path / settings.CONFIG}: model_type={quoted(found)}; lmx reads: {', '.join(known)}"
        )
    return str(found)


def _forget_labels(kept: dict[str, Any]) -> None:
    for key in ("id2label", "label2id", "num_labels", "problem_type"):
        kept.pop(key, None)


@contextmanager
def _blamed(file: Path, table: Table, head: HeadTable) -> Iterator[None]:
    """Make a UserError name the file, and the fields as they are called in it."""
    try:
        yield
    except UserError as error:
        said = str(error)
        for section, names in (("model", table.fields), ("task", head.options)):
            for own, theirs in names:
                said = re.sub(rf"\b{section}\.{own}\b", theirs, said)
        raise UserError(f"{file}: {said}") from error


def _config(
    path: Path,
    stored_config: Mapping[str, Any],
    stored: Stored,
    table: Table,
    head: HeadTable,
    task: Mapping[str, Any],
    notes: list[str],
) -> dict[str, Any]:
    """Return the checkpoint's config; its sizes are held against the headers where that saves work.

    task: name and options.
    """
    fields = {**settings.model_fields(stored_config, table), **head.model}
    names = [convert.modern(tensor, table) for tensor in stored.specs]
    fields |= {own: any(n.endswith(tensor) for n in names) for own, tensor in head.optional.items()}
    rows = _rows(stored, table)
    size = fields.get("vocab_size")
    if type(size) is int and rows is not None and 1 <= size < rows < size + PADDED:
        notes.append(f"the stored vocabulary is padded: {rows} rows for {size} ids; all are kept")
        fields["vocab_size"] = rows
    checked = _build.model_config({"name": table.model_type, **fields})
    layers = convert.layers_in(list(stored.specs), table)
    if checked.layers != layers:
        given = "" if "layers" in fields else " (what its absence means)"
        raise UserError(f"model.layers={checked.layers}{given}, but the weights count {layers} layers")
    if layers > MOST_LAYERS:
        raise UserError(f"model.layers={layers}; lmx reads at most {MOST_LAYERS:,}")
    return {
        "model": {"name": table.model_type, **dataclasses.asdict(checked)},
        "task": {**head.task, **task},
        "hf": {"config": settings.kept(stored_config, table)[0]},
    }


def _rows(stored: Stored, table: Table) -> int | None:
    """Return how many rows the stored token embeddings have."""
    name = table.entries[0].tensor
    spec = stored.specs.get(table.prefix + name) or stored.specs.get(name)
    return spec.shape[0] if spec is not None and spec.shape else None


def _generation(path: Path) -> dict[str, Any]:
    """Return what generation_config.json holds, for an export to give back; nothing where there is none."""
    file = path / "generation_config.json"
    if not file.is_file():
        return {}
    found = settings.read(path, file.name)
    return {name: value for name, value in found.items() if name != "transformers_version"}


def _placing(sharding: Sharding | None) -> transfer.Place:
    """Return what puts a leaf where it shall stay, without a copy where the device can take it as it is."""
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    expected = "expected a jax sharding, or a function of (path, shape) that returns one"
    if callable(sharding):
        try:
            inspect.signature(sharding).bind("embed/token/embedding", (1, 1))
        except (TypeError, ValueError) as error:
            raise UserError(f"sharding={sharding!r} ({error}); {expected}") from error
    elif not isinstance(sharding, jax.sharding.Sharding):
        raise UserError(f"sharding={sharding!r}; {expected}")

    def place(path: str, leaf: Any) -> Any:
        where = sharding(path, leaf.shape) if callable(sharding) else sharding
        if not isinstance(where, jax.sharding.Sharding):
            raise UserError(f"sharding gave {where!r} for {path}; {expected}")
        return jax.device_put(leaf, where, may_alias=True)  # nobody else holds its memory

    return place


def layout(config: Mapping[str, Any], table: Table, heads: Mapping[str, HeadTable]) -> Layout:
    """Return how the parameters of a config, all of it spelled out, lie in a file."""
    model, name = config["model"], config["task"]["name"]
    others = tuple(head for other, head in heads.items() if other != name)
    return Layout(table, heads[name], model["layers"], model["tie_embeddings"], others)


def _types(stored: Stored, plan: Plan, lies: Layout, dtype: str) -> dict[str, Any]:
    """Return the type most tensors were stored in, and {tensor: type} of the others, by names as written.

    What started anew is to be stored in the type that it has.
    """
    kinds = {entry.tensor: stored.specs[plan.names[entry.tensor]].dtype for entry in plan.entries}
    kinds |= {entry.tensor: dtype for entry in lies.entries() if entry.leaves[0] in plan.fresh}
    kinds |= {e.twin: kinds[e.tensor] for e in plan.entries if e.twin is not None and not lies.tied}
    counted = [*kinds.values()]
    most = max(sorted(set(counted)), key=counted.count)
    return {"dtype": most, "types": {name: kind for name, kind in kinds.items() if kind != most}}


def started(built: Any, fresh: tuple[str, ...], seed: int, dtype: str) -> dict[str, Any]:
    """Return new leaves for these paths; under jit nothing else of the model is made."""
    if not fresh:
        return {}

    def chosen(key: Any) -> dict[str, Any]:
        leaves = tree.flatten(built.init(key))
        return {path: leaves[path].astype(jnp.dtype(dtype)) for path in fresh}

    return tree.unflatten(jax.jit(chosen)(rng.stream_key(seed, 0, "init")))


def _notes(
    path: Path,
    stored: Stored,
    plan: Plan,
    ignored: tuple[str, ...],
    dtype: str,
    task: Mapping[str, Any],
) -> list[str]:
    """Return what to say of a folder besides that it was read. task: its section, all of it spelled out."""
    found = []
    if plan.fresh:
        sizes = [f"{name}={task[name]}" for name in ("labels", "targets") if name in task]
        told = f" with {', '.join(sizes)}" if sizes else ""
        found.append(f"started anew{told}: {', '.join(plan.fresh)}")
    reasons: dict[str, list[str]] = {}
    for name, why in plan.dropped.items():
        reasons.setdefault(why, []).append(printable(name))
    for why, names in reasons.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        found.append(f"not read ({printable(why)}): {', '.join(names[:3])}{more}")
    kinds = {stored.specs[name].dtype for name in plan.names.values()}
    wide = sorted(kind for kind in kinds if narrower(kind, dtype))
    if wide:
        found.append(f"{' and '.join(wide)} weights were read as {dtype}, and lose what that cannot hold")
    foreign = [*(printable(name) for name in ignored), *sorted(printable(f.name) for f in path.glob("*.py"))]
    if foreign:
        found.append(f"ignored, for lmx runs no foreign code: {', '.join(foreign)}")
    return found


def source(path: Path, digests: Mapping[str, str]) -> dict[str, Any]:
    """Return what a certificate says of a Hugging Face folder; digests: of the tensors that were read."""
    with open_folder(path) as stored:
        return {"files": certificate.of_source(path), "tensors": certificate.tensors(stored, digests)}


def sections(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `model` and `task` of a config, every default spelled out, so that two can be compared."""
    head = _build.head_table(config)
    fields = _build.model_config({**(head.model if head else {}), **config["model"]})
    options = list(inspect.signature(_build.task(config).attach).parameters.values())[2:]
    defaults = {option.name: option.default for option in options}
    return {
        "model": {"name": config["model"]["name"], **dataclasses.asdict(fields)},
        "task": {
            "name": config["task"]["name"],
            **defaults,
            **(head.task if head else {}),
            **_build.options_of(config, "attach"),
        },
    }


def probed(found: Checkpoint, params: Any) -> dict[str, Any]:
    """Return the summary of what a checkpoint's model makes of the fixed batch."""
    return probe.summary(probe.run(_build.model(found.config), params, probe_batch(found.config)))


def probe_batch(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fixed batch for a config."""
    model = sections(config)["model"]
    return probe.batch(
        model["vocab_size"],
        model["positions"],
        model.get("types"),
        choices=config["task"]["name"] == "multiple_choice",
    )
