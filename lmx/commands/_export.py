"""Hugging Face folders written, wired: the tables, the tokenizer, the card, the certificate."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from lmx import tokenizer as tokenizers_
from lmx.commands import _build, _hf, _told
from lmx.core import log, tree
from lmx.core.errors import UserError
from lmx.core.hf_table import HeadTable, Table
from lmx.core.types import Checkpoint
from lmx.hf import certificate, folder, leaves, settings, transfer
from lmx.hf.convert import Layout
from lmx.hf.types import named_type


def write(
    found: Checkpoint,
    target: Path,
    *,
    dtype: str | None = None,
    shard_bytes: int = folder.SHARD_BYTES,
    certify: bool = True,
    allow_nonfinite: bool = False,
) -> None:
    """Write a checkpoint as a Hugging Face folder with its tokenizer, if it has one, and its certificate.

    dtype: the type to store; None for that of the folder it was read from, else float32. certify: write the
    certificate, for which the weights are read once more and the model runs. allow_nonfinite: write weights
    that are NaN or infinite, and certify of which leaves.
    Errors: UserError where the folder cannot be written, and, before anything is, where the parameters are
    not those of the config's model, or have no place in a class of transformers.
    """
    model_type, task_name = found.config["model"]["name"], found.config["task"]["name"]
    table, heads = _tables(found)
    named_type("float32" if dtype is None else dtype)
    found = _in_units(_as_read(found, heads))
    came = _came(found)
    whole = _hf.sections(found.config)
    fields = {name: value for name, value in whole["model"].items() if name != "name"}
    task, layout = whole["task"], _hf.layout(whole, table, heads)
    _check_fields(fields, layout.head)
    text = _tokenizer(found, fields)
    others = {**_special(model_type, text), **_labels(found, layout.head), **came.get("config", {})}
    built = _build.model(found.config)
    own = leaves.check(found.params, _build.shapes(built))
    wrong = leaves.nonfinite(own, allow=allow_nonfinite)
    params = built.fold(tree.unflatten(own))
    kind, types = dtype or came.get("dtype", "float32"), came.get("types", {}) if dtype is None else {}
    config = settings.written(fields, task, table, layout.head, others=others, dtype=kind)
    with folder.staged(target) as work:
        digests = folder.write(
            work,
            params,
            config,
            layout,
            types=types,
            special=_for_generation(task_name, others, came.get("generation", {})),
            card=_card(found, fields, layout.head),
            shard_bytes=shard_bytes,
        )
        if text is not None:
            text.save(work, model_max_length=text.model_max_length or fields["positions"])
        _told.write(work, found.config)
        if certify:
            content = {
                "kind": "export",
                "nonfinite": wrong,
                "source": {"step": found.step, "leaves": transfer.leaf_digests(tree.flatten(params))},
                "target": {"files": certificate.files(work), "tensors": digests},
                "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
                "config": {"model": whole["model"], "task": {**task, **layout.head.task}},
                "tokenizer": None if text is None else text.sha256,
                "probe": _hf.probed(found, _as_stored(params, layout, types, kind)),
            }
            certificate.write(work, content)


def _tables(found: Checkpoint) -> tuple[Table, dict[str, HeadTable]]:
    """Return the tables of a checkpoint's model. Errors: UserError where its task has none there."""
    model_type, task_name = found.config["model"]["name"], found.config["task"]["name"]
    table, heads = _build.tables(model_type)
    if task_name not in heads:
        raise UserError(f"a {model_type} with the task {task_name!r} has no class in transformers")
    return table, heads


def _as_read(found: Checkpoint, heads: Mapping[str, HeadTable]) -> Checkpoint:
    """Return the checkpoint as its folder is read: of tasks that share a head, or add none, the first."""
    name = found.config["task"]["name"]
    own = heads[name]
    first = next(other for other, head in heads.items() if head == own or (head.bare and own.bare))
    if first == name:
        return found
    model = _hf.sections(found.config)["model"]  # with what the task fixes, such as no pooler
    return dataclasses.replace(found, config={**found.config, "model": model, "task": {"name": first}})


