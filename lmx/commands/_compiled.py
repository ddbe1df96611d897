"""A train step compiled for devices that are described, not there, wired: for `lmx compile`."""

from __future__ import annotations

import importlib.util
import math
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from lmx import optim
from lmx.commands import _build, _cost, prepare
from lmx.core import layout, log
from lmx.core import mesh as mesh_
from lmx.core.errors import UserError
from lmx.core.vocabulary import Vocabulary
from lmx.costs import chips, flops, messages, roofline
from lmx.training import state as state_of
from lmx.training import step as step_of_

TPU = "the TPU compiler is not installed; pip install 'lmx[tpu]' brings it, on a machine without a TPU too"

RESERVED = 0.05
"""Share of a chip's memory that the runtime keeps for itself."""

STEPS = 1000
"""Steps of the schedule, where the config's own number depends on the data: no program depends on it."""


@dataclass(frozen=True)
class Compiled:
    """What a step costs. rows: of the batch, a chip. idle: chips that the mesh leaves out. Bytes and
    operations are of one chip; seconds: what compiling took. moved: None where nobody knows. over: what the
    compiler said where the step fits no chip; then the rest is 0.
    """

    rows: float
    seconds: float
    arguments: int = 0
    temporaries: int = 0
    operations: float = 0.0
    moved: float | None = 0.0
    model: float = 0.0
    messages: tuple[messages.Message, ...] = ()
    limit: float | None = None
    over: str = ""
    idle: int = 0

    @property
    def memory(self) -> int:
        """Bytes of a chip's memory that the step needs at once."""
        return self.arguments + self.temporaries

    @property
    def fits(self) -> bool:
        """Whether a chip has that."""
        return not self.over and (self.limit is None or self.memory <= self.limit * (1 - RESERVED))


def devices(slice_: chips.Slice) -> Sequence[Any]:
    """Return the devices of a slice, described. Errors: UserError where their compiler is not there, or knows
    no such slice."""
    if slice_.chip.name == "cpu":
        try:
            jax.config.update("jax_num_cpu_devices", slice_.chips)
        except RuntimeError as error:
            if len(jax.devices("cpu")) != slice_.chips:
                raise UserError(
                    f"topology {slice_.name}: this process has other CPU devices already"
                ) from error
        return jax.devices("cpu")
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(TPU)
    from jax.experimental import topologies

    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # no TPU is asked what it is
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # others may compile, or train, at the same time
    try:
        with (
            _hushed()
        ):  # it looks for the chips of this machine, and complains of each file that is not there
            own = {"chips_per_host_bounds": (1, 1, 1)} if slice_.chips == 1 else {}  # four a machine, else
            return topologies.get_topology_desc(platform="tpu", topology_name=slice_.name, **own).devices
    except Exception as error:  # whatever the compiler's library raises
        raise UserError(
            f"topology {slice_.name}: the TPU compiler knows no such slice ({_first(error)}); chips come in "
            f"shapes such as {slice_.chip.name}:{chips.example(slice_.chip.name)}"
        ) from error


@contextmanager
def _hushed() -> Iterator[None]:
    """Let nothing reach stderr, C++'s lines neither."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def step_of(config: Mapping[str, Any], mesh: Any) -> tuple[Any, Any, dict[str, Any]]:
    """Return (the step, its state as shapes, its batch as shapes) of a pretraining config on a mesh."""
    model, axes = _build.model(config), _build.axes(config)
    own = {name: value for name, value in config["optim"].items() if name not in optim.DURATIONS}
    _, optimizer = optim.make(total=STEPS, **{**own, "warmup": 0})
    how = _build.execution(config, backend=mesh.devices.flat[0].platform)
    held = _build.held(config, model)
    made = step_of_.build(
        held,
        _build.objective(config, model),
        optimizer,
        seed=0,
        mesh=mesh,
        axes=axes,
        how=how,
        parts=config["batch"]["parts"],
        whole=getattr(_build.task(config), "whole", dict),
    )
    place = mesh_.by_example(mesh)
    batch = {
        name: jax.ShapeDtypeStruct((config["batch"]["size"], *rows.shape[1:]), rows.dtype, sharding=place)
        for name, rows in _rows(config).items()
    }
    return made, state_of.abstract(held, optimizer, mesh=mesh, axes=axes), batch


def sized(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config whose model has as many ids as its tokenizer is to have, where it does not say.

    Errors: UserError where that is for the data to tell.
    """
    if config["model"].get("vocab_size") is not None:
        return dict(config)
    size = config["tokenizer"].get("size")
    if config["tokenizer"]["name"] not in ("bpe", "wordpiece") or size is None:
        raise UserError("model.vocab_size is for the data to tell; give one: --config.model.vocab_size=50257")
    return {**config, "model": {**config["model"], "vocab_size": size}}


