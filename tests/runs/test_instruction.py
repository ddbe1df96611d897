"""Instructions end to end on a tiny GPT-2: train, write responses, score them, evaluate, predict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import pytest

import lmx
from lmx import tokenizer
from lmx.__main__ import main
from lmx.core import log
from lmx.hf import oracle
from lmx.metrics import rouge

sacrebleu = pytest.importorskip("sacrebleu", reason="sacrebleu comes with pip install 'lmx[eval]'")
scorers = pytest.importorskip("rouge_score.rouge_scorer", reason="rouge-score comes with lmx[eval]")

SAID = {  # what the tiny model learns by heart
    "red": "A ripe apple. It is sweet.",
    "green": "the grass in spring",
    "blue": "the sky",
    "a long way to say white": "snow on the hills of the north",
}
TEXT = [*SAID, *SAID.values(), "Hello there . How are you ? Fine , thanks ."]


@pytest.fixture(autouse=True)
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oracle, "present", lambda: False)


def folder_of(text: tokenizer.Tokenizer, root: Path) -> Path:
    """A Hugging Face folder of a random GPT-2 with five rows more than its tokenizer has ids."""
    text.save(root / "text")
    sizes = dict(vocab_size=text.vocab_size + 5, positions=48, width=32, layers=1, heads=2)
    config = {"model": {"name": "gpt2", **sizes}, "task": {"name": "causal_lm"}}
    params = lmx.build(config).init(jax.random.key(0))
    lmx.save_hf(lmx.Checkpoint(params, config, folder=str(root / "text")), root / "gpt2")
    return root / "gpt2"


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(tokenizer.train_bpe(TEXT * 9, 300), tmp_path_factory.mktemp("start"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Parallel lines to train on; to be judged by, two references of each, in a table."""
    root = tmp_path_factory.mktemp("data")
    (root / "train.in").write_text("".join(f"{prompt}\n" for prompt in SAID) * 8)
    (root / "train.out").write_text("".join(f"{response}\n" for response in SAID.values()) * 8)
    rows = [
        {"prompt": prompt, "response": [f"not {response}", response]} for prompt, response in SAID.items()
    ]
    (root / "dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    turns = [f"Hello there . {end} How are you ? {end} Fine , thanks . {end}" for end in ("__eou__",)] * 6
    (root / "talk.tsv").write_text("".join(f"{one}\t7\n" for one in turns))
    return root


def words(config: str, workdir: Path, **fields: Any) -> list[str]:
    common = {"batch.size": 8, "optim.rate": 1e-2, "mesh.data": 1, "model.dropout_residual": 0.0}
    given = {**common, **fields}
    found = ["train", "--config", f"finetune/{config}", "--workdir", str(workdir)]
    return [*found, *(f"--config.{name}={value}" for name, value in given.items())]


@pytest.fixture(scope="module")
def finished(start: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    fields = {
        "start": start,
        "data.train.prompt": data / "train.in",
        "data.train.response": data / "train.out",
        "data.validation": data / "dev.jsonl",
        "batch.length": 40,
        "batch.multiple": 40,
        "total": "100 steps",
        "evaluate": "50 steps",
        "save": "100 steps",
        "keep.restore": False,
        "task.new_tokens": 28,
    }
    assert main(words("completion", folder, **fields)) == 0
    return folder


def test_responses_are_written_and_scored(finished: Path) -> None:
    """Every figure is that of the library on the texts in the file, with all references."""
    rows = log.read_jsonl(finished / "predictions.jsonl")
    assert [row["text"] for row in rows] == list(SAID.values())
    assert all(row["ended"] is True for row in rows)
    assert [row["prompt"] for row in rows] == list(SAID)
    assert [row["reference"]["references"][1] for row in rows] == list(SAID.values())
    told = json.loads((finished / "metrics.json").read_text())
    texts = [row["text"] for row in rows]
    groups = [row["reference"]["references"] for row in rows]
    theirs = sacrebleu.metrics.BLEU()
    assert (
        told["figures"]["bleu"] == theirs.corpus_score(texts, [*map(list, zip(*groups, strict=True))]).score
    )
    assert told["responses"]["signature"] == str(theirs.get_signature())
    assert "nrefs:2" in told["responses"]["signature"]
    scorer = scorers.RougeScorer(list(rouge.NAMES))
    for name in rouge.NAMES:
        best = [
            max(scorer.score(rouge.lines(one), rouge.lines(text))[name].fmeasure for one in group)
            for text, group in zip(texts, groups, strict=True)
        ]
        assert told["figures"][name] == pytest.approx(sum(best) / len(best), rel=1e-12)
    assert told["figures"]["ended"] == 1.0
    assert told["intervals"]["bleu"] == pytest.approx([100.0, 100.0])
    assert told["responses"] == {
        "texts": 4,
        "new_tokens": 28,
        "temperature": 0.0,
        "top_k": None,
        "signature": told["responses"]["signature"],
    }


def test_training_is_watched_by_the_loss_alone(finished: Path) -> None:
    records = [one for one in log.read_jsonl(finished / "metrics.jsonl") if one["kind"] == "evaluation"]
    assert [one["step"] for one in records] == [50, 100]
    assert all({"loss", "perplexity"} <= one.keys() and "bleu" not in one for one in records)


def test_evaluation_repeats_the_figures(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = json.loads((finished / "metrics.json").read_text())
    assert main(["evaluate", "--checkpoint", str(finished), "--batch", "8"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {name: found[name] for name in known["figures"]} == pytest.approx(known["figures"], rel=1e-5)
    assert found["responses"] == known["responses"]


def test_predictions_are_the_responses(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "new.jsonl"
    file.write_text('{"prompt": "blue", "id": 7}\n{"prompt": "green"}\n')
    capsys.readouterr()
    assert main(["predict", "--checkpoint", str(finished), "--data", str(file), "--batch", "8"]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"id": 7, "text": "the sky", "ended": True},
        {"text": "the grass in spring", "ended": True},
    ]
    lines = ["--data", str(file.with_suffix(".txt")), "--format", "lines", "--columns", "prompt=text"]
    file.with_suffix(".txt").write_text("blue\n")
    assert main(["predict", "--checkpoint", str(finished), *lines, "--batch", "8"]) == 0
    assert json.loads(capsys.readouterr().out)["text"] == "the sky"


def test_generation_answers_in_the_template(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["generate", "--checkpoint", str(finished), "--prompt", "blue", "--temperature", "0"]
    capsys.readouterr()
    assert main([*asked, "--tokens", "28"]) == 0
    assert capsys.readouterr().out == "blue\nthe sky\n"


def test_the_export_opens_as_a_language_model(finished: Path) -> None:
    config = json.loads((finished / "export" / "config.json").read_text())
    assert config["architectures"] == ["GPT2LMHeadModel"]
    exported = lmx.load(finished / "export")
    (text,) = lmx.generate(exported, ["blue"], tokens=4, temperature=0.0)
    assert exported.config["task"]["name"] == "causal_lm"
    assert text  # without the end symbol before it and the template it is another prompt


def test_a_dialogue_is_trained_and_answered(
    start: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Turns end with the end symbol; the last of the second speaker is written, for `limit` many."""
    fields = {
        "start": start,
        "data.train": data / "talk.tsv",
        "data.validation": data / "talk.tsv",
        "batch.length": 40,
        "batch.multiple": 40,
        "total": "30 steps",
        "save": "30 steps",
        "evaluate": "30 steps",
        "task.new_tokens": 8,
        "task.limit": 2,
        "task.temperature": 0.1,
        "task.top_k": 2,
        "export": False,
    }
    run = tmp_path / "run"
    assert main(words("dialogue", run, **fields)) == 0
    rows = log.read_jsonl(run / "predictions.jsonl")
    assert [row.get("text") for row in rows] == ["How are you ?"] * 2 + [None] * 4
    assert {row["prompt"] for row in rows[:2]} == {"Hello there .<|endoftext|>"}
    told = json.loads((run / "metrics.json").read_text())
    assert told["responses"]["texts"] == 2
    assert told["figures"].keys() >= {"bleu", "distinct_1", "ended", "loss"}
    assert "rouge1" not in told["figures"]
    file = tmp_path / "new.jsonl"
    file.write_text('{"turns": ["Hello there ."]}\n{"turns": "Hello there . __eou__"}\n')
    capsys.readouterr()
    assert main(["predict", "--checkpoint", str(run), "--data", str(file), "--batch", "8"]) == 0
    said = [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()]
    assert said == ["How are you ?"] * 2  # the last turn is answered, not taken for the answer


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"task.new_tokens": 0}, "task.new_tokens=0; expected a whole number of at least 1"),
        ({"task.new_tokens": 48}, "ask for fewer"),
        ({"task.temperature": -1}, "task.temperature=-1; expected 0"),
        ({"task.top_k": 3}, "task.top_k=3 with task.temperature=0"),
        ({"task.limit": 0}, "task.limit=0"),
        ({"task.tokenize": "13b"}, "tokenize='13b'"),
        ({"task.newtokens": 8}, "(did you mean 'new_tokens'?)"),
        ({"data.train.response": "dev.jsonl"}, "dev.jsonl has 4 lines; parallel files need equally many"),
    ],
)
def test_wrong_input_is_one_line_before_anything_is_made(
    start: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    told: str,
) -> None:
    monkeypatch.chdir(data)
    fields = {"data.train.prompt": "train.in", "data.train.response": "train.out"}
    fields |= {"data.validation": "dev.jsonl", "start": start, "batch.length": 40, **changes}
    assert main(words("completion", tmp_path / "run", **fields)) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert told in said[-1]
    assert said[-1].startswith("lmx train: ")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_start_whose_tokenizer_has_no_end_symbol_is_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = folder_of(tokenizer.characters(TEXT), tmp_path)
    fields = {"start": start, "data.train": data / "dev.jsonl", "data.validation": data / "dev.jsonl"}
    assert main(words("completion", tmp_path / "run", **fields, **{"batch.length": 40})) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "the tokenizer has no end symbol (eos_token), so no response would end" in said
    assert not (tmp_path / "run" / "checkpoints").exists()
