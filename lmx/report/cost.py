"""What a run cost, as a part of its page: operations, share of the peak, memory, and where its time went."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmx.report import chart, markup
from lmx.report.facts import Report

FACTS = ("flops_per_step", "peak_flops", "compile_seconds", "compiled_steps", "memory", "goodput")
"""What of run.json is told here."""

MEANING: Mapping[str, str] = {
    "steps": "steps that count",
    "again": "steps made again after a kill",
    "starting": "data, model and checkpoint, before the first step",
    "compiling": "steps in which XLA compiled",
    "data": "waiting for a batch",
    "evaluating": "evaluating",
    "sampling": "writing samples",
    "saving": "saving checkpoints",
    "profiling": "beginning and writing a trace",
    "stopped": "between a stop and the next start",
}


def section(facts: Report) -> str:
    """Return the tables; nothing of a run that tells nothing of it."""
    run, shown = facts.run, {}
    if _known(run.get("flops_per_step")):
        shown["model's operations of a step"] = f"{scaled(run['flops_per_step'])}FLOP"
    peak = _mapping(run.get("peak_flops"))
    if _known(peak.get("flops")):
        shown["devices' peak"] = f"{scaled(peak['flops'])}FLOP/s, {peak.get('source')}"
    shares = sorted(record["mfu"] for record in facts.train if _known(record.get("mfu")))
    if shares:
        middle = f"{shares[len(shares) // 2]:.1%} (median of {len(shares):,} records)"
        shown["share of the peak that they reach (MFU)"] = middle
    if _known(run.get("compile_seconds")):
        took, steps = markup.time(run["compile_seconds"]), run.get("compiled_steps")
        shown["compiling, last start"] = f"{took}, in {_count(steps, 'step')}"
    memory = _mapping(run.get("memory"))
    if _known(memory.get("bytes")):
        shown["memory at the most"] = f"{scaled(memory['bytes'])}B, of a {memory.get('of')}"
    found = _mapping(run.get("goodput"))
    if _known(found.get("share")) and _known(found.get("wall")):
        of = f"{markup.time(found['wall'])}, in {_count(found.get('starts'), 'start')}"
        shown["goodput"] = f"{found['share']:.1%} of {of}"
    if not shown:
        return ""
    return f"<h2>Cost</h2>{markup.facts('', shown)}{_spent(found)}"


def _spent(found: Mapping[str, Any]) -> str:
    seconds = {kind: value for kind, value in _mapping(found.get("seconds")).items() if _known(value)}
    whole = sum(seconds.values()) or 1.0
    rows = [
        {"went into": MEANING.get(kind, kind), "seconds": float(value), "share": f"{value / whole:.1%}"}
        for kind, value in sorted(seconds.items(), key=lambda pair: -pair[1])
    ]
    columns = {"went into": 0, "seconds": 1, "share": 0}
    return markup.records("Where the time went, all starts together", rows, columns) if rows else ""


def scaled(value: float) -> str:
    """Return a number in four digits and the letter of its thousands, such as `44.64 G`, to put a unit to."""
    size, letter = next(
        (pair for pair in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")) if value >= pair[0]),
        (1.0, ""),
    )
    return f"{value / size:.4g} {letter}"


def _count(value: Any, what: str) -> str:
    return f"{markup.spell(value)} {what}{'s' * (value != 1)}"


def _known(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and chart.usable(value)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
