"""STS-B as the regression of a pair by a plain loop of torch: what `finetune/stsb` is held against.

    python benchmarks/stsb_torch.py --start BERT --train stsb/en-train.csv --validation stsb/en-dev.csv

BERT is a Hugging Face folder. The recipe is the config's: rate, epochs, batch, decay, clipping and the
values' scale are read from it, its schedule (warmed up over a tenth, then down to 0 in a straight line) is
written out; the order of the rows and dropout's masks are torch's own. One line an epoch, Spearman's
correlation on the validation file in percent. Needs the parity extra.
"""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from _torch import groups

from lmx.core import config as config_

Row = tuple[str, str, float]


def read(path: Path) -> list[Row]:
    """Return (sentence, sentence, value from 0 to 5) of a csv file without a header."""
    with path.open(encoding="utf-8", newline="") as file:
        return [(row[0], row[1], float(row[2])) for row in csv.reader(file)]


def batches(rows: list[Row], tokenizer: Any, size: int, length: int) -> Iterator[tuple[Any, Any]]:
    """Yield (what the model reads, values), rows in the order given, padded to the longest of a batch."""
    import torch

    for begin in range(0, len(rows), size):
        part = rows[begin : begin + size]
        first, second, values = (list(column) for column in zip(*part, strict=True))
        inputs = tokenizer(
            first, second, padding=True, truncation=True, max_length=length, return_tensors="pt"
        )
        yield inputs, torch.tensor(values)


def judged(model: Any, rows: list[Row], tokenizer: Any, length: int) -> float:
    """Return Spearman's correlation in percent."""
    import torch
    from scipy.stats import spearmanr

    model.eval()
    with torch.no_grad():
        said = [model(**inputs).logits[:, 0] for inputs, _ in batches(rows, tokenizer, 64, length)]
    model.train()
    return 100 * float(spearmanr(torch.cat(said).numpy(), [row[2] for row in rows]).statistic)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name in ("start", "train", "validation"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    config = config_.plain(config_.load("finetune/stsb"))
    optim, size, length = config["optim"], config["batch"]["size"], config["batch"]["length"]
    epochs = int(config["total"].split()[0])

    import torch
    from transformers import AutoTokenizer, BertForSequenceClassification, get_linear_schedule_with_warmup

    torch.manual_seed(options.seed)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    train, validation = read(options.train), read(options.validation)
    values = np.array([row[2] for row in train])
    shift, scale = (values.mean(), values.std()) if config["task"].get("standardize") else (0.0, 1.0)
    tokenizer = AutoTokenizer.from_pretrained(options.start)
    model = BertForSequenceClassification.from_pretrained(options.start, num_labels=1)
    optimizer = torch.optim.AdamW(
        groups(model, optim["decay"]),
        lr=optim["rate"],
        betas=(optim["b1"], optim["b2"]),
        eps=optim["epsilon"],
    )
    steps = epochs * -(-len(train) // size)
    schedule = get_linear_schedule_with_warmup(optimizer, round(0.1 * steps), steps)
    order = np.random.default_rng(options.seed)
    model.train()
    for epoch in range(1, epochs + 1):
        rows = [train[i] for i in order.permutation(len(train))]
        for inputs, wanted in batches(rows, tokenizer, size, length):
            optimizer.zero_grad()
            said = model(**inputs).logits[:, 0]
            torch.nn.functional.mse_loss(said, (wanted.float() - shift) / scale).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), optim["clip"])
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch}: spearman {judged(model, validation, tokenizer, length):.2f}", flush=True)


if __name__ == "__main__":
    main()
