"""Where names become things: configs, models, tokenizers, data and checkpoint references, in one place."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp

from lmx import tokenizer as tokenizers_
from lmx.core import plugin, rng, rows, tree
from lmx.core.errors import UserError
from lmx.core.types import Checkpoint, Model
from lmx.generation import sample
from lmx.hf import folder as hf_folder
from lmx.runs.checkpoints import Checkpoints


def model_config(fields: Mapping[str, Any]) -> Any:
    """Return the model's own Config of the `model` section. Errors: UserError for unknown fields."""
    shelf = plugin.find("lmx.models", fields["name"], needs=("Config", "build", "HF"))
    known = [field.name for field in dataclasses.fields(shelf.Config)]
    given = {name: value for name, value in fields.items() if name != "name"}
    for name in given:
        if name not in known:
            raise UserError(f"model.{name}: {fields['name']} has no such field; it has: {', '.join(known)}")
    return shelf.Config(**given)


def model(config: Mapping[str, Any]) -> Model:
    """Return the model of a config's `model` and `task` sections."""
    return _model(rows.canonical({"model": config["model"], "task": config["task"]}))


@lru_cache(maxsize=16)
def _model(config: bytes) -> Model:
    """Build once per config: the same functions again mean that nothing compiles twice."""
    sections = json.loads(config)
    fields = model_config(sections["model"])
    body = plugin.find("lmx.models", sections["model"]["name"]).build(fields)
    return task(sections).attach(body, fields)


def task(config: Mapping[str, Any]) -> ModuleType:
    """Return the task's module."""
    return plugin.find(
        "lmx.tasks", config["task"]["name"], needs=("attach", "encode", "objective", "METRICS", "HF")
    )


def shapes(built: Model) -> dict[str, Any]:
    """Return the parameters' tree as shapes; no memory is taken."""
    return jax.eval_shape(built.init, jax.random.key(0))


def checkpoint(reference: str) -> Checkpoint:
    """Return the checkpoint that a reference names.

    A run's folder (its newest checkpoint), `FOLDER@best`, `FOLDER@STEP`, or a Hugging Face folder.
    Errors: UserError where there is none, or where it is damaged.
    """
    name, _, which = (reference, "", "") if Path(reference).is_dir() else reference.partition("@")
    folder = Path(name)
    if not folder.is_dir():
        raise UserError(f"{name}: no such folder; expected a run of lmx or a Hugging Face folder")
    if (folder / "checkpoints").is_dir():
        return _from_run(folder, which)
    if which:
        raise UserError(f"{reference}: @{which} chooses among a run's checkpoints, but {name} is not a run")
    return _from_hf(folder)


def _from_run(folder: Path, which: str) -> Checkpoint:
    with closing(Checkpoints(folder / "checkpoints")) as kept:
        return _read_run(kept, folder, which)


def _read_run(kept: Checkpoints, folder: Path, which: str) -> Checkpoint:
    steps = kept.steps()
    if not steps:
        raise UserError(f"{folder}: no checkpoint yet; train it first")
    if which and which != "best" and not which.isdigit():
        raise UserError(f"{folder}@{which}: expected @best or @STEP, with a step of {steps}")
    step = steps[-1] if not which else kept.best() if which == "best" else int(which)
    if step is None:
        raise UserError(
            f"{folder}: no checkpoint was evaluated, so none is the best; there are steps {steps}"
        )
    if step not in steps:
        raise UserError(f"{folder}: no checkpoint of step {step}; there are steps {steps}")
    facts = kept.facts(step)
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    wanted = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), shapes(model(facts["config"]))
    )
    params, _, facts = kept.restore(step, wanted)
    data = data_folder(facts["config"], folder)
    config = {**facts["config"], "data": {**facts["config"]["data"], "folder": str(data)}}
    return Checkpoint(params, config, folder=str(data / "tokenizer"), step=step)


def _from_hf(folder: Path) -> Checkpoint:
    stored = hf_folder.read_config(folder)
    name = stored.get("model_type")
    if name not in plugin.names("lmx.models"):
        raise UserError(f"{folder}: model_type={name!r}; lmx reads: {', '.join(plugin.names('lmx.models'))}")
    table = plugin.find("lmx.models", name).HF
    architecture = (stored.get("architectures") or [table.architecture])[0]
    tasks = _tasks(name)
    if architecture not in tasks:
        raise UserError(f"{folder}: architecture {architecture!r}; lmx reads: {', '.join(tasks)}")
    fields = model_config({"name": name, **hf_folder.own_fields(stored, table)})
    config = {
        "model": {"name": name, **dataclasses.asdict(fields)},
        "task": {"name": tasks[architecture]},
    }
    wanted = {path: leaf.shape for path, leaf in tree.flatten(shapes(model(config))).items()}
    head = task(config).HF[name]
    params = hf_folder.read_params(folder, wanted, table=table, head=head, layers=fields.layers)
    return Checkpoint(
        jax.tree.map(jnp.asarray, params), config, folder=str(folder) if tokenizers_.exists(folder) else None
    )


