"""The same fine-tuning run on both sides: weights, batches, schedule, clipping and AdamW alike.

lmx's side is what `lmx train` runs, `training.step` with `optim.make`; transformers' side is a plain loop of
torch over its class for the task, or over a few lines where it has none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
import transformers
from torch.nn import functional

from lmx import optim
from lmx.commands import _build, _export, _hf
from lmx.core import mesh as mesh_
from lmx.core import tree
from lmx.core.types import IGNORED, Checkpoint
from lmx.training import state as state_
from lmx.training import step as step_
from tests.parity import _peers as peers

Arrays = dict[str, np.ndarray]
Tensors = Mapping[str, Any]
PAD = 0
"""The id that fills rows up, on the right, as lmx's feed does."""


@dataclass(frozen=True)
class Recipe:
    """How both sides train: AdamW, up for `warmup` steps and then down in a straight line to step `total`."""

    rate: float
    decay: float = 0.01
    clip: float = 1.0
    warmup: int = 4
    total: int = 60


@dataclass(frozen=True)
class Case:
    """A task on both sides.

    task: the config's section, of what `attach` takes. kind: of batches, see `draw`. architecture: a class of
    transformers. loss: options of lmx's loss; theirs: (model, inputs) -> loss, None for the class's own.
    """

    task: Mapping[str, Any]
    kind: str
    architecture: str
    loss: Mapping[str, Any] = field(default_factory=dict)
    theirs: Callable[[Any, Tensors], Any] | None = None

    @property
    def family(self) -> str:
        return "gpt2" if self.architecture.startswith("GPT2") else "bert"


def _logits(model: Any, inputs: Tensors) -> Any:
    return model(**{name: x for name, x in inputs.items() if name != "labels"}).logits


def _cosines(model: Any, inputs: Tensors) -> Any:
    """Squared error of the cosine of two means over real tokens (Reimers and Gurevych 2019, section 3)."""
    means = []
    for side in (0, 1):
        one = {name: x[:, side] for name, x in inputs.items() if name != "labels"}
        mask = one["attention_mask"][..., None].float()
        means.append((model(**one).last_hidden_state * mask).sum(1) / mask.sum(1))
    return functional.mse_loss(functional.cosine_similarity(*means), inputs["labels"])


def _responses(model: Any, inputs: Tensors) -> Any:
    """Cross-entropy of labels that are moved by one already."""
    return functional.cross_entropy(_logits(model, inputs).flatten(0, 1), inputs["labels"].flatten())


WEIGHTS = (0.5, 3.0, 1.5)
SINGLE = {"name": "sequence_classification", "labels": 3, "dropout": 0.0}

CASES = {
    "sequence_classification": Case(SINGLE, "label", "BertForSequenceClassification"),
    "sequence_classification, pair": Case(SINGLE, "pair", "BertForSequenceClassification"),
    "sequence_classification, multi-label": Case(
        {**SINGLE, "multi_label": True}, "labels", "BertForSequenceClassification"
    ),
    "sequence_classification, class weights": Case(
        SINGLE,
        "label",
        "BertForSequenceClassification",
        {"weights": WEIGHTS},
        lambda model, x: functional.cross_entropy(
            _logits(model, x), x["labels"], weight=torch.tensor(WEIGHTS)
        ),
    ),
    "sequence_classification, smoothing": Case(
        SINGLE,
        "label",
        "BertForSequenceClassification",
        {"loss": {"name": "cross_entropy", "smoothing": 0.1}},
        lambda model, x: functional.cross_entropy(_logits(model, x), x["labels"], label_smoothing=0.1),
    ),
    "sequence_regression": Case(
        {"name": "sequence_regression", "dropout": 0.0}, "number", "BertForSequenceClassification"
    ),
    "sentence_similarity": Case({"name": "sentence_similarity"}, "cosine", "BertModel", theirs=_cosines),
    "token_classification": Case(
        {"name": "token_classification", "labels": 5, "dropout": 0.0}, "tags", "BertForTokenClassification"
    ),
    "question_answering": Case({"name": "question_answering"}, "answers", "BertForQuestionAnswering"),
    "multiple_choice": Case({"name": "multiple_choice", "dropout": 0.0}, "choices", "BertForMultipleChoice"),
    "next_sentence": Case({"name": "next_sentence"}, "follows", "BertForNextSentencePrediction"),
    "masked_lm": Case({"name": "masked_lm"}, "hidden", "BertForMaskedLM"),
    "bert_pretraining": Case({"name": "bert_pretraining"}, "pretraining", "BertForPreTraining"),
    "instruction": Case({"name": "instruction"}, "response", "GPT2LMHeadModel", theirs=_responses),
    "gpt2 sequence_classification": Case(
        {"name": "sequence_classification", "labels": 3, "bias": False, "dropout": 0.0},
        "label",
        "GPT2ForSequenceClassification",
    ),
}

