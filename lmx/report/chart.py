"""Line charts as inline SVG: round ticks, gaps where a number is not finite, a bounded number of points."""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

Point = tuple[float, float]

LEFT, RIGHT, TOP, BOTTOM = 52.0, 14.0, 26.0, 40.0  # margins around the plot, in units of the view box
FEW = 24  # up to so many points, each gets a dot on the line
HOVERS = 120  # columns that show a value under the pointer


@dataclass(frozen=True)
class Series:
    """One set of points, by rising x: `look` is "line", "faint" (a pale line) or "dots"; `style` its colour
    class."""

    name: str
    points: Sequence[Point]
    look: str = "line"
    style: str = "a"


def usable(value: float) -> bool:
    """Tell whether a number can be drawn: neither NaN nor infinite nor beyond what arithmetic bears."""
    return abs(value) < 1e100


def downsample(points: Sequence[Point], limit: int = 1000) -> list[Point | None]:
    """Return at most `limit` of the points, None where the line breaks at a number that is not finite.

    Stretches of equal length keep their lowest and their highest point, in their order, so spikes stay;
    the first and the last point stay too.
    """
    if len(points) <= limit:
        return [point if usable(point[1]) else None for point in points]
    stretches = max(1, limit // 2 - 1)
    drawable = [at for at, point in enumerate(points) if usable(point[1])]
    ends = {drawable[0], drawable[-1]} if drawable else set()
    out: list[Point | None] = []
    for part in range(stretches):
        inside = range(part * len(points) // stretches, (part + 1) * len(points) // stretches)
        good = [at for at in inside if usable(points[at][1])]
        if good:
            lowest = min(good, key=lambda at: points[at][1])
            highest = max(good, key=lambda at: points[at][1])
            out += [points[at] for at in sorted({lowest, highest} | (ends & set(good)))]
        if len(good) < len(inside):
            out.append(None)
    return out


def smooth(points: Sequence[Point], width: int) -> list[Point]:
    """Return the mean over `width` points around each point, fewer at the ends and where there are gaps."""
    half = max(0, width // 2)
    total, count = [0.0], [0]
    for _, y in points:
        total.append(total[-1] + (y if usable(y) else 0.0))
        count.append(count[-1] + usable(y))
    out = []
    for at, (x, y) in enumerate(points):
        reach = min(half, at, len(points) - 1 - at)  # the same on both sides, so that the ends do not lean
        low, high = at - reach, at + reach + 1
        found = count[high] - count[low]
        mean = (total[high] - total[low]) / found if found else math.nan
        out.append((x, mean if usable(y) else math.nan))
    return out


def ticks(low: float, high: float, about: int = 5, whole: bool = False) -> list[float]:
    """Return round numbers (1, 2 or 5 times a power of ten apart, or whole ones) that enclose low and high.

    >>> ticks(0.3, 2.1)
    [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
    """
    if not high - low > 1e-9 * max(abs(low), abs(high)):  # flat, or nearly so: nothing to tell apart
        pad = max(abs(low) / 10, 1e-12)
        low, high = low - pad, high + pad
    rough = max((high - low) / about, 1.0 if whole else 0.0)
    power = math.floor(math.log10(rough))
    base = next(base for base in (1, 2, 5, 10) if base * 10.0**power >= rough * 0.999)
    step = base * 10.0**power
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = max(0, -power)
    return [round(at * step, digits) for at in range(first, last + 1)]


def labels(values: Sequence[float]) -> tuple[list[str], str]:
    """Return one short text for each tick, and the power of ten that they leave out, such as `×10⁻⁴`."""
    largest = max(map(abs, values), default=0.0)
    if largest == 0:
        return [f"{value:g}" for value in values], ""
    power = math.floor(math.log10(largest) + 1e-9)
    if -3 < power < 4:
        step = min((b - a for a, b in itertools.pairwise(values)), default=largest)
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        return [f"{value:,.{digits}f}" for value in values], ""
    for size, letter in ((3, "k"), (6, "M"), (9, "G")):
        if 4 <= power < 12 and power < size + 3:
            return [f"{value / 10.0**size:g}{letter}" if value else "0" for value in values], ""
    raised = str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return [f"{round(value / 10.0**power, 6):g}" for value in values], f" ×10{raised}"


@dataclass(frozen=True)
class _Frame:
    """Where data lies in the view box."""

    x_ticks: list[float]
    y_ticks: list[float]
    x_end: float
    width: float
    height: float

    def x(self, value: float) -> float:
        share = (value - self.x_ticks[0]) / (self.x_end - self.x_ticks[0])
        return LEFT + share * (self.width - LEFT - RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.y_ticks[0]) / (self.y_ticks[-1] - self.y_ticks[0])
        return self.height - BOTTOM - share * (self.height - TOP - BOTTOM)


def svg(
    series: Sequence[Series],
    *,
    label: str,
    x_label: str,
    y_label: str,
    size: tuple[int, int] = (340, 230),
    from_zero: bool = False,
    limit: int = 1000,
) -> str:
    """Return the chart as an `<svg>` element; label is what a screen reader says of it.

    size: width and height of the view box. from_zero: let the vertical axis begin at 0. limit: the most
    points a line is drawn with. Without a number to draw, the element says so.
    """
    width, height = size
    drawn = [[*downsample(one.points, limit)] for one in series]
    points = [point for one in drawn for point in one if point is not None]
    head = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(label)}">'
    if not points:
        return f'{head}<text class="none" x="{width / 2:g}" y="{height / 2:g}">no numbers yet</text></svg>'
    frame = _frame(points, width, height, from_zero)
    parts = [head, _axes(frame, x_label, y_label)]
    parts += [_line(frame, one, kept) for one, kept in zip(series, drawn, strict=True) if one.look != "dots"]
    parts.append(_hovers(frame, [one for one in series if one.look != "dots"]))
    parts += [_dots(frame, one, kept) for one, kept in zip(series, drawn, strict=True) if one.look == "dots"]
    return "".join(parts) + "</svg>"


def _frame(points: Sequence[Point], width: int, height: int, from_zero: bool) -> _Frame:
    right = max(max(x for x, _ in points), 0.0)
    left = min(min(x for x, _ in points), 0.0)
    low, high = min(y for _, y in points), max(y for _, y in points)
    if from_zero:
        low, high = min(low, 0.0), max(high, 0.0) or 1.0
    right = right if right > left else left + 1
    x_ticks = ticks(left, right, 4 if width < 600 else 8, whole=True)
    return _Frame([tick for tick in x_ticks if tick <= right], ticks(low, high), right, width, height)


def _axes(frame: _Frame, x_label: str, y_label: str) -> str:
    x_texts, x_power = labels(frame.x_ticks)
    y_texts, y_power = labels(frame.y_ticks)
    right, floor = frame.width - RIGHT, frame.height - BOTTOM
    parts = ['<g class="axes">']
    for value, text in zip(frame.y_ticks, y_texts, strict=True):
        y = frame.y(value)
        parts.append(f'<path class="grid" d="M{LEFT:g} {y:.1f}H{right:g}"/>')
        parts.append(f'<text class="y" x="{LEFT - 8:g}" y="{y + 4:.1f}">{text}</text>')
    for value, text in zip(frame.x_ticks, x_texts, strict=True):
        x = frame.x(value)
        parts.append(f'<path class="tick" d="M{x:.1f} {floor:g}v4"/>')
        parts.append(f'<text class="x" x="{x:.1f}" y="{floor + 17:g}">{text}</text>')
    parts.append(f'<path class="base" d="M{LEFT:g} {floor:g}H{right:g}"/>')
    parts.append(f'<text class="unit" x="2" y="12">{html.escape(y_label)}{y_power}</text>')
    parts.append(f'<text class="unit end" x="{right:g}" y="{frame.height - 6:g}">')
    return "".join(parts) + f"{html.escape(x_label)}{x_power}</text></g>"


def _line(frame: _Frame, series: Series, points: Sequence[Point | None]) -> str:
    path, dots = [], []
    for at, point in enumerate(points):
        if point is None:
            continue
        x, y = frame.x(point[0]), frame.y(point[1])
        starts = at == 0 or points[at - 1] is None
        ends = at + 1 == len(points) or points[at + 1] is None
        alone = starts and ends  # a line of one point would not be seen
        if (alone or len(points) <= FEW) and series.look != "thin":
            dots.append(f'<circle class="dot {series.style}" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>')
        if not alone:
            path.append(f"{'M' if starts else 'L'}{x:.1f} {y:.1f}")
    line = f'<path class="{series.look} {series.style}" d="{"".join(path)}"/>' if path else ""
    return line + "".join(dots)


def _dots(frame: _Frame, series: Series, points: Sequence[Point | None]) -> str:
    parts = []
    if sum(point is not None for point in points) <= 200:
        parts.append(_line(frame, Series(series.name, points=(), look="thin", style=series.style), points))
    for point in points:
        if point is not None:
            title = f"<title>{_title(series.name, point)}</title>"
            place = f'cx="{frame.x(point[0]):.1f}" cy="{frame.y(point[1]):.1f}"'
            parts.append(f'<circle class="dot {series.style}" {place} r="3.5">{title}</circle>')
    return "".join(parts)


def _hovers(frame: _Frame, lines: Sequence[Series]) -> str:
    """Columns over the plot, each naming the last point of each line in it."""
    floor, room = frame.height - BOTTOM, frame.width - LEFT - RIGHT
    columns: dict[int, dict[str, Point]] = {}
    wide = room / HOVERS
    for one in lines:
        for point in one.points:
            if usable(point[1]):
                column = min(HOVERS - 1, int((frame.x(point[0]) - LEFT) / wide))
                columns.setdefault(column, {})[one.name] = point
    parts = []
    for column, found in sorted(columns.items()):
        text = "\n".join(_title(name, point) for name, point in found.items())
        place = f'x="{LEFT + column * wide:.1f}" y="{TOP:g}" width="{wide:.1f}" height="{floor - TOP:g}"'
        parts.append(f'<rect class="hover" {place}><title>{text}</title></rect>')
    return "".join(parts)


def _title(name: str, point: Point) -> str:
    return f"step {point[0]:,.0f}: {html.escape(name)} {point[1]:.5g}"
