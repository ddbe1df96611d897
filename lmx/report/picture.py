"""Pictures of what a model says, as PNG: a confusion matrix, a reliability diagram, a scatter plot.

The one door to matplotlib. Equal numbers give equal bytes on one machine: its own font, its own style,
whatever the user's matplotlibrc says, and nothing of time or versions in the file.

Source: the reliability diagram is that of Guo et al. 2017, "On Calibration of Modern Neural Networks",
figure 1.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from lmx.report.facts import Judged

CELLS = 12
"""Up to so many classes, each cell of a confusion matrix shows its count."""

CLASSES = 120
"""Classes of a confusion matrix; of more, those with the most errors are drawn."""

LETTERS = 26
"""Letters of a name on an axis."""

DPI = 130

BLUE, ORANGE, INK, SOFT = "#2f66a8", "#b9510f", "#1c1d20", "#5d6169"

_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.parse_math": False,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titlecolor": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
}


def draw(judged: Judged) -> dict[str, bytes] | None:
    """Return {name of the file: PNG} of what plots.json holds: confusion, calibration, scatter.

    None where there is something to draw, but no matplotlib. Raises KeyError, TypeError, ValueError or
    IndexError for plots that are not as lmx writes them.
    """
    makers = {"confusion": _confusion, "calibration": _calibration, "scatter": _scatter}
    wanted = {name: maker for name, maker in makers.items() if judged.plots.get(name)}
    if not wanted:
        return {}
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return None
    end = f"-{judged.name}" if judged.name else ""
    with _styled():
        return {f"{name}{end}.png": maker(judged.plots[name]) for name, maker in wanted.items()}


@contextmanager
def _styled() -> Iterator[None]:
    """Draw in matplotlib's own style with ours over it; the caller's is put back afterwards."""
    from matplotlib import style

    with style.context(["default", _STYLE]):
        yield


def _figure(width: float, height: float) -> Any:
    """Return a figure of so many inches that draws without a window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _png(figure: Any) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", bbox_inches="tight", pad_inches=0.12, metadata={"Software": None})
    return out.getvalue()


# --- Confusion matrix ----------------------------------------------------------------------------------


def chosen(plot: Mapping[str, Any]) -> list[int]:
    """Return the places of the classes that are drawn: all, or of many those with the most errors."""
    names = plot["names"]
    if len(names) <= CLASSES:
        return list(range(len(names)))
    errors = [0] * len(names)
    for row, column, count in plot["pairs"]:
        if row != column:
            errors[row] += count
            errors[column] += count
    return sorted(sorted(range(len(names)), key=lambda place: (-errors[place], place))[:CLASSES])


def labels(names: Sequence[str], places: Sequence[int]) -> list[str]:
    """Return what stands at the axes: short names, and `class 3` for one that the font cannot write."""
    from matplotlib import font_manager

    font = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    found = []
    for place in places:
        name = " ".join(str(names[place]).split())
        drawable = all(font.get_char_index(ord(letter)) for letter in name)
        half = (LETTERS - 1) // 2  # both ends, for either may be what tells two names apart
        short = name if len(name) <= LETTERS else f"{name[: LETTERS - 1 - half]}…{name[-half:]}"
        found.append(short if drawable and name else f"class {place}")
    return found


