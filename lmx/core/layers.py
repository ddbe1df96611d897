"""The layers of a model as one: the leaves of its blocks stacked along a first axis, and apart again.

A loop over layers takes them stacked. Where they lie so between steps, too, no step stacks them, XLA is
given as many buffers as one layer has leaves, and each kind of leaf is updated by one program, however
many layers there are. Source: Bradbury et al. 2018, JAX, `jax.lax.scan`; the same arithmetic on each number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from lmx.core import tree
from lmx.core.types import Array, Model, Params

BLOCK, ALL = "block", "all"
"""`block/3/mlp/up/kernel` (D, F) is that of the layer 3, `block/all/mlp/up/kernel` (L, D, F) that of all."""

_STACK = f"{BLOCK}/{ALL}/"


def stacked(params: Mapping[str, Any]) -> bool:
    """Tell whether the layers of these parameters are one."""
    return ALL in params.get(BLOCK, {})


def first(path: str) -> str:
    """Return the path that a leaf has in the first layer, where it is that of all; else its own.

    >>> first("block/all/attn/out/bias"), first("embed/token/embedding")
    ('block/0/attn/out/bias', 'embed/token/embedding')
    """
    return f"{BLOCK}/0/{path.removeprefix(_STACK)}" if path.startswith(_STACK) else path


def kind(path: str) -> str:
    """Return the path that a leaf of any layer has where they are one; else its own.

    >>> kind("block/3/attn/out/bias"), kind("final/scale")
    ('block/all/attn/out/bias', 'final/scale')
    """
    top, _, rest = path.partition("/")
    return f"{_STACK}{rest.partition('/')[2]}" if top == BLOCK else path


def shape(path: str, leaf: Any) -> tuple[int, ...]:
    """Return the shape that a leaf has in one layer."""
    return tuple(leaf.shape[1:] if path.startswith(_STACK) else leaf.shape)


def alike(values: Mapping[str, Any]) -> bool:
    """Tell whether {path: value} has one value for each kind of leaf, whatever the layer."""
    kinds: dict[str, Any] = {}
    return all(kinds.setdefault(kind(path), value) == value for path, value in values.items())


def stack(held: Any, of: Callable[[Sequence[Any]], Any] = jnp.stack) -> Any:
    """Return parameters, or an optimizer's state that mirrors them, with the layers as one.

    of: the leaves of all layers -> that of all. What is one already stays.
    """

    def joined(node: Any) -> Any:
        if not _has_layers(node) or stacked(node):
            return node
        each = [node[BLOCK][str(i)] for i in range(len(node[BLOCK]))]
        return {**node, BLOCK: {ALL: jax.tree.map(lambda *leaves: of(leaves), *each)}}

    return jax.tree.map(joined, held, is_leaf=_has_layers)


def apart(held: Any, of: Callable[[Any, int], Any] = lambda leaf, i: leaf[i]) -> Any:
    """Return parameters, or an optimizer's state that mirrors them, with each layer by itself.

    of: (the leaf of all layers, a layer's number) -> that of the layer. What is apart already stays.
    """

    def cut(node: Any) -> Any:
        if not _has_layers(node) or not stacked(node):
            return node
        whole = node[BLOCK][ALL]
        count = jax.tree.leaves(whole)[0].shape[0]
        each = {str(i): jax.tree.map(lambda leaf, i=i: of(leaf, i), whole) for i in range(count)}
        return {**node, BLOCK: each}

    return jax.tree.map(cut, held, is_leaf=_has_layers)


def _has_layers(node: Any) -> bool:
    return isinstance(node, dict) and BLOCK in node


def described(wanted: Any, like: bool) -> Any:
    """Return shapes, types and shardings of a tree of such with the layers as one (`like`), or apart."""

    def of_all(leaves: Sequence[Any]) -> Any:
        one = leaves[0]
        return _struct(one, (len(leaves), *one.shape), lambda spec: (None, *spec))

    def of_one(leaf: Any, _: int) -> Any:
        return _struct(leaf, leaf.shape[1:], lambda spec: spec[1:])

    return stack(wanted, of_all) if like else apart(wanted, of_one)


def _struct(leaf: Any, shape: tuple[int, ...], turned: Callable[[tuple[Any, ...]], tuple[Any, ...]]) -> Any:
    sharding = leaf.sharding
    if isinstance(sharding, NamedSharding):
        sharding = NamedSharding(sharding.mesh, PartitionSpec(*turned(tuple(sharding.spec))))
    return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=sharding)


def turned(held: Any, wanted: Any) -> Any:
    """Return a tree of arrays as another one describes it, its layers stacked or taken apart on the devices.

    wanted: shapes, types and shardings of the same leaves.
    """
    one = _as_one(wanted)
    if _as_one(held) == one:
        return held
    places = jax.tree.map(lambda leaf: leaf.sharding, wanted)
    return jax.jit(stack if one else apart, out_shardings=places)(held)


def _as_one(held: Any) -> bool:
    return any(_has_layers(node) and stacked(node) for node in jax.tree.leaves(held, is_leaf=_has_layers))


def together(model: Model) -> Model:
    """Return a model whose parameters hold its layers as one, the same numbers otherwise.

    For a model whose `apply` takes them so (`models._blocks.through`), and that trains all layers alike.
    """

    def trainable(params: Params) -> Params:
        each = tree.flatten(model.trainable(jax.eval_shape(apart, params)))
        return tree.map_named(lambda path, _: each[first(path)], params)

    def init(key: Array) -> Params:
        made: Params = stack(model.init(key))
        return made

    return Model(init, model.apply, trainable, lambda params: model.fold(apart(params)))
