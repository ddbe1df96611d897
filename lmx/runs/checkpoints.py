"""Checkpoints: saved in the background by Orbax, verified by value when they are read.

A checkpoint is a folder `STEP/` that appears by a rename, with three items: `params`, `optimizer` and `facts`
(JSON: step, config, rank, digests of both trees and of the facts themselves).
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from lmx.core import layers, log, processes
from lmx.core.errors import UserError, one_line
from lmx.runs import digests

Say = Callable[[str], None]

BEFORE = ".before"
"""What the name of a checkpoint ends in while another of its step is written."""


class WriteError(UserError):
    """A checkpoint could not be written. reason: why, in a few words, such as "No space left on device"."""

    def __init__(self, where: str, error: BaseException) -> None:
        code = re.search(r"os_error_code='(\d+)'", str(error))  # how tensorstore, below Orbax, says it
        number = int(code[1]) if code else getattr(error, "errno", None)
        self.reason = os.strerror(number) if number else one_line(error)
        super().__init__(f"{where} could not be written: {self.reason}")


class Checkpoints:
    """The checkpoints of one run.

    folder: where they lie. keep_last: how many of the newest to keep. keep_best: how many of those with the
    lowest rank to keep besides.
    """

    def __init__(self, folder: Path, *, keep_last: int = 2, keep_best: int = 1) -> None:
        # Orbax reports each step of a save through absl at level INFO, warns of its own defaults, and logs
        # with its traceback each error that it raises as well.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        self.folder = folder.absolute()
        self.keep_last, self.keep_best = max(1, keep_last), keep_best
        self._ranks: dict[int, float | None] = {}
        self._manager: ocp.CheckpointManager | None = None
        self._saved = False  # whether this object has saved: who only reads, deletes and writes nothing

    @property
    def manager(self) -> ocp.CheckpointManager:
        """Orbax's manager, opened at first use."""
        if self._manager is None:
            options = ocp.CheckpointManagerOptions(create=True, enable_async_checkpointing=True)
            handlers = {
                "params": ocp.StandardCheckpointHandler(),
                "optimizer": ocp.StandardCheckpointHandler(),
                "facts": ocp.JsonCheckpointHandler(),
            }
            self._manager = ocp.CheckpointManager(self.folder, options=options, item_handlers=handlers)
        return self._manager

    def save(
        self,
        step: int,
        params: Any,
        optimizer: Any = None,
        *,
        facts: Mapping[str, Any],
        again: bool = False,
    ) -> None:
        """Start to save; the arrays may be donated at once, for Orbax holds them on the host when it returns.

        optimizer: None where there is none, as in what was imported. again: this step has a checkpoint, which
        is kept as `STEP.before` until this one is there.
        Errors: WriteError where the save before this one failed (disk full, say); the older ones are kept.
        """
        self.wait()
        _hush()
        trees = {"params": params} | ({} if optimizer is None else {"optimizer": optimizer})
        own = {
            "step": step,
            "digests": {name: digests.of_arrays(tree) for name, tree in trees.items()},
            "leaves": {name: leaves(tree) for name, tree in trees.items()},
        }
        sealed = seal({**facts, **own})
        items = {name: ocp.args.StandardSave(item) for name, item in trees.items()}
        if again:
            self._rename(step, f"{step}{BEFORE}")
        try:
            everything = ocp.args.Composite(**items, facts=ocp.args.JsonSave(sealed))
            self.manager.save(step, args=everything, force=True)
        except (OSError, ValueError) as error:
            _settle(self.folder)
            raise WriteError(f"checkpoint {self.folder / str(step)}", error) from error
        self._ranks[step] = facts.get("rank")
        self._saved = True

    def wait(self) -> None:
        """Wait for the save in flight, then drop what is neither among the last nor among the best.

        Errors: WriteError where it failed.
        """
        if self._manager is None:
            return
        try:
            self._manager.wait_until_finished()
            if not self._saved:
                return
            if processes.first():
                for step in self.steps():
                    self._list_files(self.folder / str(step))
                self._settle_replaced()
            # Orbax deletes with all processes together: what goes, the first one says.
            surplus = json.loads(processes.shared(json.dumps(self.surplus() if processes.first() else [])))
            for step in surplus:
                self._manager.delete(step)
                self._ranks.pop(step, None)
        except UserError:
            raise
        except Exception as error:
            _settle(self.folder)
            raise WriteError(f"a checkpoint in {self.folder}", error) from error

    def _list_files(self, folder: Path) -> None:
        """Write the digests of a checkpoint's files beside them, once; Orbax keeps no checksums."""
        if not (folder / digests.FILES).exists() and any(folder.iterdir()):
            text = json.dumps(digests.of_files(folder), indent=1)
            log.write_whole(folder / digests.FILES, text.encode())

    def _settle_replaced(self) -> None:
        """Of each checkpoint that was to be replaced remove the old one where the new one is there, else take
        the old one back."""
        for old in self.folder.glob(f"*{BEFORE}"):
            new = old.with_suffix("")
            if new.exists():
                shutil.rmtree(old)
            else:
                old.rename(new)

    def surplus(self) -> list[int]:
        """Return the steps that retention lets go."""
        steps = self.steps()
        for step in steps:
            if step not in self._ranks:
                self._ranks[step] = self._rank(step)
        scored = sorted((rank, step) for step in steps if (rank := self._ranks[step]) is not None)
        kept = {*steps[-self.keep_last :], *(step for _, step in scored[: self.keep_best])}
        return [step for step in steps if step not in kept]

    def _rank(self, step: int) -> float | None:
        try:
            return self.facts(step).get("rank")
        except UserError:
            return None

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, ascending, as the disk has them now."""
        if not self.folder.is_dir():
            return []
        return sorted(
            int(path.name) for path in self.folder.iterdir() if path.name.isdigit() and path.is_dir()
        )

    def best(self) -> int | None:
        """Return the step with the lowest rank, or None."""
        scored = [(rank, step) for step in self.steps() if (rank := self._rank(step)) is not None]
        return min(scored)[1] if scored else None

    def facts(self, step: int) -> dict[str, Any]:
        """Return the facts of a checkpoint. Errors: UserError where they are missing or damaged."""
        try:  # not through Orbax, which asks all processes to come along
            found = json.loads((self.folder / str(step) / "facts" / "metadata").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(
                f"checkpoint {self.folder / str(step)}: its facts cannot be read: {one_line(error)}"
            ) from error
        if not isinstance(found, dict) or found != seal(found):
            raise UserError(f"checkpoint {self.folder / str(step)}: its facts are damaged (digest differs)")
        return found

    def restore(self, step: int, params: Any, optimizer: Any = None) -> tuple[Any, Any, dict[str, Any]]:
        """Return (params, optimizer, facts) of one step, verified.

        params, optimizer: trees of ShapeDtypeStruct with shardings, as `abstract` gives; no optimizer is
        read where it is None. Layers that were saved as one are read so, and come apart where that is wanted;
        and the other way round. Errors: UserError, one line, where anything is missing, damaged, or of
        another shape or type.
        """
        wrong = digests.damaged(self.folder / str(step))
        if wrong is not None:
            raise UserError(f"checkpoint {self.folder / str(step)}: {wrong}")
        facts = self.facts(step)
        asked = {"params": params} | ({} if optimizer is None else {"optimizer": optimizer})
        as_one = any(path != layers.first(path) for path in facts["leaves"].get("params", {}))
        wanted = {name: layers.described(item, as_one) for name, item in asked.items()}
        for name, item in wanted.items():
            self._check_leaves(step, name, leaves(item), facts["leaves"].get(name, {}))
            self._check_types(step, name, item)
        try:
            args = {name: ocp.args.StandardRestore(item) for name, item in wanted.items()}
            found = self.manager.restore(step, args=ocp.args.Composite(**args))
        except Exception as error:
            raise UserError(
                f"checkpoint {self.folder / str(step)} cannot be read: {one_line(error)}"
            ) from error
        for name in wanted:
            if digests.of_arrays(found[name]) != facts["digests"][name]:
                raise UserError(f"checkpoint {self.folder / str(step)}: {name} are damaged (digest differs)")
        found = {name: layers.turned(found[name], item) for name, item in asked.items()}
        return found["params"], found.get("optimizer"), facts

    def _check_leaves(self, step: int, name: str, expected: dict[str, str], found: dict[str, str]) -> None:
        """Refuse a checkpoint of other leaves before Orbax reads it: it may cast or skip without a word."""
        lines = [f"- {path} {kind}" for path, kind in expected.items() if path not in found]
        lines += [f"+ {path} {kind}" for path, kind in found.items() if path not in expected]
        lines += [
            f"! {path} expected {kind}, found {found[path]}"
            for path, kind in expected.items()
            if found.get(path, kind) != kind
        ]
        if lines:
            raise UserError(
                f"checkpoint {self.folder / str(step)}: {name} are not those wanted "
                f"(- missing, + surplus, ! other): {'; '.join(lines)}"
            )

    def _check_types(self, step: int, name: str, item: Any) -> None:
        """Refuse types that jax would narrow without a word, after which no digest fits."""
        for path, leaf in digests.named(item).items():
            if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.extended):
                continue
            if jax.dtypes.canonicalize_dtype(leaf.dtype) != leaf.dtype:
                raise UserError(
                    f"checkpoint {self.folder / str(step)}: {name} are {leaf.dtype} ({path}), which jax has "
                    "only where JAX_ENABLE_X64=1 is set; set it and try again"
                )

    def restore_newest(
        self, params: Any, optimizer: Any, *, say: Say
    ) -> tuple[Any, Any, dict[str, Any]] | None:
        """Return the newest checkpoint that verifies; None where there is none.

        Those that do not are named and set aside as `STEP.damaged`, so that the run can save their steps
        again. Only for the run's own process, which holds its lock.
        """
        processes.by_first(self._settle_replaced)
        broken: list[int] = []
        for step in reversed(self.steps()):
            try:
                found = self.restore(step, params, optimizer)
            except UserError as error:
                say(f"skipped: {error}")
                broken.append(step)
                continue
            # Only now: where none can be read they stay, or the next start would begin anew without a word.
            for damaged in broken:
                say(f"set aside: {self._set_aside(damaged)}")
            return found
        if broken:
            raise UserError(
                f"none of the {len(broken)} checkpoints in {self.folder} can be read; see the lines above"
            )
        return None

    def _set_aside(self, step: int) -> Path:
        taken = sum(1 for _ in self.folder.glob(f"{step}.damaged*"))
        return self._rename(step, f"{step}.damaged{taken or ''}")

    def _rename(self, step: int, name: str) -> Path:
        """Rename a step's folder and forget what Orbax remembers of it."""
        if self._manager is not None:
            self._manager.close()
            self._manager = None
        self._ranks.pop(step, None)
        to = self.folder / name
        processes.by_first(lambda: (self.folder / str(step)).rename(to))
        return to

    def close(self) -> None:
        """Finish the save in flight and free the manager's threads, which write no more after this.

        Errors: WriteError where that save failed.
        """
        try:
            self.wait()
        finally:
            manager, self._manager = self._manager, None
            try:
                if manager is not None:
                    manager.close()
            except Exception as error:
                raise WriteError(f"a checkpoint in {self.folder}", error) from error


