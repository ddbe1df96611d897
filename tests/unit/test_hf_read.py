"""Reading Hugging Face folders as they are found: old names, buffers, copies, paddings, types, heads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

import lmx
from lmx.commands import _hf
from lmx.core import tree

from . import _hf_folders as made

BASE = {**made.BERT, "architectures": ["BertModel"]}
SEQUENCE = {**made.BERT, "architectures": ["BertForSequenceClassification"], "num_labels": 3}
BIAS, TWIN = "cls.predictions.bias", "cls.predictions.decoder.bias"
DECODER, WORDS = "cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"
DIFF = "the tensors are not those of a {} of this config (- missing, + surplus, ! other): "


def read(path: Path, config: dict[str, Any], tensors: made.Tensors, **options: Any) -> Any:
    return _hf.read(made.folder(path, config, tensors), **options)


def leaves(found: Any) -> made.Tensors:
    return tree.flatten(found.checkpoint.params)


def same(found: made.Tensors, expected: made.Tensors) -> None:
    assert found.keys() == expected.keys()
    for path, leaf in expected.items():
        np.testing.assert_array_equal(found[path], leaf, err_msg=path, strict=True)


def refused(path: Path, config: dict[str, Any], tensors: made.Tensors, **options: Any) -> str:
    """The complaint, without the folder it begins with."""
    with pytest.raises(lmx.UserError) as error:
        read(path, config, tensors, **options)
    said = str(error.value)
    assert "\n" not in said
    assert said.startswith(f"{path}: "), said
    return said.removeprefix(f"{path}: ")


def renamed(tensors: made.Tensors, old: str, new: str) -> made.Tensors:
    return {re.sub(old, new, name): tensor for name, tensor in tensors.items()}


HEAD = {
    "head/dense/kernel": made.mlm()["cls.predictions.transform.dense.weight"].T,
    "head/dense/bias": made.mlm()["cls.predictions.transform.dense.bias"],
    "head/norm/scale": made.mlm()["cls.predictions.transform.LayerNorm.weight"],
    "head/norm/bias": made.mlm()["cls.predictions.transform.LayerNorm.bias"],
    "head/bias": made.mlm()[BIAS],
}
MASKED = {**made.bert(), **made.mlm()}


@pytest.mark.parametrize("prefix", ["transformer.", ""])
def test_gpt2(tmp_path: Path, prefix: str) -> None:
    found = read(tmp_path, made.GPT2, made.gpt2(prefix))
    same(leaves(found), made.leaves(made.gpt2()))  # by name, so `prefix` changes no value
    assert found.notes == ()
    assert found.checkpoint.config["task"] == {"name": "causal_lm"}


@pytest.mark.parametrize("prefix", ["bert.", ""])
def test_bert(tmp_path: Path, prefix: str) -> None:
    body = {prefix + name.removeprefix("bert."): tensor for name, tensor in made.bert().items()}
    found = read(tmp_path, made.BERT, {**body, **made.mlm()})
    same(leaves(found), made.leaves(made.bert()) | HEAD)
    assert found.notes == ()
    assert found.checkpoint.config["model"]["pooler"] is False


def test_a_bare_class_with_a_prefix(tmp_path: Path) -> None:
    expected = made.leaves(made.bert(pooler=True))
    same(leaves(read(tmp_path / "a", BASE, made.bert("bert.", pooler=True))), expected)
    gpt2 = {**made.GPT2, "architectures": ["GPT2Model"]}
    same(leaves(read(tmp_path / "b", gpt2, made.gpt2())), made.leaves(made.gpt2()))


def test_old_names_and_buffers(tmp_path: Path) -> None:
    """As bert-base-uncased of 2018 and the hub's first `gpt2` have them."""
    old = renamed(renamed(MASKED, r"LayerNorm\.weight$", "LayerNorm.gamma"), r"Norm\.bias$", "Norm.beta")
    assert sum(name.endswith((".gamma", ".beta")) for name in old) == 2 * (1 + 2 * made.L + 1)
    ids = {"bert.embeddings.position_ids": np.arange(made.P, dtype=np.int64)[None]}
    found = read(tmp_path / "bert", made.BERT, {**old, **ids})
    same(leaves(found), made.leaves(made.bert()) | HEAD)
    assert found.notes == ("not read (a buffer, not a parameter): bert.embeddings.position_ids",)
    buffers: made.Tensors = {"h.0.attn.masked_bias": np.float32(-1e4)}  # no dimension at all
    for i in range(made.L):
        buffers[f"h.{i}.attn.bias"] = np.tril(np.ones((1, 1, made.P, made.P), np.uint8))
    found = read(tmp_path / "gpt2", made.GPT2, {**made.gpt2(""), **buffers})
    same(leaves(found), made.leaves(made.gpt2("")))
    assert found.plan.dropped == dict.fromkeys(buffers, "a buffer, not a parameter")