def _rows(config: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return one row as the task makes it of prepared rows."""
    length = config["batch"]["length"]
    wide = length + (prepare.layout_of(config) == "packed")
    size = config["model"]["vocab_size"]
    known = Vocabulary(size, mask=1, special=np.arange(2), inner=np.zeros(size, bool))
    rows = {
        "tokens": np.full((1, wide), 2, np.int32),
        "segment_ids": np.ones((1, wide), np.int32),
        "position_ids": np.arange(wide, dtype=np.int32)[None],
        "label": np.zeros(1, np.int32),
        "index": np.zeros(1, np.int64),
        "epoch": np.zeros(1, np.int64),
    }
    made = _build.encoder({**config, "seed": 0}, known)(rows)
    return {**made, "example_index": np.zeros(1, np.int32)}


def step(config: Mapping[str, Any], slice_: chips.Slice, there: Sequence[Any]) -> Compiled:
    """Return what the step of a config costs on a slice."""
    mesh = _build.mesh(config, there)
    made, state_, batch = step_of(config, mesh)
    rows, began = config["batch"]["size"] / mesh.size, time.monotonic()
    cost_of = partial(Compiled, rows, idle=len(there) - mesh.size)
    needed, limit = layout.held(state_), slice_.chip.memory
    if limit is not None and needed > limit * (1 - RESERVED):  # no compiler is needed to know
        return cost_of(0.0, over=f"the state alone needs {_bytes(needed)} of a chip's {_bytes(limit)}")
    try:
        compiled = made.func.lower(*made.args, state_, batch).compile()
    except Exception as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return cost_of(time.monotonic() - began, over=_wanted(error))
    seconds, sizes = time.monotonic() - began, compiled.memory_analysis()
    cost = compiled.cost_analysis() or {}
    return cost_of(
        seconds,
        arguments=sizes.argument_size_in_bytes,
        temporaries=sizes.temp_size_in_bytes + max(0, sizes.output_size_in_bytes - sizes.alias_size_in_bytes),
        operations=flops.of(made, state_, batch) / mesh.size,
        moved=None if _loops(config) else float(cost.get("bytes accessed", 0.0)),
        model=_cost.Operations(config, state_.params)(batch) / mesh.size,
        messages=tuple(messages.found(compiled.as_text(), mesh.size)),
        limit=slice_.chip.memory,
    )


def _loops(config: Mapping[str, Any]) -> bool:
    """Tell whether most of a step is a loop, of which the compiler counts the bytes of one round alone."""
    return config["execution"]["layers"] == "scanned" or config["batch"]["parts"] > 1


def largest(config: Mapping[str, Any], slice_: chips.Slice, there: Sequence[Any]) -> tuple[int, int]:
    """Return (the most rows a chip that fit, to an eighth; how many steps were compiled to find it).

    Memory grows by the row: a line through two sizes that fit tells which to try next.
    """
    mesh, parts = mesh_.make(**config["mesh"], devices=there), config["batch"]["parts"]
    cuts = mesh_.ways(mesh) * parts
    fit: dict[int, int] = {}
    least, count, rows = 2**16, 0, 4  # least: the fewest rows that are known not to fit

    # Rows are counted in those of which a batch divides: `unit` of them a chip.
    unit = cuts // math.gcd(cuts, mesh.size)
    while True:
        size = rows * unit * mesh.size
        found = step({**config, "batch": {**config["batch"], "size": size}}, slice_, there)
        count += 1
        log.say(f"{rows * unit} rows a chip: {'fits' if found.fits else 'does not fit'}")
        if found.fits:
            fit[rows] = found.memory
        else:
            least = rows
        low = max(fit, default=0)
        if least - low <= max(1, low // 8):
            return low * unit, count
        rows = _next(fit, low, least, None if found.limit is None else found.limit * (1 - RESERVED))


def _next(fit: Mapping[int, int], low: int, least: int, limit: float | None) -> int:
    """Return a number of rows between the most that fit and the fewest that do not."""
    if len(fit) < 2:
        return min(2 * low, least - 1) if low else least // 2
    before = sorted(fit)[-2]
    if limit is None or fit[low] <= fit[before]:
        guess = 2 * low
    else:
        guess = low + int((limit - fit[low]) * (low - before) / (fit[low] - fit[before]))
    if least < 2**16 and not low < guess < least:  # the line was wrong: halve
        guess = (low + least) // 2
    return max(low + 1, min(guess, least - 1, 4 * low))


def _wanted(error: Exception) -> str:
    """Return what of a compiler's complaint says how much it wanted."""
    match = re.search(r"[Uu]sed ([\d.]+[KMGT]?) of ([\d.]+[KMGT]?) hbm", str(error))
    return f"it needs {match[1]}B of {match[2]}B" if match else _first(error)


def _first(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]


def told(found: Compiled, slice_: chips.Slice) -> str:
    """Return what a step costs, as lines for people."""
    used = slice_.chips - found.idle
    chips_ = f"{used} chip{'s' * (used > 1)}"
    rows = f"{found.rows:g} row{'s' * (found.rows != 1)} each"
    lines = [f"{slice_.name}: {chips_}, {rows}{mesh_.idle(found.idle)}; compiled in {found.seconds:.0f} s"]
    if found.over:
        help_ = "lower batch.size, raise mesh.fsdp, or set execution.remat=block"
        return "\n".join([*lines, f"does not fit: {found.over}; {help_}"])
    parts = {"arguments": found.arguments, "temporaries": found.temporaries, "total": found.memory}
    said = ", ".join(f"{name} {size / 1e9:.2f} GB" for name, size in parts.items())
    if found.limit is not None:
        said += f" of {found.limit / 1e9:g} GB ({found.memory / found.limit:.0%})"
        said += "" if found.fits else "; does not fit"
    lines.append(f"memory of a chip: {said}")
    done, needed = found.operations / 1e12, found.model / 1e12
    lines.append(f"operations of a chip: {_number(done)} TFLOP, of which training needs {_number(needed)}")
    lines += [
        f"{one.kind}: {one.count} x {_bytes(one.size)} among {one.group}, {_bytes(one.sent)} sent by each"
        for one in found.messages
    ] or ["no messages between chips"]
    sent = math.fsum(one.sent for one in found.messages)
    bounds = roofline.bounds(
        slice_.chip, operations=found.operations, moved=found.moved, sent=sent, model=found.model
    )
    if bounds is not None:
        times = {"operations": bounds.compute, "memory": bounds.memory, "links": bounds.links}
        if found.moved is None:
            del times["memory"]
        each = ", ".join(f"{_time(seconds)} by {name}" for name, seconds in times.items())
        lines.append(
            f"a step takes at least {each}: the bound is {bounds.binds}, MFU at most {bounds.mfu:.0%}"
        )
        if found.moved is None:
            lines.append(
                "what memory allows is not told: of a loop (scanned layers, parts) one round is known"
            )
    return "\n".join(lines)


def _number(value: float) -> str:
    """Return three digits of a number, or all before its point.

    >>> _number(9.8012), _number(1203.4)
    ('9.8', '1,203')
    """
    return f"{value:.3g}" if value < 999.5 else f"{value:,.0f}"


def _time(seconds: float) -> str:
    """Return a time in the unit that suits it.

    >>> _time(0.0497), _time(1.2034)
    ('49.7 ms', '1.2 s')
    """
    return f"{_number(1e3 * seconds)} ms" if seconds < 0.9995 else f"{_number(seconds)} s"


def _bytes(size: float) -> str:
    """Return a number of bytes in the unit that suits it.

    >>> _bytes(4), _bytes(154389504)
    ('4 B', '154 MB')
    """
    unit = next((unit for unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if size >= unit[0]), (1, "B"))
    return f"{size / unit[0]:.3g} {unit[1]}"
