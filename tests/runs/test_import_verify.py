"""Import, export and verify on the command line: certificates, what they catch, and what a failure leaves."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import lmx
from lmx import tokenizer as tokenizers
from lmx.__main__ import main
from lmx.core import tree
from lmx.hf import oracle
from tests.unit import _hf_folders as made

from ._certified import certificate, complaint, digests, noisy, of, said, seal, sha256, small_bert
from .conftest import TINY, Train

IDS = 300
GPT2 = {**made.GPT2, "vocab_size": IDS}
REFUSED = "is not what its certificate says (- missing, + surplus, ! other): "
OUTPUTS = "outputs: hidden equal, logits equal, pooled equal"
TORCH = "torch: not compared, for it is not installed; pip install 'lmx[parity]' brings it"


@pytest.fixture(autouse=True)
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oracle, "present", lambda: False)


@pytest.fixture(scope="session")
def gpt2(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model with the tokenizer of the rows, as another tool would have left it."""
    folder = tmp_path_factory.mktemp("gpt2") / "small-gpt2"
    shutil.copytree(rows / "tokenizer", folder)
    return made.folder(folder, GPT2, noisy(made.gpt2(rows=IDS)), eos_token_id=IDS - 1)


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bert(tmp_path_factory.mktemp("bert") / "small-bert")


