"""Every shipped config runs as it is, made small: some steps, an evaluation, a save and the samples."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lmx.__main__ import main
from lmx.core import config, log, plugin

SMALL = {
    "model.layers": "1", "model.width": "16", "model.heads": "2", "total": "2 steps", "sample": "1 steps",
    "batch.size": "8", "export": "False", "mesh.data": "1",
}  # fmt: skip
ANIMALS = "cat dog hen pig cow fox owl bee ant emu".split()


def pretraining() -> Iterator[str]:
    """Yield the configs of decoders; those that go on with a model are run in test_encoders.py."""
    for name in config.names():
        shipped = config.load(name)
        if "samples" in shipped and shipped.start is not None:
            yield name


# The sizes are gpt2 but for numbers that a test of any speed replaces; CI runs the quickstart from a wheel.
# Other tests of runs go by pretrain/from_text, and tests of the mixture by a config of their own.
SLOW = ("gpt2_medium", "gpt2_large", "gpt2_xl", "quickstart", "small_mix", "from_text")
FINE_SLOW = ("multi", "banking77", "rte", "stsb_cosine", "mrpc", "completion", "summary")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if name.endswith(SLOW) else []) for name in pretraining()],
)
def test_a_shipped_config_runs(name: str, text: Path, tmp_path: Path) -> None:
    # Twice the same text: a vocabulary of characters knows what is held out.
    (tmp_path / "twice.txt").write_text(2 * text.read_text(encoding="utf-8"), encoding="utf-8")
    own = {} if config.load(name).data.name == "stdlib" else {"data.path": str(tmp_path / "twice.txt")}
    fields = {**SMALL, **own}
    words = [f"--config.{key}={value}" for key, value in fields.items()]
    assert main(["train", "--config", name, "--workdir", str(tmp_path / "run"), *words]) == 0
    prompts = config.load(name).samples.prompts
    assert len(log.read_jsonl(tmp_path / "run" / "samples.jsonl")) == 2 * len(prompts)


def lines(row: str, header: str = "", count: int = 40) -> str:
    """A table of rows in which {i} is the row's number, {word} a word, and {bit} 0 or 1."""
    rows = [row.format(i=i, word=ANIMALS[i * 7 % 10], bit=i % 2) for i in range(count)]
    return "\n".join([header, *rows] if header else rows) + "\n"


def squad() -> str:
    """Ten articles of two questions each, in SQuAD's layout."""

    def asked(i: int, word: str) -> dict[str, Any]:
        context = f"{i} of us keep a {word} at home."
        answers = [{"text": word, "answer_start": context.index(word)}]
        return {"id": f"q{i}", "question": f"What do {i} keep?", "answers": answers}

    articles = [
        {
            "title": f"site {i}",
            "paragraphs": [
                {"context": f"{j} of us keep a {word} at home.", "qas": [asked(j, word)]}
                for j in (2 * i, 2 * i + 1)
            ],
        }
        for i, word in enumerate(ANIMALS)
    ]
    return json.dumps({"version": "1.1", "data": articles})


