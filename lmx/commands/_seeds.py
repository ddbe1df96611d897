"""One config with several seeds: each a run in a folder of its own, and how far their figures spread."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from lmx import metrics
from lmx.commands import _check, _wire
from lmx.commands.train import COSMETIC, checked, train
from lmx.core import config as config_
from lmx.core import log
from lmx.core.errors import UserError
from lmx.report import seeds as page
from lmx.runs import lock
from lmx.runs.checkpoints import Checkpoints


def run(config: Mapping[str, Any], workdir: Path, count: int, *, again: str) -> signal.Signals | None:
    """Train the seeds `config.seed`, + 1, ... of which there are `count`, and return the signal that stopped
    them, or None at the end of all.

    Each is a run of its own in `workdir/seed-N`, N being the seed. The seed decides the order of the data,
    new heads and dropout; what is held out is the same for all, chosen by the first seed. A seed that is done
    is left as it is; one that was interrupted goes on. seeds.json and report.html are written after each.
    again: the command that goes on.
    Errors: UserError as for one run; for seeds beyond 32 bits; where the folder holds a plain run.
    """
    config_.check(config)
    first = config["seed"]
    _refuse(workdir, first, count)
    given = checked(config, _folder(workdir, first))
    with lock.hold(workdir):
        for place, seed in enumerate(range(first, first + count), 1):
            folder = _folder(workdir, seed)
            own = _own(given, seed)
            if _done(own, workdir, seed):
                _check.folder(own, folder, cosmetic=COSMETIC)
                log.say(f"seed {seed}: done already")
                continue
            log.say(f"seed {seed}, {place} of {count}: {folder}")
            if config_.pretraining(own) and own["data"]["folder"] is None and place > 1:
                for rows in sorted(_folder(workdir, first).glob("data*")):
                    _share(rows, folder / rows.name)
            try:
                stopped = train(own, folder, again=again, tell=False)[1]  # keeps no parameters
            except KeyboardInterrupt:
                if not _wire.resumes(_folder(workdir, first)):
                    raise
                log.say(f"interrupted; what is saved stays; go on with:\n  {again}")
                return signal.SIGINT
            if stopped is not None:
                return stopped
            _write(workdir, given, range(first, seed + 1), count)
            gc.collect()  # a run's arrays hang in cycles; the next one needs their memory
        found = _write(workdir, given, range(first, first + count), count)
    print(_told(workdir, found))
    return None


def _refuse(workdir: Path, first: int, count: int) -> None:
    last = first + count - 1
    if not 0 <= first <= last < 2**32:
        raise UserError(f"--seeds {count} from seed={first} on; expected seeds from 0 to 4294967295")
    plain = [
        name for name in ("config.json", "run.json", "checkpoints", "export") if (workdir / name).exists()
    ]
    if plain:
        raise UserError(
            f"workdir {workdir} holds {plain[0]} of a run of one seed; name another workdir for --seeds"
        )


def _folder(workdir: Path, seed: int) -> Path:
    return workdir / f"seed-{seed}"


def _own(config: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Return the config of one seed: what is held out of a text stays that of the first."""
    found = {**config, "seed": seed}
    if config_.pretraining(config) and config["data"]["seed"] is None:
        found["data"] = {**config["data"], "seed": config["seed"]}
    return found


def _share(given: Path, folder: Path) -> None:
    """Give a seed the prepared rows of the first, by links where the file system has them."""

    def link(source: str, target: str) -> None:
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)

    if folder.exists() or not given.exists():
        return
    half = folder.with_name(f".{folder.name}.shared")  # a killed copy must not pass for rows
    shutil.rmtree(half, ignore_errors=True)
    shutil.copytree(given, half, copy_function=link)
    half.rename(folder)


def _done(config: Mapping[str, Any], workdir: Path, seed: int) -> bool:
    """Tell whether seeds.json knows a seed as done, and all that it made is there still."""
    path, folder = workdir / page.NAME, _folder(workdir, seed)
    found = _wire.read_json(path) if path.exists() else {}
    known = found.get("runs", []) if isinstance(found, dict) else []
    made = ["report.html", *(["export"] if config["export"] else [])]
    return (
        seed in [one.get("seed") for one in known if isinstance(one, dict)]
        and _wire.resumes(folder)
        and all((folder / name).exists() for name in made)
    )


def _write(workdir: Path, config: Mapping[str, Any], seeds: range, count: int) -> dict[str, Any]:
    """Write seeds.json of the seeds that are done, and its page; return what it holds."""
    runs: list[dict[str, Any]] = []
    for seed in seeds:
        folder = _folder(workdir, seed)
        step, figures = _figures(folder, restore=config["keep"]["restore"])
        runs.append({"seed": seed, "workdir": str(folder), "step": step, "figures": figures})
    names = [name for name in runs[0]["figures"] if all(name in one["figures"] for one in runs)]
    spreads = {name: metrics.spread([one["figures"][name] for one in runs]) for name in names}
    found: dict[str, Any] = {"seeds": count, "done": len(runs), "figures": spreads, "runs": runs}
    log.write_whole(workdir / page.NAME, (json.dumps(log.plain(found), indent=2) + "\n").encode())
    page.write(workdir)
    return found


def _figures(folder: Path, *, restore: bool) -> tuple[int, dict[str, float]]:
    """Return (step, held-out figures) of the checkpoint that a run gives away."""
    with closing(Checkpoints(folder / "checkpoints")) as kept:
        best = kept.best() if restore else None
        step = kept.steps()[-1] if best is None else best
        return step, {name: float(value) for name, value in kept.facts(step)["figures"].items()}


def _told(workdir: Path, found: Mapping[str, Any]) -> str:
    """Return the table of mean and deviation, and where the rest is."""
    rows = [
        f"  {name:<24} {one['mean']:>10.4f} ± {one['deviation']:.4f}   ({one['min']:.4f} to {one['max']:.4f})"
        for name, one in found["figures"].items()
    ]
    seeds = [run["seed"] for run in found["runs"]]
    return "\n".join(
        [
            f"seeds {seeds[0]} to {seeds[-1]}: held-out figures, mean ± standard deviation (n - 1)",
            *rows,
            "made:",
            f"  {workdir / page.NAME}  the figures of each seed, and their spread",
            f"  {workdir / 'report.html'}  the same to read",
            *(f"  {run['workdir']}  the run of seed {run['seed']}" for run in found["runs"]),
        ]
    )