def _confusion(plot: Mapping[str, Any]) -> bytes:
    """Draw counts in rows of the reference, each shaded by its share of the row."""
    import numpy as np
    from matplotlib.colors import PowerNorm

    places = chosen(plot)
    seat = {place: at for at, place in enumerate(places)}
    counts = np.zeros((len(places), len(places)))
    totals = np.zeros(len(places))
    for row, column, count in plot["pairs"]:
        if row in seat:
            totals[seat[row]] += count
            if column in seat:
                counts[seat[row], seat[column]] = count
    shares = counts / np.maximum(totals, 1)[:, None]
    names = labels(plot["names"], places)
    few, size = len(places) <= CELLS, len(places)
    letter = 9.0 if few else max(4.5, 9.0 - 0.06 * size)
    side = max(2.2, size * (0.62 if few else max(0.13, 0.26 - 0.002 * size)))
    wide = max(map(len, names)) * letter / 110
    figure = _figure(side + wide + 1.5, side + min(wide, 1.8) + 0.9)
    axes = figure.subplots()
    # The root brings out the few that are taken for another class.
    image = axes.imshow(
        shares, cmap="Blues", norm=PowerNorm(1 if few else 0.5, 0, 1), interpolation="nearest"
    )
    turned = max(map(len, names)) > 6 or not few
    axes.set_xticks(range(size), names, rotation=90 if turned else 0, fontsize=letter)
    axes.set_yticks(range(size), names, fontsize=letter)
    axes.tick_params(length=0)
    if few:
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if shares[row, column] > 0.55 else INK
            axes.text(column, row, f"{count:,.0f}", ha="center", va="center", color=colour, fontsize=letter)
    else:
        axes.set_xticks(np.arange(size) - 0.5, minor=True)
        axes.set_yticks(np.arange(size) - 0.5, minor=True)
        axes.grid(which="minor", color="#ecece8", linewidth=0.3)
        axes.tick_params(which="minor", length=0)
    axes.set_xlabel("predicted")
    axes.set_ylabel("reference")
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02, ticks=[0, 0.1, 0.25, 0.5, 0.75, 1])
    bar.set_label("share of the reference's row")
    bar.outline.set_visible(False)
    return _png(figure)


# --- Calibration and scatter ---------------------------------------------------------------------------


def _calibration(plot: Mapping[str, Any]) -> bytes:
    """Draw the accuracy over the confidence, bin by bin, and below it how many there are."""
    import numpy as np

    count, right = np.array(plot["count"], float), np.array(plot["right"], float)
    confidence = np.array(plot["confidence"], float)
    bins, filled = len(count), count > 0
    ends = np.arange(bins + 1) / bins
    middle, width = (ends[1:] + ends[:-1])[filled] / 2, 1 / bins
    accuracy, mean = right[filled] / count[filled], confidence[filled] / count[filled]
    figure = _figure(4.8, 5.4)
    upper, lower = figure.subplots(2, 1, height_ratios=[3, 1], sharex=True)
    upper.bar(middle, accuracy, width * 0.92, color=BLUE, label="accuracy")
    gap = {"color": ORANGE, "alpha": 0.35, "label": "gap to the confidence"}
    upper.bar(middle, mean - accuracy, width * 0.92, bottom=accuracy, **gap)
    upper.plot([0, 1], [0, 1], color=SOFT, linewidth=1, linestyle=(0, (4, 3)), label="perfect calibration")
    upper.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="accuracy", title=f"ECE {plot['ece']:.4f}")
    upper.legend(loc="upper left", frameon=False, fontsize=8)
    lower.bar(middle, count[filled], width * 0.92, color=SOFT)
    lower.set(xlabel="confidence: the top probability", ylabel=str(plot["unit"]))
    for axes in (upper, lower):
        axes.spines[["top", "right"]].set_visible(False)
    return _png(figure)


def _scatter(plot: Mapping[str, Any]) -> bytes:
    """Draw predictions over references, a colour for each target, and the line where both are equal."""
    import numpy as np

    figure = _figure(5.0, 4.8)
    axes = figure.subplots()
    targets = [np.array(pairs, float) for pairs in plot["targets"]]
    whole = np.concatenate(targets)
    whole = whole[np.isfinite(whole).all(axis=1)]
    low, high = (float(whole.min()), float(whole.max())) if len(whole) else (0.0, 1.0)
    room = (high - low or 1.0) * 0.04
    ends = low - room, high + room
    axes.plot(ends, ends, color=SOFT, linewidth=1, linestyle=(0, (4, 3)), label="prediction = reference")
    size = 12 if len(whole) <= 500 else 5
    for place, pairs in enumerate(targets):
        name = f"target {place}" if len(targets) > 1 else "examples"
        colour = BLUE if len(targets) == 1 else f"C{place % 10}"
        axes.scatter(*pairs.T, s=size, color=colour, alpha=0.55, linewidths=0, label=name)
    axes.set(xlim=ends, ylim=ends, aspect="equal", xlabel="reference", ylabel="prediction")
    axes.legend(loc="upper left", frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return _png(figure)
