"""Greedy decoding: the likeliest token at each place."""

from __future__ import annotations

from collections.abc import Sequence

from jax.sharding import Mesh

from lmx.core.types import Array, Model, Params
from lmx.generation._decode import decode
from lmx.generation.sample import chooser


def generate(
    model: Model,
    params: Params,
    prompts: Sequence[Sequence[int]],
    rng: Array,
    *,
    tokens: int = 64,
    eos_id: int | None = None,
    banned: Sequence[int] = (),
    size: int | None = None,
    mesh: Mesh | None = None,
) -> list[list[int]]:
    """Return the greedy continuation of each prompt, at most `tokens` ids; the key is not used.

    The rest: as in `sample.generate`.
    """
    return decode(
        model,
        params,
        prompts,
        rng,
        chooser(0.0, None),
        tokens=tokens,
        eos_id=eos_id,
        banned=banned,
        size=size,
        mesh=mesh,
    )
