"""Random models of transformers and batches for them, such that no mistake of ours can hide."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import transformers

from lmx.core.types import IGNORED

Arrays = dict[str, np.ndarray]

SEEDS = range(40)
ROWS = ("none", "left", "right", "both", "none", "left")
"""Where each row of a batch is padded."""
CHOICES = 3


@dataclass(frozen=True)
class Case:
    """A class of transformers, and what it is used for.

    kind: what its batch holds. fields: of its config, besides the sizes. options: of its constructor.
    """

    architecture: str
    kind: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def family(self) -> str:
        return "gpt2" if self.architecture.startswith("GPT2") else "bert"


MULTI = {"problem_type": "multi_label_classification", "num_labels": 3}

CASES = {
    "GPT2Model": Case("GPT2Model", "features"),
    "GPT2LMHeadModel": Case("GPT2LMHeadModel", "next_token"),
    "GPT2ForSequenceClassification": Case("GPT2ForSequenceClassification", "one_label", {"num_labels": 3}),
    "GPT2ForSequenceClassification, multi-label": Case("GPT2ForSequenceClassification", "many_labels", MULTI),
    "GPT2ForSequenceClassification, regression": Case(
        "GPT2ForSequenceClassification", "numbers", {"problem_type": "regression", "num_labels": 2}
    ),
    "GPT2ForSequenceClassification, one number": Case(
        "GPT2ForSequenceClassification", "numbers", {"num_labels": 1}
    ),
    "GPT2ForTokenClassification": Case("GPT2ForTokenClassification", "token_labels", {"num_labels": 5}),
    "GPT2ForQuestionAnswering": Case("GPT2ForQuestionAnswering", "answers"),
    "BertModel": Case("BertModel", "features"),
    "BertModel, no pooler": Case("BertModel", "features", options={"add_pooling_layer": False}),
    "BertForPreTraining": Case("BertForPreTraining", "pretraining"),
    "BertForMaskedLM": Case("BertForMaskedLM", "hidden_tokens"),
    "BertForNextSentencePrediction": Case("BertForNextSentencePrediction", "one_label"),
    "BertForSequenceClassification": Case("BertForSequenceClassification", "one_label", {"num_labels": 3}),
    "BertForSequenceClassification, multi-label": Case("BertForSequenceClassification", "many_labels", MULTI),
    "BertForSequenceClassification, regression": Case(
        "BertForSequenceClassification", "numbers", {"problem_type": "regression", "num_labels": 2}
    ),
    "BertForSequenceClassification, one number": Case(
        "BertForSequenceClassification", "numbers", {"num_labels": 1}
    ),
    "BertForTokenClassification": Case("BertForTokenClassification", "token_labels", {"num_labels": 5}),
    "BertForQuestionAnswering": Case("BertForQuestionAnswering", "answers"),
    "BertForMultipleChoice": Case("BertForMultipleChoice", "choices"),
}

# (heads, width of a head); few are even, so that no two axes are of one size.
HEADS = ((1, 11), (1, 13), (3, 4), (3, 5), (3, 7), (5, 3), (5, 4), (7, 2), (7, 3))


def draw_sizes(family: str, seed: int) -> dict[str, Any]:
    """Return the fields of a config of transformers, all of a kind that hides no mistake."""
    draw = np.random.default_rng([zlib.crc32(family.encode()), seed])
    heads, each = HEADS[draw.integers(len(HEADS))]
    width = heads * each
    vocab, positions = 2 * int(draw.integers(11, 31)) + 1, int(draw.integers(9, 18))
    inner = int(draw.choice([n for n in range(9, 46) if n not in (width, 4 * width, vocab)]))
    layers, activation = (1, 2, 1, 3, 2, 4, 1, 2)[seed % 8], ("gelu", "gelu_new", "relu")[seed % 3]
    epsilon = float(draw.choice([1e-12, 1e-5, 1e-3]))
    tied, *flags = (bool(draw.integers(2)) for _ in range(4))
    shared = {"vocab_size": vocab, "tie_word_embeddings": tied, "attn_implementation": "eager"}
    if family == "bert":
        return {
            **shared,
            "hidden_size": width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "intermediate_size": inner,
            "hidden_act": activation,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "max_position_embeddings": positions,
            "type_vocab_size": int(draw.integers(1, 4)),
            "layer_norm_eps": epsilon,
            "pad_token_id": int(draw.integers(vocab)),
        }
    return {
        **shared,
        "n_embd": width,
        "n_layer": layers,
        "n_head": heads,
        "n_inner": None if seed % 8 == 7 else inner,
        "activation_function": activation,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "n_positions": positions,
        "layer_norm_epsilon": epsilon,
        "scale_attn_weights": flags[0],
        "scale_attn_by_inverse_layer_idx": flags[1],
        "reorder_and_upcast_attn": flags[2],
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": int(draw.integers(2, vocab)),
        "classifier_dropout": 0.0,
    }


def draw_model(case: Case, sizes: Mapping[str, Any], seed: int) -> Any:
    """Return the model of transformers, its weights drawn so that a mistake shows.

    No tensor is symmetric or of mean 0, outputs are of order 1, and attention is far from uniform.
    """
    kind = transformers.GPT2Config if case.family == "gpt2" else transformers.BertConfig
    config = kind(**{**sizes, **case.fields})
    model = getattr(transformers, case.architecture)(config, **case.options).eval()
    draw = np.random.default_rng([seed, 1])
    for name, parameter in model.named_parameters():
        mean, scale = _statistics(name, tuple(parameter.shape), config)
        mean *= draw.choice([-1.0, 1.0]) if mean < 1 else 1.0
        drawn = draw.normal(mean, scale, parameter.shape).astype(np.float32)
        parameter.data.copy_(torch.from_numpy(drawn))
    if case.kind in ("pretraining", "hidden_tokens"):  # untied, the first of these two is dead weight
        head = model.cls.predictions
        head.bias.data.copy_(head.decoder.bias.data)
    return model


def _statistics(name: str, shape: tuple[int, ...], config: Any) -> tuple[float, Any]:
    """Return the (mean, deviation) of a tensor of that name."""
    if len(shape) == 1:
        norm = name.endswith("weight")
        return (1.0, 0.2) if norm else (0.1, 0.2)
    if "embeddings" in name or "wte" in name or "wpe" in name:
        return 0.1, 0.6
    joined = "c_attn" in name
    inward = shape[0] if joined or "c_fc" in name or "c_proj" in name else shape[1]
    scale: Any = np.full(shape, inward**-0.5)
    sharper = 1.9
    if config.model_type == "gpt2" and joined:
        layer = int(name.split("h.")[1].split(".")[0])
        if config.scale_attn_by_inverse_layer_idx:
            sharper *= (layer + 1) ** 0.5
        if not config.scale_attn_weights:
            sharper /= (config.n_embd // config.n_head) ** 0.25
        scale[:, : 2 * shape[0]] *= sharper
    elif ".query." in name or ".key." in name:
        scale *= sharper
    elif "attention.output" in name:
        scale *= 0.6  # what attention mixes in makes tokens alike, and so the next layer's attention even
    return 0.2 * inward**-0.5, scale


def draw_batch(case: Case, config: Any, seed: int) -> Arrays:
    """Return a batch with padding on the left, on the right, on both sides and on none, and labels.

    Positions count real tokens, and are given. transformers takes no gradient of BERT's padding embedding,
    so that its id occurs nowhere, and it finds the last token of a GPT-2's row by the padding's id.
    """
    draw = np.random.default_rng([seed, 2])
    time, rows = config.max_position_embeddings - seed % 2, len(ROWS)
    mask = np.ones((rows, time), np.int32)
    for row, side in enumerate(ROWS):
        left, right = (int(n) for n in draw.integers(1, time // 3 + 1, 2))
        mask[row, : left if side in ("left", "both") else 0] = 0
        mask[row, time - (right if side in ("right", "both") else 0) :] = 0
    ids = draw.integers(0, config.vocab_size - 1, (rows, time)).astype(np.int32)
    ids += (ids >= config.pad_token_id).astype(np.int32)
    if case.family == "gpt2" and case.kind in ("one_label", "many_labels", "numbers"):
        ids = np.where(mask == 1, ids, config.pad_token_id).astype(np.int32)
    batch = {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": np.maximum(np.cumsum(mask, axis=1) - 1, 0).astype(np.int32),
    }
    if case.family == "bert":
        batch["token_type_ids"] = draw.integers(0, config.type_vocab_size, ids.shape).astype(np.int32)
    if case.kind == "choices":
        batch = {name: array.reshape(-1, CHOICES, time) for name, array in batch.items()}
    return batch | _labels(case.kind, draw, batch, config)


def _labels(kind: str, draw: np.random.Generator, batch: Arrays, config: Any) -> Arrays:
    """Return what the loss reads: some labels are ignored ones, in the middle and in padding."""
    mask, rows = batch["attention_mask"], len(batch["input_ids"])

    def some(high: int, shape: tuple[int, ...], where: Any) -> np.ndarray:
        return np.where(where, draw.integers(0, high, shape), IGNORED).astype(np.int32)

    most = draw.random(mask.shape) < 0.7
    if kind == "choices":
        return {"labels": some(CHOICES, (rows,), True)}
    if kind == "one_label":
        return {"labels": some(config.num_labels, (rows,), np.arange(rows) != 2)}
    if kind == "many_labels":
        return {"labels": draw.integers(0, 2, (rows, config.num_labels)).astype(np.float32)}
    if kind == "numbers":
        shape = (rows, config.num_labels) if config.num_labels > 1 else (rows,)
        return {"labels": draw.normal(0.3, 1.0, shape).astype(np.float32)}
    if kind == "token_labels":
        return {"labels": some(config.num_labels, mask.shape, (mask == 1) & most)}
    if kind == "answers":
        # The softmax goes over padding too. On the left a GPT-2's padding sees nothing: there lmx lets it see
        # itself, and transformers every place alike (see `_peers.seen`).
        whole = mask[:, 0] == 1 if config.model_type == "gpt2" else np.arange(rows) != 2
        time = mask.shape[1]
        places = {f"{edge}_positions": draw.integers(0, time, rows) for edge in ("start", "end")}
        return {name: np.where(whole, at, time).astype(np.int32) for name, at in places.items()}
    if kind in ("pretraining", "hidden_tokens"):
        found = {"labels": some(config.vocab_size, mask.shape, (mask == 1) & ~most)}
        if kind == "pretraining":
            found["next_sentence_label"] = some(2, (rows,), np.arange(rows) != 3)
        return found
    return {}
