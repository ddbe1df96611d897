"""Folders made to harm: each is refused in one line that names the file and the fault, before anything grows.

All of them are imported in one process, whose memory is measured and whose doings are watched.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from . import _hf_folders as made

DIFF = "the tensors are not those of a {} of this config (- missing, + surplus, ! other): "
ACTIVATIONS = "gelu, gelu_fast, gelu_new, gelu_pytorch_tanh, quick_gelu, relu, silu, swish, tanh"
WHOLE = "expected a whole number of at least 1"
SCALAR = "expected a number, true, false or a short name"
KNOWN = "lmx reads: GPT2ForQuestionAnswering, GPT2ForSequenceClassification, GPT2ForTokenClassification, "
KNOWN += "GPT2LMHeadModel, GPT2Model"
BODY = "; a task, such as features, reads the body alone"
AGAIN = "; fetch the file again"
ABSENT = object()

SEQUENCE = {**made.GPT2, "architectures": ["GPT2ForSequenceClassification"], "num_labels": 3}
"""With the tensors of which `num_labels` disagrees, where it is changed."""

# ------------------------------------------------- {name: (change of a GPT-2's config.json, the complaint)}

SIZES: dict[str, tuple[dict[str, Any], str]] = {}
for key in ("n_embd", "n_layer", "n_head", "n_positions", "n_inner", "vocab_size"):
    for value in (-1, 0, True, False, 1.5, "12", {"a": 1}, [12], 2**31, 2**63, -(2**63), 10**30, None):
        if key == "n_inner" and value is None:
            continue
        if isinstance(value, (list, dict)):
            reason = f"{key}={value!r}; {SCALAR}"
        elif type(value) is int and abs(value) > 2**31 - 1:
            reason = f"{key}={value}; expected at most 2,147,483,647"
        else:
            reason = f"{key}={value!r}; {WHOLE}"
        SIZES[f"{key}_{str(value).replace(' ', '')[:12]}"] = ({key: value}, f"/config.json: {reason}")

DISAGREE = {
    "billion_layers": (
        {"n_layer": 10**9},
        "/config.json: n_layer=1000000000, but the weights count 2 layers",
    ),
    "one_layer": ({"n_layer": 1}, "/config.json: n_layer=1, but the weights count 2 layers"),
    "no_layers": (
        {"n_layer": ABSENT},
        "/config.json: n_layer=12 (what its absence means), but the weights count 2 layers",
    ),
    "no_width": ({"n_embd": ABSENT}, None),
    "no_vocabulary": (
        {"vocab_size": ABSENT},
        (
            f": {DIFF.format('GPT2LMHeadModel')}! transformer.wte.weight expected (50257, 8), found (19, 8); "
            "vocab_size is not in config.json; 50257 was assumed"
        ),
    ),
    "no_heads": ({"n_head": ABSENT}, "/config.json: n_embd=8 does not divide into n_head=12 heads"),
    "three_heads": ({"n_head": 3}, "/config.json: n_embd=8 does not divide into n_head=3 heads"),
    "many_heads": ({"n_head": 10**9}, "/config.json: n_embd=8 does not divide into n_head=1000000000 heads"),
    "wide_vocabulary": (
        {"vocab_size": 10**9},
        f": {DIFF.format('GPT2LMHeadModel')}! transformer.wte.weight expected (1000000000, 8), found (19, 8)",
    ),
    "long": (
        {"n_positions": 2**31 - 1},
        f": {DIFF.format('GPT2LMHeadModel')}! transformer.wpe.weight expected (2147483647, 8), found (32, 8)",
    ),
    "wide": ({"n_embd": 10**9}, None),
    "wide_everywhere": (
        {"n_embd": 2**31 - 2, "vocab_size": 2**31 - 1, "n_inner": 2**31 - 1, "n_positions": 2**31 - 1},
        None,
    ),
    "inner": ({"n_inner": 2**31 - 1}, None),
    "two_names": (
        {"num_attention_heads": 4},
        "/config.json: n_head=2, but its other name num_attention_heads=4; remove one",
    ),
    "no_heads_by_the_other_name": (
        {"n_head": ABSENT, "num_attention_heads": 3},
        "/config.json: n_embd=8 does not divide into n_head=3 heads",
    ),
}

FIELDS = {
    "activation": (
        {"activation_function": "mish"},
        f"/config.json: no activation 'mish' (did you mean 'swish'?); there is: {ACTIVATIONS}",
    ),
    "activation_list": (
        {"activation_function": ["gelu"]},
        f"/config.json: activation_function=['gelu']; {SCALAR}",
    ),
    "activation_long": ({"activation_function": "gelu\n" * 10**6}, None),
    "epsilon": ({"layer_norm_epsilon": 0}, "/config.json: layer_norm_epsilon=0; expected a number above 0"),
    "dropout": ({"embd_pdrop": 1}, "/config.json: embd_pdrop=1; expected a probability below 1"),
    "tie": ({"tie_word_embeddings": "no"}, "/config.json: tie_word_embeddings='no'; expected True or False"),
    "cross": (
        {"add_cross_attention": True},
        "/config.json: add_cross_attention=True is not supported for gpt2; only False is",
    ),
    "quantized": (
        {"quantization_config": {"quant_method": "gptq"}},
        "/config.json: quantization_config is set; lmx reads float weights, convert them first",
    ),
    "stored": (
        {"dtype": "float99"},
        "/config.json: dtype='float99'; expected null or one of float16, bfloat16, float32, float64",
    ),
    "type": ({"model_type": "llama"}, "/config.json: model_type='llama'; lmx reads: bert, gpt2"),
    "type_absent": ({"model_type": ABSENT}, "/config.json: model_type=None; lmx reads: bert, gpt2"),
    "type_path": ({"model_type": "../x"}, "/config.json: model_type='../x'; lmx reads: bert, gpt2"),
    "type_dotted": (
        {"model_type": "evil.gpt2"},
        "/config.json: model_type='evil.gpt2'; lmx reads: bert, gpt2",
    ),
    "type_private": ({"model_type": "_fields"}, "/config.json: model_type='_fields'; lmx reads: bert, gpt2"),
    "type_list": ({"model_type": ["gpt2"]}, "/config.json: model_type=['gpt2']; lmx reads: bert, gpt2"),
    "type_object": (
        {"model_type": {"gpt2": 1}},
        "/config.json: model_type={'gpt2': 1}; lmx reads: bert, gpt2",
    ),
    "type_long": ({"model_type": "x\n" * 10**6}, None),
    "class": ({"architectures": ["Evil"]}, f"/config.json: architectures=['Evil']; {KNOWN}{BODY}"),
    "class_list": ({"architectures": [["Evil"]]}, f"/config.json: architectures=[['Evil']]; {KNOWN}{BODY}"),
    "class_text": ({"architectures": "GPT2Model"}, f"/config.json: architectures='GPT2Model'; {KNOWN}{BODY}"),
}

CLASSIFIER = DIFF.format("GPT2ForSequenceClassification")
COUNTED = "; the labels are counted by num_labels, or else by the names in id2label"
LABELS = {
    "labels_none": ({"num_labels": 0}, "/config.json: num_labels=0; expected a whole number of at least 2"),
    "labels_less": ({"num_labels": -1}, "/config.json: num_labels=-1; expected a whole number of at least 2"),
    "labels_yes": (
        {"num_labels": True},
        "/config.json: num_labels=True; expected a whole number of at least 2",
    ),
    "labels_many": (
        {"num_labels": 10**30},
        f"/config.json: num_labels={10**30}; expected at most 2,147,483,647",
    ),
    "labels_beyond": (
        {"num_labels": 10**9},
        "/config.json: num_labels=1000000000; expected at most 1,000,000",
    ),
    "labels_wide": (
        {"num_labels": 10**6},
        f": {CLASSIFIER}! score.weight expected (1000000, 8), found (3, 8){COUNTED}",
    ),
    "labels_named": (
        {"id2label": {str(i): "x" for i in range(100_000)}, "num_labels": None},
        f": {CLASSIFIER}! score.weight expected (100000, 8), found (3, 8){COUNTED}",
    ),
    "labels_alike": (
        {"id2label": {"0": "a", "1": "a"}, "num_labels": None},
        f": {CLASSIFIER}! score.weight expected (2, 8), found (3, 8){COUNTED}",
    ),
    "labels_lettered": (
        {"id2label": {"x": "a"}, "num_labels": None},
        "/config.json: id2label has the key 'x'; expected numbers from \"0\" on",
    ),
    "labels_listed": ({"id2label": ["a"]}, "/config.json: id2label=['a']; expected an object of names"),
    "problem": (
        {"problem_type": ["x"]},
        (
            "/config.json: problem_type=['x']; expected null or one of single_label_classification, "
            f"multi_label_classification, regression{BODY}"
        ),
    ),
}

BERT = {
    "relative": (
        {"position_embedding_type": "relative_key"},
        "/config.json: position_embedding_type='relative_key' is not supported for bert; only 'absolute' is",
    ),
    "decoder": (
        {"is_decoder": True},
        "/config.json: is_decoder=True is not supported for bert; only False is",
    ),
    "types": (
        {"type_vocab_size": 10**9},
        (
            f": {DIFF.format('BertForMaskedLM')}! bert.embeddings.token_type_embeddings.weight expected "
            "(1000000000, 8), found (2, 8)"
        ),
    ),
}

GOOD = json.dumps(made.GPT2)
TOO_LARGE, SHRINK = "/config.json: holds the number ", ", too large for any float; correct it"
UNREADABLE = "/config.json: is not readable as JSON ("
TEXTS: dict[str, tuple[str, str]] = {
    "empty": ("", f"{UNREADABLE}Expecting value: line 1 column 1 (char 0)){AGAIN}"),
    "list": ("[]", f"/config.json: is JSON, but not an object{AGAIN}"),
    "null": ("null", f"/config.json: is JSON, but not an object{AGAIN}"),
    "half": (
        GOOD[:-1],
        f"{UNREADABLE}Expecting ',' delimiter: line 1 column {len(GOOD)} (char {len(GOOD) - 1})){AGAIN}",
    ),
    "mark": (
        "\ufeff" + GOOD,
        f"{UNREADABLE}Unexpected UTF-8 BOM (decode using utf-8-sig): line 1 column 1 (char 0)){AGAIN}",
    ),
    "twice": ('{"n_layer": 2, ' + GOOD[1:], f"/config.json: has the key 'n_layer' twice{AGAIN}"),
    "nan": ('{"n_embd": NaN}', f"/config.json: holds NaN, which is not JSON{AGAIN}"),
    "infinity": ('{"n_embd": -Infinity}', f"/config.json: holds -Infinity, which is not JSON{AGAIN}"),
    "exponent": (GOOD.replace('"n_embd": 8', '"n_embd": 1e999'), f"{TOO_LARGE}'1e999'{SHRINK}"),
    "exponent_kept": ('{"x": [-1e999], ' + GOOD[1:], f"{TOO_LARGE}'-1e999'{SHRINK}"),
    "digits": (GOOD.replace('"n_embd": 8', '"n_embd": ' + "9" * 5000), UNREADABLE + "Exceeds the limit"),
    "surrogate": ('{"a": "\\ud800"}', UNREADABLE + "'utf-8' codec can't encode character"),
    "deep": ("[" * 10_000 + "]" * 10_000, UNREADABLE + "maximum recursion depth exceeded"),
    "deep_inside": (
        '{"a": ' + '{"a": ' * 10_000 + "1" + "}" * 10_001,
        UNREADABLE + "maximum recursion depth",
    ),
    "large": (
        GOOD + " " * (11_000_000 - len(GOOD)),
        "/config.json: 11,000,000 bytes; expected a config of at most 10,000,000; fetch the file again",
    ),
    "values": (
        '{"a": [' + "1," * 2_000_000 + "1]}",
        f"/config.json: has more than 2,000,000 values{AGAIN}, or split it into shards",
    ),
}

CASES = {**SIZES, **DISAGREE, **FIELDS, **LABELS, **BERT, **TEXTS}
CODE = "import pathlib\npathlib.Path(__file__).with_name('canary').write_text('ran')\nclass Model: pass\n"
HOOKS = {
    "auto_map": {"AutoModel": "modeling.Model", "AutoConfig": "canary--evil.Config"},
    "trust_remote_code": True,
    "_attn_implementation_internal": "evil/kernel",
    "custom_pipelines": {"text": {"impl": "modeling.Model"}},
}


def write(root: Path) -> None:
    made.folder(root / "0-good", made.GPT2, made.gpt2())
    for name, (change, _) in (SIZES | DISAGREE | FIELDS | LABELS | BERT).items():
        config, tensors = made.GPT2, made.gpt2()
        if name in LABELS:
            config, tensors = SEQUENCE, tensors | made.classifier(3, "score")
        if name in BERT:
            config, tensors = made.BERT, made.bert() | made.mlm()
        path = made.folder(root / name, config, tensors)
        found = {key: value for key, value in {**config, **change}.items() if value is not ABSENT}
        (path / "config.json").write_text(json.dumps(found))
    for name, (text, _) in TEXTS.items():
        path = made.folder(root / name, made.GPT2, made.gpt2())
        (path / "config.json").write_text(text, encoding="utf-8")
    # One small tensor that speaks of a billionth layer, in a config that agrees; and layers of one tensor.
    tensor = {"transformer.h.999999998.ln_1.bias": np.ones(made.D, np.float32)}
    made.folder(root / "last_layer", made.GPT2, made.gpt2() | tensor, n_layer=10**9 - 1)
    layers = {f"transformer.h.{i}.ln_1.bias": np.ones(1, np.float32) for i in range(30_000)}
    made.folder(root / "thin_layers", made.GPT2, made.gpt2() | layers, n_layer=30_000)
    for name in ("hooks", "hooks_bad"):
        path = made.folder(root / name, made.GPT2 | HOOKS, made.gpt2(), n_head=2 if name == "hooks" else 3)
        for file in ("modeling", "__init__", "evil", "conftest", "sitecustomize", "tokenization_gpt2"):
            (path / f"{file}.py").write_text(CODE)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile") / "folders"
    write(folder)
    return folder


@pytest.fixture(scope="module")
def report(root: Path, lmx_environment: dict[str, str]) -> dict[str, Any]:
    result = root.parent / "result.json"
    environment = {**lmx_environment, "JAX_COMPILATION_CACHE_DIR": str(root.parent / "compiled")}
    script = Path(__file__).with_name("_hostile.py")
    command = [sys.executable, str(script), str(root), str(result)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, cwd=root)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(result.read_text())
    return found


def complaint(root: Path, report: dict[str, Any], name: str) -> str:
    """The one line, without the command and the folder it begins with; nothing was written."""
    outcome = report["outcomes"][name]
    assert outcome["code"] == 2, outcome["said"][:500]
    lines = outcome["said"].splitlines()
    assert len(lines) == 1, lines
    start = f"lmx import-hf: {root / name}"
    assert lines[0].startswith(start), lines[0][:300]
    return str(lines[0].removeprefix(start))


@pytest.mark.parametrize("name", CASES)
def test_refused(root: Path, report: dict[str, Any], name: str) -> None:
    said, expected = complaint(root, report, name), CASES[name][1]
    if expected is None or expected.startswith(UNREADABLE):
        assert said.startswith(
            expected or ("/config.json: ", ": the tensors are not those of a GPT2LMHeadModel")
        )
        assert len(said) < 4000
    else:
        assert said == expected


def test_layers_that_the_file_only_speaks_of(root: Path, report: dict[str, Any]) -> None:
    said = complaint(root, report, "last_layer")
    assert said == "/config.json: n_layer=999999999, but the weights count 3 layers"
    said = complaint(root, report, "thin_layers")
    assert said == "/config.json: n_layer=30000; lmx reads at most 1,000"


def test_code_beside_the_weights_never_runs(root: Path, report: dict[str, Any]) -> None:
    found = report["outcomes"]["hooks"]
    assert found["code"] == 0
    ignored = "auto_map, trust_remote_code, _attn_implementation_internal, custom_pipelines"
    files = "__init__.py, conftest.py, evil.py, modeling.py, sitecustomize.py, tokenization_gpt2.py"
    told = f"{root / 'hooks'}: ignored, for lmx runs no foreign code: {ignored}, {files}\n"
    assert found["said"] == told
    assert (
        complaint(root, report, "hooks_bad") == "/config.json: n_embd=8 does not divide into n_head=3 heads"
    )
    assert not list(root.rglob("canary*"))
    assert not list(root.rglob("__pycache__"))


def test_memory_stays_small(report: dict[str, Any]) -> None:
    """Peaks over what the process held when the good folder had been read."""
    grown = {name: outcome["peak"] - report["before"] for name, outcome in report["outcomes"].items()}
    assert report["before"] > 50e6
    assert max(grown.values()) < 300e6, sorted(grown.items(), key=lambda item: item[1])[-5:]


def test_nothing_was_run_fetched_or_opened_elsewhere(report: dict[str, Any]) -> None:
    assert report["seen"] == []


def test_nothing_was_left(root: Path, report: dict[str, Any]) -> None:
    assert len(report["outcomes"]) == len(CASES) + 5
    made_ = sorted(path.name for path in root.iterdir() if path.name.startswith(tuple(report["outcomes"])))
    left = [name for name in made_ if name not in report["outcomes"]]
    assert left == ["0-good.out", "hooks.out"]
