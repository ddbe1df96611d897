"""A fixed batch of tokens, and what a model makes of it: the digest and the summary in a certificate."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lmx.core.types import Model, Params

ROWS, LENGTH, CHOICES = 2, 16, 3

KEYS = ("hidden", "pooled", "logits", "next_logits", "start_logits", "end_logits")
"""The outputs that are looked at, those of them that a model gives."""


def batch(
    vocab_size: int, positions: int, types: int | None, *, choices: bool = False
) -> dict[str, np.ndarray]:
    """Return the batch, which depends on the sizes alone: two rows, the second with padding at its end.

    types: kinds of segments, None for a model without. choices: (B, C, T) instead of (B, T).
    """
    time = min(LENGTH, positions)
    shape = (ROWS, CHOICES, time) if choices else (ROWS, time)
    place = np.arange(np.prod(shape)).reshape(shape)
    mask = np.ones(shape, np.int32)
    if vocab_size > 1:
        mask[-1, ..., time - time // 4 :] = 0
    # The last id fills the padding, and only that: transformers finds the end of a row by it.
    ids = (place * 7919 + 12345) % max(1, vocab_size - 1)
    found = {
        "input_ids": np.where(mask == 1, ids, vocab_size - 1).astype(np.int32),
        "attention_mask": mask,
        "position_ids": np.broadcast_to(np.arange(time, dtype=np.int32), shape).copy(),
    }
    if types is not None:
        found["token_type_ids"] = ((place % time >= time // 2) * min(1, types - 1)).astype(np.int32)
    return found


def run(model: Model, params: Params, tokens: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the model's outputs for the batch, in f32 at least."""
    arrays = {name: jnp.asarray(array) for name, array in tokens.items()}
    outputs = jax.jit(lambda p, b: model.apply(p, b))(params, arrays)
    return {
        name: np.asarray(outputs[name].astype(np.promote_types(outputs[name].dtype, np.float32)))
        for name in KEYS
        if name in outputs
    }


def summary(outputs: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return {output: its shape, SHA-256, mean, root mean square, largest value, first values}."""
    return {
        name: {
            "shape": list(array.shape),
            "sha256": hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest(),
            "mean": float(np.mean(array, dtype=np.float64)),
            "rms": float(np.sqrt(np.mean(np.square(array, dtype=np.float64)))),
            "largest": float(np.max(np.abs(array))),
            "first": [float(x) for x in array.reshape(-1)[:8]],
        }
        for name, array in outputs.items()
    }


def differences(one: Mapping[str, Any], two: Mapping[str, Any]) -> dict[str, float | None]:
    """Return {output: largest difference of the two summaries' figures, by max(1, the largest value)}.

    0 where the digests are equal; infinite where an output is missing, has another shape, or is finite on one
    side alone; None where it is finite on neither, which nothing can be told of.
    """
    found: dict[str, float | None] = {}
    for name in sorted({*one, *two}):
        if name not in one or name not in two or _size(one[name]) != _size(two[name]):
            found[name] = float("inf")
        elif not math.isfinite(one[name]["largest"]) or not math.isfinite(two[name]["largest"]):
            neither = not math.isfinite(one[name]["largest"]) and not math.isfinite(two[name]["largest"])
            found[name] = None if neither else float("inf")
        elif one[name]["sha256"] == two[name]["sha256"]:
            found[name] = 0.0
        else:
            pairs = [(one[name][k], two[name][k]) for k in ("mean", "rms", "largest")]
            pairs += list(zip(one[name]["first"], two[name]["first"], strict=False))
            found[name] = max(abs(a - b) for a, b in pairs) / max(1.0, one[name]["largest"])
    return found


def _size(figures: Mapping[str, Any]) -> tuple[Any, int]:
    return figures["shape"], len(figures["first"])
