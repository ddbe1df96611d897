"""Every class of transformers that lmx reads: outputs, losses, gradients, and folders both ways."""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the parity extra is not installed: pip install '.[parity]'")

import torch
import transformers
from safetensors.numpy import load_file

from lmx.commands import _export, _hf
from lmx.core.types import Checkpoint
from tests.parity import _draws as draws
from tests.parity import _peers as peers

FEW = 4
"""Configs of the fast run, which goes once through the classes."""

FAST = [(name, number % FEW) for number, name in enumerate(draws.CASES)]
FULL = [("GPT2LMHeadModel", 1), ("BertForPreTraining", 2)]
"""What has time for more: XLA's default programs, gradients in f64, the certificate's run of the model."""


def _all() -> Iterator[tuple[str, int]]:
    """Each class with each seed; what one class is used for takes turns, not in step with the sizes."""
    classes = list(dict.fromkeys(case.architecture for case in draws.CASES.values()))
    for seed in draws.SEEDS:
        for architecture in classes:
            uses = [name for name, case in draws.CASES.items() if case.architecture == architecture]
            yield uses[(seed + seed // 8) % len(uses)], seed


PAIRS = [*FAST, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in _all() if pair not in FAST)]


@pytest.fixture(scope="module", autouse=True)
def quiet_torch() -> Iterator[None]:
    """transformers shows progress and says much that is not ours to mend."""
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the matrices are tiny
    yield
    torch.set_num_threads(threads)
    transformers.logging.enable_progress_bar()
    transformers.logging.set_verbosity(verbosity)


@pytest.fixture(scope="module")
def largest() -> Iterator[dict[str, dict[str, float]]]:
    """The largest difference seen of each class; `pytest -s` prints them."""
    found: dict[str, dict[str, float]] = {}
    yield found
    columns = ("outputs f32", "gradients f32", "outputs f64", "gradients f64")
    print(f"\n{'largest difference seen':45}{''.join(f'{c:>15}' for c in columns)}")
    for name in [name for name in draws.CASES if name in found]:
        print(f"{name:45}{''.join(f'{found[name].get(c, np.nan):15.1e}' for c in columns)}")


def check_draw(case: draws.Case, batch: draws.Arrays, outputs: draws.Arrays) -> None:
    """A mistake must not hide in outputs near 0, or in attention that averages."""
    for name, x in peers.seen(case, batch, outputs).items():
        if name.endswith(("logits", "hidden", "embed", "final")) or name.startswith("block"):
            assert 0.1 < float(np.sqrt(np.mean(np.square(x)))) < 10, name
    mask = batch["attention_mask"].reshape(-1, batch["attention_mask"].shape[-1]) == 1
    visible = mask[:, None, None, :] & np.ones((mask.shape[1],) * 2, bool)
    visible = np.tril(visible) if case.family == "gpt2" else visible
    counts = visible.sum(-1, keepdims=True)
    uniform = visible / np.maximum(counts, 1)
    wide = np.broadcast_to(mask[:, None, :] & (counts[..., 0] >= 3), (*mask.shape[:1], 1, *mask.shape[1:]))
    for name, x in outputs.items():
        if name.startswith("attn"):
            moved = np.abs(x - uniform).sum(-1) / 2  # total variation: 0 for uniform, nearly 1 for one key
            assert moved[np.broadcast_to(wide, moved.shape)].mean() > 0.2, name


def test_the_draws_cover_what_a_config_can_say() -> None:
    for family, switches in (
        ("gpt2", ("scale_attn_weights", "scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn")),
        ("bert", ("type_vocab_size", "pad_token_id")),
    ):
        sizes = [draws.draw_sizes(family, seed) for seed in draws.SEEDS]
        seen: dict[str, set[Any]] = {key: {one[key] for one in sizes} for key in sizes[0]}
        for key in ("tie_word_embeddings", *switches):
            assert len(seen[key]) >= 2, key
        bert = family == "bert"
        assert seen["num_hidden_layers" if bert else "n_layer"] == {1, 2, 3, 4}
        assert seen["hidden_act" if bert else "activation_function"] == {"gelu", "gelu_new", "relu"}
        assert seen["num_attention_heads" if bert else "n_head"] == {1, 3, 5, 7}
        assert not bert or seen["type_vocab_size"] == {1, 2, 3}
        assert len({tuple(sorted((k, str(v)) for k, v in one.items())) for one in sizes}) == len(sizes)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "seed"), PAIRS)
