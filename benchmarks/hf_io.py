"""Hugging Face folders in and out: lmx against transformers on torch, the same warm files, in turn.

    python benchmarks/hf_io.py --size xl --repeats 3

A folder of GPT-2's shapes is made from random weights (xl: 1,557,611,200 parameters, 6.2 GB in f32), or
taken from --folder. Each side runs in a process of its own, imports apart: `lmx.load` against
`from_pretrained`, and once those are done `lmx.save_hf`, certificate included, against `save_pretrained`.
"ready" is when the call returns; "read" when every parameter has been summed once besides. Peak memory is
the largest resident set minus that before the call. Needs the parity extra (torch).
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

SIZES = {"small": (12, 12, 768), "medium": (24, 16, 1024), "large": (36, 20, 1280), "xl": (48, 25, 1600)}


def make(folder: Path, size: str) -> None:
    """Write a GPT-2's folder of random weights, one tensor at a time."""
    import jax
    import numpy as np

    from lmx.core import tree
    from lmx.hf._write import write_tensors
    from lmx.hf.convert import Layout, written
    from lmx.hf.stored import Spec
    from lmx.models import gpt2
    from lmx.tasks import causal_lm

    layers, heads, width = SIZES[size]
    config = gpt2.Config(layers=layers, heads=heads, width=width)
    model = causal_lm.attach(gpt2.build(config), config)
    shapes = {
        path: leaf.shape for path, leaf in tree.flatten(jax.eval_shape(model.init, jax.random.key(0))).items()
    }
    planned = written(shapes, Layout(gpt2.HF, causal_lm.HF["gpt2"], layers, tied=True))
    draw = np.random.default_rng(0)
    folder.mkdir(parents=True)
    write_tensors(
        folder,
        [(name, Spec("float32", shape, "")) for name, (_, shape) in planned.items()],
        lambda name: 0.02 * draw.standard_normal(planned[name][1], np.float32),
        shard_bytes=10**12,
    )
    theirs = {hf: getattr(config, own) for own, hf in gpt2.HF.fields}
    fields = {**theirs, "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(fields))


class Peak:
    """The largest resident set, in bytes, while the block runs, beyond what it was before."""

    def __enter__(self) -> Peak:
        self.before = self.largest = resident()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.01):
            self.largest = max(self.largest, resident())

    def __exit__(self, *_: Any) -> None:
        self._done.set()
        self._thread.join()
        self.growth = max(self.largest, resident()) - self.before


def resident() -> int:
    """Return the resident set of this process, in bytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def lmx_side(folder: Path, out: Path | None) -> dict[str, float]:
    """Load and read with lmx; save where `out` is given."""
    import jax
    import jax.numpy as jnp

    import lmx
    from lmx.commands import _hf  # noqa: F401 - imports are not timed

    jax.block_until_ready(jnp.zeros(1))
    found: dict[str, float] = {}
    with Peak() as peak:
        start = time.perf_counter()
        model = lmx.load(folder)
        jax.block_until_ready(model.params)
        found["ready"] = time.perf_counter() - start
        for leaf in jax.tree.leaves(model.params):
            leaf.sum().block_until_ready()
        found["read"] = time.perf_counter() - start
    found["load_peak"] = peak.growth
    if out is None:
        return found
    with Peak() as peak:
        start = time.perf_counter()
        lmx.save_hf(model, out)
        found["save"] = time.perf_counter() - start
    return {**found, "save_peak": peak.growth}


def torch_side(folder: Path, out: Path | None) -> dict[str, float]:
    """Load and read with transformers; save where `out` is given."""
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(2)
    found: dict[str, float] = {}
    with Peak() as peak:
        start = time.perf_counter()
        theirs = transformers.GPT2LMHeadModel.from_pretrained(folder, local_files_only=True)
        found["ready"] = time.perf_counter() - start
        for parameter in theirs.parameters():
            parameter.sum().item()
        found["read"] = time.perf_counter() - start
    found["load_peak"] = peak.growth
    if out is None:
        return found
    with Peak() as peak:
        start = time.perf_counter()
        theirs.save_pretrained(out)
        found["save"] = time.perf_counter() - start
    return {**found, "save_peak": peak.growth}


def measure(side: str, folder: Path, out: Path | None) -> dict[str, float]:
    """Run one side in a process of its own."""
    command = [sys.executable, __file__, "--folder", str(folder), "--side", side]
    done = subprocess.run(command + (["--out", str(out)] if out else []), capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{side} failed:\n{done.stderr}")
    if out is not None:
        shutil.rmtree(out)
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    if out is not None:  # the load before a save is not one of those in turn
        found = {key: found[key] for key in ("save", "save_peak")}
    print(side, {key: round(value, 2) for key, value in found.items()}, file=sys.stderr)
    return found


def table(found: dict[str, list[dict[str, float]]], size: int) -> str:
    """Return the medians, and the ratio of the two sides, as a Markdown table."""
    middle = {}
    for side, runs in found.items():
        keys = (*runs[0], *runs[-1])
        middle[side] = {key: statistics.median(run[key] for run in runs if key in run) for key in keys}
    lines = [
        f"weights: {size / 1e9:.2f} GB",
        "",
        "| | lmx | transformers | lmx / transformers |",
        "| --- | --- | --- | --- |",
    ]
    names = {
        "ready": ("load, ready, s", 1.0),
        "read": ("load and read all, s", 1.0),
        "load_peak": ("load, peak memory, GB", 1e9),
        "save": ("save, s", 1.0),
        "save_peak": ("save, peak memory, GB", 1e9),
    }
    for key, (said, unit) in names.items():
        if key not in middle["lmx"]:
            continue
        one, two = middle["lmx"][key] / unit, middle["transformers"][key] / unit
        ratio = f"{one / two:.2f}" if two >= 0.01 else ""
        lines.append(f"| {said} | {one:.2f} | {two:.2f} | {ratio} |")
    return "\n".join(lines)


def main() -> None:
    """Measure both sides in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", choices=sorted(SIZES), default="small")
    parser.add_argument("--folder", type=Path, help="a GPT-2's Hugging Face folder; default: made, random")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-save", action="store_true", help="load only")
    parser.add_argument("--side", choices=("lmx", "transformers"), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        one = {"lmx": lmx_side, "transformers": torch_side}[options.side]
        print(json.dumps(one(options.folder, options.out)))
        return
    with tempfile.TemporaryDirectory() as place:
        folder = options.folder or Path(place) / "model"
        if options.folder is None:
            make(folder, options.size)
        (folder / "model.safetensors").read_bytes()[-1:]  # warm
        found: dict[str, list[dict[str, float]]] = {"lmx": [], "transformers": []}
        outs = [None] * options.repeats
        outs += [] if options.no_save else [Path(place) / "out"] * options.repeats
        for turn, out in enumerate(outs):  # saves come last, for the disk is busy long after them
            sides = ("lmx", "transformers") if turn % 2 == 0 else ("transformers", "lmx")
            for side in sides:
                found[side].append(measure(side, folder, out))
        print(table(found, (folder / "model.safetensors").stat().st_size))


if __name__ == "__main__":
    main()
