"""Models of transformers beside lmx's: drawn at random, fed alike, and compared in all that they give."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

from lmx.commands import _build, _hf
from lmx.core import tree
from lmx.core.types import IGNORED, Checkpoint
from lmx.hf import convert

Arrays = dict[str, np.ndarray]

SEEDS = range(40)
ROWS = ("none", "left", "right", "both", "none", "left")
"""Where each row of a batch is padded."""
CHOICES = 3
TAPS = {name: (lambda x, layer: (x, x)) for name in ("embed", "attn/weights", "block", "final")}


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
    layers, activation = 1 + seed % 4, ("gelu", "gelu_new", "relu")[seed % 3]
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
    sharper = 1.6
    if config.model_type == "gpt2" and joined:
        layer = int(name.split("h.")[1].split(".")[0])
        if config.scale_attn_by_inverse_layer_idx:
            sharper *= (layer + 1) ** 0.5
        if not config.scale_attn_weights:
            sharper /= (config.n_embd // config.n_head) ** 0.25
        scale[:, : 2 * shape[0]] *= sharper
    elif ".query." in name or ".key." in name:
        scale *= sharper
    return 0.3 * inward**-0.5, scale


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
        # GPT-2's padding gives other logits in each (see `seen`), and an answer's softmax goes over them all.
        whole = mask.all(axis=1) if config.model_type == "gpt2" else np.arange(rows) != 2
        time = mask.shape[1]
        places = {f"{edge}_positions": draw.integers(0, time, rows) for edge in ("start", "end")}
        return {name: np.where(whole, at, time).astype(np.int32) for name, at in places.items()}
    if kind in ("pretraining", "hidden_tokens"):
        found = {"labels": some(config.vocab_size, mask.shape, (mask == 1) & ~most)}
        if kind == "pretraining":
            found["next_sentence_label"] = some(2, (rows,), np.arange(rows) != 3)
        return found
    return {}


def _features_loss(hidden: Any, pooled: Any, mask: Any, sine: Callable[[Any], Any]) -> Any:
    """Return a number to differentiate where a class has no loss: uneven weights on each real output."""
    places = np.arange(np.prod(hidden.shape)).reshape(hidden.shape)
    weights = np.sin(places % 97 + 0.5) * np.asarray(mask)[..., None]
    total = (hidden * sine(weights)).sum()
    return (total if pooled is None else total + (pooled * sine(weights[:, 1])).sum()) / len(weights)


def theirs(case: Case, model: Any, batch: Arrays) -> tuple[Arrays, Arrays]:
    """Return ({output: array}, {tensor: gradient of the loss}) of transformers, in the model's type."""
    dtype = next(model.parameters()).dtype
    inputs = {
        name: torch.from_numpy(array).to(dtype if array.dtype == np.float32 else torch.int64)
        for name, array in batch.items()
    }
    if case.kind == "next_token":
        # It shifts them itself. No token is predicted from padding.
        before = np.pad(batch["attention_mask"], ((0, 0), (1, 0)))[:, :-1]
        labels = np.where(batch["attention_mask"] * before == 1, batch["input_ids"], IGNORED)
        inputs["labels"] = torch.from_numpy(labels).long()
    found: dict[str, Any] = {}
    body = getattr(model, "transformer", getattr(model, "bert", model))
    hooks = []
    if case.family == "gpt2":
        last = body.h[-1]
        hooks.append(last.register_forward_hook(lambda m, x, y: found.update({"block": y})))
    elif body.pooler is not None:
        hooks.append(body.pooler.register_forward_hook(lambda m, x, y: found.update({"pooled": y})))
    model.zero_grad()
    out = model(**inputs, output_hidden_states=True, output_attentions=True)
    for hook in hooks:
        hook.remove()
    hidden, last_block = out.hidden_states, found.pop("block", out.hidden_states[-1])
    found |= {"embed": hidden[0], "final": hidden[-1], "hidden": hidden[-1]}
    found |= {f"block/{i}": x for i, x in enumerate((*hidden[1:-1], last_block))}
    found |= {f"attn/weights/{i}": x for i, x in enumerate(out.attentions)}
    logits = next((out[n] for n in ("logits", "prediction_logits") if n in out), None)
    found |= {} if logits is None else {"logits": logits}
    found |= {n: out[n] for n in ("start_logits", "end_logits") if n in out}
    if case.kind == "pretraining":
        found["next_logits"] = out.seq_relationship_logits
    if case.family == "gpt2":
        ends = np.max(np.where(batch["attention_mask"] == 1, np.arange(hidden[0].shape[1]), 0), axis=1)
        found["pooled"] = hidden[-1][torch.arange(len(ends)), torch.from_numpy(ends)]
    if case.kind == "features":
        loss = _features_loss(
            hidden[-1], found.get("pooled"), batch["attention_mask"], lambda w: torch.from_numpy(w).to(dtype)
        )
    else:
        loss = out.loss
    found["loss"] = loss
    loss.backward()
    gradients = {n: p.grad.numpy().copy() for n, p in model.named_parameters() if p.grad is not None}
    return {name: x.detach().numpy() for name, x in found.items()}, gradients