def test_class(
    name: str,
    seed: int,
    tmp_path: Path,
    largest: dict[str, dict[str, float]],
    record_property: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Outputs to 1e-5 in f32 and 1e-9 in f64, gradients to 1e-4; the folder written is the folder read."""
    full, case = (name, seed) in FULL, draws.CASES[name]
    model = draws.draw_model(case, draws.draw_sizes(case.family, seed), seed)
    batch = draws.draw_batch(case, model.config, seed)
    model.save_pretrained(tmp_path / "theirs")
    outputs, gradients = peers.theirs(case, model, batch)
    check_draw(case, batch, outputs)
    names = {name for name, _ in model.named_parameters()}
    shares = {}

    found = peers.read(tmp_path / "theirs")
    options = None if full else peers.QUICK
    mine, leaves = peers.ours(case, found, batch, options=options)
    shares["outputs f32"] = gate(case, batch, mine, outputs, 1e-5)
    tensors = peers.in_tensors(found, leaves, names)

    if not full:
        monkeypatch.setattr(_hf, "probed", lambda *_: {})  # the certificate's run of the model
    _export.write(found, tmp_path / "ours")
    again = open_without_a_word(case, tmp_path)
    assert settings(tmp_path / "ours") == settings(tmp_path / "theirs")
    for key, parameter in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], parameter), key
    # Not bit by bit: where torch's allocator puts the same numbers may change the last bit of a product.
    peers.gate(peers.theirs(case, again, batch, gradients=False)[0], outputs, 1e-6)

    with peers.float64():
        found = peers.read(tmp_path / "theirs", "float64")
        outputs, exact = peers.theirs(case, peers.widen(model), batch)
        mine, leaves = peers.ours(case, found, batch, gradients=full, options=options)
    shares["outputs f64"] = gate(case, batch, mine, outputs, 1e-9)
    shares["gradients f32"] = peers.gate_gradients(tensors, gradients, 1e-4, exact)
    if full:
        tensors = peers.in_tensors(found, leaves, names)
        shares["gradients f64"] = peers.gate_gradients(tensors, exact, 1e-9, exact)
    for column, share in shares.items():
        record_property(column, share)
        row = largest.setdefault(name, {})
        row[column] = max(row.get(column, 0.0), share)
    shutil.rmtree(tmp_path)


def gate(
    case: draws.Case, batch: draws.Arrays, mine: draws.Arrays, other: draws.Arrays, tolerance: float
) -> float:
    """The gate, over what can be compared."""
    return peers.gate(peers.seen(case, batch, mine), peers.seen(case, batch, other), tolerance)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "seed"), FAST)
def test_folder_born_of_lmx(name: str, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers opens what lmx writes of a checkpoint that never was a folder."""
    case = draws.CASES[name]
    model = draws.draw_model(case, draws.draw_sizes(case.family, seed), seed)
    model.save_pretrained(tmp_path / "theirs")
    found = peers.read(tmp_path / "theirs")
    monkeypatch.setattr(_hf, "probed", lambda *_: {})
    config = {section: found.config[section] for section in ("model", "task")}
    _export.write(Checkpoint(found.params, config), tmp_path / "ours")
    again = open_without_a_word(case, tmp_path)
    again.config.pad_token_id = model.config.pad_token_id  # the tokenizer's, which there is none of
    batch = draws.draw_batch(case, model.config, seed)
    outputs = [peers.theirs(case, one, batch, gradients=False)[0] for one in (again, model)]
    peers.gate(*outputs, 1e-6)


def settings(folder: Path) -> dict[str, Any]:
    """Return config.json, with what need not be said: the two usual labels, and that one is a regression."""
    found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    found.pop("transformers_version", None)
    found.setdefault("id2label", {"0": "LABEL_0", "1": "LABEL_1"})
    found.setdefault("label2id", {"LABEL_0": 0, "LABEL_1": 1})
    if found.get("problem_type") is None and len(found["id2label"]) == 1:
        found["problem_type"] = "regression"
    return found


def open_without_a_word(case: draws.Case, folder: Path) -> Any:
    """Return the model that transformers makes of lmx's folder; both folders hold the same tensors."""
    before, after = (load_file(folder / side / "model.safetensors") for side in ("theirs", "ours"))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert (tensor.dtype, tensor.shape) == (after[name].dtype, after[name].shape), name
        assert tensor.tobytes() == after[name].tobytes(), name
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    transformers.logging.set_verbosity_warning()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            kind = getattr(transformers, case.architecture)
            model, info = kind.from_pretrained(
                folder / "ours", output_loading_info=True, attn_implementation="eager", **case.options
            )
    finally:
        transformers.logging.set_verbosity_error()
        logger.removeHandler(handler)
    assert said == []
    assert [str(one.message) for one in caught] == []
    assert not any(info.values()), info
    return model.eval()