def _in_units(found: Checkpoint) -> Checkpoint:
    """Return the checkpoint; a regression on standardised values gets a head that tells them in their units.

    A folder has no place for mean and deviation. A head without bias stays, and this is said.
    """
    facts = found.config.get("facts", {})
    if "mean" not in facts:
        return found
    mean, deviation = (jnp.asarray(facts[name], jnp.float32) for name in ("mean", "deviation"))
    head = found.params["head"]
    if "bias" not in head:
        told = f"value = {facts['deviation']} x logit + {facts['mean']}"
        log.say(f"warning: the export tells standardised values, for its head has no bias: {told}")
        return found
    scaled = {"kernel": head["kernel"] * deviation[None, :], "bias": head["bias"] * deviation + mean}
    rest = {name: value for name, value in facts.items() if name not in ("mean", "deviation")}
    config = {**found.config, "facts": rest}
    return dataclasses.replace(found, params={**found.params, "head": {**head, **scaled}}, config=config)


def _tokenizer(found: Checkpoint, fields: Mapping[str, Any]) -> tokenizers_.Tokenizer | None:
    """Return the checkpoint's tokenizer, which has no more ids than the model's vocabulary."""
    text = _hf.tokenizer(found)
    if text is not None:
        text.check_vocabulary(fields["vocab_size"], str(found.folder))
    return text


def _came(found: Checkpoint) -> Mapping[str, Any]:
    """Return what the config keeps of the folder that a checkpoint was read from."""
    came = found.config.get("hf") or {}
    if not isinstance(came, Mapping):
        raise UserError(f"config.hf is of type {type(came).__name__}; expected a dict, as lmx.load gives it")
    return came


def _check_fields(fields: Mapping[str, Any], head: HeadTable) -> None:
    """Refuse fields of the model that the class has otherwise."""
    for name, value in head.model.items():
        if fields[name] != value:
            raise UserError(f"{head.architecture} has model.{name}={value}, not {fields[name]}")


def _as_stored(params: Any, layout: Layout, types: Mapping[str, str], kind: str) -> Any:
    """Return the parameters as whoever reads the folder has them: rounded to the types stored, in f32."""
    kinds = {path: types.get(entry.tensor, kind) for entry in layout.entries() for path in entry.leaves}
    narrow = {path: jnp.dtype(name) for path, name in kinds.items() if jnp.dtype(name).itemsize < 4}
    if not narrow and all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params)):
        return params

    def rounded(path: str, leaf: Any) -> Any:
        return leaf.astype(narrow.get(path, leaf.dtype)).astype(jnp.float32)

    return jax.jit(lambda those: tree.map_named(rounded, those))(params)


def _special(model_type: str, text: tokenizers_.Tokenizer | None) -> dict[str, Any]:
    """Return the ids of special tokens for config.json; GPT-2's defaults would fit no other vocabulary."""
    names = ("bos", "eos", "pad")
    found = {f"{name}_token_id": getattr(text, f"{name}_id", None) for name in names}
    if model_type == "bert":
        return {name: value for name, value in found.items() if value is not None}
    found["bos_token_id"] = found["eos_token_id"] if found["bos_token_id"] is None else found["bos_token_id"]
    return found


def _labels(found: Checkpoint, head: HeadTable) -> dict[str, Any]:
    """Return the labels for config.json, where the run learnt their names and the class counts them."""
    names = found.config.get("facts", {}).get("names")
    if names is None or not any(theirs == "num_labels" for _, theirs in head.options):
        return {}
    return {
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
    }


def _for_generation(task: str, config: Mapping[str, Any], came: Mapping[str, Any]) -> dict[str, Any]:
    """Return what generation_config.json holds; nothing for a task that continues no text."""
    if task not in ("causal_lm", "instruction") or came:
        return dict(came)  # as the source's file had it
    ids = {name: config.get(name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return {**{name: value for name, value in ids.items() if value is not None}, **came}


def _card(found: Checkpoint, fields: Mapping[str, Any], head: HeadTable) -> str:
    count = sum(leaf.size for leaf in jax.tree.leaves(found.params))
    step = "" if found.step is None else f", step {found.step}"
    return (
        "---\nlibrary_name: transformers\ntags:\n- lmx\n---\n\n"
        f"# {found.config['model']['name']}, written by lmx\n\n"
        f"{count:,} parameters, {fields['layers']} layers, width {fields['width']}{step}.\n\n"
        f"Open it with `transformers.{head.architecture}.from_pretrained` or `lmx.load`; "
        "`lmx verify` checks it against conversion.json.\n"
    )
