"""Real data sets: as many rows as their README counts, and their known traps."""

from pathlib import Path
from typing import Any

import pytest

from lmx import sources
from lmx.core.errors import UserError
from lmx.sources import table

TEXT: dict[str, Any] = {"fields": ["text", "text_pair", "label"], "required": ["text", "label"]}
PAIR: dict[str, Any] = {"fields": TEXT["fields"], "required": TEXT["fields"]}
SCORE: dict[str, Any] = {"fields": ["text", "text_pair", "value"], "required": ["text", "text_pair", "value"]}
TAGGED: dict[str, Any] = {"fields": ["words", "tags"], "required": ["words", "tags"], "format": "conll"}
PROMPT: dict[str, Any] = {"fields": ["prompt", "response"], "required": ["prompt", "response"]}
SENTENCE = {"text": "sentence"}
SCORED = {"text": 0, "text_pair": 1, "value": 2}
JUDGED = {"text": 3, "label": 1}
ENTAILS = {"text": "sentence1", "text_pair": "sentence2"}

ROWS = [
    ("sst2/train.tsv", 6920, {"columns": SENTENCE, **TEXT}),
    ("sst2/dev.tsv", 872, {"columns": SENTENCE, **TEXT}),
    ("stsb/en-train.csv", 5749, {"columns": SCORED, **SCORE}),
    ("stsb/en-dev.csv", 1500, {"columns": SCORED, **SCORE}),
    ("stsb/zh-train.csv", 5749, {"columns": SCORED, **SCORE}),
    ("stsb/zh-dev.csv", 1500, {"columns": SCORED, **SCORE}),
    ("cola/in_domain_train.tsv", 8551, {"columns": JUDGED, **TEXT}),
    ("cola/in_domain_dev.tsv", 527, {"columns": JUDGED, **TEXT}),
    ("rte/rte1_dev.tsv", 567, {"columns": ENTAILS, **PAIR}),
    ("rte/rte2_dev.tsv", 400, {"columns": ENTAILS, **PAIR}),
    ("rte/rte3_dev.tsv", 800, {"columns": ENTAILS, **PAIR}),
    ("banking77/train.csv", 10_003, {"columns": {"label": "category"}, **TEXT}),
    ("ncbi_disease/train.tsv", 5424, TAGGED),
    ("ncbi_disease/devel.tsv", 923, TAGGED),
    ("scitldr_a/train.jsonl.gz", 1992, {"columns": {"prompt": "source", "response": "target"}, **PROMPT}),
    ("scitldr_a/dev.jsonl.gz", 619, {"columns": {"prompt": "source", "response": "target"}, **PROMPT}),
    ("chnsenticorp_htl/train.csv", 6224, {"columns": {"text": "review"}, **TEXT}),
    ("wiki_toxicity/train.csv", 1128, {"columns": {"text": "comment", "label": "toxic"}, **TEXT}),
    ("xdailydialog/zh-dev.tsv", 995, {"columns": {"text": 0, "label": 1}, **TEXT}),
]


@pytest.mark.parametrize(("name", "rows", "options"), ROWS, ids=[name for name, _, _ in ROWS])
def test_counts(name: str, rows: int, options: dict[str, Any], shared_data: Path) -> None:
    found = table.source("train", train=shared_data / name, **options)
    assert len(found) == rows
    assert set(options["required"]) <= set(found[0]) and found[rows - 1]


def test_sst2(shared_data: Path) -> None:
    options = {"train": shared_data / "sst2/train.tsv", "validation": shared_data / "sst2/dev.tsv"}
    found = {split: table.source(split, columns=SENTENCE, **options, **TEXT) for split in options}
    assert found["validation"][0] == {"text": "one long string of cliches .", "label": "0"}
    assert found["validation"].where(0) == f"{shared_data / 'sst2/dev.tsv'}, line 2"
    labels = [found["validation"][i]["label"] for i in range(872)]
    assert (labels.count("1"), labels.count("0")) == (444, 428)  # as GLUE's dev set