QUIET, PATIENCE = 0.3, 30.0
"""Seconds without a change after which a failed save has come to rest, and how long to wait for them."""


def _settle(folder: Path) -> None:
    """Wait until nothing below a folder changes: after an error in one array, Orbax leaves the writes of the
    others to threads that nobody can wait for."""
    before, since = None, time.monotonic()
    end = since + PATIENCE
    while (now := time.monotonic()) < end:
        found = [(path, os.lstat(path).st_size) for path in sorted(folder.rglob("*")) if path.exists()]
        if found != before:
            before, since = found, now
        elif now - since >= QUIET:
            return
        time.sleep(QUIET / 10)


@lru_cache(maxsize=1)
def _hush() -> None:
    """From now on say nothing of writes that ended after their save had failed: that failure is raised."""
    plain = sys.unraisablehook

    def hook(found: Any) -> None:
        if found.exc_type is not RuntimeError or str(found.exc_value) != "Event loop is closed":
            plain(found)

    sys.unraisablehook = hook
    logging.getLogger("asyncio").addFilter(lambda record: "never retrieved" not in record.getMessage())


def leaves(arrays: Any) -> dict[str, str]:
    """Return {path: type and shape} of a tree of arrays, such as `{"b": "float32(3,)"}`."""
    return {path: f"{leaf.dtype}{tuple(leaf.shape)}" for path, leaf in digests.named(arrays).items()}


def seal(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts with the digest of all the others under `seal`."""
    content = {name: value for name, value in facts.items() if name != "seal"}
    return {**content, "seal": digests.of_json(content)}


def abstract(tree: Any) -> Any:
    """Return the tree with each array as its shape, type and sharding."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)
