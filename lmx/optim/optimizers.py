"""Optimizers by name: (learning_rate, **options) -> optax.GradientTransformation.

Each is the update of its paper; weight decay is decoupled, scaled by the learning rate, and reaches matrices
only (Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization"). Clipping, L1, L2, groups and
averages are not theirs: `build` adds them to any.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lmx.core import layers, tree
from lmx.core.errors import UserError
from lmx.core.types import Params
from lmx.optim import _muon
from lmx.optim.schedules import Schedule


def decayed(params: Params) -> Params:
    """Return the mask of weight decay: matrices only, not biases, norms or other vectors."""
    return tree.map_named(lambda path, leaf: len(layers.shape(path, leaf)) >= 2, params)


def _descend(learning_rate: Schedule, decay: float, *direction: Any) -> optax.GradientTransformation:
    """Return the chain that moves by -rate x (direction + decay x parameter)."""
    return optax.chain(
        *direction,
        optax.add_decayed_weights(decay, mask=decayed),
        optax.scale_by_learning_rate(learning_rate),
    )


def adamw(
    learning_rate: Schedule,
    *,
    decay: float = 0.01,
    b1: float = 0.9,
    b2: float = 0.999,
    epsilon: float = 1e-8,
) -> optax.GradientTransformation:
    """AdamW (Loshchilov and Hutter 2019, algorithm 2), with the defaults of torch (decay 0.01)."""
    return _descend(learning_rate, decay, optax.scale_by_adam(b1=b1, b2=b2, eps=epsilon))


def adam(
    learning_rate: Schedule,
    *,
    decay: float = 0.0,
    b1: float = 0.9,
    b2: float = 0.999,
    epsilon: float = 1e-8,
) -> optax.GradientTransformation:
    """Adam (Kingma and Ba 2015, algorithm 1): AdamW that does not decay unless it is told to."""
    return adamw(learning_rate, decay=decay, b1=b1, b2=b2, epsilon=epsilon)


def bert_adam(
    learning_rate: Schedule,
    *,
    decay: float = 0.01,
    b1: float = 0.9,
    b2: float = 0.999,
    epsilon: float = 1e-6,
) -> optax.GradientTransformation:
    """The optimizer that trained BERT (google-research/bert, optimization.py, AdamWeightDecayOptimizer).

    Adam without bias correction, epsilon outside the root; no decay for LayerNorm and biases. Fine-tuning on
    little data is less stable with it than with AdamW (Zhang et al. 2021, section 4).
    """

    def init(params: Params) -> optax.ScaleByAdamState:
        zeros = optax.tree.zeros_like(params)
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), zeros, optax.tree.zeros_like(params))

    def update(updates: Params, state: Any, params: Params | None = None) -> Any:
        mu = optax.tree.update_moment(updates, state.mu, b1, 1)
        nu = optax.tree.update_moment_per_elem_norm(updates, state.nu, b2, 2)
        direction = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + epsilon), mu, nu)
        return direction, optax.ScaleByAdamState(state.count + 1, mu, nu)

    return _descend(learning_rate, decay, optax.GradientTransformation(init, update))


def lamb(
    learning_rate: Schedule,
    *,
    decay: float = 0.01,
    b1: float = 0.9,
    b2: float = 0.999,
    epsilon: float = 1e-6,
) -> optax.GradientTransformation:
    """LAMB (You et al. 2020, "Large Batch Optimization for Deep Learning", algorithm 2), phi the identity.

    The step of each matrix, decay included, is as long as rate x its norm; what is not decayed (biases,
    norms) has no such ratio, as in Google's code.
    """
    return optax.chain(
        optax.scale_by_adam(b1=b1, b2=b2, eps=epsilon),
        optax.add_decayed_weights(decay, mask=decayed),
        optax.masked(optax.scale_by_trust_ratio(), decayed),
        optax.scale_by_learning_rate(learning_rate),
    )


def adafactor(
    learning_rate: Schedule,
    *,
    decay: float = 0.0,
    exponent: float = 0.8,
    threshold: float = 1.0,
    momentum: float = 0.0,
    scale_parameter: bool = True,
    factor_from: int = 128,
    epsilon: float = 1e-30,
    epsilon_scale: float = 1e-3,
) -> optax.GradientTransformation:
    """Adafactor (Shazeer and Stern 2018, algorithms 4 and 5): a matrix keeps one number per row and column.

    exponent: the memory of step t is 1 - t^-exponent. threshold: the largest RMS of an update. momentum: of
    the update, 0 for none and no memory of it. scale_parameter: whether the rate is relative to the RMS of
    each parameter, which counts as `epsilon_scale` at least. factor_from: matrices with a smaller side than
    this keep all their second moments.
    """
    parts = [
        optax.scale_by_factored_rms(decay_rate=exponent, min_dim_size_to_factor=factor_from, epsilon=epsilon),
        optax.clip_by_block_rms(threshold),
    ]
    parts += [optax.scale_by_param_block_rms(epsilon_scale)] if scale_parameter else []
    parts += [optax.ema(momentum, debias=False)] if momentum else []
    return _descend(learning_rate, decay, *parts)


def lion(
    learning_rate: Schedule, *, decay: float = 0.01, b1: float = 0.9, b2: float = 0.99
) -> optax.GradientTransformation:
    """Lion (Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms", algorithm 2).

    Every number moves by the whole rate: the rate should be 3 to 10 times smaller than AdamW's, the decay
    larger by as much.
    """
    return _descend(learning_rate, decay, optax.scale_by_lion(b1=b1, b2=b2))


def sgd(
    learning_rate: Schedule, *, decay: float = 0.0, momentum: float = 0.0, nesterov: bool = False
) -> optax.GradientTransformation:
    """Stochastic gradient descent as torch has it (no dampening).

    Raises UserError for nesterov without momentum.
    """
    if nesterov and not momentum:
        raise UserError("optim.nesterov=True looks ahead along the momentum; set optim.momentum above 0, too")
    parts = [optax.trace(decay=momentum, nesterov=nesterov)] if momentum else []
    return _descend(learning_rate, decay, *parts)


def muon(
    learning_rate: Schedule,
    *,
    decay: float = 0.01,
    momentum: float = 0.95,
    nesterov: bool = True,
    iterations: int = 5,
    adjust: str = "rms",
    body: str = r"block/.*",
    others: float = 1.0,
    b1: float = 0.9,
    b2: float = 0.95,
    epsilon: float = 1e-8,
) -> optax.GradientTransformation:
    """Muon for the matrices of the body, AdamW for embeddings, heads and vectors.

    body: a regular expression on the whole path, which chooses among the matrices. iterations: of
    Newton-Schulz. adjust: "rms" or "shape", see `_muon.direction`. others: the rate of AdamW as a factor of
    Muon's; b1, b2, epsilon: AdamW's. Raises UserError where `body` matches no matrix.
    """
    rest = adamw(lambda step: others * learning_rate(step), decay=decay, b1=b1, b2=b2, epsilon=epsilon)
    chosen = _descend(learning_rate, decay, _muon.direction(momentum, nesterov, iterations, adjust))
    return _parted(body, chosen, rest)


def _parted(
    body: str, one: optax.GradientTransformation, two: optax.GradientTransformation
) -> optax.GradientTransformation:
    """Return `one` for the matrices whose path matches, `two` for all other leaves."""

    def split(leaves: Params, params: Params) -> tuple[Params, Params]:
        named = tree.flatten(tree.mask(params, body))
        mask = tree.map_named(lambda path, leaf: named[path] and leaf.ndim == 2, params)
        return tree.split(leaves, mask)

    def init(params: Params) -> tuple[Any, Any]:
        matrices, rest = split(params, params)
        if not matrices:
            one_of_them = next(iter(tree.flatten(params)), "none")
            raise UserError(f"optim.body={body!r} matches no trainable matrix; there is {one_of_them!r}")
        return one.init(matrices), two.init(rest)

    def update(updates: Params, state: Any, params: Params | None = None) -> Any:
        assert params is not None
        pairs = zip((one, two), split(updates, params), state, split(params, params), strict=True)
        (matrices, first), (rest, second) = [made.update(u, s, p) for made, u, s, p in pairs]
        return tree.merge(matrices, rest), (first, second)

    return optax.GradientTransformation(init, update)


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adamw": adamw,
    "adam": adam,
    "bert_adam": bert_adam,
    "lamb": lamb,
    "adafactor": adafactor,
    "lion": lion,
    "muon": muon,
    "sgd": sgd,
}
"""Name -> (learning_rate, **options) -> transformation; a dotted name reaches the user's own of that type."""

ELEMENTWISE = frozenset({"adamw", "adam", "bert_adam", "lion", "sgd"})
"""Those that move each number by itself, so that leaves may be stacked: no norm of a leaf, no rows of it."""
