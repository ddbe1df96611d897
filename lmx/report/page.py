"""Write the page of a run: headline, curves, samples, data, config and environment in one HTML file."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lmx.core.errors import UserError
from lmx.core.log import write_whole
from lmx.report import chart, cost, judged, markup, picture
from lmx.report.facts import Judged, Record, Report, number, read
from lmx.report.markup import decimal, escape, integer, spell
from lmx.report.style import CSS

ENVIRONMENT = (
    "lmx jax flax python platform device_kind devices started seconds export".split()
)  # facts of run.json that come first, in this order
FIGURES = 12
"""Figures of a task in the table of evaluations."""

USUAL = (
    "split name path documents bytes tokens rows labels".split()
)  # columns that come first in tables of data


def write(workdir: str | os.PathLike[str]) -> Path:
    """Write `report.html` and its pictures, such as confusion.png, into a run's folder, each whole or not at
    all, and return the page's path.

    Raises UserError naming a file of the run that is missing or broken, or one that cannot be written.
    """
    facts = read(workdir)
    parts = []
    for one in facts.judged:
        with _named(Path(workdir), one):
            pictures = picture.draw(one)
            parts.append(judged.sections(one, pictures))
        for name, data in (pictures or {}).items():
            _save(Path(workdir) / name, data)
    return save(workdir, render(facts, parts))


@contextmanager
def _named(workdir: Path, one: Judged) -> Iterator[None]:
    """Make of whatever a file that lmx did not write leads to a UserError that names the files."""
    try:
        yield
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        end = f"-{one.name}" if one.name else ""
        files = f"metrics{end}.json, plots{end}.json or errors{end}.jsonl"
        raise UserError(f"{workdir}: {files} is not as lmx writes it ({error!r}); delete it") from error


def save(workdir: str | os.PathLike[str], text: str) -> Path:
    """Write a page as report.html, whole or not at all, and return its path. Raises UserError where it cannot
    be written."""
    return _save(Path(workdir) / "report.html", text.encode("utf-8", "replace"))


def _save(path: Path, data: bytes) -> Path:
    try:
        return write_whole(path, data)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


def render(facts: Report, held_out: Sequence[str] = ()) -> str:
    """Return the page as one HTML text: no script, no request to anywhere, the same for equal facts.

    held_out: what `lmx.report.judged` tells of each task's examples.
    """
    body = [_headline(facts), "<main>", *held_out, _curves(facts), _numbers(facts), _samples(facts)]
    body += [cost.section(facts), _data(facts), _config(facts), _environment(facts), "</main>"]
    return whole(f"{facts.name} · lmx report", body)


def whole(title: str, body: Sequence[str]) -> str:
    """Return the page of a title and parts of HTML; pictures may stand in it, but not elsewhere."""
    images = "; img-src data:" if any("<img" in part for part in body) else ""
    policy = f"default-src 'none'; style-src 'unsafe-inline'{images}"
    body = [*body, "<footer>Made by lmx from the files of the run.</footer>"]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in body if part)
        + "\n</body>\n</html>\n"
    )


# --- Headline ------------------------------------------------------------------------------------------


def _headline(facts: Report) -> str:
    return head(facts.name, _summary(facts), _tiles(facts))


def head(name: str, summary: str, tiles: Sequence[tuple[str, str, str]]) -> str:
    """Return the top of a page. summary: HTML. tiles: (what, figure, note)."""
    lines = [f"<header><h1>{escape(name)}</h1>", f'<p class="soft">{summary}</p>']
    shown = "".join(
        f'<div><dt>{escape(what)}</dt><dd>{escape(value)}</dd><dd class="note">{escape(note)}</dd></div>'
        for what, value, note in tiles
    )
    return "\n".join(lines) + f'<dl class="tiles">{shown}</dl></header>'


def _summary(facts: Report) -> str:
    model, task = facts.config.get("model"), facts.config.get("task")
    names = [part.get("name") for part in (model, task) if isinstance(part, dict)]
    words = [escape(", ".join(str(name) for name in names if name))] if any(names) else []
    if _steps(facts):
        words.append(f"{integer(_steps(facts))} steps")
    unit = _unit(facts)
    count = facts.run.get(unit) or _last(facts.train, unit)
    if count is not None:
        words.append(f"{escape(spell(count))} {unit}")
    if facts.run.get("device_kind") or facts.run.get("platform"):
        count = facts.run.get("devices")
        kind = escape(spell(facts.run.get("device_kind") or facts.run["platform"]))
        words.append(f"{escape(spell(count))} × {kind}" if count not in (None, 1) else kind)
    return " · ".join(words) or "No step has been recorded yet."


def _unit(facts: Report) -> str:
    """Return what a run's steps read: tokens, or examples."""
    return "examples" if "examples" in facts.run or _last(facts.train, "examples") is not None else "tokens"


