"""The pages of the tasks of examples: their commands run as they stand, and say what the pages show."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from lmx.__main__ import main
from lmx.core import log, mesh

DOCS = Path(__file__).resolve().parents[2] / "docs"
WORDS = "cat dog hen pig cow fox owl bee ant emu elk yak".split()
ARTICLES = [
    {
        "title": f"site {i}",
        "paragraphs": [
            {
                "context": f"We keep your {word}.",
                "qas": [{"id": str(i), "question": "What?", "answers": [{"text": word, "answer_start": 13}]}],
            }
        ],
    }
    for i, word in enumerate(WORDS)
]


def table(mark: str, *columns: list[object]) -> str:
    return "".join(mark.join(map(str, row)) + "\n" for row in zip(*columns, strict=True))


def objects(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


LABELS = ["label", *("good", "bad") * 6]
PAIRS = [["text_pair", *["a hen"] * 12], ["value", *(i % 6 for i in range(12))]]
TAGGED = "".join(f"a\tO\n{word}\tB-PRAISE\nfilm\tI-PRAISE\n\n" for word in WORDS)
CHOICES = [
    {"text": word, "choices": ["a", word, "it"][: 2 + i % 2], "label": i % 2} for i, word in enumerate(WORDS)
]
FILES = {
    "classify": {
        "train.tsv": table("\t", ["text", *WORDS], LABELS),
        "test.tsv": table("\t", ["text", *WORDS[:3]], LABELS[:4]),
        "new.jsonl": objects({"text": "a fine film"}),
    },
    "score": {
        "pairs.csv": table(",", ["text", *WORDS], *PAIRS),
        "new.jsonl": objects({"text": "a fine film", "text_pair": "it rains"}),
        "sentences.jsonl": objects({"text": "a fine film"}, {"text": "it rains"}),
    },
    "tag": {
        "train.conll": TAGGED,
        "test.conll": TAGGED[: len(TAGGED) // 4],
        "new.jsonl": objects({"words": ["a", "fine", "film"]}),
    },
    "answer": {
        "policies.json": json.dumps({"data": ARTICLES}),
        "test.json": json.dumps({"data": ARTICLES[:3]}),
        "new.jsonl": objects({"question": "What?", "context": "We keep your name."}),
        "choices.jsonl": objects(*CHOICES),
        "questions.jsonl": objects(*({"text": "cat", "choices": list(some)} for some in ("abc", "de"))),
    },
}  # fmt: skip
SLOW = {page: [pytest.mark.slow] for page in ("tag", "answer")}  # which differ least from the others


@pytest.mark.parametrize("page", [pytest.param(page, marks=SLOW.get(page, [])) for page in FILES])
def test_a_page_runs_from_top_to_bottom(
    page: str, tiny_starts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = mesh.make
    monkeypatch.setattr(mesh, "make", lambda **sizes: make(1))  # one device, as most have, compiles faster
    monkeypatch.chdir(tmp_path)
    (tmp_path / "BERT").symlink_to(tiny_starts["bert"])
    for name, content in FILES[page].items():
        (tmp_path / name).write_text(content)
    text = (DOCS / f"{page}.md").read_text("utf-8")
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    output = None
    for kind, block in blocks:
        if kind == "json" and output is not None:
            told = json.loads((tmp_path / output).read_text().splitlines()[0])
            assert told.keys() == json.loads(block).keys()
            output = None
        for line in block.replace("\\\n", " ").splitlines() if kind == "bash" else ():
            words = shlex.split(line)
            assert words[0] == "lmx"
            assert main(words[1:]) == 0, line
            output = words[words.index("--output") + 1] if "--output" in words else None
    if page == "score":
        rows = [one["embedding"] for one in log.read_jsonl(tmp_path / "embeddings.jsonl")]
        assert [sum(x * x for x in row) for row in rows] == pytest.approx([1, 1], rel=1e-5)
    if page == "answer":
        rows = [one["scores"] for one in log.read_jsonl(tmp_path / "chosen.jsonl")]
        assert [len(row) for row in rows] == [3, 2]


def test_each_page_is_linked() -> None:
    listed = (DOCS / "README.md").read_text("utf-8")
    for path in DOCS.glob("*.md"):
        assert path.name == "README.md" or f"({path.name})" in listed, path.name
