"""Layers as one: the same numbers, places and moves as apart, and programs that do not grow with them."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from lmx import optim
from lmx.commands import _build
from lmx.core import config as config_
from lmx.core import layers, layout, mesh, tree
from lmx.core.errors import UserError
from lmx.core.execution import Execution
from lmx.models import gpt2
from lmx.tasks import causal_lm
from lmx.training import state, step

SIZES = {"vocab_size": 32, "positions": 8, "width": 16, "heads": 2, "mlp_width": 32}
AXES = (*gpt2.AXES, *causal_lm.AXES)


def made(count: int) -> Any:
    config = gpt2.Config(**SIZES, layers=count)
    return causal_lm.attach(gpt2.build(config), config)


def test_stacked_and_apart_by_hand() -> None:
    params = {
        "block": {"0": {"kernel": jnp.array([[1.0, 2.0]])}, "1": {"kernel": jnp.array([[3.0, 4.0]])}},
        "final": {"scale": jnp.array([5.0])},
    }
    one = layers.stack(params)
    assert jax.tree.map(np.ndarray.tolist, jax.device_get(one)) == {
        "block": {"all": {"kernel": [[[1.0, 2.0]], [[3.0, 4.0]]]}},
        "final": {"scale": [5.0]},
    }
    assert layers.stacked(one) and not layers.stacked(params)
    assert jax.tree.map(np.ndarray.tolist, jax.device_get(layers.apart(one))) == jax.tree.map(
        np.ndarray.tolist, jax.device_get(params)
    )
    assert layers.stack(one) is not None and layers.stack(one)["block"].keys() == {"all"}
    assert layers.shape("block/all/kernel", one["block"]["all"]["kernel"]) == (1, 2)


def test_ten_layers_are_in_the_order_of_their_numbers() -> None:
    """Not in that of their names, where 10 comes before 2."""
    params = {"block": {str(i): {"bias": jnp.array([float(i)])} for i in (10, 2, 0, 1, 3, 4, 5, 6, 7, 8, 9)}}
    assert layers.stack(params)["block"]["all"]["bias"].ravel().tolist() == list(range(11))


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_only_who_moves_each_number_by_itself_may_have_them_as_one(name: str) -> None:
    """For each on the shelf: three updates of stacked leaves are those of leaves apart, or it may not."""
    own = {"factor_from": 2} if name == "adafactor" else {}
    extra = {"l1": 1e-3, "l2": 1e-2, "average": 0.9, "decay": 0.1}
    chain = optim.build(name, lambda count: 1e-2, scales=((r"block/.*/kernel", 0.5),), **extra, **own)
    draw = np.random.default_rng(0)
    layer = {"kernel": (4, 6), "bias": (6,)}
    params = {
        "embed": {"embedding": jnp.asarray(draw.normal(size=(5, 4)), jnp.float32)},
        "block": {
            str(i): {k: jnp.asarray(draw.normal(size=v), jnp.float32) for k, v in layer.items()}
            for i in range(3)
        },
    }

    def moved(params: Any, turned: Any) -> Any:
        now = chain.init(params)
        for k in range(3):
            slopes = jax.tree.map(lambda leaf, k=k: jnp.cos((k + 2.0) * leaf) * leaf, params)
            moves, now = chain.update(slopes, now, params)
            params = jax.tree.map(jnp.add, params, moves)
        return turned(params), turned(now)

    apart, one = moved(params, lambda x: x), moved(layers.stack(params), layers.apart)
    same = jax.tree.structure(apart) == jax.tree.structure(one) and all(
        np.allclose(a, b, rtol=1e-6, atol=1e-7)
        for a, b in zip(jax.tree.leaves(apart), jax.tree.leaves(one), strict=True)
    )
    assert same == optim.stacks(params, name, ())


@pytest.mark.parametrize(
    ("name", "scales", "how", "count", "one"),
    [
        ("adamw", (), "scanned", 3, True),
        ("adamw", (), "unrolled", 3, False),
        ("adamw", (), "scanned", 1, False),
        ("lamb", (), "scanned", 3, False),
        ("adamw", ((r"block/\d+/mlp/.*", 0.5),), "scanned", 3, True),
        ("adamw", ((r"block/[01]/.*", 0.5),), "scanned", 3, False),
        # All layers at one rate, but by two rules: a rule that decides about no leaf would be refused.
        ("adamw", ((r"block/0/.*", 0.5), (r"block/.*", 0.5)), "scanned", 3, False),
    ],
)
def test_who_holds_them_as_one(name: str, scales: Any, how: str, count: int, one: bool) -> None:
    config = config_.plain(config_.load("quickstart"))
    config["model"] = {"name": "gpt2", **SIZES, "layers": count}
    config["optim"] |= {"name": name, "scales": scales}
    config["execution"]["layers"] = how
    held = _build.held(config, _build.model(config))
    assert layers.stacked(_build.shapes(held)) == one
    optim.build(name, lambda count: 1e-2, scales=scales).init(jax.jit(held.init)(jax.random.key(0)))


def frozen(pattern: str) -> Any:
    """Return a model of three layers, of which those leaves are trained that match."""
    return dataclasses.replace(made(3), trainable=lambda params: tree.mask(params, pattern))


def test_what_is_trained_is_asked_of_each_layer() -> None:
    config = config_.plain(config_.load("quickstart"))
    config["model"] = {"name": "gpt2", **SIZES, "layers": 3}
    config["execution"]["layers"] = "scanned"
    one = _build.held(config, frozen(r"block/\d+/mlp/.*"))
    on = tree.flatten(one.trainable(_build.shapes(one)))
    assert on["block/all/mlp/up/kernel"] and not on["block/all/attn/out/kernel"] and not on["final/scale"]
    some = frozen(r"block/[12]/.*")
    assert _build.held(config, some) is some
    params = jax.jit(made(3).init)(jax.random.key(0))
    assert one.fold(layers.stack(params))["block"].keys() == {"0", "1", "2"}


def test_runs_on_several_tasks_keep_them_apart() -> None:
    """Each batch moves leaves of its own."""
    model = made(3)
    config = {"tasks": {"one": {}}, "execution": {"layers": "scanned"}}
    assert _build.held(config, model) is model


def test_rules_are_told_by_the_paths_of_layers() -> None:
    params = layers.stack(jax.jit(made(3).init)(jax.random.key(0)))
    rules = ((r"block/\d+/mlp/.*", 0.5), (r"block/\d+/mlp/up/.*", 0.1))
    with pytest.raises(UserError, match="matches only what rules before it match"):
        optim.build("adamw", lambda count: 1e-2, scales=rules).init(params)
    with pytest.raises(UserError, match="whole paths such as 'block/0/"):
        optim.build("adamw", lambda count: 1e-2, scales=(("up", 0.5),)).init({"block": params["block"]})


def test_a_model_that_says_nothing_of_it_keeps_them_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of the user's own may read its layers in another way."""
    config = config_.plain(config_.load("quickstart"))
    config["model"] = {"name": "gpt2", **SIZES, "layers": 3}
    config["execution"]["layers"] = "scanned"
    monkeypatch.delattr(gpt2, "STACKS")
    assert not layers.stacked(_build.shapes(_build.held(config, _build.model(config))))