def ours(case: Case, found: Checkpoint, batch: Arrays, *, compiled: bool) -> tuple[Arrays, Arrays, Arrays]:
    """Return ({output: array} through taps, the same without taps, {leaf: gradient}) of lmx.

    The outputs are in the type of the parameters.
    """
    built = _build.model(found.config)
    dtype = jax.tree.leaves(found.params)[0].dtype
    arrays = {
        name: jnp.asarray(array, dtype if array.dtype == np.float32 else np.int32)
        for name, array in batch.items()
    }

    def features(params: Any, batch: Any, rng: Any) -> tuple[Any, Any, Any]:
        out = built.apply(params, batch)
        mask = batch_mask
        value = _features_loss(out["hidden"], out.get("pooled"), mask, lambda w: jnp.asarray(w, dtype))
        return value, jnp.ones((), dtype), {}

    batch_mask = batch["attention_mask"]
    objective = features if case.kind == "features" else _build.objective(found.config, built)

    def mean(params: Any) -> Any:
        total, weight, _ = objective(params, arrays, None)
        return total / weight

    def everything(params: Any) -> Any:
        loss, gradients = jax.value_and_grad(mean)(params)
        plain = {**built.apply(params, arrays), "loss": loss}
        plain.pop("head", None)
        return built.apply(params, arrays, taps=TAPS)["taps"], plain, gradients

    run = jax.jit(everything) if compiled else everything
    taps, plain, gradients = run(found.params)
    tapped = {name: np.asarray(taps[name]) for name in ("embed", "final")}
    tapped |= {f"{n}/{i}": np.asarray(x) for n in ("block", "attn/weights") for i, x in enumerate(taps[n])}
    leaves = {path: np.asarray(leaf) for path, leaf in tree.flatten(gradients).items()}
    return tapped, {name: np.asarray(x) for name, x in plain.items()}, leaves


def seen(case: Case, batch: Arrays, outputs: Arrays) -> Arrays:
    """Return the outputs that can be compared: of a GPT-2 those of real tokens.

    A padding token of a GPT-2 has no key that it may see; transformers then looks at all of them, lmx at
    itself.
    """
    if case.family == "bert":
        return outputs
    real = batch["attention_mask"] == 1

    def pick(name: str, x: np.ndarray) -> np.ndarray:
        if name.startswith("attn/"):
            return x.swapaxes(1, 2)[real]
        return x[real] if x.shape[:2] == real.shape else x

    return {name: pick(name, x) for name, x in outputs.items()}


class Differs(AssertionError):
    """What the gate says: the two sides are not the same function."""


def gate(mine: Arrays, other: Arrays, tolerance: float) -> float:
    """Return the largest difference, as a share of max(1, the output's largest value).

    Errors: Differs where an output is missing, of another shape, or further off than the tolerance.
    """
    if mine.keys() != other.keys():
        raise Differs(f"outputs {sorted(mine)}, expected {sorted(other)}")
    found = {name: _distance(mine[name], other[name], 1.0) for name in other}
    wrong = {name: share for name, share in found.items() if not share <= tolerance}
    if wrong:
        raise Differs(f"further off than {tolerance}: {wrong}")
    return max(found.values())


def gate_gradients(mine: Arrays, other: Arrays, tolerance: float, floor: float) -> float:
    """Return the largest difference, as a share of each tensor's largest value.

    floor: below this share of the largest gradient of all, a gradient counts as 0: the softmax does not see
    the keys' bias, and what is left of that is rounding. Errors: as `gate`; tensors that transformers gives no
    gradient must have one of 0.
    """
    extra = {name for name in mine.keys() - other.keys() if np.any(mine[name])}
    if extra or other.keys() - mine.keys():
        raise Differs(f"gradients of {sorted(mine)}, expected {sorted(other)}")
    least = floor * max(float(np.abs(x).max()) for x in other.values()) / tolerance
    found = {name: _distance(mine[name], other[name], least) for name in other}
    wrong = {name: share for name, share in found.items() if not share <= tolerance}
    if wrong:
        raise Differs(f"gradients further off than {tolerance}: {wrong}")
    return max(found.values())


def _distance(mine: np.ndarray, other: np.ndarray, least: float) -> float:
    if mine.shape != other.shape:
        raise Differs(f"shape {mine.shape}, expected {other.shape}")
    largest = max(least, float(np.abs(other).max()))
    return float(np.abs(mine.astype(np.float64) - other.astype(np.float64)).max()) / largest


def layout(found: Checkpoint) -> convert.Layout:
    """Return where a checkpoint's leaves lie in a folder."""
    model = found.config["model"]
    table, heads = _build.tables(model["name"])
    head = heads[found.config["task"]["name"]]
    return convert.Layout(table, head, model["layers"], model["tie_embeddings"])


def in_tensors(found: Checkpoint, leaves: Arrays, names: set[str]) -> Arrays:
    """Return the leaves as the stored tensors; of two names for one, that which is among `names`."""
    tensors = {}
    for entry in layout(found).entries():
        if all(path in leaves for path in entry.leaves):
            name = entry.twin if entry.twin in names else entry.tensor
            tensors[name] = convert.join(entry, leaves)
    return tensors


def read(folder: Path, dtype: str = "float32") -> Checkpoint:
    """Return the checkpoint in a folder, with nothing to say about it."""
    found = _hf.read(folder, dtype=dtype)
    assert found.notes == ()
    return found.checkpoint


@contextmanager
def float64() -> Iterator[None]:
    """Turn 64 bits on, in every thread: `jax.enable_x64` would leave out those that read the tensors."""
    jax.config.update("jax_enable_x64", True)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", False)


def widen(model: Any) -> Any:
    """Return the model in float64. `reorder_and_upcast_attn` would go on in f32; it changes nothing else."""
    for module in model.modules():
        if hasattr(module, "reorder_and_upcast_attn"):
            module.reorder_and_upcast_attn = False
    return model.double()
