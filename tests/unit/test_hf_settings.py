"""config.json to a model's fields and a task's options, and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lmx.commands import _build
from lmx.core.errors import UserError
from lmx.hf import settings

BERT, HEADS = _build.tables("bert")
GPT2, GPT2_HEADS = _build.tables("gpt2")
HERE = Path("somewhere")
SEQUENCE = "sequence_classification"
SINGLE, MULTI = "single_label_classification", "multi_label_classification"
CLASSIFIER = {"architectures": ["BertForSequenceClassification"]}


def names(count: int) -> dict[str, Any]:
    return {
        "id2label": {str(i): f"LABEL_{i}" for i in range(count)},
        "label2id": {f"LABEL_{i}": i for i in range(count)},
    }


# ------------------------------------------------------------------------------------------ which task


@pytest.mark.parametrize(
    ("changes", "task"),
    [
        ({}, "sequence_classification"),
        ({"num_labels": 1}, "sequence_regression"),
        ({"num_labels": True}, "sequence_classification"),
        ({"id2label": {"0": "score"}}, "sequence_regression"),
        ({"id2label": {"0": "a", "1": "b"}, "num_labels": 1}, "sequence_regression"),
        ({"problem_type": None, "num_labels": 3}, "sequence_classification"),
        ({"problem_type": SINGLE, "num_labels": 1}, "sequence_classification"),
        ({"problem_type": MULTI, "num_labels": 1}, "sequence_classification"),
        ({"problem_type": "regression", "num_labels": 3}, "sequence_regression"),
    ],
)
@pytest.mark.parametrize("heads", [HEADS, GPT2_HEADS])
def test_problem_types(heads: dict[str, Any], changes: dict[str, Any], task: str) -> None:
    named = heads["sequence_classification"].architecture
    assert settings.choose({"architectures": [named], **changes}, heads, HERE) == task


SHARED = {"sentence_similarity": "features", "instruction": "causal_lm"}
"""Tasks that leave no trace in their class: {task: the one as which a folder of it is read}."""


def test_each_class_is_one_task() -> None:
    for heads in (HEADS, GPT2_HEADS):
        for task, head in heads.items():
            problem = {"problem_type": head.problems[0]} if head.problems else {}
            found = settings.choose({"architectures": [head.architecture], **problem}, heads, HERE)
            assert found == SHARED.get(task, task)
        assert settings.choose({}, heads, HERE) == "features"
        assert settings.choose({"architectures": None}, heads, HERE) == "features"


@pytest.mark.parametrize(
    ("named", "shown"),
    [
        (["GPT2LMHeadModel"], "['GPT2LMHeadModel']"),
        (["BertLMHeadModel"], "['BertLMHeadModel']"),
        ("BertModel", "'BertModel'"),
        ([], "[]"),
        ([["BertModel"]], "[['BertModel']]"),
        ([{"a": 1}], "[{'a': 1}]"),
        ([None, "BertModel"], "[None, 'BertModel']"),
        (3, "3"),
        (["a\nb" * 99], None),
    ],
)
def test_classes_that_are_not_known(named: Any, shown: str | None) -> None:
    with pytest.raises(UserError) as error:
        settings.choose({"architectures": named}, HEADS, HERE)
    known = (
        "BertForMaskedLM, BertForMultipleChoice, BertForNextSentencePrediction, BertForPreTraining, "
        "BertForQuestionAnswering, BertForSequenceClassification, BertForTokenClassification, BertModel"
    )
    said = str(error.value)
    assert said.endswith(f"; lmx reads: {known}")
    assert "\n" not in said
    assert len(said) < 400
    if shown is not None:
        assert said == f"somewhere/config.json: architectures={shown}; lmx reads: {known}"


@pytest.mark.parametrize("problem", ["ranking", 1, ["regression"], {"a": 1}, False])
def test_problems_that_are_not_known(problem: Any) -> None:
    with pytest.raises(UserError) as error:
        settings.choose({**CLASSIFIER, "problem_type": problem}, HEADS, HERE)
    assert str(error.value) == (
        f"somewhere/config.json: problem_type={problem!r}; "
        f"expected null or one of {SINGLE}, {MULTI}, regression"
    )


# ---------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("config", "changes"),
    [
        ({}, {}),
        ({"num_labels": 5}, {"labels": 5}),
        ({"num_labels": 5, **names(3)}, {"labels": 5}),  # as transformers 5.23 counts
        ({"num_labels": None, **names(3)}, {"labels": 3}),
        ({"id2label": None, "num_labels": 4}, {"labels": 4}),
        ({"problem_type": MULTI}, {"multi_label": True}),
        ({"problem_type": SINGLE}, {}),
        ({"classifier_dropout": 0.3}, {"dropout": 0.3}),
        ({"classifier_dropout": 0.0, "hidden_dropout_prob": 0.2}, {"dropout": 0.0}),
        ({"classifier_dropout": None, "hidden_dropout_prob": 0.2}, {"dropout": 0.2}),
        ({"hidden_dropout_prob": 0.2}, {"dropout": 0.2}),
        ({"classifier_dropout": None}, {}),
        ({"hidden_dropout": 0.4}, {}),
    ],
)
def test_options_of_a_classifier(config: dict[str, Any], changes: dict[str, Any]) -> None:
    expected = {"labels": 2, "multi_label": False, **changes}
    assert settings.task_options(config, HEADS["sequence_classification"]) == expected


def test_options_that_the_class_fixes() -> None:
    head = GPT2_HEADS["sequence_classification"]
    config = {"num_labels": 3, "hidden_dropout_prob": 0.5, "classifier_dropout": 0.5}
    fixed = {"bias": False, "dropout": 0.0}
    assert settings.task_options(config, head) == {**fixed, "labels": 3, "multi_label": False}
    assert settings.task_options(config, GPT2_HEADS["sequence_regression"]) == {**fixed, "targets": 3}
    for task in ("causal_lm", "features"):
        assert settings.task_options(config, GPT2_HEADS[task]) == {}


@pytest.mark.parametrize(
    ("config", "dropout"),
    [
        ({}, None),
        ({"hidden_dropout_prob": 0.5}, None),  # BERT's, which GPT-2's class does not look at
        ({"hidden_dropout": 0.3}, 0.3),
        ({"hidden_dropout": 0.3, "classifier_dropout": None}, 0.3),
        ({"hidden_dropout": 0.3, "classifier_dropout": 0.0}, 0.0),
    ],
)
def test_dropout_of_gpt2_s_labels_of_tokens(config: dict[str, Any], dropout: float | None) -> None:
    """As GPT2ForTokenClassification of transformers 5.23 takes it; 0.1 where neither is there."""
    found = settings.task_options(config, GPT2_HEADS["token_classification"])
    assert found == {"labels": 2} | ({} if dropout is None else {"dropout": dropout})


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"id2label": ["a", "b"]}, "id2label=['a', 'b']; expected an object of names"),
        ({"id2label": 3}, "id2label=3; expected an object of names"),
        ({"id2label": {"0": "a", "x\n": "b"}}, "id2label has the key 'x\\n'; expected numbers from \"0\" on"),
        ({"id2label": {"-1": "a", "0": "b"}}, "id2label has the key '-1'; expected numbers from \"0\" on"),
        (
            {"id2label": {"0": "a", "00": "b"}, "num_labels": 2},
            "id2label={'0': 'a', '00': 'b'} has a number twice; expected numbers from \"0\" on",
        ),
        ({"num_labels": 2**31}, "num_labels=2147483648; expected at most 2,147,483,647"),
        ({"num_labels": [3]}, "num_labels=[3]; expected a number, true, false or a short name"),
        (
            {"classifier_dropout": {"p": 1}},
            "classifier_dropout={'p': 1}; expected a number, true, false or a short name",
        ),
    ],
)
def test_options_that_cannot_be(config: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError) as error:
        settings.task_options(config, HEADS["sequence_classification"])
    assert str(error.value) == reason
    assert settings.task_options(config, HEADS["masked_lm"]) == {}  # it reads none of them


# ----------------------------------------------------------------------------------------------- fields


def test_fields() -> None:
    assert settings.model_fields({}, BERT) == {}
    config = {"hidden_size": 8, "layer_norm_eps": 1e-5, "is_decoder": False, "vocab": 3}
    assert settings.model_fields(config, BERT) == {"width": 8, "norm_epsilon": 1e-5}
    assert settings.model_fields({"n_inner": None}, GPT2) == {"mlp_width": None}
    every = {theirs: i for i, (_, theirs) in enumerate(GPT2.fields)}
    assert settings.model_fields(every, GPT2) == {own: every[theirs] for own, theirs in GPT2.fields}


ALIASES = {"hidden_size": 8, "max_position_embeddings": 9, "num_attention_heads": 2, "num_hidden_layers": 3}


def test_fields_by_another_name() -> None:
    """GPT2Config of transformers has `attribute_map`: other names of four fields."""
    expected = {"width": 8, "positions": 9, "heads": 2, "layers": 3}
    assert settings.model_fields(ALIASES, GPT2) == expected
    assert settings.model_fields({**ALIASES, "n_head": 2, "n_embd": 8}, GPT2) == expected
    assert settings.kept({**ALIASES, "x": 1}, GPT2) == ({"x": 1}, ())
    for value in (3, 2.0, None, True, "2"):
        with pytest.raises(UserError) as error:
            settings.model_fields({**ALIASES, "n_head": value}, GPT2)
        assert str(error.value) == (f"n_head={value!r}, but its other name num_attention_heads=2; remove one")
    assert settings.model_fields({"n_head": 2}, BERT) == {}


def test_sizes_that_were_assumed() -> None:
    fields = {"vocab_size": 9, "width": 8, "heads": 2, "mlp_width": None, "positions": 4, "layers": 1}
    said = settings.assumed({"hidden_size": 8, "vocab_size": 9, "n_layer": 1}, GPT2, fields)
    assert said == ("n_positions is not in config.json; 4 was assumed",)


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_stored_types_that_are_named(key: str) -> None:
    for value in (None, "float32", "bfloat16", "torch.float16", "auto"):
        assert settings.model_fields({key: value}, BERT) == {}
    for wrong in ("float99", "int8", 32, ["float32"], "x\n" * 500):
        with pytest.raises(UserError) as error:
            settings.model_fields({key: wrong}, BERT)
        said = str(error.value)
        assert said.startswith(f"{key}=")
        assert said.endswith("; expected null or one of float16, bfloat16, float32, float64")
        assert "\n" not in said
        assert len(said) < 200


@pytest.mark.parametrize(
    ("table", "config", "reason"),
    [
        (
            BERT,
            {"quantization_config": {}},
            "quantization_config is set; lmx reads float weights, convert them first",
        ),
        (
            BERT,
            {"position_embedding_type": "relative_key"},
            "position_embedding_type='relative_key' is not supported for bert; only 'absolute' is",
        ),
        (BERT, {"is_decoder": True}, "is_decoder=True is not supported for bert; only False is"),
        (BERT, {"is_decoder": 0}, "is_decoder=0 is not supported for bert; only False is"),
        (BERT, {"is_decoder": None}, "is_decoder=None is not supported for bert; only False is"),
        (
            GPT2,
            {"add_cross_attention": True},
            "add_cross_attention=True is not supported for gpt2; only False is",
        ),
        (GPT2, {"n_embd": 2**63}, "n_embd=9223372036854775808; expected at most 2,147,483,647"),
        (GPT2, {"n_embd": -(2**63)}, "n_embd=-9223372036854775808; expected at most 2,147,483,647"),
        (GPT2, {"n_layer": [12]}, "n_layer=[12]; expected a number, true, false or a short name"),
        (
            GPT2,
            {"activation_function": "x" * 101},
            f"activation_function='{'x' * 47}...{'x' * 48}'; expected a number, true, false or a short name",
        ),
    ],
)
def test_fields_that_are_refused(table: Any, config: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError) as error:
        settings.model_fields(config, table)
    assert str(error.value) == reason
    settings.model_fields({"quantization_config": None, "is_decoder": False}, table)


def test_what_is_kept_and_what_ignored() -> None:
    hooks = {
        "auto_map": {"AutoModel": "evil.Model"}, "trust_remote_code": True, "custom_pipelines": {}, "_x": 1,
        "_attn_implementation_internal": "evil/kernel", "_name_or_path": "/home/a",
    }  # fmt: skip
    written = {"architectures": ["X"], "dtype": "f", "torch_dtype": "f", "transformers_version": "4"}
    others = {"pad_token_id": 0, "id2label": {"0": "a"}, "summary_type": "first", "customs": 1}
    config = {**hooks, **written, **others, "model_type": "bert", "hidden_size": 8}
    ignored = ("auto_map", "trust_remote_code", "custom_pipelines", "_x", "_attn_implementation_internal")
    assert settings.kept(config, BERT) == (others, ignored)


# ----------------------------------------------------------------------------------------------- written


def written(task: str, options: dict[str, Any], others: dict[str, Any] | None = None) -> dict[str, Any]:
    """What config.json has besides the model's sizes, the class and the type."""
    fields = {own: 0.1 if own == "dropout_hidden" else theirs for own, theirs in BERT.fields}
    config = settings.written(fields, options, BERT, HEADS[task], others=others or {}, dtype="float32")
    assert config.pop("architectures") == [HEADS[task].architecture]
    assert (config.pop("model_type"), config.pop("dtype")) == ("bert", "float32")
    assert config.pop("hidden_dropout_prob") == 0.1
    return {key: value for key, value in config.items() if value != key}