def _tasks(model_type: str) -> dict[str, str]:
    """Return {architecture: task} of a model; its bare body is read for its first task."""
    shelf = {name: plugin.find("lmx.tasks", name) for name in plugin.names("lmx.tasks")}
    found = {
        module.HF[model_type].architecture: name for name, module in shelf.items() if model_type in module.HF
    }
    return {**found, plugin.find("lmx.models", model_type).HF.architecture: next(iter(found.values()))}


def data_folder(config: Mapping[str, Any], workdir: Path) -> Path:
    """Return where the prepared rows of a config lie: a folder of its own, or the run's."""
    return Path(config["data"]["folder"] or workdir / "data")


def tokenizer(found: Checkpoint) -> tokenizers_.Tokenizer:
    """Return the tokenizer that lies with a checkpoint. Errors: UserError where there is none."""
    if found.folder is None:
        raise UserError("this checkpoint has no tokenizer with it")
    return tokenizers_.load(found.folder)


def export(found: Checkpoint, folder: Path) -> None:
    """Write a checkpoint, wrappers folded, as a Hugging Face folder with its tokenizer, if it has one."""
    table = plugin.find("lmx.models", found.config["model"]["name"]).HF
    fields = dataclasses.asdict(model_config(found.config["model"]))
    text = tokenizer(found) if found.folder is not None else None
    end = text.eos_id if text is not None else None
    save: Callable[[Path], None] | None = None
    if text is not None:
        save = lambda where: text.save(where, model_max_length=fields["positions"])  # noqa: E731
    hf_folder.write(
        folder,
        model(found.config).fold(found.params),
        fields,
        table=table,
        head=task(found.config).HF[table.model_type],
        save_tokenizer=save,
        special={"bos_token_id": end, "eos_token_id": end},
        card=_card(found, fields),
    )


def _card(found: Checkpoint, fields: Mapping[str, Any]) -> str:
    count = sum(leaf.size for leaf in jax.tree.leaves(found.params))
    return (
        f"# {found.config['model']['name']} trained with lmx\n\n"
        f"{count:,} parameters, {fields['layers']} layers, width {fields['width']}, step {found.step}.\n\n"
        "Open it with `transformers.AutoModelForCausalLM.from_pretrained` or `lmx.load`.\n"
    )


def read_json(path: Path) -> Any:
    """Return a JSON file of a run. Errors: UserError where it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON ({error})") from error


def start(config: Mapping[str, Any], built: Model) -> Any:
    """Return the parameters that `start` names, checked against the model's shapes."""
    found = checkpoint(config["start"])
    expected = {path: leaf.shape for path, leaf in tree.flatten(shapes(built)).items()}
    lines = tree.diff(expected, {path: leaf.shape for path, leaf in tree.flatten(found.params).items()})
    if lines:
        raise UserError(
            f"start={config['start']}: not the model of the config (- missing, + surplus, ! shape): {lines}"
        )
    return found.params


def samples(
    built: Model, params: Any, config: Mapping[str, Any], data: Path, step: int
) -> list[tuple[str, str]]:
    """Return (prompt, continuation) for each prompt of the config; data: the prepared rows' folder."""
    wanted = config["samples"]
    options = {name: wanted[name] for name in ("tokens", "temperature", "top_k")}
    text = tokenizers_.load(data / "tokenizer")
    key = rng.stream_key(config["seed"], step, "samples")
    prompts = list(wanted["prompts"])
    begin = config["data"]["boundary"]
    return list(
        zip(prompts, continuations(built, params, text, prompts, key, begin=begin, **options), strict=True)
    )


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
    wanted, positions = config["samples"], config["model"]["positions"]
    sample.check(wanted["temperature"], wanted["top_k"])
    text = tokenizers_.load(data / "tokenizer")
    for prompt, ids in zip(
        wanted["prompts"], _prompts(text, wanted["prompts"], config["data"]["boundary"]), strict=True
    ):
        if not ids:
            raise UserError(f"samples.prompts: {prompt!r} has no token to go on from; name a longer one")
        if wanted["tokens"] < 1 or len(ids) + wanted["tokens"] > positions:
            raise UserError(
                f"samples.tokens={wanted['tokens']} after the {len(ids)} tokens of {prompt!r} does not fit "
                f"model.positions={positions}; expected 1 to {positions - len(ids)}"
            )


def _prompts(text: tokenizers_.Tokenizer, prompts: Sequence[str], begin: bool) -> list[list[int]]:
    """Return the ids of each prompt, after the end symbol, which begins documents, where `begin` is set."""
    first = [text.eos_id] if begin and text.eos_id is not None else []
    return [[*first, *text.encode(prompt)] for prompt in prompts]


def continuations(
    built: Model,
    params: Any,
    text: tokenizers_.Tokenizer,
    prompts: Sequence[str],
    key: Any,
    *,
    begin: bool,
    **options: Any,
) -> list[str]:
    """Return the continuation of each prompt. begin: put the end symbol, which begins documents, in front."""
    ids = _prompts(text, prompts, begin)
    new = sample.generate(built, params, ids, key, eos_id=text.eos_id, **options)
    return [text.decode(tokens, skip_special=True) for tokens in new]
