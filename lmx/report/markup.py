"""Pieces of HTML: escaped text, numbers as they are shown, tables."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from lmx.core.progress import duration

UNSEEN = {code: 0x2400 + code for code in range(32) if code not in (9, 10)} | {13: 0x240D, 127: 0x2421}
UNSEEN |= dict.fromkeys(range(0xD800, 0xE000), 0xFFFD)  # lone surrogates are no characters
COLUMNS = {
    "grad_norm": "gradient norm",
    "tokens_per_second": "tokens/s",
    "examples_per_second": "examples/s",
    "bits_per_byte": "bits per byte",
    "rate": "learning rate",
    "mfu": "MFU",
}


def escape(text: str) -> str:
    """Return text that HTML shows as it is; control characters become their visible pictures."""
    return html.escape(text.translate(UNSEEN))


def integer(value: float) -> str:
    """Return a whole number with separators between the thousands."""
    return f"{value:,.0f}"


def decimal(value: float, digits: int) -> str:
    """Return a number with `digits` decimals, or in e-notation with -digits significant ones."""
    if not math.isfinite(value):
        return "not finite"
    if digits < 0 or abs(value) >= 1e15:
        return f"{value:.{max(1, abs(digits) - 1)}e}"
    return f"{value:,.{digits}f}"


def spell(value: Any) -> str:
    """Return any value of a JSON file as text: numbers with separators, lists in one line."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return integer(value)
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() and 1 <= abs(value) < 1e15 else f"{value:.6g}"
    if isinstance(value, list | dict):
        return ", ".join(spell(inner) for inner in value) or "none"
    return str(value)


def short(value: Any) -> str:
    """Return a count in three or four digits, such as 124.4M; what is not a number as text."""
    if not _is_number(value) or value is None or not 1e4 <= value < 1e15:
        return spell(value)
    size, letter = next(
        pair for pair in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")) if value >= pair[0]
    )
    return f"{value / size:.2f}{letter}" if value < 100 * size else f"{value / size:.1f}{letter}"


def time(seconds: float) -> str:
    """Return a length of time in seconds, minutes first from one minute on."""
    return f"{seconds:.1f} s" if seconds < 60 else duration(seconds)


def flatten(value: Any, path: str = "") -> list[tuple[str, Any]]:
    """Return (dotted path, leaf) of nested dicts and of lists of dicts; lists of plain values are leaves."""
    if isinstance(value, Mapping) and value:
        inner = value.items()
    elif isinstance(value, list) and any(isinstance(one, dict | list) for one in value):
        inner = enumerate(value)  # type: ignore[assignment]
    else:
        return [(path, value)]
    return [leaf for name, one in inner for leaf in flatten(one, f"{path}.{name}" if path else str(name))]


def facts(caption: str, values: Mapping[str, Any]) -> str:
    """Return a table of two columns, one row per leaf."""
    head = f"<caption>{escape(caption)}</caption>" if caption else ""
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(spell(leaf))}</td></tr>'
        for name, leaf in flatten(values)
    )
    return f'<table class="facts">{head}<tbody>{rows}</tbody></table>'


def records(
    caption: str, rows: Sequence[Mapping[str, Any]], fields: Mapping[str, int], most: int = 1000
) -> str:
    """Return a table with a column per field (name -> decimals) that some row has.

    Of more than `most` rows it shows evenly spaced ones, the first and the last among them, and says so.
    """
    shown = list(rows)
    if len(rows) > most:
        shown = [rows[round(at * (len(rows) - 1) / (most - 1))] for at in range(most)]
        caption = f"{caption}: {most} of {len(rows):,} records, evenly spaced"
    columns = [(name, digits) for name, digits in fields.items() if any(name in row for row in rows)]
    numeric = {name for name, _ in columns if all(_is_number(row.get(name, 0)) for row in rows)}
    side = {name: ' class="n"' if name in numeric else "" for name, _ in columns}
    head = "".join(
        f'<th scope="col"{side[name]}>{escape(COLUMNS.get(name, name))}</th>' for name, _ in columns
    )
    body = []
    for row in shown:
        cells = [f"<td{side[name]}>{_cell(row.get(name), digits)}</td>" for name, digits in columns]
        body.append(f"<tr>{''.join(cells)}</tr>")
    table = (
        f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody>"
    )
    return f'<div class="scroll"><table>{table}</table></div>'


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _cell(value: Any, digits: int) -> str:
    if value is None:
        return ""
    if isinstance(value, float) and digits == 0 and math.isfinite(value) and not value.is_integer():
        return escape(spell(value)) if abs(value) < 1000 else integer(value)
    return decimal(value, digits) if isinstance(value, float) else escape(spell(value))