# config -> {override: the file's name and what is in it}; several files are written for a list of them.
# A config of yours needs a few rows in the format that it reads, and nothing else.
DATA: dict[str, dict[str, list[tuple[str, str]]]] = {
    "banking77": {"data.train": [("train.csv", lines('"a {word}, {i}",why_{bit}', "text,category"))]},
    "classify": {
        "data.train": [("train.jsonl", lines('{{"text": "a {word}", "label": {bit}, "id": {i}}}'))],
        "data.validation": [("dev.tsv", lines("one {word}\t{bit}", "text\tlabel", 9))],
    },
    "cola": {
        "data.train": [("train.tsv", lines('gj04\t{bit}\t*\tThe "{word} sat {i}.'))],
        "data.validation": [("dev.tsv", lines("gj04\t{bit}\t\tA {word} sat.", count=9))],
    },
    "completion": {"data.train": [("train.jsonl", lines('{{"prompt": "a {word}", "response": "no {i}"}}'))]},
    "dialogue": {
        "data.train": [("train.tsv", lines("A {word}? __eou__ No, {i}. __eou__\t1\t1\t0"))],
        "data.validation": [("dev.tsv", lines("Hm. __eou__ A {word}! __eou__\t1\t1\t0", count=9))],
    },
    "mrpc": {
        "data.train": [
            (
                "train.txt",
                lines(
                    '{bit}\t{i}\t9\tThe "{word}" ran {i}\tIt ran "away',
                    "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String",
                ),
            )
        ]
    },
    "multi": {
        "tasks.sst2.data.train": [("sst2.tsv", lines("{word} {i}\t{bit}", "sentence\tlabel"))],
        "tasks.stsb.data.train": [("stsb.csv", lines('"a {word}, {i}",a hen,{bit}.5'))],
        "tasks.ncbi.data.train": [("ncbi.tsv", lines("The\tO\n{word}\tB-Disease\npox\tI-Disease\n"))],
    },
    "ncbi": {
        "data.train": [("train.tsv", lines("The\tO\n{word}\tB-Disease\npox\tI-Disease\n"))],
        "data.validation": [("dev.tsv", lines("A\tO\n{word}\tB-Disease\n", count=9))],
    },
    "policyqa": {"data.train": [("train.json", squad())]},
    "rte": {
        "data.train": [
            (f"rte{i}.tsv", lines("{i}\tIE\tA {word} {i}\tan {word}\tno_{bit}", RTE))
            for RTE in ["id\ttask\tsentence1\tsentence2\tlabel"]
            for i in (1, 2)
        ],
        "data.validation": [
            ("rte3.tsv", lines("{i}\tIE\t{word}\t{i}\tno_{bit}", "id\ttask\tsentence1\tsentence2\tlabel", 9))
        ],
    },
    "sst2": {
        "data.train": [("train.tsv", lines('{word} " {i}\t{bit}', "sentence\tlabel"))],
        "data.validation": [("dev.tsv", lines("{word}\t{bit}", "sentence\tlabel", 9))],
    },
    "stsb": {
        "data.train": [("train.csv", lines('"a {word}, {i}",a hen,{bit}.5'))],
        "data.validation": [("dev.csv", lines("a {word},{i},{bit}.25", count=9))],
    },
    "stsb_cosine": {
        "data.train": [("train.csv", lines('"a {word}, {i}",a hen,{bit}.5'))],
        "data.validation": [("dev.csv", lines("a {word},{i},{bit}.25", count=9))],
    },
    "summary": {
        "data.train": [
            ("train.jsonl", lines('{{"source": ["A {word}.", "And {i}."], "target": ["{word}", "no"]}}'))
        ]
    },
    "translation": {
        "data.train": [("pairs.tsv", lines("ein {word} {i}\tone {word}", "prompt\tresponse"))],
    },
}


def finetuning() -> Iterator[str]:
    for name in config.names():
        if name.startswith("finetune/"):
            yield name.removeprefix("finetune/")


def test_each_config_of_fine_tuning_has_tiny_data() -> None:
    assert set(DATA) == set(finetuning()), "add a few rows of the config's own format to DATA in this file"


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in FINE_SLOW else [])
        for name in finetuning()
        if name in DATA
    ],
)
def test_a_config_of_fine_tuning_runs(name: str, tiny_starts: dict[str, Path], tmp_path: Path) -> None:
    shipped = config.load(f"finetune/{name}")
    parts = shipped.get("tasks", {"": shipped})  # a run on several tasks holds out a part of each
    tasks = {part: plugin.find("lmx.tasks", one.task.name) for part, one in parts.items()}
    decoder = any("bert" not in task.HF for task in tasks.values())
    fields = {
        "start": str(tiny_starts["gpt2" if decoder else "bert"]),
        "total": "2 steps",
        "batch.size": "8",
        "batch.multiple": "64",
        "mesh.data": "1",
        "export": "False",
    }
    if decoder:
        fields |= {"task.new_tokens": "4", "batch.length": "64"}
    for part in parts:
        section = f"tasks.{part}.data" if part else "data"
        if f"{section}.validation" not in DATA[name]:
            fields[f"{section}.validation"] = "20%"
    for key, files in DATA[name].items():
        for file, content in files:
            (tmp_path / file).write_text(content, encoding="utf-8")
        paths = [str(tmp_path / file) for file, _ in files]
        fields[f"{key}"] = paths[0] if len(paths) == 1 else repr(tuple(paths))
    words = [f"--config.{key}={value}" for key, value in fields.items()]
    assert main(["train", "--config", f"finetune/{name}", "--workdir", str(tmp_path / "run"), *words]) == 0
    told = json.loads((tmp_path / "run" / "metrics.json").read_text())
    for part, task in tasks.items():
        judged = told["tasks"][part] if part else told
        score = parts[part].get("score") or task.SCORE
        assert score in judged["figures"] and judged["examples"] >= 1