@pytest.fixture(scope="session")
def imported(gpt2: Path, bert: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Not to be changed."""
    root = tmp_path_factory.mktemp("imported")
    for name, source in (("gpt2", gpt2), ("bert", bert)):
        assert main(["import-hf", "--source", str(source), "--output", str(root / name)]) == 0
    return {"gpt2": root / "gpt2", "bert": root / "bert"}


@pytest.fixture(scope="session")
def exported(imported: dict[str, Path]) -> dict[str, Path]:
    """Not to be changed."""
    found = {name: path.with_name(f"{name}-exported") for name, path in imported.items()}
    for name, path in found.items():
        assert main(["export-hf", "--checkpoint", str(imported[name]), "--output", str(path)]) == 0
    return found


# ------------------------------------------------------------------------------------------ what goes well


@pytest.mark.parametrize(
    ("name", "task", "leaves"), [("gpt2", "causal_lm", 36), ("bert", "sequence_classification", 41)]
)
def test_import_and_verify(
    name: str,
    task: str,
    leaves: int,
    gpt2: Path,
    bert: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = {"gpt2": gpt2, "bert": bert}[name]
    count = sum(tensor.size for tensor in load_file(source / "model.safetensors").values())
    out = tmp_path / "new" / "out"
    assert main(["import-hf", "--source", str(source), "--output", str(out)]) == 0
    assert said(capsys) == [
        f"imported: {out}, a {name} for {task} with {count:,} parameters", f"check it: lmx verify {out}"
    ]  # fmt: skip
    assert sorted(path.name for path in out.iterdir()) == ["checkpoints", "conversion.json", "data"]
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert main(["verify", str(out)]) == 0
    assert said(capsys) == [
        f"files: {len(digests(out))} unchanged, by SHA-256",
        f"tensors: {leaves} unchanged; {count:,} parameters",
        OUTPUTS,
        TORCH,
        f"verified: {out}",
    ]


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_the_certificate_of_an_import(
    name: str, gpt2: Path, bert: Path, imported: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    source, folder = {"gpt2": gpt2, "bert": bert}[name], imported[name]
    found, tensors = certificate(folder), load_file(source / "model.safetensors")
    expected = made.leaves({k: v for k, v in tensors.items() if not k.startswith("classifier")})
    if name == "bert":
        expected["head/kernel"], expected["head/bias"] = (
            tensors["classifier.weight"].T,
            tensors["classifier.bias"],
        )
    assert found == seal(found)
    assert (found["kind"], found["format"], found["lmx"]) == ("import", 1, lmx.__version__)
    assert found["source"] == {
        "reference": source.name, "files": digests(source), "tensors": of(tensors)
    }  # fmt: skip
    assert found["target"] == {
        "files": digests(folder),
        "leaves": {path: hashlib.sha256(leaf.tobytes()).hexdigest() for path, leaf in expected.items()},
    }
    read = found["audit"].pop("read")
    assert found["audit"] == {"dropped": {}, "started_anew": [], "config_keys_ignored": []}
    assert read.keys() == tensors.keys()
    assert sorted(path for paths in read.values() for path in paths) == sorted(expected)
    if name == "gpt2":
        assert read["transformer.h.1.attn.c_attn.bias"] == [
            f"block/1/attn/{part}/bias" for part in ("query", "key", "value")
        ]
    assert found["parameters"] == sum(tensor.size for tensor in tensors.values())
    assert found["tokenizer"] == tokenizers.load(source).sha256
    assert found["tokenizer"] == sha256(folder / "data" / "tokenizer" / "tokenizer.json")
    checkpoint = lmx.load(folder)
    outputs = lmx.build(checkpoint.config).apply(checkpoint.params, {"input_ids": np.zeros((1, 4), np.int32)})
    assert found["probe"].keys() == {"hidden", "logits", "pooled"}
    assert found["probe"]["hidden"]["shape"] == [2, 16, made.D]
    assert found["probe"]["logits"]["shape"][-1] == outputs["logits"].shape[-1]


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_export_gives_the_bytes_back(
    name: str, gpt2: Path, bert: Path, exported: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    source, folder = {"gpt2": gpt2, "bert": bert}[name], exported[name]
    weights = "model.safetensors"
    assert (folder / weights).read_bytes() == (source / weights).read_bytes()
    assert tokenizers.load(folder).sha256 == tokenizers.load(source).sha256
    assert main(["verify", str(folder)]) == 0
    tensors = load_file(source / weights)
    count = sum(tensor.size for tensor in tensors.values())
    assert said(capsys) == [
        f"files: {len(digests(folder))} unchanged, by SHA-256",
        f"tensors: {len(tensors)} unchanged; {count:,} parameters",
        OUTPUTS,
        TORCH,
        f"verified: {folder}",
    ]
    found = certificate(folder)
    assert found == seal(found)
    assert found["kind"] == "export"
    assert found["target"] == {
        "files": digests(folder), "tensors": {name: one["sha256"] for name, one in of(tensors).items()}
    }  # fmt: skip
    own = certificate(folder.with_name(name))
    assert found["source"] == {"step": 0, "leaves": own["target"]["leaves"]}
    assert (found["probe"], found["config"]) == (own["probe"], own["config"])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_export_in_half_precision_and_shards(
    dtype: str, imported: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The certificate's outputs are those of the rounded weights: whoever reads the folder has no others."""
    out = tmp_path / "x"
    words = ["export-hf", "--checkpoint", str(imported["gpt2"]), "--output", str(out)]
    assert main([*words, "--dtype", dtype, "--shard-size", "2e-6"]) == 0
    assert said(capsys) == [f"written: {out}; check it: lmx verify {out}"]
    files = sorted(path.name for path in out.glob("*.safetensors"))
    assert len(files) > 2
    assert files[-1] == f"model-{len(files):05d}-of-{len(files):05d}.safetensors"
    tensors = {name: tensor for file in files for name, tensor in load_file(out / file).items()}
    assert {tensor.dtype.name for tensor in tensors.values()} == {dtype}
    assert certificate(out)["target"]["tensors"] == {name: one["sha256"] for name, one in of(tensors).items()}
    assert certificate(out)["probe"] != certificate(imported["gpt2"])["probe"]
    assert main(["verify", str(out)]) == 0
    assert OUTPUTS in said(capsys)


def test_generate_from_an_import_and_its_export(
    imported: dict[str, Path], exported: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    texts = []
    for folder in (imported["gpt2"], exported["gpt2"]):
        words = ["--checkpoint", str(folder), "--prompt", "The", "--tokens", "4", "--temperature", "0"]
        assert main(["generate", *words]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    assert texts[0].startswith("The")


def test_train_from_an_import(train: Train, imported: dict[str, Path], tmp_path: Path) -> None:
    sizes = {"width": made.D, "mlp_width": made.M, "positions": made.P}
    changes = {f"model.{name}": str(size) for name, size in sizes.items()}
    changes |= {
        "start": str(imported["gpt2"]),
        "mesh.data": "1",
        "total": "2 steps",
        "evaluate": "2 steps",
        "save": "2 steps",
    }
    assert TINY["model.layers"] == str(made.L)
    assert train(tmp_path / "run", **{**changes, "optim.rate": "1e-5", "optim.warmup": "0 steps"}) == 0
    begun, found = (tree.flatten(lmx.load(path).params) for path in (imported["gpt2"], tmp_path / "run"))
    for path, leaf in found.items():
        gap = float(np.max(np.abs(np.asarray(leaf) - begun[path])))
        assert gap < 1e-4, path  # two steps of a tiny rate from where it started
    assert any(not np.array_equal(leaf, begun[path]) for path, leaf in found.items())


def test_an_import_for_another_task(gpt2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["import-hf", "--source", str(gpt2), "--task", "sequence_classification", "--output"]
    for name, seed in (("a", "0"), ("c", "1")):
        assert main([*words, str(tmp_path / name), "--seed", seed]) == 0
        assert capsys.readouterr().err == f"{gpt2}: started anew with labels=2: head/kernel\n"
    found = {name: certificate(tmp_path / name) for name in "ac"}
    assert found["a"]["audit"]["started_anew"] == ["head/kernel"]
    leaves = {name: one["target"]["leaves"] for name, one in found.items()}
    assert {k for k, v in leaves["a"].items() if leaves["c"][k] != v} == {"head/kernel"}
    assert main(["verify", str(tmp_path / "a")]) == 0
    complained = complaint(capsys, [*words[:-2], "translation", "--output", str(tmp_path / "d")])
    known = "causal_lm, features, instruction, question_answering, sentence_similarity, "
    known += "sequence_classification, sequence_regression"
    assert complained == f"{gpt2}: a gpt2 has no task 'translation'; it has: {known}, token_classification"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "c"]


def test_weights_that_are_no_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """JSON has no NaN, and NaN equals nothing: both stay out of the certificate's way."""
    tensors = made.gpt2()
    tensors["transformer.h.1.ln_1.bias"][3] = np.nan
    source = made.folder(tmp_path / "source", made.GPT2, tensors)
    words = ["import-hf", "--source", str(source), "--output", str(tmp_path / "in")]
    assert complaint(capsys, words) == (
        f"{source}: transformer.h.1.ln_1.bias (model.safetensors) holds 1 values that are NaN or infinite; "
        "expected finite weights (--allow-nonfinite, or allow_nonfinite=True, reads them all the same)"
    )
    assert not (tmp_path / "in").exists()
    assert main([*words, "--allow-nonfinite"]) == 0
    assert certificate(tmp_path / "in")["probe"]["hidden"]["mean"] == "nan"
    leaf = "block/1/norm1/bias"
    words = ["export-hf", "--checkpoint", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    assert complaint(capsys, words) == (
        f"NaN or infinite: {leaf} (1 values); expected finite weights (--allow-nonfinite, or "
        "allow_nonfinite=True, writes them all the same)"
    )
    assert not (tmp_path / "out").exists()
    assert main([*words, "--allow-nonfinite"]) == 0
    again = ["export-hf", "--checkpoint", str(tmp_path / "out"), "--output", str(tmp_path / "again")]
    assert main([*again, "--allow-nonfinite"]) == 0
    for name in ("in", "out", "again"):
        assert certificate(tmp_path / name)["nonfinite"] == [leaf]
        capsys.readouterr()
        assert main(["verify", str(tmp_path / name)]) == 0
        lines = said(capsys)
        assert f"weights: NaN or infinite values, as certified, in {leaf}" in lines
        why = "not compared, for it holds NaN or infinite values, as certified"
        assert f"outputs: hidden {why}, logits {why}, pooled {why}" in lines


def test_an_import_in_half_precision(gpt2: Path, tmp_path: Path) -> None:
    words = ["import-hf", "--source", str(gpt2), "--dtype", "bfloat16", "--output", str(tmp_path / "in")]
    assert main(words) == 0
    assert main(["verify", str(tmp_path / "in")]) == 0


@pytest.mark.slow
@pytest.mark.sample
@pytest.mark.parametrize("which", ["an import", "an export"])
def test_verify_against_torch(
    which: str,
    imported: dict[str, Path],
    exported: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr(oracle, "present", lambda: True)
    folder = imported["gpt2"] if which == "an import" else exported["bert"]
    capsys.readouterr()
    assert main(["verify", str(folder)]) == 0
    lines = [line.split() for line in said(capsys) if line.startswith("torch: ")]
    assert [line[1] for line in lines] == ["hidden", "logits"]
    for line in lines:
        assert line[2:4] == ["differs", "by"]
        assert 0 <= float(line[4].rstrip(",")) < 1e-5
        assert 0 <= float(line[5]) < 1e-5
    # A judge that disagrees is heard, and so is one that answers with NaN.
    for wrong in (1.0, np.nan):
        batch = {"hidden": np.full((2, 16, made.D), wrong, np.float32)}
        monkeypatch.setattr(oracle, "judge", lambda *_, batch=batch, **__: batch)
        told = complaint(capsys, ["verify", str(folder)])
        assert told.startswith(f"{folder} {REFUSED}! output hidden differs from torch's by ")