@pytest.mark.parametrize(
    ("config", "tensors", "copy", "source"),
    [
        (made.GPT2, made.gpt2(), "lm_head.weight", "transformer.wte.weight"),
        (made.BERT, MASKED, DECODER, WORDS),
    ],
)
def test_a_tied_head(
    tmp_path: Path, config: dict[str, Any], tensors: made.Tensors, copy: str, source: str
) -> None:
    plain = leaves(read(tmp_path / "absent", config, tensors))
    assert "head/kernel" not in plain
    found = read(tmp_path / "present", config, {**tensors, copy: tensors[source]})
    same(leaves(found), plain)
    assert found.notes == (f"not read (a copy of {source}): {copy}",)
    other = tensors[source].copy()
    other[-1, -1] += 2.0**-6
    assert refused(tmp_path / "unequal", config, {**tensors, copy: other}) == (
        f"{copy} is tied to {source} by the config, but the stored tensors differ; "
        "set tie_word_embeddings to false in config.json to read them as two"
    )
    apart = read(tmp_path / "apart", {**config, "tie_word_embeddings": False}, {**tensors, copy: other})
    np.testing.assert_array_equal(leaves(apart)["head/kernel"], other.T)
    assert apart.notes == ()
    lost = refused(tmp_path / "lost", {**config, "tie_word_embeddings": False}, tensors)
    assert lost == DIFF.format(config["architectures"][0]) + f"- {copy} {other.shape}"


def test_the_two_names_of_the_bias(tmp_path: Path) -> None:
    one = made.mlm()[BIAS]
    for name in (BIAS, TWIN):
        found = read(tmp_path / name, made.BERT, {**made.bert(), **made.mlm(bias=name[16:])})
        np.testing.assert_array_equal(leaves(found)["head/bias"], one)
        assert found.notes == ()
    found = read(tmp_path / "both", made.BERT, {**MASKED, TWIN: one})
    np.testing.assert_array_equal(leaves(found)["head/bias"], one)
    assert found.notes == (f"not read (a copy of {BIAS}): {TWIN}",)
    said = refused(tmp_path / "unequal", made.BERT, {**MASKED, TWIN: one + 1})
    assert said.startswith(f"{TWIN} is tied to {BIAS} by the config, but the stored tensors differ; ")
    untied = {**made.BERT, "tie_word_embeddings": False}
    apart = {**made.bert(), **made.mlm(tied=False), TWIN: one + 1}
    found = read(tmp_path / "untied", untied, apart)  # transformers computes with the decoder's own
    np.testing.assert_array_equal(leaves(found)["head/bias"], one + 1)
    assert found.notes == (f"not read (BertForMaskedLM computes with {TWIN} instead): {BIAS}",)
    del apart[BIAS]
    same(leaves(read(tmp_path / "one", untied, apart)), leaves(found))


def test_a_padded_vocabulary(tmp_path: Path) -> None:
    tensors = made.gpt2(rows=made.V + 5)
    found = read(tmp_path / "gpt2", made.GPT2, tensors)
    assert found.checkpoint.config["model"]["vocab_size"] == made.V + 5
    same(leaves(found), made.leaves(tensors))
    assert found.notes == ("the stored vocabulary is padded: 24 rows for 19 ids; all are kept",)
    tensors = {**made.bert(rows=made.V + 5), **made.mlm(rows=made.V + 5)}
    assert read(tmp_path / "bert", made.BERT, tensors).notes == found.notes
    said = refused(tmp_path / "short", made.GPT2, made.gpt2(rows=made.V - 1))
    assert said == DIFF.format("GPT2LMHeadModel") + "! transformer.wte.weight expected (19, 8), found (18, 8)"
    said = refused(tmp_path / "far", made.GPT2, made.gpt2(rows=made.V + 1024))
    assert said.endswith("! transformer.wte.weight expected (19, 8), found (1043, 8)")


