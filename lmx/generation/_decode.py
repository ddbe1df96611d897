"""The loop that decoders share: fill the cache with the prompts, then one token a step, all in one jit.

Prompts of many lengths go in batches, alike with alike, each as wide as one of a few widths, so that few
programs are compiled however many prompts there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from lmx.core import layout, processes
from lmx.core import mesh as mesh_
from lmx.core.errors import UserError
from lmx.core.types import Array, Model, Params

Choose = Callable[[Array, Array], Array]
"""(logits (B, V) in f32, one key per example (B,)) -> token ids (B,)."""

NARROWEST = 16
"""Widths of batches are 16, 24, 32, 48, 64, 96, ...: two for each doubling."""


def decode(
    model: Model,
    params: Params,
    prompts: Sequence[Sequence[int]],
    rng: Array,
    choose: Choose,
    *,
    tokens: int,
    eos_id: int | None,
    banned: Sequence[int] = (),
    size: int | None = None,
    mesh: Mesh | None = None,
) -> list[list[int]]:
    """Return the new ids of each prompt, at most `tokens`, without the end symbol and what follows it.

    Prompts of different lengths are padded on the left. The key of a token derives from (rng, the prompt's
    index, its place), so a prompt's continuation does not depend on its neighbours, nor on the batches.
    banned: ids that are never taken. size: prompts in a batch, None for all of them in one. mesh: devices
    that share a batch, whose number divides `size`; None for the one that holds the parameters.
    Errors: UserError for no prompts, an empty prompt, or `tokens` below 1.
    """
    if not prompts or not all(len(prompt) for prompt in prompts):
        raise UserError("nothing to go on from: a prompt needs at least one token")
    if tokens < 1:
        raise UserError(f"tokens={tokens}; expected at least 1")
    forbidden = jnp.asarray(list(banned), jnp.int32)
    found: list[list[int]] = [[] for _ in prompts]
    for chosen, batch in _batches(prompts, size):
        placed: Mapping[str, Array] = (
            {name: jnp.asarray(rows) for name, rows in batch.items()}
            if mesh is None
            else mesh_.put(mesh_.part(batch, mesh), mesh)
        )
        end = -1 if eos_id is None else eos_id
        new = _run(model, choose, tokens, end, mesh, params, placed, rng, forbidden)
        for index, row in zip(chosen, processes.whole(new).tolist(), strict=False):
            found[index] = _cut(row, eos_id)
    return found


def _batches(
    prompts: Sequence[Sequence[int]], size: int | None
) -> Iterator[tuple[list[int], dict[str, np.ndarray]]]:
    """Yield (which prompts, their batch), the longest first; rows beyond them repeat the last one.

    A batch holds `ids` and `real` (B, T), padded on the left, and `index` (B,), each prompt's place.
    """
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    longest = len(prompts[order[0]])
    for first in range(0, len(order), size or len(order)):
        chosen = order[first : first + (size or len(order))]
        rows = chosen + [chosen[-1]] * ((size or 0) - len(chosen))
        width = longest if size is None else min(longest, _width(len(prompts[chosen[0]])))
        width = max(width, 2)  # something stands before the last token, and be it padding
        ids, real = np.zeros((2, len(rows), width), np.int32)
        for row, index in enumerate(rows):
            start = width - len(prompts[index])
            ids[row, start:], real[row, start:] = prompts[index], 1
        yield chosen, {"ids": ids, "real": real, "index": np.array(rows, np.int32)}


def _width(length: int) -> int:
    """Return the smallest width that holds so many ids.

    >>> [_width(length) for length in (1, 17, 24, 25, 33, 49)]
    [16, 24, 24, 32, 48, 64]
    """
    width = NARROWEST
    while width < length:
        if width * 3 // 2 >= length:
            return width * 3 // 2
        width *= 2
    return width


def _cut(row: list[int], eos_id: int | None) -> list[int]:
    return row[: row.index(eos_id)] if eos_id is not None and eos_id in row else row


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _run(
    model: Model,
    choose: Choose,
    tokens: int,
    eos_id: int,
    mesh: Mesh | None,
    params: Params,
    batch: dict[str, Array],
    rng: Array,
    banned: Array,
) -> Array:
    with layout.on(mesh):
        return _written(model, choose, tokens, eos_id, params, batch, rng, banned)


def _written(
    model: Model,
    choose: Choose,
    tokens: int,
    eos_id: int,
    params: Params,
    batch: dict[str, Array],
    rng: Array,
    banned: Array,
) -> Array:
    """Return new ids (B, tokens); rows that have ended hold the end symbol.

    The last token of the prompts is the first that goes through the loop, so that what stands before it needs
    no logits.
    """
    ids = batch["ids"]
    size, time = ids.shape
    prompt_keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(rng, batch["index"])
    given = {"input_ids": ids, "attention_mask": batch["real"]}
    before = {name: array[:, :-1] for name, array in given.items()}
    cache = model.apply(params, before, cache=time + tokens - 1)["cache"]  # the last new token needs no seat

    def unfinished(carry: Any) -> Array:
        place, _, _, ended, _ = carry
        return (place < tokens) & ~jnp.all(ended)

    def advance(carry: Any) -> Any:
        place, cache, last, ended, written = carry
        outputs = model.apply(params, {"input_ids": last[:, None]}, cache=cache)
        keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(prompt_keys, place)
        logits = outputs["logits"][:, -1].astype(jnp.float32).at[:, banned].set(-jnp.inf)
        token = jnp.where(ended, eos_id, choose(logits, keys).astype(jnp.int32))
        written = jax.lax.dynamic_update_slice(written, token[:, None], (jnp.int32(0), place))
        return place + 1, outputs["cache"], token, token == eos_id, written

    blank = jnp.full((size, tokens), eos_id, jnp.int32)
    carry = (jnp.int32(0), cache, ids[:, -1], jnp.zeros((size,), bool), blank)
    return jax.lax.while_loop(unfinished, advance, carry)[4]