def test_mrpc_has_a_mark_at_its_start_and_bare_quotes(shared_data: Path) -> None:
    file = shared_data / "mrpc/msr_paraphrase_train.txt"
    columns = {"text": "#1 String", "text_pair": "#2 String", "label": "Quality"}  # Quality follows the mark
    found = table.source("train", train=file, format="tsv", columns=columns, **PAIR)
    assert len(found) == 4076
    labels = [found[i]["label"] for i in range(4076)]
    assert labels.count("1") == 2753  # as the corpus says of itself
    assert found[0]["text"].startswith('Amrozi accused his brother, whom he called "the witness", of')
    with pytest.raises(UserError, match="quoting=False"):
        table.source("train", train=file, format="tsv", quoting=True, columns=columns, **PAIR)


def test_a_headerless_file_read_with_a_header_is_refused(shared_data: Path) -> None:
    with pytest.raises(UserError, match=r"line 1 \(taken as the header; if it is an .*: no column 'text'"):
        table.source("train", train=shared_data / "stsb/en-train.csv", **SCORE)


def test_banking77_has_its_77_classes(shared_data: Path) -> None:
    options: dict[str, Any] = {"train": shared_data / "banking77/train.csv", "validation": "10%"}
    parts = [
        table.source(s, columns={"label": "category"}, **options, **TEXT) for s in ("train", "validation")
    ]
    assert sum(map(len, parts)) == 10_003
    assert len({part[i]["label"] for part in parts for i in range(len(part))}) == 77
    assert sources.overlap(*parts) == 0


def test_rte_numbers_its_rows_anew_in_each_file(shared_data: Path) -> None:
    options: dict[str, Any] = {
        "train": [shared_data / f"rte/rte{i}_dev.tsv" for i in (1, 2, 3)],
        "fields": ["id", *PAIR["fields"]],
        "required": PAIR["required"],
    }
    with pytest.raises(UserError, match=r"id '12' is that of .*rte1_dev.tsv, line 3 too \(717 of 1,767 rows"):
        table.source("train", columns=ENTAILS, **options)
    found = table.source("train", columns={**ENTAILS, "id": None}, **options)
    assert len(found) == 1767 and found.where(567).endswith("rte2_dev.tsv, line 2")


def test_ncbi_disease(shared_data: Path) -> None:
    found = table.source("train", train=shared_data / "ncbi_disease/train.tsv", **TAGGED)
    assert found[0]["words"][8:12] == ["adenomatous", "polyposis", "coli", "tumour"]
    assert found[0]["tags"][7:12] == ["O", "B-Disease", "I-Disease", "I-Disease", "I-Disease"]
    assert {tag for i in range(len(found)) for tag in found[i]["tags"]} == {"O", "B-Disease", "I-Disease"}
    # 141,125 lines less 5,424 blank ones are its tokens.
    assert sum(len(found[i]["words"]) for i in range(len(found))) == 135_701


def test_policyqa(shared_data: Path) -> None:
    options: dict[str, Any] = {
        "train": shared_data / "policyqa/dev.json",
        "fields": ["id", "question", "context", "answers"],
        "required": ["id", "question", "context", "answers"],
        "format": "squad",
    }
    found = table.source("train", **options)
    assert len(found) == 3809
    assert len({found[i]["context"] for i in range(3809)}) == 574
    assert found[0]["answers"][0]["start"] == 63
    parts = [table.source(s, validation="20%", group="title", **options) for s in ("train", "validation")]
    contexts = [{part[i]["context"] for i in range(len(part))} for part in parts]
    assert sum(map(len, parts)) == 3809 and not contexts[0] & contexts[1]


def test_multi30k(shared_data: Path) -> None:
    def files(part: str) -> dict[str, Path]:
        return {
            "prompt": shared_data / f"multi30k/{part}.en.gz",
            "response": shared_data / f"multi30k/{part}.de.gz",
        }

    options: dict[str, Any] = {"train": files("train"), "validation": files("val"), **PROMPT}
    found = {split: table.source(split, **options) for split in ("train", "validation")}
    assert {split: len(rows) for split, rows in found.items()} == {"train": 29_000, "validation": 1014}
    assert found["validation"][0] == {
        "prompt": "A group of men are loading cotton onto a truck",
        "response": "Eine Gruppe von Männern lädt Baumwolle auf einen Lastwagen",
    }
    mixed = {"prompt": files("train")["prompt"], "response": files("val")["response"]}
    with pytest.raises(UserError, match=r"train.en.gz has 29,000 lines, .*val.de.gz has 1,014 lines"):
        table.source("train", train=mixed, **PROMPT)