def test_a_new_head_on_an_encoder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = made.folder(tmp_path, BASE, made.bert(""))
    task = {"name": "sequence_classification", "labels": 3}
    found = tree.flatten(lmx.load(folder, task=task).params)
    new = "pooler/kernel, pooler/bias, head/kernel, head/bias"
    assert capsys.readouterr().err == f"{folder}: started anew with labels=3: {new}\n"
    assert {path: found[path].shape for path in new.split(", ")} == {
        "pooler/kernel": (8, 8), "pooler/bias": (8,), "head/kernel": (8, 3), "head/bias": (3,)
    }  # fmt: skip
    same({path: leaf for path, leaf in found.items() if path not in new}, made.leaves(made.bert()))
    assert 0.005 < float(np.std(found["head/kernel"])) < 0.05  # init_range is 0.02
    same(tree.flatten(lmx.load(folder, task=task).params), found)
    other = tree.flatten(lmx.load(folder, task=task, seed=1).params)
    assert not np.array_equal(other["head/kernel"], found["head/kernel"])
    np.testing.assert_array_equal(other["block/0/mlp/up/kernel"], found["block/0/mlp/up/kernel"])
    # What starts anew depends on the seed and its path alone, not on what else the folder holds.
    whole = made.folder(tmp_path / "pooled", BASE, made.bert("", pooler=True))
    pooled = tree.flatten(lmx.load(whole, task=task).params)
    np.testing.assert_array_equal(pooled["head/kernel"], found["head/kernel"])
    np.testing.assert_array_equal(
        pooled["pooler/kernel"], made.bert("", pooler=True)["pooler.dense.weight"].T
    )
    half = tree.flatten(lmx.load(folder, task=task, dtype="bfloat16").params)
    assert {leaf.dtype.name for leaf in half.values()} == {"bfloat16"}


def test_a_half_head_is_not_completed(tmp_path: Path) -> None:
    tensors = {**made.bert(pooler=True), "classifier.weight": made.classifier(3)["classifier.weight"]}
    task = {"name": "sequence_classification", "labels": 3}
    own = {**made.BERT, "architectures": ["BertForSequenceClassification"], "num_labels": 3}
    for asked in ({}, {"task": task}):
        said = refused(tmp_path, own, tensors, **asked)
        assert said == DIFF.format("BertForSequenceClassification") + "- classifier.bias (3,)"
    body = {k: v for k, v in made.bert("").items() if not k.endswith("query.bias")}
    said = refused(tmp_path, BASE, body, task=task)
    assert said.endswith("! other): - bert.encoder.layer.{0,1}.attention.self.query.bias (8,)")


def test_the_folders_own_head_is_never_started_anew(tmp_path: Path) -> None:
    said = refused(tmp_path, SEQUENCE, made.bert(pooler=True))
    own = "BertForSequenceClassification"
    assert said == DIFF.format(own) + "- classifier.bias (3,); - classifier.weight (3, 8)"


def test_bert_base_uncased(tmp_path: Path) -> None:
    """The hub's file names a BertForMaskedLM, and holds what the pretraining had besides."""
    tensors = {**made.bert(pooler=True), **made.mlm(), **made.pairs()}
    found = read(tmp_path, made.BERT, tensors)
    same(leaves(found), made.leaves(made.bert()) | HEAD)
    assert found.notes == (
        "not read (BertForMaskedLM has no pooler): bert.pooler.dense.bias, bert.pooler.dense.weight",
        (
            "not read (belongs to BertForNextSentencePrediction or BertForPreTraining): "
            "cls.seq_relationship.bias, cls.seq_relationship.weight"
        ),
    )
    every = read(tmp_path, made.BERT, tensors, task={"name": "bert_pretraining"})
    pair = made.pairs()
    expected = made.leaves(made.bert(pooler=True)) | HEAD
    expected["next/kernel"] = pair["cls.seq_relationship.weight"].T
    expected["next/bias"] = pair["cls.seq_relationship.bias"]
    same(leaves(every), expected)
    assert (every.notes, every.plan.fresh, every.plan.dropped) == ((), (), {})
    bare = read(tmp_path, made.BERT, tensors, task={"name": "features"})
    same(leaves(bare), made.leaves(made.bert(pooler=True)))


