"""Certificates, wired: import a folder with one, and check what was imported or exported."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lmx import tokenizer as tokenizers_
from lmx.commands import _build, _export, _hf, _wire
from lmx.core import tree
from lmx.core.errors import UserError, printable
from lmx.core.types import Checkpoint
from lmx.hf import certificate, folder, hub, oracle, probe, transfer
from lmx.hf._open import open_folder
from lmx.hf.leaves import nonfinite
from lmx.runs.checkpoints import Checkpoints, WriteError

Say = Callable[[str], None]

TOLERANCE = 1e-5
"""How far the outputs may be from the certificate's, or torch's, by max(1, the largest value)."""


def bring_in(reference: str, target: Path, *, say: Say, **options: Any) -> Checkpoint:
    """Import a Hugging Face folder, or a model of the hub, as an lmx checkpoint with its certificate.

    options: those of `_hf.read`. The folder appears whole, by a rename; what was dropped, started anew or
    ignored is said and certified. Errors: UserError, one line.
    """
    source = hub.fetch(reference) if hub.is_reference(reference) else Path(reference)
    if not reference.strip() or not source.is_dir():
        told = "is a file" if source.is_file() else "no such folder"
        raise UserError(
            f"{reference or repr(reference)}: {told}; expected a Hugging Face folder or "
            f"hf://ORG/NAME@REVISION{hub.suggestion(reference)}"
        )
    if (source / "checkpoints").is_dir():
        raise UserError(f"{reference} is a run of lmx already; expected a Hugging Face folder")
    if not target.name:
        raise UserError(f"{target} exists already; name another folder")
    if target.resolve().is_relative_to(source.resolve()):  # it would be certified as part of its source
        raise UserError(f"{target} would lie in {source}; name a folder elsewhere")
    text = None
    if tokenizers_.exists(source):
        tokenizers_.probe(source)
        text = tokenizers_.load(source)
    with folder.staged(target) as work:
        digests: dict[str, str] = {}
        found = _hf.read(source, digests=digests, **options)
        for note in found.notes:
            say(f"{reference}: {note}")
        if text is not None and text.ignored:
            say(f"{reference}: ignored in tokenizer_config.json: {', '.join(map(printable, text.ignored))}")
        checkpoint = found.checkpoint
        if text is not None:
            text.check_vocabulary(checkpoint.config["model"]["vocab_size"], str(source))
            text.save(work / "data" / "tokenizer")
        config = {**checkpoint.config, "data": {"folder": "", "boundary": True}}
        try:
            with closing(Checkpoints(work / "checkpoints")) as kept:
                kept.save(0, checkpoint.params, facts={"config": config, "rank": None, "data": ""})
        except WriteError as error:
            raise UserError(f"{target}: cannot be written ({error.reason})") from error
        leaves = tree.flatten(checkpoint.params)
        certificate.write(
            work,
            {
                "kind": "import",
                "nonfinite": nonfinite(leaves, allow=True) if options.get("allow_nonfinite") else [],
                "source": {"reference": _named(reference), **_hf.source(source, digests)},
                "target": {"files": certificate.files(work), "leaves": transfer.leaf_digests(leaves)},
                "audit": certificate.audit(found.plan, found.ignored),
                "parameters": sum(leaf.size for leaf in leaves.values()),
                "config": _hf.sections(checkpoint.config),
                "tokenizer": None if text is None else text.sha256,
                "probe": _hf.probed(checkpoint, checkpoint.params),
            },
        )
    return checkpoint


def _named(reference: str) -> str:
    """Return how a certificate names its source: a hub reference, or a folder's own name, not its place."""
    return reference if hub.is_reference(reference) else Path(reference).resolve().name