def _nats(facts: Report) -> str:
    """Return the unit of the loss: that of examples depends on the task."""
    return "nats per token" if _unit(facts) == "tokens" else "mean"


def _steps(facts: Report) -> int:
    known = [record["step"] for record in (*facts.train, *facts.evaluations)]
    return int(facts.run["steps"]) if isinstance(facts.run.get("steps"), int) else max(known, default=0)


def _last(records: Sequence[Record], name: str) -> Any:
    return next((record[name] for record in reversed(records) if name in record), None)


def _tiles(facts: Report) -> list[tuple[str, str, str]]:
    tiles = []
    held_out = [record for record in facts.evaluations if record.get("split", "validation") == "validation"]
    final = (held_out or list(facts.evaluations) or [{}])[-1]
    if "loss" in final:
        split = str(final.get("split", "validation"))
        tiles.append((f"{split} loss", decimal(final["loss"], 4), _best(facts, held_out)))
        tiles += _score(facts)
        if "perplexity" in final:
            tiles.append(("perplexity", decimal(final["perplexity"], 2), f"{split}, per token"))
        if "bits_per_byte" in final:
            tiles.append(("bits per byte", decimal(final["bits_per_byte"], 4), f"{split}, of the text"))
    elif _last(facts.train, "loss") is not None:
        loss = decimal(_last(facts.train, "loss"), 4)
        tiles.append(("training loss", loss, f"{_nats(facts)}, last recorded"))
    rates = sorted(y for _, y in _points(facts.train, f"{_unit(facts)}_per_second") if chart.usable(y))
    if rates:
        middle = rates[len(rates) // 2]
        shown = integer(middle) if middle < 1e6 else markup.short(middle)
        tiles.append((f"{_unit(facts)}/s", shown, "training, median"))
    seconds = facts.run.get("seconds", _last([*facts.train, *facts.evaluations], "seconds"))
    if isinstance(seconds, int | float) and chart.usable(seconds):
        tiles.append(("wall time", markup.time(seconds), f"{seconds:,.1f} s"))
    parameters = facts.run.get("parameters")
    if parameters is not None:
        rest = facts.run.get("parameters_without_positions")
        note = spell(parameters) + ("" if rest is None else f"; {spell(rest)} without positions")
        tiles.append(("parameters", markup.short(parameters), note))
    return tiles


def _score(facts: Report) -> list[tuple[str, str, str]]:
    """Return the figure by which the best checkpoint was chosen, where that is not the loss."""
    best = facts.run.get("best")
    if not isinstance(best, dict):
        return []
    scores = [name for name in best if name not in ("step", "loss")]
    note = f"validation, best, at step {spell(best.get('step'))}"
    return [(name, decimal(number(best[name]), 4), note) for name in scores]


def _best(facts: Report, held_out: Sequence[Record]) -> str:
    best = facts.run.get("best")
    if not isinstance(best, dict) or not isinstance(best.get("loss"), int | float):
        usable = [record for record in held_out if chart.usable(record.get("loss", 1e300))]
        best = min(usable, key=lambda record: record["loss"], default={})
    if not best:
        return _nats(facts)
    return f"{_nats(facts)}; best {decimal(best['loss'], 4)} at step {spell(best.get('step'))}"


# --- Curves --------------------------------------------------------------------------------------------


def _points(records: Sequence[Record], name: str) -> list[chart.Point]:
    return sorted(((float(r["step"]), r[name]) for r in records if name in r), key=lambda point: point[0])


def _curves(facts: Report) -> str:
    rows = (
        ("rate", "Learning rate", "learning rate", False),
        (f"{_unit(facts)}_per_second", "Throughput", f"{_unit(facts)} per second", True),
        ("grad_norm", "Gradient norm", "norm of the whole gradient", True),
    )
    small = [_curve(facts, *row) for row in rows]
    return f'<h2>Training</h2>{_loss(facts)}<div class="grid">{"".join(small)}</div>'


def _smoothed(name: str, points: list[chart.Point]) -> list[chart.Series]:
    """Return the points as a line; where they are many, as a pale line under their running mean."""
    width = len(points) // 50 | 1
    if width < 3:
        return [chart.Series(name, points)] if points else []
    mean = chart.Series(f"{name}, mean over {width:,} records", chart.smooth(points, width))
    return [chart.Series(f"{name}, each record", points, "faint"), mean]


def _loss(facts: Report) -> str:
    series = _smoothed("train", _points(facts.train, "loss"))
    splits = dict.fromkeys(str(record.get("split", "validation")) for record in facts.evaluations)
    for split, style in zip(splits, itertools.cycle("bcd"), strict=False):
        chosen = [record for record in facts.evaluations if str(record.get("split", "validation")) == split]
        series.append(chart.Series(split, _points(chosen, "loss"), "dots", style))
    of = "" if _unit(facts) == "examples" else ", nats per token"
    label = f"Loss{of} by step. {_said(series)}"
    drawings = []
    for name, size, limit in (("wide", (960, 360), 1000), ("narrow", (380, 280), 400)):
        drawing = chart.svg(series, label=label, x_label="step", y_label=f"loss{of}", size=size, limit=limit)
        drawings.append(f'<div class="{name}">{drawing}</div>')
    caption = f"<figcaption><h3>Loss</h3>{_legend(series)}{_missing(series)}</figcaption>"
    return f"<figure>{caption}{''.join(drawings)}</figure>"


def _curve(facts: Report, name: str, title: str, unit: str, noisy: bool) -> str:
    points = _points(facts.train, name)
    series = _smoothed(unit, points) if noisy else [chart.Series(unit, points)]
    label = f"{title} by step. {_said(series)}"
    drawing = chart.svg(series, label=label, x_label="step", y_label=unit, from_zero=True, limit=400)
    kind = series[-1].name.removeprefix(f"{unit}, ") if len(series) > 1 else "each record"
    note = f"<p>{escape(kind)}</p>" if points else ""
    return f"<figure><figcaption><h3>{title}</h3>{note}{_missing(series)}</figcaption>{drawing}</figure>"


def _legend(series: Sequence[chart.Series]) -> str:
    keys = (f'<li><span class="key {one.look} {one.style}"></span>{escape(one.name)}</li>' for one in series)
    return f'<ul class="legend">{"".join(keys)}</ul>' if series else ""


def _said(series: Sequence[chart.Series]) -> str:
    """Return what a reader who cannot see the chart should know of it."""
    said = []
    for one in series:
        points = [point for point in one.points if chart.usable(point[1])]
        if points and one.look != "faint":
            (first, start), (last, end) = points[0], points[-1]
            ends = f"from {start:.5g} at step {first:,.0f} to {end:.5g} at step {last:,.0f}"
            said.append(f"{one.name}: {ends}.")
    return " ".join(said) or "No numbers yet."


def _missing(series: Sequence[chart.Series]) -> str:
    lost = {point[0] for one in series[:1] for point in one.points if not chart.usable(point[1])}
    if not lost:
        return ""
    records = "record is" if len(lost) == 1 else "records are"
    return f'<p class="warn">{len(lost):,} {records} not finite, the first at step {min(lost):,.0f}.</p>'


def _numbers(facts: Report) -> str:
    parts = []
    if facts.evaluations:
        fields = {"step": 0, "split": 0, "loss": 4, "perplexity": 2, "bits_per_byte": 4}
        more = [name for name in facts.evaluations[-1] if name not in (*fields, "kind", "seconds")]
        fields |= dict.fromkeys(more[:FIGURES], 4) | {"seconds": 1}
        parts.append(markup.records("Evaluations", facts.evaluations, fields, most=40))
    if facts.train:
        fields = {"step": 0, "loss": 4, "rate": -4, "grad_norm": 4}
        fields |= {f"{_unit(facts)}_per_second": 0, "mfu": 3, _unit(facts): 0}
        parts.append(markup.records("Training", facts.train, fields, most=40))
    return f"<details><summary>The numbers as tables</summary>{''.join(parts)}</details>" if parts else ""


# --- Samples, data, config -----------------------------------------------------------------------------


def _samples(facts: Report) -> str:
    if not facts.samples:
        return ""
    by_step: dict[Any, list[str]] = {}
    for sample in facts.samples:
        by_step.setdefault(sample.get("step"), []).append(_sample(sample))
    *earlier, (step, last) = by_step.items()
    told = f"What the model wrote at step {escape(spell(step))}; the prompt is in bold."
    parts = [f'<h2>Samples</h2><p class="soft">{told}</p>{"".join(last)}']
    for step, blocks in reversed(earlier[-20:]):
        parts.append(f"<details><summary>Step {escape(spell(step))}</summary>{''.join(blocks)}</details>")
    return "".join(parts)


def _sample(sample: Record) -> str:
    prompt, text = str(sample.get("prompt") or ""), str(sample["text"])
    bold = f"<b>{escape(prompt)}</b>" if prompt else ""
    return f'<div class="sample"><pre dir="auto">\n{bold}{escape(text)}</pre></div>'


def _data(facts: Report) -> str:
    data = dict(facts.data)
    if not data:
        return ""
    parts = ["<h2>Data</h2>"]
    counts, splits, sources = data.pop("counts", None), data.pop("splits", None), data.pop("sources", None)
    if isinstance(splits, dict) and splits:
        rows = [{"split": name, **_row(row, "value")} for name, row in splits.items()]
        columns = {name: 0 for name in _columns(rows) if not name.endswith("sha256")}
        parts.append(markup.records("Splits", rows, columns))
        data["splits"] = {
            row["split"]: {k: v for k, v in row.items() if k.endswith("sha256")} for row in rows
        }
    if isinstance(counts, dict):
        # by unit, such as documents and bytes, or of documents alone
        units = counts if isinstance(counts.get("documents"), dict) else {"documents": counts}
        for unit, found in units.items():
            if isinstance(found, dict) and {"in", "kept", "dropped"} <= found.keys():
                parts.append(_counts(unit, found))
            else:
                data.setdefault("counts", {})[unit] = found
    if isinstance(sources, list) and sources:
        rows = [_row(row, "source") for row in sources]
        parts.append(markup.records("Sources", rows, _columns(rows), most=40))
    if data:
        parts.append(markup.facts("More of the manifest", data))
    return "".join(parts)


def _row(value: Any, name: str) -> dict[str, Any]:
    return value if isinstance(value, dict) else {name: value}


def _columns(rows: Sequence[Record]) -> dict[str, int]:
    """Return the fields of the rows that fit in a cell: the usual ones first, hashes last."""
    found = {name for row in rows for name, value in row.items() if not isinstance(value, dict | list)}
    usual = [name for name in USUAL if name in found]
    rest = sorted(found - {*usual}, key=lambda name: (name.endswith("sha256"), name))
    return dict.fromkeys([*usual, *rest], 0)


def _counts(unit: str, counts: Record) -> str:
    """Return the line in = kept + dropped, and a table of the reasons."""
    dropped = counts["dropped"]
    reasons = dropped if isinstance(dropped, dict) else {"dropped": dropped}
    numbers = [value for value in reasons.values() if isinstance(value, int | float)]
    came, kept, lost = counts["in"], counts["kept"], sum(numbers)
    adds_up = isinstance(came, int) and isinstance(kept, int) and came == kept + lost
    line = f"{spell(came)} {unit} in = {spell(kept)} kept + {spell(lost)} dropped"
    text = f'<p class="counts">{escape(line)}</p>'
    if not adds_up:
        text = f'<p class="counts warn">{escape(line)}: the counts do not add up.</p>'
    if isinstance(dropped, dict) and dropped:
        rows = [{"reason": reason, unit: count} for reason, count in dropped.items()]
        text += markup.records("Dropped", rows, {"reason": 0, unit: 0})
    return text


def _config(facts: Report) -> str:
    return f"<h2>Config</h2>{markup.facts('', facts.config)}" if facts.config else ""


def _environment(facts: Report) -> str:
    run = {name: value for name, value in facts.run.items() if name not in ("data", *cost.FACTS)}
    ordered = {name: run.pop(name) for name in ENVIRONMENT if name in run} | run
    return f"<h2>Environment</h2>{markup.facts('', ordered)}" if ordered else ""
