"""What PolicyQA's questions give to whoever reads no question: the first sentence, a random span.

    python benchmarks/policyqa_baselines.py policyqa/dev.json

The split is that of the config finetune/policyqa, the figures are those of `lmx train`: a run has to beat
these. The random span begins at a word drawn evenly and is as long, in words, as an answer drawn from the
training split; its figures are means over the draws.
"""

from __future__ import annotations

import argparse
import random
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lmx.core import config
from lmx.core.examples import Records
from lmx.metrics import squad
from lmx.sources import table

_SENTENCE = re.compile(r".*?[.!?](?=\s)", re.DOTALL)


def split(path: Path, name: str) -> Records:
    """Return a split of the file, cut as the shipped config cuts it."""
    data = config.plain(config.load("finetune/policyqa").data)
    options = {key: value for key, value in data.items() if key not in ("name", "columns")}
    fields = ("question", "context", "answers")
    return table.source(name, train=path, fields=fields, required=fields, **options)


def first_sentence(context: str) -> str:
    """Return a context up to its first full stop, question or exclamation mark before a space."""
    found = _SENTENCE.match(context.strip())
    return found[0] if found else context


def random_span(context: str, lengths: Sequence[int], draw: random.Random) -> str:
    """Return so many words as a length that is drawn, from a word that is drawn."""
    words = context.split()
    start = draw.randrange(len(words))
    return " ".join(words[start : start + draw.choice(lengths)])


def figures(answers: Sequence[str], rows: Sequence[Any]) -> dict[str, float]:
    """Return exact match and F1 in percent, as SQuAD counts them."""
    metric = squad.metric()
    references = [{"answers": [one["text"] for one in row["answers"]]} for row in rows]
    return metric.finish(metric.sums([{"answer": answer} for answer in answers], references))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--draws", type=int, default=20)
    options = parser.parse_args()
    parts = {name: split(options.file, name) for name in ("train", "validation")}
    rows = {name: [part[i] for i in range(len(part))] for name, part in parts.items()}
    lengths = [len(one["text"].split()) for row in rows["train"] for one in row["answers"]]
    held = rows["validation"]
    print(f"{len(rows['train']):,} questions to train on, {len(held):,} held out\n")
    print("| baseline | exact match | F1 |\n| --- | --- | --- |")
    told = figures([first_sentence(row["context"]) for row in held], held)
    print(f"| first sentence | {told['exact_match']:.2f} | {told['f1']:.2f} |")
    drawn = []
    for seed in range(options.draws):
        draw = random.Random(seed)
        drawn.append(figures([random_span(row["context"], lengths, draw) for row in held], held))
    means = [statistics.fmean(one[name] for one in drawn) for name in ("exact_match", "f1")]
    print(f"| random span, mean of {options.draws} draws | {means[0]:.2f} | {means[1]:.2f} |")


if __name__ == "__main__":
    main()
