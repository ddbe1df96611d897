"""A random problem that every optimizer can be run on: parameters, and gradients that depend on them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lmx import optim
from lmx.core import tree

RATE = 0.01
STEPS = 10

SHAPES = {
    "embed/token/embedding": (7, 4),
    "block/0/attn/query/kernel": (4, 6),
    "block/0/attn/query/bias": (6,),
    "block/0/mlp/down/kernel": (9, 4),
    "block/0/norm1/scale": (4,),
    "head/kernel": (4, 3),
}


def start() -> dict[str, np.ndarray]:
    """{path: f64 array}."""
    draw = np.random.default_rng(0)
    return {path: draw.normal(0, 0.5, shape) for path, shape in SHAPES.items()}


def noise(step: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(100 + step)
    size = draw.uniform(0.2, 3.0)
    return {path: size * draw.normal(0, 1, shape) for path, shape in SHAPES.items()}


def gradients(params: Any, step: int) -> Any:
    """0.3 x parameter + noise of the step, for arrays of any library."""
    return {path: 0.3 * leaf + noise(step)[path] for path, leaf in params.items()}


def constant(step: Any) -> Any:
    return jnp.float32(RATE)


def run(made: optax.GradientTransformation, steps: int = STEPS) -> tuple[dict[str, np.ndarray], Any]:
    """({path: parameters after `steps`}, state); jitted, with donated buffers."""

    def one(params: Any, state: Any, drawn: Any) -> Any:
        slopes = jax.tree.map(lambda p, n: 0.3 * p + n, params, drawn)
        moves, state = made.update(slopes, state, params)
        return optax.apply_updates(params, moves), state

    update = jax.jit(one, donate_argnums=(0, 1))
    params = tree.unflatten({path: jnp.asarray(leaf, jnp.float32) for path, leaf in start().items()})
    state = jax.jit(made.init)(params)
    for step in range(steps):
        drawn = tree.unflatten({k: jnp.asarray(v, jnp.float32) for k, v in noise(step).items()})
        params, state = update(params, state, drawn)
    return {path: np.asarray(leaf, np.float64) for path, leaf in tree.flatten(params).items()}, state


def ours(name: str, *, steps: int = STEPS, **options: Any) -> dict[str, np.ndarray]:
    return run(optim.build(name, constant, **options), steps)[0]


def assert_equal(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray], atol: float = 1e-6) -> None:
    assert found.keys() == wanted.keys()
    for path, leaf in wanted.items():
        np.testing.assert_allclose(found[path], leaf, atol=atol, rtol=0, err_msg=path)
