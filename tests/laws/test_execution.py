"""Every way to execute a model gives what the plain way gives: loss, gradients, hidden states and taps."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmx.core import execution, layers, layout, tree
from lmx.core import mesh as mesh_
from lmx.core.errors import UserError
from lmx.core.execution import Execution
from lmx.core.plugin import find, names
from lmx.models import bert
from lmx.tasks import causal_lm, masked_lm

SIZES = {"vocab_size": 61, "positions": 24, "width": 16, "layers": 2, "heads": 4, "init_range": 0.2}
HEADS = {"gpt2": causal_lm, "bert": masked_lm}


@functools.cache
def made(name: str, **fields: Any) -> tuple[Any, Any, Any, Any]:
    """Return (model, its objective, parameters, a batch) of a small model of each kind."""
    shelf = find("lmx.models", name)
    config = shelf.Config(**{**SIZES, "mlp_width": 48, **fields})
    task = HEADS[name]
    model = task.attach(shelf.build(config), config)
    draw = np.random.default_rng(0)
    ids = draw.integers(0, 61, (8, 24)).astype(np.int32)
    batch: dict[str, Any] = {"input_ids": ids, "example_index": np.arange(8, dtype=np.int32)}
    if name == "bert":
        batch["labels"] = np.where(draw.random((8, 24)) < 0.3, ids, -100).astype(np.int32)

        def objective(params: Any, batch: Any, rng: Any) -> Any:
            return task.loss(model.apply(params, batch, rng=rng, train=rng is not None), batch)
    else:
        objective = causal_lm.objective(model)
    return model, objective, jax.jit(model.init)(jax.random.key(0)), batch


def gradient(objective: Any, params: Any, batch: Any, how: Execution, mesh: Any = None) -> tuple[Any, Any]:
    """Return loss and gradients, dropout on."""

    def total(params: Any, batch: Any) -> Any:
        with execution.on(how), layout.on(mesh):
            return objective(params, batch, jax.random.key(1))[0]

    return jax.jit(jax.value_and_grad(total))(params, batch)


@functools.cache
def plainly(name: str, **fields: Any) -> tuple[Any, Any]:
    """Return loss and gradients the plain way."""
    _, objective, params, batch = made(name, **fields)
    return gradient(objective, params, batch, Execution())


def test_the_shelf_is_whole() -> None:
    assert set(names("lmx.models")) == set(HEADS)


QUICK = {("gpt2", "scanned", "none"), ("gpt2", "unrolled", "dots"), ("gpt2", "unrolled", "block")} | {
    (name, "scanned", "block") for name in HEADS
}
"""Those that are not left to the slow suite; half a minute to compile each."""


@pytest.mark.parametrize(
    ("name", "layers", "remat"),
    [
        pytest.param(*way, marks=[] if way in QUICK else [pytest.mark.slow])
        for way in itertools.product(HEADS, execution.LAYERS, execution.REMAT)
        if way[1:] != ("unrolled", "none")  # the plain way itself
    ],
)
def test_remat_and_scan_change_nothing(name: str, remat: str, layers: str) -> None:
    fields = {"scale_attention_by_layer": True} if name == "gpt2" else {"pooler": False}
    _, objective, params, batch = made(name, **fields)
    plain = plainly(name, **fields)
    other = gradient(objective, params, batch, Execution(remat=remat, layers=layers))
    for one, two in zip(jax.tree.leaves(plain), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(two, one, atol=2e-6 * max(1.0, float(jnp.abs(one).max())))


@pytest.mark.parametrize("how", execution.LAYERS)
@pytest.mark.parametrize(("name", "read"), [("gpt2", "hidden"), ("bert", "hidden"), ("bert", "pooled")])
def test_layers_that_are_held_as_one_give_the_same(name: str, read: str, how: str) -> None:
    """Outputs and gradients, where BERT's last block is computed apart for its summary, too."""
    model, _, params, batch = made(name)
    if name == "bert":
        model = bert.build(bert.Config(**{**SIZES, "mlp_width": 48}))  # with its pooler
        params = jax.jit(model.init)(jax.random.key(0))

    def gradient(params: Any) -> Any:
        def total(params: Any) -> Any:
            with execution.on(Execution(layers=how)):
                return jnp.sum(jnp.sin(model.apply(params, batch, rng=jax.random.key(1), train=True)[read]))

        return jax.jit(jax.value_and_grad(total))(params)

    plain, one = gradient(params), gradient(layers.stack(params))
    assert len(jax.tree.leaves(one)) < len(jax.tree.leaves(plain))
    for before, after in zip(jax.tree.leaves(plain), jax.tree.leaves(layers.apart(one)), strict=True):
        np.testing.assert_allclose(after, before, atol=2e-6 * max(1.0, float(jnp.abs(before).max())))


