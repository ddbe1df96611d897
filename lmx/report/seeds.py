"""Write the page of several seeds: their held-out figures, seed by seed, with mean and deviation."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lmx.core.errors import UserError
from lmx.report import facts, markup, page
from lmx.report.markup import decimal, escape

NAME = "seeds.json"
ROWS = ("mean", "deviation", "min", "max")


def write(workdir: str | os.PathLike[str]) -> Path:
    """Write `report.html` beside seeds.json, whole or not at all, and return its path.

    Raises UserError where seeds.json is missing or broken, or the page cannot be written.
    """
    folder = Path(workdir)
    found = facts.mapping(folder / NAME)
    try:
        text = render(folder.resolve().name, found)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{folder / NAME}: not as lmx writes it; run the same command again") from error
    return page.save(folder, text)


def render(name: str, found: Mapping[str, Any]) -> str:
    """Return the page as one HTML text. found: the object of seeds.json."""
    runs, figures = found["runs"], found["figures"]
    tiles = []
    for figure, one in figures.items():
        note = f"± {_shown(one['deviation'])}; {_shown(one['min'])} to {_shown(one['max'])}"
        tiles.append((figure, _shown(one["mean"]), note))
    done = f"{len(runs)} seeds" if len(runs) == found["seeds"] else f"{len(runs)} of {found['seeds']} seeds"
    told = f"{done} of one config: held-out figures, mean ± standard deviation (n - 1)."
    body = [page.head(name, escape(told), tiles), "<main><h2>Seeds</h2>", _table(found), "</main>"]
    return page.whole(f"{name} · lmx seeds", body)


def _table(found: Mapping[str, Any]) -> str:
    names = list(found["figures"])
    head = "".join(f'<th scope="col" class="n">{escape(name)}</th>' for name in names)
    rows = []
    for run in found["runs"]:
        folder = Path(run["workdir"]).name
        link = f'<a href="{escape(quote(folder))}/report.html">{escape(markup.spell(run["seed"]))}</a>'
        rows.append(_row(link, escape(markup.spell(run["step"])), [run["figures"][name] for name in names]))
    for row in ROWS:
        rows.append(_row(escape(row), "", [found["figures"][name][row] for name in names]))
    return (
        '<div class="scroll"><table><caption>The checkpoint that each run gives away</caption><thead><tr>'
        f'<th scope="col">seed</th><th scope="col" class="n">step</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _row(name: str, step: str, values: list[Any]) -> str:
    cells = "".join(f'<td class="n">{_shown(value)}</td>' for value in values)
    return f'<tr><th scope="row">{name}</th><td class="n">{step}</td>{cells}</tr>'


def _shown(value: Any) -> str:
    return decimal(facts.number(value), 4)