@pytest.mark.parametrize("pooler", [True, False])
def test_a_bert_model_has_the_pooler_that_its_file_has(tmp_path: Path, pooler: bool) -> None:
    tensors = made.bert("", pooler=pooler)
    found = read(tmp_path, BASE, tensors)
    assert found.checkpoint.config["model"]["pooler"] is pooler
    same(leaves(found), made.leaves(tensors))
    with_head = read(tmp_path, BASE, {**tensors, **made.classifier(3)})
    assert with_head.notes == (
        (
            "not read (belongs to BertForMultipleChoice or BertForSequenceClassification or "
            "BertForTokenClassification): classifier.bias, classifier.weight"
        ),
    )


def test_every_mismatch_is_told_at_once(tmp_path: Path) -> None:
    tensors = made.gpt2()
    del tensors["transformer.ln_f.bias"]
    tensors["transformer.h.0.mlp.c_fc.weight"] = tensors["transformer.h.0.mlp.c_fc.weight"].T
    tensors["transformer.h.1.ln_1.weight"] = np.ones(made.D, np.int32)
    tensors["transformer.h.1.attn.rotary"] = np.ones(3, np.float32)
    assert refused(tmp_path, made.GPT2, tensors) == DIFF.format("GPT2LMHeadModel") + (
        "! transformer.h.0.mlp.c_fc.weight expected (8, 12), found (12, 8); "
        "+ transformer.h.1.attn.rotary (3,); - transformer.ln_f.bias (8,); "
        "! transformer.h.1.ln_1.weight is int32, expected one of float16, bfloat16, float32, float64"
    )


def test_one_tensor_under_two_names(tmp_path: Path) -> None:
    tensors = {**made.gpt2(), "ln_f.bias": made.gpt2()["transformer.ln_f.bias"]}
    said = refused(tmp_path, made.GPT2, tensors)
    assert said == (
        "transformer.ln_f.bias and ln_f.bias are the same tensor, transformer.ln_f.bias; remove one of them"
    )
    name = "bert.embeddings.LayerNorm"
    said = refused(tmp_path, made.BERT, {**MASKED, f"{name}.gamma": MASKED[f"{name}.weight"]})
    assert f"are the same tensor, {name}.weight; remove one of them" in said


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float64", "float32"])
def test_stored_types(tmp_path: Path, kind: str) -> None:
    dtype = np.dtype(ml_dtypes.bfloat16 if kind == "bfloat16" else kind)
    fine = {name: tensor + np.float32(2**-12) for name, tensor in made.gpt2().items()}  # not bfloat16's
    stored = {name: tensor.astype(dtype) for name, tensor in fine.items()}
    found = read(tmp_path, made.GPT2, stored)
    expected = {name: tensor.astype(np.float32) for name, tensor in stored.items()}
    same(leaves(found), made.leaves(expected))
    assert found.checkpoint.config["hf"]["dtype"] == kind


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float32"])
def test_wanted_types(tmp_path: Path, kind: str) -> None:
    dtype = np.dtype(ml_dtypes.bfloat16 if kind == "bfloat16" else kind)
    found = leaves(read(tmp_path, made.GPT2, made.gpt2(), dtype=kind))
    assert all(isinstance(leaf, jax.Array) for leaf in found.values())
    same(found, {path: leaf.astype(dtype) for path, leaf in made.leaves(made.gpt2()).items()})


def test_double_precision_within_a_block_of_its_own(tmp_path: Path) -> None:
    """The switch is the calling thread's, and tensors are read on others."""
    tensors = {name: tensor.astype(np.float64) + 1e-12 for name, tensor in made.gpt2().items()}
    with jax.enable_x64(True):
        found = leaves(read(tmp_path, made.GPT2, tensors, dtype="float64"))
        same(found, made.leaves(tensors))


