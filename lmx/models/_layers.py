"""The parts that models are made of: leaves, dense layers, norms, dropout, attention and taps.

Modules are flax.nnx, built abstractly and split once (`Blueprint`); outside a model file there are only pure
functions of a plain nested dict.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from lmx.core import execution, functions, layout, tree
from lmx.core import rng as rng_
from lmx.core.errors import UserError, did_you_mean
from lmx.core.types import Array, Model, Outputs, Params, Taps

Init = Callable[..., Array]


def leaf(shape: tuple[int, ...], init: Init) -> nnx.Param[Array]:
    """Declare one f32 parameter: its shape and how it starts; no memory is taken under `Blueprint`."""
    return nnx.Param(init(jax.random.key(0), shape, jnp.float32), init=init)


class Dense(nnx.Module):
    """`x @ kernel + bias` over the last axis; the kernel is (in, out)."""

    def __init__(self, fan_in: int, fan_out: int, *, scale: float) -> None:
        self.kernel = leaf((fan_in, fan_out), nnx.initializers.normal(scale))
        self.bias = leaf((fan_out,), nnx.initializers.zeros)
        self.names: tuple[str, ...] = ()  # of the kernel's axes; `Blueprint` fills them in

    def __call__(self, x: Array) -> Array:
        """(..., in) -> (..., out)."""
        return functions.dense(x, self.kernel[...], self.bias[...], self.names)


class LayerNorm(nnx.Module):
    """Layer normalisation over the last axis, in f32 whatever the compute type.

    Source: Ba et al. 2016, "Layer Normalization".
    """

    def __init__(self, width: int, *, epsilon: float) -> None:
        self.scale = leaf((width,), nnx.initializers.ones)
        self.bias = leaf((width,), nnx.initializers.zeros)
        self.epsilon = epsilon

    def __call__(self, x: Array) -> Array:
        """(..., D) -> (..., D)."""
        flat = x.reshape(-1, x.shape[-1])
        return functions.layer_norm(flat, self.scale[...], self.bias[...], self.epsilon).reshape(x.shape)


class Embedding(nnx.Module):
    """A table of vectors, (rows, D)."""

    def __init__(self, rows: int, width: int, *, scale: float) -> None:
        self.embedding = leaf((rows, width), nnx.initializers.normal(scale))
        self.names: tuple[str, ...] = ()  # of the table's axes; `Blueprint` fills them in

    def __call__(self, ids: Array) -> Array:
        """ids (...) -> (..., D), in the compute type."""
        table = self.embedding[...]
        return functions.look_up(table, ids, self.names, execution.compute(table.dtype))


class Blueprint:
    """A module without its arrays: the structure, built once and abstractly, to which leaves are bound.

    axes, prefix: the rules that name the leaves' axes, and what stands before the leaves' paths in them.
    shapes: {path: ShapeDtypeStruct}; inits: {path: initializer}.
    """

    def __init__(self, build: Callable[[], nnx.Module], axes: layout.Axes, prefix: str) -> None:
        self._graphdef, state = nnx.split(nnx.eval_shape(build))
        self.shapes: dict[str, jax.ShapeDtypeStruct] = tree.flatten(nnx.to_pure_dict(state))
        self.inits: dict[str, Init] = {
            "/".join(map(str, path)): variable.get_metadata()["init"]
            for path, variable in nnx.to_flat_state(state)
        }
        self._names = {
            path.rpartition("/")[0]: layout.names_of(f"{prefix}/{path}", axes)
            for path, spec in self.shapes.items()
            if len(spec.shape) == 2
        }

    def bind(self, leaves: Params) -> Any:
        """Return the module with these leaves, a nested dict; differentiable in them."""
        bound = nnx.merge(self._graphdef, leaves)
        for path, module in nnx.iter_modules(bound):
            if isinstance(module, Dense | Embedding):
                module.names = self._names["/".join(map(str, path))]
        return bound

    def start(self, key: Array, prefix: str) -> Params:
        """Return fresh leaves; each depends on (key, prefix + its path) alone."""
        flat = {
            path: self.inits[path](rng_.leaf_key(key, f"{prefix}/{path}"), spec.shape, spec.dtype)
            for path, spec in self.shapes.items()
        }
        return tree.unflatten(flat)

    def start_layers(self, key: Array, prefix: str, count: int) -> Params:
        """Return {"0": leaves, …} of `count` modules, each as `start` gives under `prefix`/0, `prefix`/1, ….

        One draw a path for all layers, so that the time to compile does not grow with their number.
        """
        layers: list[dict[str, Array]] = [{} for _ in range(count)]
        for path, spec in self.shapes.items():
            names = [rng_.hashed(f"{prefix}/{i}/{path}") for i in range(count)]
            keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.array(names, jnp.uint32))
            drawn = jax.vmap(lambda k, p=path, s=spec: self.inits[p](k, s.shape, s.dtype))(keys)
            for i, leaves in enumerate(layers):
                leaves[path] = drawn[i]
        return {str(i): tree.unflatten(leaves) for i, leaves in enumerate(layers)}


def plain(init: Callable[[Array], Params], apply: Callable[..., Outputs]) -> Model:
    """Return a model whose leaves all train, and that has nothing to fold."""
    return Model(
        init=init,
        apply=apply,
        trainable=lambda params: tree.map_named(lambda path, leaf: True, params),
        fold=lambda params: params,
    )


class Tapper:
    """Applies the taps of one forward pass and gathers what they capture."""

    def __init__(self, taps: Taps | None, known: tuple[str, ...]) -> None:
        self.taps = taps or {}
        for name in self.taps:
            if name not in known:
                raise UserError(f"no tap {name!r}{did_you_mean(name, known)}; there is: {', '.join(known)}")

    def __contains__(self, name: str) -> bool:
        return name in self.taps

    def __call__(self, name: str, x: Array, layer: Any, captured: dict[str, Any]) -> Array:
        """Pass x through the tap of that name; what the tap reads goes into `captured`."""
        if name not in self.taps:
            return x
        result = self.taps[name](x, layer)
        if not isinstance(result, tuple):
            return result
        x, captured[name] = result
        return x


def stack_captured(layers: list[dict[str, Any]]) -> dict[str, Any]:
    """Return {name: values of all layers, stacked in front} from one dict per layer."""
    if not layers:
        return {}
    return {name: jax.tree.map(lambda *x: jnp.stack(x), *(c[name] for c in layers)) for name in layers[0]}


def residual_scale(scale: float, layers: int) -> float:
    """Return the start scale of the matrices that write into the residual stream: scale / sqrt(2 L).

    Source: Radford et al. 2019, section 2.3.
    """
    return scale / math.sqrt(2 * layers)