def test_a_stack_lies_as_its_layers_do() -> None:
    """No mesh cuts between layers, and vectors stay whole, though a stack of them is a matrix."""
    there = mesh.make(data=1, fsdp=4, tensor=2)
    shapes = _build.shapes(made(4))
    apart = tree.flatten(layout.shardings(shapes, AXES, there))
    one = tree.flatten(layout.shardings(_build.shapes(layers.together(made(4))), AXES, there))
    for path, place in one.items():
        before = apart[layers.first(path)].spec
        assert place.spec == (PartitionSpec(None, *before) if path.startswith("block/") else before), path
    assert one["block/all/attn/query/kernel"].spec == PartitionSpec(None, "fsdp", "tensor")
    assert one["block/all/norm1/scale"].is_fully_replicated


def test_descriptions_turn_with_their_places() -> None:
    there = mesh.make(data=1, fsdp=8)
    chain = optim.build("adamw", lambda count: 1e-2)
    apart = state.abstract(made(3), chain, mesh=there, axes=AXES)
    one = state.abstract(layers.together(made(3)), chain, mesh=there, axes=AXES)

    def told(tree: Any) -> list[Any]:
        return [(x.shape, x.dtype, x.sharding.shard_shape(x.shape)) for x in jax.tree.leaves(tree)]

    assert told(layers.described(apart, True)) == told(one)
    assert told(layers.described(one, False)) == told(apart)
    assert jax.tree.structure(layers.described(one, False)) == jax.tree.structure(apart)
    now = state.start(layers.together(made(3)), chain, seed=0, mesh=there, axes=AXES)
    found = layers.turned(now, apart)
    assert told(found) == told(apart)
    plain = state.start(made(3), chain, seed=0, mesh=there, axes=AXES)
    assert all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (found, plain)), strict=True))
    assert isinstance(found.params["block"]["2"]["norm1"]["scale"].sharding, NamedSharding)
    back = layers.turned(plain, one)
    assert told(back) == told(one)
    assert all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (back, now)), strict=True))


def test_the_program_does_not_grow_with_the_layers() -> None:
    """What XLA is given: as many buffers and operations for nine layers as for three."""

    def sizes(count: int) -> tuple[int, int]:
        model, chain = layers.together(made(count)), optim.build("adamw", lambda count: 1e-2)
        here = mesh.make(data=1)
        update: Any = step.build(
            model, causal_lm.objective(model), chain, seed=0, mesh=here, how=Execution(layers="scanned")
        )
        now = state.abstract(model, chain, mesh=here)
        rows = jax.ShapeDtypeStruct((2, 8), jnp.int32, sharding=mesh.by_example(here))
        text = update.func.lower(
            *update.args, now, {"input_ids": rows, "example_index": rows.update(shape=(2,))}
        )
        return len(jax.tree.leaves(now)), text.as_text().count("\n")

    assert sizes(3) == sizes(9)