OFF = {
    "bert": {"dropout_hidden": 0.0, "dropout_attention": 0.0},
    "gpt2": {"dropout_embed": 0.0, "dropout_attention": 0.0, "dropout_residual": 0.0},
}

ROWS, TIME = 8, 12


def tiny(family: str, layers: int) -> dict[str, Any]:
    """Return a config's `model` section of width 32, started so widely that attention is not uniform."""
    own = {"types": 2, "mlp_width": 48} if family == "bert" else {}
    return {
        "name": family,
        "vocab_size": 61,
        "positions": 16,
        "width": 32,
        "layers": layers,
        "heads": 4,
        "init_range": 0.15,
        **own,
        **OFF[family],
    }


def draw(case: Case, vocab: int, seed: int) -> Arrays:
    """Return a batch of the case's kind: rows of 6 to 12 tokens, filled up on the right."""
    draw = np.random.default_rng([seed, 3])
    inner = {"choices": (3,), "cosine": (2,)}.get(case.kind, ())
    shape = (ROWS, *inner, TIME)
    places = np.broadcast_to(np.arange(TIME), shape)
    lengths = draw.integers(TIME // 2, TIME + 1, shape[:-1])
    real = places < lengths[..., None]
    ids = np.where(real, draw.integers(PAD + 1, vocab, shape), PAD).astype(np.int32)
    batch = {"input_ids": ids, "attention_mask": real.astype(np.int32)}
    if case.family == "bert":
        paired = case.kind in ("pair", "answers", "choices", "follows", "pretraining")
        batch["token_type_ids"] = (real & (places >= 4) & paired).astype(np.int32)

    def some(where: Any, values: Any) -> np.ndarray:
        return np.where(where, values, IGNORED).astype(np.int32)

    def hidden() -> np.ndarray:
        return some(real & (draw.random(shape) < 0.3), draw.integers(PAD + 1, vocab, shape))

    kinds: dict[str, Callable[[], Arrays]] = {
        "label": lambda: {"labels": draw.integers(0, 3, ROWS).astype(np.int32)},
        "pair": lambda: {"labels": draw.integers(0, 3, ROWS).astype(np.int32)},
        "labels": lambda: {"labels": draw.integers(0, 2, (ROWS, 3)).astype(np.int32)},
        "number": lambda: {"labels": draw.normal(0.5, 1, ROWS).astype(np.float32)},
        "cosine": lambda: {"labels": draw.random(ROWS).astype(np.float32)},
        "tags": lambda: {"labels": some(real & (draw.random(shape) < 0.7), draw.integers(0, 5, shape))},
        "answers": lambda: {
            "start_positions": draw.integers(0, 4, ROWS).astype(np.int32),
            "end_positions": draw.integers(4, lengths).astype(np.int32),
        },
        "choices": lambda: {"labels": draw.integers(0, 3, ROWS).astype(np.int32)},
        "follows": lambda: {"labels": draw.integers(0, 2, ROWS).astype(np.int32)},
        "hidden": lambda: {"labels": hidden()},
        "pretraining": lambda: {
            "labels": hidden(),
            "next_sentence_label": draw.integers(0, 2, ROWS).astype(np.int32),
        },
        "response": lambda: {
            "labels": some(real & (places >= 3), np.append(ids[:, 1:], ids[:, :1], axis=1)),
        },
    }
    return batch | kinds[case.kind]()


def start(case: Case, model: Mapping[str, Any] | Path, folder: Path) -> tuple[Checkpoint, Any]:
    """Return both sides' model, read from one folder that lmx wrote.

    model: a config's section, of which lmx makes the start; or a folder of transformers, whose body is taken.
    """
    if isinstance(model, Path):
        found = _hf.read(model, task=case.task).checkpoint
        config = {**found.config, "model": {**found.config["model"], **OFF[case.family]}}
        config.pop("hf", None)
        params = found.params
    else:
        config = {"model": model, "task": case.task}
        params = _build.model(config).init(jax.random.key(0, impl="threefry2x32"))
    _export.write(Checkpoint(params, config), folder, certify=False)
    bare = {"add_pooling_layer": False} if case.architecture == "BertModel" else {}
    theirs = getattr(transformers, case.architecture).from_pretrained(
        folder, attn_implementation="eager", **bare
    )
    theirs.config.pad_token_id = PAD  # the tokenizer's, which there is none of
    if case.kind == "answers":
        # The softmax over places goes over padding too, so that the padding's embedding has a gradient.
        # transformers' BERT leaves that one row out of training; lmx, which knows no such row, does not.
        theirs.get_input_embeddings().padding_idx = None
    return _hf.read(folder, task=case.task).checkpoint, theirs


def ours(
    case: Case, found: Checkpoint, batches: Sequence[Arrays], recipe: Recipe, steps: int, options: Any = None
) -> tuple[list[float], list[float]]:
    """Return lmx's (losses, gradient norms before clipping) of each step. options: for the compiler."""
    config = {**found.config, "task": {**found.config["task"], **case.loss}}
    built, mesh = _build.model(found.config), mesh_.make(1)
    _, optimizer = optim.make(
        "adamw",
        rate=recipe.rate,
        schedule="linear",
        warmup=recipe.warmup,
        total=recipe.total,
        decay=recipe.decay,
        clip=recipe.clip,
    )
    state = state_.start(built, optimizer, seed=0, mesh=mesh, params=found.params)
    given = [mesh_.put(batch, mesh) for batch in batches]
    step: Any = step_.build(
        built,
        _build.objective(config, built),
        optimizer,
        seed=0,
        mesh=mesh,
        whole=getattr(_build.task(config), "whole", dict),
    )
    compiled = step.func.lower(*step.args, state, given[0]).compile(compiler_options=options)
    losses, norms = [], []
    for number in range(steps):
        state, sums = compiled(*step.args, state, given[number % len(given)])
        losses.append(float(sums["loss"]) / float(sums["weight"]))
        norms.append(float(sums["grad_norm"]))
    return losses, norms


def theirs(
    case: Case, model: Any, batches: Sequence[Arrays], recipe: Recipe, steps: int, decayed: Mapping[str, bool]
) -> tuple[list[float], list[float]]:
    """Return torch's (losses, gradient norms). decayed: which of the named parameters decay."""
    named = dict(model.named_parameters())
    assert decayed.keys() == named.keys()
    groups = [
        {"params": [named[n] for n, on in decayed.items() if on], "weight_decay": recipe.decay},
        {"params": [named[n] for n, on in decayed.items() if not on], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=recipe.rate)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, recipe.warmup, recipe.total)
    given = [_tensors(case, batch) for batch in batches]
    model.train()
    losses, norms = [], []
    for number in range(steps):
        inputs = given[number % len(given)]
        optimizer.zero_grad()
        loss = model(**inputs).loss if case.theirs is None else case.theirs(model, inputs)
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)))
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    return losses, norms


