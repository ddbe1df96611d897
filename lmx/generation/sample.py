"""Sampling by temperature and top-k.

Source: Fan et al. 2018, "Hierarchical Neural Story Generation", section 5.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from lmx.core.errors import UserError
from lmx.core.types import Array, Model, Params
from lmx.generation._decode import Choose, decode


def generate(
    model: Model,
    params: Params,
    prompts: Sequence[Sequence[int]],
    rng: Array,
    *,
    tokens: int = 64,
    temperature: float = 1.0,
    top_k: int | None = None,
    eos_id: int | None = None,
    banned: Sequence[int] = (),
    size: int | None = None,
    mesh: Mesh | None = None,
) -> list[list[int]]:
    """Return a drawn continuation of each prompt (token ids), at most `tokens` long.

    temperature: divides the logits; 0 takes the likeliest token. top_k: draw among the k likeliest only.
    eos_id: the end symbol, which stops a continuation and is left out. banned: ids that are never taken.
    size: prompts in a batch, None for all in one. mesh: devices that share a batch; None for one.
    Errors: UserError for a negative or infinite temperature, and for top_k below 1.
    """
    check(temperature, top_k)
    return decode(
        model,
        params,
        prompts,
        rng,
        chooser(temperature, top_k),
        tokens=tokens,
        eos_id=eos_id,
        banned=banned,
        size=size,
        mesh=mesh,
    )


def check(temperature: float, top_k: int | None) -> None:
    """Raise UserError for a negative or infinite temperature, and for top_k below 1."""
    if not 0 <= temperature < float("inf"):
        raise UserError(f"temperature={temperature}; expected 0 (greedy) or more")
    if top_k is not None and top_k < 1:
        raise UserError(f"top_k={top_k}; expected at least 1, or none")


@lru_cache(maxsize=64)
def chooser(temperature: float, top_k: int | None) -> Choose:
    """Return the function that draws from logits (B, V); the same object for the same settings, so that the
    decoding loop compiles once."""

    def choose(logits: Array, keys: Array) -> Array:
        if temperature == 0:
            return jnp.argmax(logits, axis=-1)
        if top_k is not None and top_k < logits.shape[-1]:
            smallest = jax.lax.top_k(logits, top_k)[0][:, -1:]
            logits = jnp.where(logits < smallest, -jnp.inf, logits)
        return jax.vmap(jax.random.categorical)(keys, logits / temperature)

    return choose