YES = {"id2label": {"0": "no", "1": "yes"}, "label2id": {"no": 0, "yes": 1}}


@pytest.mark.parametrize(
    ("task", "options", "others", "expected"),
    [
        ("masked_lm", {}, {}, {}),
        ("features", {}, YES, YES),
        (SEQUENCE, {"labels": 3}, {}, names(3)),
        (SEQUENCE, {"labels": 2}, {}, names(2)),
        (SEQUENCE, {"labels": 2}, YES, YES),
        (SEQUENCE, {"labels": 3}, YES, names(3)),
        (SEQUENCE, {"labels": 3}, {"num_labels": 3}, names(3)),
        (SEQUENCE, {"labels": 2, "dropout": 0.1}, YES, YES),
        (SEQUENCE, {"labels": 2, "dropout": 0.3}, YES, {**YES, "classifier_dropout": 0.3}),
        (
            SEQUENCE,
            {"labels": 2, "dropout": 0.1},
            {**YES, "classifier_dropout": None},
            {**YES, "classifier_dropout": None},
        ),
        (
            SEQUENCE,
            {"labels": 2, "dropout": 0.1},
            {**YES, "classifier_dropout": 0.3},
            {**YES, "classifier_dropout": 0.1},
        ),
        (SEQUENCE, {"labels": 2, "multi_label": True}, YES, {**YES, "problem_type": MULTI}),
        (
            SEQUENCE,
            {"labels": 2, "multi_label": False},
            {**YES, "problem_type": MULTI},
            {**YES, "problem_type": SINGLE},
        ),
        (
            SEQUENCE,
            {"labels": 2, "multi_label": False},
            {**YES, "problem_type": SINGLE},
            {**YES, "problem_type": SINGLE},
        ),
        (SEQUENCE, {"labels": 2}, {**YES, "problem_type": "regression"}, {**YES, "problem_type": SINGLE}),
        ("sequence_regression", {"targets": 1}, {}, {**names(1), "problem_type": "regression"}),
        (
            "sequence_regression",
            {"targets": 2},
            {**YES, "problem_type": MULTI},
            {**YES, "problem_type": "regression"},
        ),
        ("question_answering", {}, names(5), {}),
    ],
)
def test_written(
    task: str, options: dict[str, Any], others: dict[str, Any], expected: dict[str, Any]
) -> None:
    found = written(task, options, others)
    assert found == expected
    again = settings.task_options({**found, "hidden_dropout_prob": 0.1}, HEADS[task])
    assert {name: again[name] for name in options} == options
    whole = {"architectures": [HEADS[task].architecture], **found}
    assert settings.choose(whole, HEADS, HERE) == task


def test_text_is_sorted_and_ends_with_a_line_feed() -> None:
    assert settings.text({"b": [1.5, None], "a": "é"}) == (
        '{\n  "a": "\\u00e9",\n  "b": [\n    1.5,\n    null\n  ]\n}\n'
    )
    with pytest.raises(ValueError, match="JSON"):
        settings.text({"a": float("nan")})


def test_read(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        settings.read(tmp_path)
    assert str(error.value) == f"{tmp_path}: no config.json; expected a run of lmx or a Hugging Face folder"
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"pad": " " * (10_000_000 - 11)}))
    assert path.stat().st_size == 10_000_000
    assert len(settings.read(tmp_path)["pad"]) == 10_000_000 - 11
    path.write_text(path.read_text() + " ")
    with pytest.raises(UserError) as error:
        settings.read(tmp_path)
    assert str(error.value) == (
        f"{path}: 10,000,001 bytes; expected a config of at most 10,000,000; fetch the file again"
    )