def _tensors(case: Case, batch: Arrays) -> dict[str, Any]:
    found = {
        name: torch.from_numpy(x if x.dtype == np.float32 else x.astype(np.int64))
        for name, x in batch.items()
    }
    if case.kind == "labels":  # transformers' loss of several labels takes fractions
        found["labels"] = found["labels"].float()
    return found


def decayed(found: Checkpoint, names: set[str]) -> dict[str, bool]:
    """Return which of torch's parameters hold leaves that lmx decays."""
    mask = tree.flatten(optim.decayed(found.params))
    leaves = {path: np.full(x.shape, mask[path]) for path, x in tree.flatten(found.params).items()}
    tensors = peers.in_tensors(found, leaves, names)
    assert all(x.all() == x.any() for x in tensors.values())
    return {name: bool(x.all()) for name, x in tensors.items() if name in names}


@dataclass(frozen=True)
class Result:
    """losses: lmx's. gaps: how far each step's loss is from torch's. norms: how far each gradient's norm is,
    as a share. clipped: in how many steps it was over the limit."""

    losses: np.ndarray
    gaps: np.ndarray
    norms: np.ndarray
    clipped: int


def compare(
    case: Case,
    model: Mapping[str, Any] | Path,
    folder: Path,
    *,
    recipe: Recipe,
    steps: int,
    other: Recipe | None = None,
    options: Any = None,
) -> Result:
    """Train both sides from one start. other: torch's recipe where it shall differ. options: for XLA."""
    found, peer = start(case, model, folder)
    batches = [draw(case, found.config["model"]["vocab_size"], seed) for seed in range(3)]
    on = decayed(found, {name for name, _ in peer.named_parameters()})
    mine, norms = map(np.array, ours(case, found, batches, recipe, steps, options))
    wanted, expected = map(np.array, theirs(case, peer, batches, other or recipe, steps, on))
    clipped = int(np.sum(expected > recipe.clip))
    return Result(mine, np.abs(mine - wanted), np.abs(norms / expected - 1), clipped)