def verify(path: Path, *, say: Say) -> None:
    """Check a folder against its certificate, and, where torch is installed, its outputs against torch's.

    Errors: UserError, one line, naming everything that differs.
    """
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; expected what `lmx import-hf` or `lmx export-hf` made")
    known = certificate.read(path)
    target = known["target"]
    lines = certificate.compare("file", target["files"], certificate.files(path))
    _refuse(path, lines)
    left = f"; {certificate.HISTORY} not looked at" if certificate.has_history(path) else ""
    say(f"files: {len(target['files'])} unchanged, by SHA-256{left}")
    allowed = known.get("nonfinite", [])  # by whoever made it
    options: dict[str, Any] = {"allow_nonfinite": True} if allowed and known["kind"] == "export" else {}
    found = _wire.checkpoint(str(path), **options)
    leaves = tree.flatten(found.params)
    if known["kind"] == "export":
        with open_folder(path) as stored:
            held = {name: one["sha256"] for name, one in certificate.tensors(stored).items()}
        lines = certificate.compare("tensor", target["tensors"], held)
    else:
        lines = certificate.compare("leaf", target["leaves"], transfer.leaf_digests(leaves))
    count = sum(leaf.size for leaf in leaves.values())
    if count != known["parameters"]:
        lines.append(f"! {count:,} parameters, certified {known['parameters']:,}")
    for section in ("model", "task"):
        lines += certificate.compare(section, known["config"][section], _hf.sections(found.config)[section])
    text = _hf.tokenizer(found)
    if (None if text is None else text.sha256) != known["tokenizer"]:
        lines.append("! the tokenizer differs")
    _refuse(path, lines)
    say(f"tensors: {len(target.get('tensors', target.get('leaves')))} unchanged; {count:,} parameters")
    if allowed:
        say(f"weights: NaN or infinite values, as certified, in {', '.join(map(printable, allowed[:8]))}")
    outputs = probe.run(_build.model(found.config), found.params, _hf.probe_batch(found.config))
    gaps = probe.differences(known["probe"], probe.summary(outputs))
    known_gaps = {name: gap for name, gap in gaps.items() if gap is not None}
    _refuse(
        path,
        [f"! output {name} differs by {gap:.1e}" for name, gap in known_gaps.items() if not gap <= TOLERANCE],
    )
    say(f"outputs: {', '.join(f'{name} {_told(gap)}' for name, gap in gaps.items())}")
    _against_torch(path, found, outputs, say)


def _told(gap: float | None) -> str:
    """Return what to say of an output of which the summaries differ by so much."""
    if gap is None:
        return "not compared, for it holds NaN or infinite values, as certified"
    return f"{gap:.1e}" if gap else "equal"


def _refuse(path: Path, lines: list[str]) -> None:
    if lines:
        more = f"; and {len(lines) - 8} more" if len(lines) > 8 else ""
        if any(line.startswith("+ file") for line in lines):
            more += "; move what is not part of it (+) out of the folder"
        told = f"{'; '.join(lines[:8])}{more}"
        raise UserError(f"{path} is not what its certificate says (- missing, + surplus, ! other): {told}")


def _against_torch(path: Path, found: Checkpoint, outputs: dict[str, np.ndarray], say: Say) -> None:
    if not oracle.present():
        say("torch: not compared, for it is not installed; pip install 'lmx[parity]' brings it")
        return
    head = _build.head_table(found.config)
    assert head is not None, "what has a certificate has a class in transformers"
    batch = _hf.probe_batch(found.config)
    if any(leaf.dtype != np.float32 for leaf in jax.tree.leaves(found.params)):  # torch's are f32
        wide = jax.tree.map(lambda leaf: leaf.astype(np.float32), found.params)
        found = dataclasses.replace(found, params=wide)
        outputs = probe.run(_build.model(found.config), wide, batch)
    with tempfile.TemporaryDirectory() as work:
        exported = path
        if (path / "checkpoints").is_dir():
            exported = Path(work) / "exported"
            _export.write(found, exported, dtype="float32", certify=False, allow_nonfinite=True)
        theirs = oracle.judge(exported, head.architecture, batch, said=str(path))
    lines = [] if outputs.keys() & theirs.keys() else ["- torch gave no output that can be compared"]
    ours = {}
    for name in sorted(outputs.keys() & theirs.keys()):
        if np.isfinite(outputs[name]).all() or np.isfinite(theirs[name]).all():
            ours[name] = outputs[name]
        else:  # weights that hold NaN were allowed by whoever certified them
            say(f"torch: {name} not compared, for it is finite on neither side")
    for name, (absolute, relative) in oracle.differences(ours, theirs, batch["attention_mask"]).items():
        say(f"torch: {name} differs by {absolute:.1e}, {relative:.1e} of the largest value")
        if not relative <= TOLERANCE:  # NaN, too
            lines.append(f"! output {name} differs from torch's by {relative:.1e}")
    _refuse(path, lines)
