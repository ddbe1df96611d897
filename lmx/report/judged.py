"""What the page tells of held-out examples: figures, pictures, confusions, and the highest losses."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from lmx.report import facts as facts_
from lmx.report import markup, picture
from lmx.report.facts import Judged, Record
from lmx.report.markup import decimal, escape, spell

WORST = 20
"""Examples that the page shows; errors.jsonl has more."""

PAIRS = 15
"""Pairs of classes that are taken for one another."""

CLASS = ' class="n"'
"""Of cells that stand on the right."""

MOST = 600
"""Letters of an example that the page shows."""

Pictures = Mapping[str, bytes]


def sections(judged: Judged, pictures: Pictures | None) -> str:
    """Return the part of the page that is about one task's held-out examples.

    pictures: {name of the file: PNG}; None where they could not be drawn. Raises KeyError, TypeError,
    ValueError, IndexError or AttributeError where the files are not as lmx writes them.
    """
    title = f": {escape(judged.name)}" if judged.name else ""
    parts = [f"<h2>Held-out examples{title}</h2>", _figures(judged.metrics)]
    if pictures is None:
        parts.append(
            "<p class=\"soft\">The pictures need matplotlib: <code>pip install 'lmx[train]'</code>, then "
            "<code>lmx report</code> draws them.</p>"
        )
    else:
        parts.append(_pictures(judged, pictures))
    if "confusion" in judged.plots:
        parts.append(_confusions(judged.plots["confusion"]))
    return "".join((*parts, _worst(judged.errors)))


def _figures(metrics: Mapping[str, Any]) -> str:
    if not metrics:
        return ""
    intervals = metrics["intervals"]
    share = f"{100 * intervals.get('level', 0.95):g} %"
    rows = []
    for name, value in metrics["figures"].items():
        ends = intervals.get(name)
        shown = "" if ends is None else " to ".join(decimal(facts_.number(end), 4) for end in ends)
        rows.append({"figure": name, "value": decimal(facts_.number(value), 4), f"{share} interval": shown})
    count = spell(metrics["examples"])
    caption = f"Figures of {count} examples, with intervals by the bootstrap over examples"
    return markup.records(caption, rows, {"figure": 0, "value": 0, f"{share} interval": 0})


def _pictures(judged: Judged, pictures: Pictures) -> str:
    titles = {
        "confusion": "Confusion matrix: each row a class of the reference, shaded by its share of the row",
        "calibration": "Calibration: is the model right as often as it says?",
        "scatter": "Prediction and reference",
    }
    found = []
    for file, data in pictures.items():
        kind = file.partition(".")[0].partition("-")[0]
        note = f"<p>{escape(_note(judged.plots[kind], kind))}</p>"
        source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
        image = f'<img class="{kind}" src="{source}" alt="{escape(titles[kind])}">'
        found.append(
            f"<figure><figcaption><h3>{escape(titles[kind])}</h3>{note}</figcaption>{image}</figure>"
        )
    return f'<div class="pictures">{"".join(found)}</div>' if found else ""


def _note(plot: Mapping[str, Any], kind: str) -> str:
    """Return what a reader who cannot see the picture should know of it."""
    if kind == "confusion":
        right = sum(count for row, column, count in plot["pairs"] if row == column)
        whole = sum(count for _, _, count in plot["pairs"])
        drawn, names = len(picture.chosen(plot)), len(plot["names"])
        some = f" Drawn: the {drawn} of {names:,} classes with the most errors." if drawn < names else ""
        return f"{right:,} of {whole:,} on the diagonal, that is right.{some}"
    if kind == "calibration":
        of = f"{sum(plot['count']):,} {plot['unit']} in {len(plot['count'])} bins"
        return f"Expected calibration error {plot['ece']:.4f}, largest gap of a bin {plot['mce']:.4f}; {of}."
    shown = len(plot["targets"][0])
    return f"{shown:,} of {plot['count']:,} examples." if shown < plot["count"] else f"{shown:,} examples."


def _confusions(plot: Mapping[str, Any]) -> str:
    """Return the pairs that are confused most, and what became of each class."""
    names, pairs = plot["names"], plot["pairs"]
    totals, right, said = ([0] * len(names) for _ in range(3))
    for row, column, count in pairs:
        totals[row] += count
        said[column] += count
        right[row] += count if row == column else 0
    wrong = [(row, column, count) for row, column, count in pairs if row != column]
    rows = [
        {
            "reference": names[row],
            "predicted": names[column],
            "times": count,
            "share of the reference": f"{100 * count / totals[row]:.1f} %",
        }
        for row, column, count in sorted(wrong, key=lambda pair: (-pair[2], pair[:2]))[:PAIRS]
    ]
    table = "<p>No class is taken for another.</p>"
    if rows:
        table = markup.records("The pairs confused most", rows, dict.fromkeys(rows[0], 0))
    classes = [
        {"class": place, "name": name, "reference": totals[place], "predicted": said[place], "right": hits}
        for place, (name, hits) in enumerate(zip(names, right, strict=True))
    ]
    each = markup.records("Examples of each class", classes, dict.fromkeys(classes[0], 0))
    return f"{table}<details><summary>Each class</summary>{each}</details>"


# --- The highest losses --------------------------------------------------------------------------------


def _worst(errors: Sequence[Record]) -> str:
    if not errors:
        return ""
    rows = []
    for record in errors[:WORST]:
        wanted, said = _answers(record["reference"], record["prediction"])
        loss = decimal(facts_.number(record["loss"]), 4)
        cells = f'<td class="n">{loss}</td><td>{_asked(record)}</td><td>{wanted}</td><td>{said}</td>'
        rows.append(f'<tr><th scope="row" class="n">{escape(spell(record["index"]))}</th>{cells}</tr>')
    titles = ("index", "loss", "example", "reference", "prediction")
    head = "".join(f'<th scope="col"{CLASS * (at < 2)}>{name}</th>' for at, name in enumerate(titles))
    told = f"The {len(rows)} examples with the highest loss; errors.jsonl has {len(errors)} of them whole."
    return (
        f'<h3 class="worst">Highest losses</h3><div class="scroll"><table class="worst"><caption>{told}'
        f"</caption><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _asked(record: Record) -> str:
    """Return what an example asks; where it has several fields, each with its name."""
    fields = {
        name: value
        for name, value in record.items()
        if name not in ("index", "loss", "id", "reference", "prediction")
    }
    if len(fields) == 1:
        return _cut(_text(next(iter(fields.values()))))
    return "<br>".join(f"<b>{escape(name)}</b> {_cut(_text(value))}" for name, value in fields.items())


def _text(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return (" " if all(len(one.split()) == 1 for one in value) else " | ").join(value)
    return value if isinstance(value, str) else spell(value)


def _cut(text: str) -> str:
    return escape(text if len(text) <= MOST else f"{text[: MOST - 1]}…")


def _answers(wanted: Record, said: Record) -> tuple[str, str]:
    """Return a reference and a prediction as cells; of tags the words that differ."""
    if "tags" in wanted:
        differing = [
            (place, *pair)
            for place, pair in enumerate(zip(wanted["tags"], said["tags"], strict=True))
            if pair[0] != pair[1]
        ]
        if not differing:
            return "", "all tags are right"
        return tuple(  # type: ignore[return-value]
            _cut(", ".join(f"{one[0] + 1}: {one[side]}" for one in differing)) for side in (1, 2)
        )
    return _cut(_answer(wanted)), _cut(_answer(said))


def _answer(found: Record) -> str:
    if "label" in found:
        share = found.get("scores", {}).get(found["label"])
        return str(found["label"]) + (f" ({share:.3f})" if isinstance(share, float) else "")
    for name in ("labels", "answers", "references"):
        if name in found:
            return ", ".join(map(str, found[name])) or "none"
    if "answer" in found:
        return str(found["answer"]) or "none"
    if "text" in found:
        return str(found["text"])
    return ", ".join(
        f"{name} {spell(value)}" * (name != "value") or spell(value) for name, value in found.items()
    )
