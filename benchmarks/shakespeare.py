"""Characters of tiny Shakespeare to the end: lmx against transformers' GPT-2 on torch eager, same batches.

    python benchmarks/shakespeare.py --text ../shared/data/tinyshakespeare/train.txt

Each side trains the shipped config (4 layers, width 128, 4 heads, 12 x 64 characters, 2,000 steps, no
dropout) in a process of its own, twice, in turn (lmx, torch, torch, lmx), from its own random start, with the
same schedule, clipping and decay, and is judged on the held-out last tenth. Seconds are those of the training
loop, compilation included; reading batches counts on both sides. Needs the parity extra (torch).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _torch import groups

CONFIG = "pretrain/shakespeare_char"


def settings(text: str, workdir: Path) -> dict[str, Any]:
    """Return the shipped config, plain, on that text."""
    from lmx.core import config

    found = config.load(CONFIG)
    quiet = {"export": "False", "sample": "0 steps", "log": "100 steps"}
    config.override(found, {"data.path": text, **quiet})
    return config.plain(found)


def lmx_side(text: str, workdir: Path) -> tuple[float, float]:
    """`lmx train`, whole, without evaluations and saves, as on the other side."""
    from lmx.commands import _session
    from lmx.commands._platform import start

    start(alike=True)
    fields = {**settings(text, workdir), "evaluate": "0 steps", "save": "0 steps"}
    session = _session.make(fields, workdir, print)
    made = session.open()
    session.kept.save = lambda *args, **kwargs: None  # type: ignore[method-assign]
    began = time.perf_counter()
    session.run(made, lambda: False)
    seconds = time.perf_counter() - began
    return seconds, session.feed.figures(session.state.params)["loss"]


def torch_side(text: str, workdir: Path) -> tuple[float, float]:
    """A plain torch loop over the same prepared batches."""
    import jax.numpy as jnp
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, logging

    from lmx import batches, optim
    from lmx.commands import prepare
    from lmx.sources import rows
    from lmx.tasks import causal_lm

    logging.set_verbosity_error()
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    torch.manual_seed(0)
    fields = settings(text, workdir)
    folder, manifest = prepare.prepare(fields, workdir, say=lambda _: None)
    size, total, chosen = fields["batch"]["size"], int(fields["total"].split()[0]), fields["optim"]
    shape = {"n_positions": 64, "n_embd": 128, "n_layer": 4, "n_head": 4}
    off = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "use_cache": False}
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=manifest["tokenizer"]["vocab_size"], **shape, **off, **ends)
    )
    optimizer = torch.optim.AdamW(
        groups(model, chosen["decay"]), betas=(chosen["b1"], chosen["b2"]), eps=chosen["epsilon"]
    )
    warmup = round(total * float(chosen["warmup"].rstrip("%")) / 100)
    at = optim.schedule(
        chosen["schedule"], rate=chosen["rate"], warmup=warmup, total=total, end=chosen["end"]
    )
    rates = [float(at(jnp.int32(step))) for step in range(total)]
    source = rows.source("train", folder=folder)
    stream = batches.Batches(source, size=size, seed=fields["seed"], encode=causal_lm.encode).iterate()

    def nats(batch: dict[str, Any]) -> Any:
        logits = model(input_ids=torch.from_numpy(batch["input_ids"])).logits.flatten(0, 1)
        wanted = torch.from_numpy(batch["labels"]).long().flatten()
        return torch.nn.functional.cross_entropy(logits, wanted, reduction="sum"), int((wanted != -100).sum())

    began = time.perf_counter()
    with stream:
        for rate in rates:
            loss, count = nats(next(stream))
            optimizer.zero_grad()
            (loss / count).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), chosen["clip"])
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
    seconds = time.perf_counter() - began
    held_out = rows.source("validation", folder=folder)
    with torch.no_grad():
        found = [nats(batch) for batch in batches.whole(held_out, size=size, encode=causal_lm.encode)]
    return seconds, float(sum(loss for loss, _ in found)) / sum(count for _, count in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--text", required=True, help="the first nine tenths of tiny Shakespeare")
    parser.add_argument("--side", choices=("lmx", "torch"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        with tempfile.TemporaryDirectory() as folder:
            run = lmx_side if options.side == "lmx" else torch_side
            print(json.dumps(run(options.text, Path(folder))), flush=True)
        return
    here = str(Path(__file__).resolve().parents[1])
    found: dict[str, list[tuple[float, float]]] = {"lmx": [], "torch": []}
    for side in ("lmx", "torch", "torch", "lmx"):
        command = [sys.executable, __file__, "--text", options.text, "--side", side]
        done = subprocess.run(
            command, env={**os.environ, "PYTHONPATH": here}, check=True, stdout=subprocess.PIPE, text=True
        )
        found[side].append(tuple(json.loads(done.stdout.splitlines()[-1])))
    print("| side | seconds, 2,000 steps | validation loss, nats per character |\n| --- | --- | --- |")
    for side, runs in found.items():
        seconds, losses = zip(*runs, strict=True)
        print(
            f"| {side} | {', '.join(f'{s:.0f}' for s in seconds)} | {', '.join(f'{x:.4f}' for x in losses)} |"
        )
    medians = {side: statistics.median(s for s, _ in runs) for side, runs in found.items()}
    print(f"| **torch / lmx** | **{medians['torch'] / medians['lmx']:.2f}** | |")


if __name__ == "__main__":
    main()
