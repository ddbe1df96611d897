"""The six values that rooms exchange, and the glossary of dimensions.

Glossary of shapes, used in every signature:

- B: sequences in a batch (the global batch, over all devices).
- T: tokens in a sequence (time).
- S: keys that a query may look at; T without a cache, the cache's length with one.
- D: width of the residual stream.
- F: width of the feed-forward layer.
- H: attention heads.
- K: width of one head, D / H.
- V: vocabulary.
- L: layers.
- N: examples of a data set; R: rows of T + 1 tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jax

Array = jax.Array

Batch = Mapping[str, Array]
"""Arrays that lead with B: `input_ids` (B, T), and, where they are needed, `attention_mask` (B, T; 1 is a
real token), `position_ids` (B, T), `segment_ids` (B, T; packed documents, 0 is padding), `labels` (B, T;
-100 is ignored) and `example_index` (B; the example's place in the global batch)."""

Params = dict[str, Any]
"""A plain nested dict of f32 arrays, one leaf per layer and tensor, named by its path, such as
`block/3/attn/query/kernel`."""

Outputs = dict[str, Any]
"""What a forward pass gives: `hidden` (B, T, D), `logits` (B, T, V) once a task's head is attached,
`taps` (name -> captured values, stacked over layers) and `cache` where one was passed in; `head` where the
batch has labels (how the logits were made, so that a loss can do without them)."""

Tap = Callable[[Array, Any], Any]
"""`tap(x, layer) -> x` to replace an activation, or `-> (x, captured)` to read it as well."""

Taps = Mapping[str, Tap]

Sums = dict[str, Array]
"""Scalars that add up over batches and devices."""

Totals = Mapping[str, Any]
"""What a metric counts, by name; every value adds up with `+`."""

IGNORED = -100
"""The label of a position that has no loss."""

TASK = "task/"
"""Before a task's name: the key by which a batch of a mixture says whose it is, such as `task/sst2` (B,). The
key is all that it says, so that a program is compiled for each task and no value is looked at; it holds 0."""


class Apply(Protocol):
    """A forward pass: pure, and the same function under jit, grad and sharding."""

    def __call__(
        self,
        params: Params,
        batch: Batch,
        *,
        rng: Array | None = None,
        train: bool = False,
        taps: Taps | None = None,
        cache: Any = None,
    ) -> Outputs: ...


@dataclass(frozen=True)
class Model:
    """Four pure functions.

    init: key -> parameters; each leaf depends on (key, path) alone.
    apply: the forward pass.
    trainable: parameters -> a tree of booleans, True where the optimizer may write.
    fold: parameters, as wrappers extended them -> the plain parameters of the base model.
    """

    init: Callable[[Array], Params]
    apply: Apply
    trainable: Callable[[Params], Params]
    fold: Callable[[Params], Params]


Objective = Callable[[Params, Batch, Array | None], tuple[Array, Array, Sums]]
"""(params, batch, rng) -> (sum of losses, weight such as the count of real tokens, metric sums)."""


@dataclass(frozen=True)
class Metric:
    """Figures in sums form.

    sums: (predictions, references), one dict of each per example -> totals, whose values add up with `+`
    (numbers, arrays, Counters): those of two parts, added, are those of the whole.
    finish: added totals -> named figures.
    """

    sums: Callable[[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]], Totals]
    finish: Callable[[Totals], dict[str, float]]


@dataclass(frozen=True)
class Checkpoint:
    """Parameters with the config that tells what they are the parameters of.

    config holds at least `model` (the name on the shelf and its fields) and `task`; `folder` is where the
    tokenizer's files lie, where there is a folder at all.
    """

    params: Params
    config: Mapping[str, Any]
    folder: str | None = None
    step: int | None = None