def test_types_that_cannot_be(tmp_path: Path) -> None:
    large = made.gpt2()
    large["transformer.h.1.mlp.c_proj.bias"] = np.full(made.D, 65520, np.float32)  # f16 ends at 65504
    said = refused(tmp_path, made.GPT2, large, dtype="float16")
    assert said == "transformer.h.1.mlp.c_proj.bias has values beyond float16; use float32"
    read(tmp_path, made.GPT2, large, dtype="bfloat16")
    vast = {**made.gpt2(), "transformer.ln_f.bias": np.full(made.D, 1e300)}
    said = refused(tmp_path, made.GPT2, vast)
    assert said == "transformer.ln_f.bias has values beyond float32; use float64"
    wide = {**made.gpt2(), "transformer.ln_f.bias": np.full(made.D, 1e30)}
    brain = {name: tensor.astype(ml_dtypes.bfloat16) for name, tensor in wide.items()}
    read(tmp_path, made.GPT2, brain)
    said = refused(tmp_path, made.GPT2, brain, dtype="float16")  # of the same width, of another range
    assert said == "transformer.ln_f.bias has values beyond float16; use bfloat16"
    for kind, reason in (
        ("float64", "dtype='float64'; jax has it only where JAX_ENABLE_X64=1 is set; use float32"),
        ("int8", "dtype='int8'; expected one of float16, bfloat16, float32, float64"),
        ("f32", "dtype='f32'; expected one of float16, bfloat16, float32, float64"),
    ):
        with pytest.raises(lmx.UserError) as error:
            lmx.load(tmp_path, dtype=kind)
        assert str(error.value) == reason


def test_an_untied_head_keeps_the_types_of_both_names(tmp_path: Path) -> None:
    """Of the two biases the decoder's is read, in its own type; both are written, and in that type."""
    tensors = {**made.bert(), **made.mlm(tied=False), TWIN: made.mlm()[BIAS]}
    stored = {k: v.astype(np.float32 if k in (BIAS, TWIN) else np.float16) for k, v in tensors.items()}
    found = read(tmp_path / "in", {**made.BERT, "tie_word_embeddings": False}, stored)
    kept = found.checkpoint.config["hf"]
    assert (kept["dtype"], kept["types"]) == ("float16", {BIAS: "float32", TWIN: "float32"})
    lmx.save_hf(found.checkpoint, tmp_path / "out")
    same(load_file(tmp_path / "out" / "model.safetensors"), stored)


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16", "float64"])
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers(tmp_path: Path, kind: str, wrong: float) -> None:
    tensors = made.gpt2()
    tensors["transformer.h.1.attn.c_attn.weight"][3, [5, -1]] = wrong
    dtype = np.dtype(ml_dtypes.bfloat16 if kind == "bfloat16" else kind)
    stored = {name: tensor.astype(dtype) for name, tensor in tensors.items()}
    assert refused(tmp_path, made.GPT2, stored) == (
        "transformer.h.1.attn.c_attn.weight (model.safetensors) holds 2 values that are NaN or infinite; "
        "expected finite weights (--allow-nonfinite, or allow_nonfinite=True, reads them all the same)"
    )
    found = tree.flatten(lmx.load(tmp_path, allow_nonfinite=True).params)
    same(found, made.leaves(tensors))


def test_a_sum_that_overflows_is_no_fault(tmp_path: Path) -> None:
    tensors = made.gpt2()
    tensors["transformer.ln_f.weight"][:] = 3e38
    same(leaves(read(tmp_path, made.GPT2, tensors)), made.leaves(tensors))


def test_tasks_that_the_model_has_not(tmp_path: Path) -> None:
    folder = made.folder(tmp_path, made.GPT2, made.gpt2())
    known = "causal_lm, features, instruction, question_answering, sentence_similarity, "
    known += "sequence_classification, sequence_regression"
    for task, shown in (("casual_lm", "'casual_lm'"), ({}, "None"), ({"name": ["x"]}, "['x']")):
        with pytest.raises(lmx.UserError) as error:
            lmx.load(folder, task=task)
        said = str(error.value)
        assert said == f"{folder}: a gpt2 has no task {shown}; it has: {known}, token_classification"
    with pytest.raises(lmx.UserError) as error:
        lmx.load(folder, task={"name": "sequence_classification", "label": 3})
    assert str(error.value).startswith("task.label: sequence_classification has no such option")
