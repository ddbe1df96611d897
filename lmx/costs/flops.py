"""Operations of a traced function: its matrix products, loops included, whatever computes them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend import core as jaxpr_


def of(function: Callable[..., Any], *args: Any) -> int:
    """Return the floating-point operations of the products of a function, 2 for each multiply-add.

    args: arrays or shapes. They are those of all devices together. What a loop does counts as often as it
    does it; a loop whose length is not known when it is traced counts once. Of a condition's branches the
    dearest counts, and of a kernel each block, those that its mask lets it leave out among them.
    """
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr: Any) -> int:
    return sum(_equation(one) for one in jaxpr.eqns)


def _equation(one: Any) -> int:
    name, params = one.primitive.name, one.params
    if name == "dot_general":
        (left, _), _ = params["dimension_numbers"]
        contracted = math.prod(one.invars[0].aval.shape[axis] for axis in left)
        return 2 * contracted * math.prod(one.outvars[0].aval.shape)
    inner = [_count(found) for found in _inside(params)]
    if name == "scan":
        return int(params["length"]) * sum(inner)
    if name == "pallas_call":  # a kernel's program is that of one place of its grid
        return math.prod(params["grid_mapping"].grid) * sum(inner)
    if name == "cond":
        return max(inner, default=0)
    if name == "shard_map":
        return sum(inner) * math.prod(
            size for axis, size in params["mesh"].shape.items() if axis in params["newly_manual_axes"]
        )
    return sum(inner)


def _inside(params: dict[str, Any]) -> Iterator[Any]:
    """Yield the jaxprs that an equation runs."""
    for value in params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            if isinstance(one, jaxpr_.ClosedJaxpr):
                yield one.jaxpr
            elif isinstance(one, jaxpr_.Jaxpr):
                yield one


def trained(parameters: int, *, layers: int, width: int, length: int) -> float:
    """Return the operations that training on one token needs: 6 N + 12 L D T.

    parameters: without those of the positions. length: tokens of a row. What is computed again does not
    count, what a mask forbids does, so that the share of the peak can be held against others'.
    Source: Chowdhery et al. 2022, "PaLM", appendix B.
    """
    return 6 * parameters + 12 * layers * width * length


def batch(tokens: int, *, body: int, layers: int, width: int, length: int, head: int, scored: int) -> float:
    """Return the operations that training on a batch needs: 6 N + 12 L D T a token, and 6 H a scored place.

    tokens: B x T, padding among them. body: the parameters that every token meets, N: embeddings, which are
    looked up, and heads are none of them. head: those of the product with the vocabulary, V D where it is
    tied. scored: the places that get logits: all of a decoder's, those hidden from a masked language model,
    none of a head on few labels, which is too small to matter. A decoder's N and H are together the N of
    `trained`.
    """
    return tokens * trained(body, layers=layers, width=width, length=length) + 6.0 * head * scored
