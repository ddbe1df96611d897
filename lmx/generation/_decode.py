"""The loop that decoders share: fill the cache with the prompts, then one token a step, all in one jit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lmx.core.errors import UserError
from lmx.core.types import Array, Model, Params

Choose = Callable[[Array, Array], Array]
"""(logits (B, V) in f32, one key per example (B,)) -> token ids (B,)."""


def decode(
    model: Model,
    params: Params,
    prompts: Sequence[Sequence[int]],
    rng: Array,
    choose: Choose,
    *,
    tokens: int,
    eos_id: int | None,
) -> list[list[int]]:
    """Return the new ids of each prompt, at most `tokens`, without the end symbol and what follows it.

    Prompts of different lengths are padded on the left. The key of a token derives from (rng, the prompt's
    index, its place), so a prompt's continuation does not depend on its neighbours.
    Errors: UserError for no prompts, an empty prompt, or `tokens` below 1.
    """
    if not prompts or not all(len(prompt) for prompt in prompts):
        raise UserError("nothing to go on from: a prompt needs at least one token")
    if tokens < 1:
        raise UserError(f"tokens={tokens}; expected at least 1")
    longest = max(len(prompt) for prompt in prompts)
    ids = np.zeros((len(prompts), longest), np.int32)
    real = np.zeros((len(prompts), longest), np.int32)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = prompt
        real[row, longest - len(prompt) :] = 1
    new = _run(
        model,
        choose,
        tokens,
        -1 if eos_id is None else eos_id,
        params,
        jnp.asarray(ids),
        jnp.asarray(real),
        rng,
    )
    return [_cut(row, eos_id) for row in np.asarray(new).tolist()]


def _cut(row: list[int], eos_id: int | None) -> list[int]:
    return row[: row.index(eos_id)] if eos_id is not None and eos_id in row else row


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _run(
    model: Model,
    choose: Choose,
    tokens: int,
    eos_id: int,
    params: Params,
    ids: Array,
    real: Array,
    rng: Array,
) -> Array:
    """Return new ids (B, tokens); rows that have ended hold the end symbol."""
    size, time = ids.shape
    prompt_keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(rng, jnp.arange(size))

    def pick(logits: Array, place: Array) -> Array:
        keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(prompt_keys, place)
        return choose(logits[:, -1].astype(jnp.float32), keys).astype(jnp.int32)

    outputs = model.apply(params, {"input_ids": ids, "attention_mask": real}, cache=time + tokens)
    first = pick(outputs["logits"], jnp.int32(0))
    written = jnp.full((size, tokens), eos_id, jnp.int32).at[:, 0].set(first)

    def unfinished(carry: Any) -> Array:
        place, _, last, _ = carry
        return (place < tokens) & ~jnp.all(last == eos_id)

    def advance(carry: Any) -> Any:
        place, cache, last, written = carry
        outputs = model.apply(params, {"input_ids": last[:, None]}, cache=cache)
        token = jnp.where(last == eos_id, eos_id, pick(outputs["logits"], place))
        written = jax.lax.dynamic_update_slice(written, token[:, None], (jnp.int32(0), place))
        return place + 1, outputs["cache"], token, written

    carry = (jnp.int32(1), outputs["cache"], first, written)
    return jax.lax.while_loop(unfinished, advance, carry)[3]
