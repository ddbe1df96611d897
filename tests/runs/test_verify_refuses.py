"""What `lmx verify` catches, each by name; what `lmx import-hf` refuses, after which nothing is left."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from lmx.__main__ import main
from lmx.hf import oracle
from tests.unit import _hf_folders as made

from ._certified import certificate, complaint, digests, of, sha256, small_bert, store

SAYS = "is not what its certificate says (- missing, + surplus, ! other): "
WEIGHTS = "model.safetensors"


@pytest.fixture(autouse=True)
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oracle, "present", lambda: False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source, its import and an export; not to be changed."""
    root = tmp_path_factory.mktemp("whole")
    small_bert(root / "source")
    assert main(["import-hf", "--source", str(root / "source"), "--output", str(root / "in")]) == 0
    assert main(["export-hf", "--checkpoint", str(root / "in"), "--output", str(root / "out")]) == 0
    return root


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy: `source`, `in`, `out`."""
    shutil.copytree(whole, tmp_path / "copy")
    return tmp_path / "copy"


def flip(path: Path, at: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def reseal(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """What someone does who knows how certificates are made: the files' digests and the seal fit again."""
    content = certificate(folder)
    change(content)
    content["target"]["files"] = digests(folder)
    store(folder, content)


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def swap_words(path: Path) -> None:
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["cat"], vocabulary["dog"] = vocabulary["dog"], vocabulary["cat"]
    path.write_text(json.dumps(content))