@pytest.mark.parametrize("name", HEADS)
def test_taps_of_scanned_layers(name: str) -> None:
    """What is read comes back stacked over the layers; what is written knows its layer."""
    model, _, params, batch = made(name)
    taps = {
        "block": lambda x, layer: (x + jnp.asarray(layer).astype(x.dtype), x),
        "attn/weights": lambda x, layer: (x, x),
    }

    def run(how: Execution) -> Any:
        with execution.on(how):
            return model.apply(params, batch, taps=taps)

    plain, scanned = (run(Execution(layers=layers))["taps"] for layers in execution.LAYERS)
    assert plain.keys() == scanned.keys() and plain["block"].shape[0] == SIZES["layers"]
    for key in plain:
        np.testing.assert_allclose(scanned[key], plain[key], atol=2e-5)


@pytest.mark.parametrize("name", ["gpt2", pytest.param("bert", marks=pytest.mark.slow)])
def test_bf16_computes_in_bf16_and_sums_in_f32(name: str) -> None:
    model, objective, params, batch = made(name)
    with execution.on(Execution(compute="bfloat16")):
        hidden = model.apply(params, batch)["hidden"]
    assert hidden.dtype == jnp.bfloat16
    plain = plainly(name)
    half = gradient(objective, params, batch, Execution(compute="bfloat16"))
    assert half[0].dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(half[1])} == {jnp.dtype("float32")}
    assert float(half[0]) == pytest.approx(float(plain[0]), rel=0.01)
    for path, one in tree.flatten(plain[1]).items():
        two = tree.flatten(half[1])[path]
        if float(jnp.linalg.norm(one)) > 1e-3:  # that of a key's bias is 0 but for rounding
            assert float(jnp.linalg.norm(two - one) / jnp.linalg.norm(one)) < 0.1, path
        if (
            one.ndim == 2 and "embed" not in path and float(jnp.linalg.norm(one)) > 0
        ):  # a product's sum, not rounded to bf16 afterwards
            rounded = two.astype(jnp.bfloat16).astype(jnp.float32)
            assert float(jnp.mean(rounded == two)) < 0.2, path


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param({"data": 8}, marks=pytest.mark.slow),
        pytest.param({"data": 1, "fsdp": 8}, marks=pytest.mark.slow),
        {"data": 2, "fsdp": 2, "tensor": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("layers", execution.LAYERS)
def test_no_mesh_changes_loss_or_gradients(name: str, sizes: dict[str, int], layers: str) -> None:
    _, objective, params, batch = made(name)
    mesh = mesh_.make(**sizes)
    plain = plainly(name)
    places = layout.shardings(params, (*find("lmx.models", name).AXES, *HEADS[name].AXES), mesh)
    there = gradient(
        objective, jax.device_put(params, places), mesh_.put(batch, mesh), Execution(layers=layers), mesh
    )
    for one, two in zip(jax.tree.leaves(plain), jax.tree.leaves(there), strict=True):
        np.testing.assert_allclose(np.asarray(two), one, atol=5e-6 * max(1.0, float(jnp.abs(one).max())))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"remat": "blocks"}, "execution.remat='blocks' (did you mean 'block'?)"),
        ({"layers": "scan"}, "execution.layers='scan'"),
        ({"compute": "bf16"}, "execution.compute='bf16'"),
        ({"attention": "flash"}, "execution.attention='flash'"),
    ],
)
def test_unknown_choices_are_refused(fields: dict[str, str], told: str) -> None:
    with pytest.raises(UserError) as raised:
        Execution(**fields)
    assert told in str(raised.value)