def test_copies_verify(folder: Path) -> None:
    for name in ("in", "out"):
        assert main(["verify", str(folder / name)]) == 0
        reseal(folder / name, lambda content: None)
        assert main(["verify", str(folder / name)]) == 0


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        (lambda out: flip(out / WEIGHTS), f"! file {WEIGHTS} differs"),
        (lambda out: flip(out / WEIGHTS, 3000), f"! file {WEIGHTS} differs"),
        (lambda out: (out / "notes.txt").touch(), "+ file notes.txt"),
        (lambda out: (out / ".hidden").touch(), "+ file .hidden"),
        (lambda out: (out / "README.md").unlink(), "- file README.md"),
        (lambda out: edit(out / "config.json", hidden_act="relu"), "! file config.json differs"),
        (lambda out: swap_words(out / "tokenizer.json"), "! file tokenizer.json differs"),
        (lambda out: (out / "more").mkdir() or (out / "more" / "x").touch(), "+ file more/x"),
        (
            lambda out: (flip(out / WEIGHTS), (out / "x").touch(), (out / "README.md").unlink()),
            f"- file README.md; + file x; ! file {WEIGHTS} differs",
        ),
        (
            lambda out: [(out / f"f{i}").touch() for i in range(10)],
            "; ".join(f"+ file f{i}" for i in range(8)) + "; and 2 more",
        ),
        (lambda out: (out / "more" / "empty").mkdir(parents=True), "+ file more/empty/"),
        (lambda out: (out / ".git").touch(), "+ file .git"),
    ],
)
def test_files(
    folder: Path, change: Callable[[Path], Any], lines: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder / "out"
    change(out)
    lines += "; move what is not part of it (+) out of the folder" if "+" in lines else ""
    assert complaint(capsys, ["verify", str(out)]) == f"{out} {SAYS}{lines}"


def test_a_link_in_the_place_of_a_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """To the same bytes, yet no file: whoever reads the folder elsewhere would not have them."""
    out = folder / "out"
    (out / WEIGHTS).rename(folder / "elsewhere")
    (out / WEIGHTS).symlink_to(folder / "elsewhere")
    said = complaint(capsys, ["verify", str(out)])
    assert said == f"{out} {SAYS}! file {WEIGHTS} differs"


def test_certificates(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "out"
    path = out / "conversion.json"
    text = path.read_text()
    edit(path, parameters=1)
    again = "; import or export again"
    changed = f"{path}: the certificate itself was changed (its seal differs){again}"
    assert complaint(capsys, ["verify", str(out)]) == changed
    content = json.loads(text)
    path.write_text(json.dumps({key: value for key, value in content.items() if key != "seal"}))
    assert complaint(capsys, ["verify", str(out)]) == changed
    path.write_text(text.replace('"format": 1', '"format": 2'))
    assert complaint(capsys, ["verify", str(out)]) == f"{path}: format 2; this lmx reads format 1{again}"
    for spaced in (text + " ", text.replace("  ", " "), json.dumps(content)):
        path.write_text(spaced)
        assert complaint(capsys, ["verify", str(out)]) == changed.replace("seal differs", "text is not lmx's")
    path.write_text("{}")
    assert complaint(capsys, ["verify", str(out)]) == f"{path}: not a certificate of lmx{again}"
    path.write_text(text[:-3])
    broken = complaint(capsys, ["verify", str(out)])
    assert broken.startswith(f"{path}: is not readable as JSON (")
    assert broken.endswith(again)
    path.write_text("[]")
    assert complaint(capsys, ["verify", str(out)]) == (f"{path}: is JSON, but not an object{again}")
    path.unlink()
    assert complaint(capsys, ["verify", str(out)]) == (
        f"{out}: no conversion.json to check it by; `lmx import-hf` and `lmx export-hf` write one into what "
        "they make"
    )
    assert complaint(capsys, ["verify", str(out / "nowhere")]) == (
        f"{out / 'nowhere'}: no such folder; expected what `lmx import-hf` or `lmx export-hf` made"
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "other"},
        {"kind": "import"},
        {"kind": ["export"]},
        {"target": []},
        {"target": {"files": [], "tensors": {}}},
        {"parameters": "7"},
        {"config": {"model": {}}},
        {"probe": {"hidden": {}}},
        {"probe": {"hidden": "x"}},
        {"probe": {"logits": {"mean": "x", "rms": 1, "largest": 1, "first": [], "shape": [], "sha256": ""}}},
        {"probe": {"logits": {"mean": 1, "rms": 1, "largest": 1, "first": 3, "shape": [], "sha256": ""}}},
    ],
)
def test_certificates_that_are_sealed_and_say_nothing(
    folder: Path, changes: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "out" / "conversion.json"
    content = json.loads(path.read_text())
    for found in ({**content, **changes}, {"format": 1}, {}):
        store(folder / "out", found)
        said = complaint(capsys, ["verify", str(folder / "out")])
        assert said == f"{path}: not a certificate of lmx; import or export again"


def test_an_export_resealed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Digests of files made to fit do not help: tensors, sections, tokenizer and outputs are checked too."""
    out = folder / "out"
    tensors = load_file(out / WEIGHTS)
    tensors["classifier.bias"][1] += 1
    save_file(tensors, out / WEIGHTS, metadata={"format": "pt"})
    reseal(out, lambda content: None)
    said = complaint(capsys, ["verify", str(out)])
    assert said == f"{out} {SAYS}! tensor classifier.bias differs"
    own = {name: one["sha256"] for name, one in of(tensors).items()}
    reseal(out, lambda content: content["target"].update(tensors=own))
    said = complaint(capsys, ["verify", str(out)])
    assert said.startswith(f"{out} {SAYS}! output logits differs by ")
    assert 0.1 < float(said.rsplit(" ", 1)[1]) <= 1


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda out: edit(out / "config.json", hidden_act="relu"), "! model activation differs"),
        (lambda out: edit(out / "config.json", classifier_dropout=0.5), "! task dropout differs"),
        (lambda out: swap_words(out / "tokenizer.json"), "! the tokenizer differs"),
    ],
)
def test_configs_resealed(
    folder: Path, change: Callable[[Path], Any], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder / "out"
    change(out)
    reseal(out, lambda content: None)
    assert complaint(capsys, ["verify", str(out)]) == f"{out} {SAYS}{line}"


def test_counts_resealed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    count = certificate(folder / "in")["parameters"]
    for name, kind, what in (
        ("in", "leaves", "leaf head/bias"),
        ("out", "tensors", "tensor classifier.bias"),
    ):
        path = folder / name

        def change(content: dict[str, Any], kind: str = kind, key: str = what.split(" ")[1]) -> None:
            content["parameters"] = 7
            del content["target"][kind][key]

        reseal(path, change)
        assert complaint(capsys, ["verify", str(path)]) == (
            f"{path} {SAYS}+ {what}; ! {count:,} parameters, certified 7"
        )


def test_a_damaged_import(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "in"
    largest = max(
        (p for p in (path / "checkpoints").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size
    )
    flip(largest, largest.stat().st_size // 2)
    said = complaint(capsys, ["verify", str(path)])
    assert said == f"{path} {SAYS}! file {largest.relative_to(path).as_posix()} differs"
    reseal(path, lambda content: None)
    said = complaint(capsys, ["verify", str(path)])
    assert said.startswith((f"checkpoint {path}", f"{path}"))
    assert "checkpoints" in said
    swapped = folder / "other"
    shutil.copytree(folder / "in", swapped, ignore=shutil.ignore_patterns("tokenizer"))
    lines = complaint(capsys, ["verify", str(swapped)]).split(SAYS)[1]
    assert lines.startswith("- file data/tokenizer/")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


def widen(path: Path) -> None:
    path.write_text(path.read_text() + "".join(f"word{i}\n" for i in range(10)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: cut(s / WEIGHTS), "/model.safetensors: is truncated: its header announces 6,"),
        (lambda s: (s / WEIGHTS).unlink(), ": no weights in it; expected model.safetensors or "),
        (lambda s: (s / "config.json").unlink(), ": no config.json; expected a run of lmx or a"),
        (lambda s: (s / "config.json").write_text("{"), "/config.json: is not JSON ("),
        (lambda s: edit(s / "config.json", num_labels=4), ": the tensors are not those of a BertFor"),
        (lambda s: (s / "generation_config.json").write_text("{"), "/generation_config.json: is not"),
        (lambda s: (s / "vocab.txt").write_text("a\n"), "/vocab.txt: has no '[UNK]', the unk_"),
        (lambda s: widen(s / "vocab.txt"), ": the tokenizer has 23 ids, but the model's vocabulary "),
    ],
)  # fmt: skip
def test_a_failed_import_leaves_nothing(
    whole: Path,
    tmp_path: Path,
    change: Callable[[Path], Any],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = tmp_path / "source"
    shutil.copytree(whole / "source", source)
    change(source)
    before = digests(tmp_path)
    told = complaint(
        capsys, ["import-hf", "--source", str(source), "--output", str(tmp_path / "new" / "out")]
    )
    assert told.startswith(f"{source}{said}"), told
    assert list(tmp_path.iterdir()) == [source]
    assert digests(tmp_path) == before


def test_a_death_at_the_end_leaves_nothing(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lmx.hf import certificate as certificates

    def dying(*args: Any) -> None:
        assert len(list(tmp_path.glob("out.lmx-writing-*/folder/checkpoints/0"))) == 1
        raise KeyboardInterrupt

    monkeypatch.setattr(certificates, "write", dying)
    assert main(["import-hf", "--source", str(whole / "source"), "--output", str(tmp_path / "out")]) == 130
    assert list(tmp_path.iterdir()) == []


def test_places(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["import-hf", "--source", str(whole / "source"), "--output"]
    before = digests(whole)
    told = complaint(capsys, [*words, str(whole / "in")])
    assert "exists already" in told
    assert told.startswith(str(whole / "in"))
    for command in (words, ["export-hf", "--checkpoint", str(whole / "in"), "--output"]):
        told = complaint(capsys, [*command, "/proc/lmx"])
        assert told.startswith("/proc/lmx"), told
        (tmp_path / "file").touch()
        told = complaint(capsys, [*command, str(tmp_path / "file" / "x")])
        (tmp_path / "file").unlink()
        assert "x: cannot be written (Not a directory)" in told or "is a file" in told, told
    assert digests(whole) == before
    again = ["import-hf", "--output", str(tmp_path / "out"), "--source"]
    run = f"{whole / 'in'} is a run of lmx already; expected a Hugging Face folder"
    assert complaint(capsys, [*again, str(whole / "in")]) == run
    inside = whole / "source" / "in"
    told = complaint(capsys, [*words, str(inside)])
    assert told == f"{inside} would lie in {whole / 'source'}; name a folder elsewhere"
    for name in ("in", "out"):
        inside = whole / name / "new" / "x"
        told = complaint(capsys, ["export-hf", "--checkpoint", str(whole / name), "--output", str(inside)])
        assert told == f"{inside} would lie in {whole / name}; name a folder elsewhere"
        told = complaint(capsys, [*words, str(inside)])
        assert told == (
            f"{inside} would lie in {whole / name}, whose conversion.json lists all that it holds; name a "
            "folder elsewhere"
        )
    told = complaint(capsys, [*words, "."])
    assert told.startswith("argument --output: '.': exists already; expected the name of a new folder")
    assert digests(whole) == before
    for gone, why in (
        (tmp_path / "gone", "no such folder"),
        (whole / "source" / "config.json", "is a file"),
    ):
        told = f"{gone}: {why}; expected a Hugging Face folder or hf://ORG/NAME@REVISION"
        assert complaint(capsys, [*again, str(gone)]) == told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_parent_that_cannot_be_written(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    out = tmp_path / "closed" / "out"
    told = complaint(capsys, ["import-hf", "--source", str(whole / "source"), "--output", str(out)])
    assert told == f"{out}: cannot be written (Permission denied)"


@pytest.mark.parametrize("seed", [-1, 2**32, 2**70])
def test_seeds(whole: Path, tmp_path: Path, seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    """jax would take the first two for other seeds, in silence."""
    words = ["import-hf", "--source", str(whole / "source"), "--output", str(tmp_path / "out")]
    told = complaint(capsys, [*words, "--task", "masked_lm", "--seed", str(seed)])
    assert told == f"seed={seed}; expected 0 to 4294967295"


def test_types_that_are_refused(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = "expected one of float16, bfloat16, float32, float64"
    out = ["--output", str(tmp_path / "out")]
    for dtype in ("int8", "fp16"):
        words = ["import-hf", "--source", str(whole / "source"), "--dtype", dtype, *out]
        assert complaint(capsys, words) == f"dtype={dtype!r}; {known}"
        words = ["export-hf", "--checkpoint", str(whole / "in"), "--dtype", dtype, *out]
        assert complaint(capsys, words) == f"dtype={dtype!r}; {known}"
    assert list(tmp_path.iterdir()) == []


def test_sources_are_only_read(whole: Path) -> None:
    assert sorted(path.name for path in (whole / "source").iterdir()) == [
        "config.json", WEIGHTS, "vocab.txt"
    ]  # fmt: skip
    assert certificate(whole / "in")["source"]["files"] == digests(whole / "source")
    assert sha256(whole / "out" / WEIGHTS) == sha256(whole / "source" / WEIGHTS)
    assert made.V == 19


def test_a_source_s_own_folders_are_left_and_its_links_stay_inside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = small_bert(tmp_path / "source")
    (source / "onnx").mkdir()
    (source / "onnx" / "model.onnx").write_text("large")
    words = ["import-hf", "--source", str(source), "--output"]
    assert main([*words, str(tmp_path / "one")]) == 0
    assert set(certificate(tmp_path / "one")["source"]["files"]) == {
        "config.json",
        "model.safetensors",
        "vocab.txt",
    }
    (tmp_path / "secret").write_text("not yours")
    (source / "LICENSE").symlink_to(tmp_path / "secret")
    assert main([*words, str(tmp_path / "two")]) == 2
    assert "LICENSE: is a link to" in capsys.readouterr().err
    assert not (tmp_path / "two").exists()
