"""Laws of the models' shelf, run over every name on it."""

from __future__ import annotations

import dataclasses
import functools
import re
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmx.core import plugin, tree
from lmx.core.errors import UserError
from lmx.core.hf_table import HeadTable
from lmx.core.types import Model, Params
from lmx.hf import convert

# A small config for each model and, for each of its fields, another value that must change something.
SMALL: dict[str, dict[str, Any]] = {
    "gpt2": dict(
        vocab_size=31,
        positions=12,
        width=15,
        layers=2,
        heads=3,
        mlp_width=20,
        init_range=0.3,
        dropout_embed=0.1,
        dropout_attention=0.1,
        dropout_residual=0.1,
    ),
    "bert": dict(
        vocab_size=31,
        positions=12,
        width=15,
        layers=2,
        heads=3,
        mlp_width=20,
        types=3,
        init_range=0.3,
        dropout_hidden=0.1,
        dropout_attention=0.1,
    ),
}
OTHER: dict[str, dict[str, Any]] = {
    "gpt2": dict(
        vocab_size=32,
        positions=13,
        width=12,
        layers=3,
        heads=5,
        mlp_width=21,
        activation="relu",
        norm_epsilon=0.1,
        dropout_embed=0.3,
        dropout_attention=0.3,
        dropout_residual=0.3,
        init_range=0.2,
        scale_attention=False,
        scale_attention_by_layer=True,
        upcast_attention=True,
        tie_embeddings=False,
    ),
    "bert": dict(
        vocab_size=32,
        positions=13,
        width=12,
        layers=3,
        heads=5,
        mlp_width=21,
        types=2,
        activation="relu",
        norm_epsilon=0.1,
        dropout_hidden=0.3,
        dropout_attention=0.3,
        init_range=0.2,
        tie_embeddings=False,
        pooler=False,
    ),
}
# Fields that change the task's head instead of the body.
OF_THE_HEAD = {"gpt2": {"tie_embeddings"}, "bert": {"tie_embeddings"}}
# Fields that config.json does not have, because transformers' class fixes them.
OF_THE_CLASS = {"gpt2": set[str](), "bert": {"pooler"}}
DECODERS = {"gpt2"}

NAMES = plugin.names("lmx.models")
B, T = 3, 9


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=sorted(DECODERS))
def decoder(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=sorted(set(NAMES) - DECODERS))
def encoder(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def shelf(name: str) -> ModuleType:
    return plugin.find("lmx.models", name)


def small(shelf: ModuleType, name: str, **changes: Any) -> tuple[Any, Model]:
    config = shelf.Config(**{**SMALL[name], **changes})
    return config, shelf.build(config)


def ids(seed: int = 0, time: int = T) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).integers(0, 31, (B, time)), jnp.int32)


def started(model: Model, seed: int = 0) -> Params:
    """Fresh parameters, moved so that biases and scales are not at their round starting values."""
    draw = np.random.default_rng(seed)
    return tree.map_named(
        lambda _, leaf: leaf + draw.normal(0, 0.1, leaf.shape).astype(np.float32),
        model.init(jax.random.key(seed)),
    )


def layout(shelf: ModuleType, config: Any) -> convert.Layout:
    return convert.Layout(shelf.HF, HeadTable("none"), config.layers, tied=True)


def test_every_model_is_described_here() -> None:
    assert set(NAMES) == set(SMALL) == set(OTHER)


def test_axes_name_each_leaf_once_with_its_rank(name: str, shelf: ModuleType) -> None:
    _, model = small(shelf, name)
    for path, leaf in tree.flatten(jax.eval_shape(model.init, jax.random.key(0))).items():
        hits = [axes for pattern, axes in shelf.AXES if re.fullmatch(pattern, path)]
        assert len(hits) == 1, path
        assert len(hits[0]) == leaf.ndim, path


def test_axes_have_no_dead_rule(name: str, shelf: ModuleType) -> None:
    _, model = small(shelf, name)
    paths = tree.flatten(jax.eval_shape(model.init, jax.random.key(0)))
    for pattern, _ in shelf.AXES:
        assert any(re.fullmatch(pattern, path) for path in paths), pattern


def test_hf_table_is_one_to_one(name: str, shelf: ModuleType) -> None:
    config, model = small(shelf, name)
    fields = [field.name for field in dataclasses.fields(shelf.Config)]
    mapped = [own for own, _ in shelf.HF.fields]
    assert sorted(mapped) == sorted(set(fields) - OF_THE_CLASS[name])
    assert len({theirs for _, theirs in shelf.HF.fields}) == len(mapped)
    found = [leaf for entry in layout(shelf, config).entries() for leaf in entry.leaves]
    assert sorted(found) == sorted(tree.flatten(jax.eval_shape(model.init, jax.random.key(0))))


def test_hf_round_trip_is_exact(name: str, shelf: ModuleType) -> None:
    config, model = small(shelf, name)
    params = started(model)
    shapes = {path: leaf.shape for path, leaf in tree.flatten(params).items()}
    leaves = tree.flatten(params)
    planned = convert.written(shapes, layout(shelf, config))
    stored = {tensor: convert.join(entry, leaves) for tensor, (entry, _) in planned.items()}
    assert {tensor: array.shape for tensor, array in stored.items()} == {
        t: s for t, (_, s) in planned.items()
    }
    back = {
        path: leaf
        for t, (entry, _) in planned.items()
        for path, leaf in convert.split(entry, stored[t]).items()
    }
    assert back.keys() == leaves.keys()
    for path, leaf in leaves.items():
        np.testing.assert_array_equal(back[path], leaf, err_msg=path)


def test_every_config_field_changes_something(name: str, shelf: ModuleType) -> None:
    def shapes(**changes: Any) -> dict[str, Any]:
        leaves = jax.eval_shape(small(shelf, name, **changes)[1].init, jax.random.key(0))
        return {path: leaf.shape for path, leaf in tree.flatten(leaves).items()}

    @functools.cache
    def numbers(field: str | None) -> bytes:
        model = small(shelf, name, **({} if field is None else {field: OTHER[name][field]}))[1]
        params = model.init(jax.random.key(0))
        out = model.apply(params, {"input_ids": ids()}, rng=jax.random.key(1), train=True)["hidden"]
        return out.tobytes()

    fields = {field.name for field in dataclasses.fields(shelf.Config)}
    assert set(OTHER[name]) == fields, "a field without another value here"
    for field in sorted(fields - OF_THE_HEAD[name]):
        if shapes(**{field: OTHER[name][field]}) == shapes():
            assert numbers(field) != numbers(None), f"{field} is dead"


def test_init_depends_on_key_and_path_alone(name: str, shelf: ModuleType) -> None:
    _, model = small(shelf, name)
    _, deeper = small(shelf, name, layers=5)
    one, two = tree.flatten(model.init(jax.random.key(3))), tree.flatten(deeper.init(jax.random.key(3)))
    for path in ("embed/token/embedding", "block/1/mlp/up/kernel", "block/0/attn/query/kernel"):
        np.testing.assert_array_equal(one[path], two[path])
    assert not np.array_equal(one["block/0/mlp/up/kernel"], one["block/1/mlp/up/kernel"])
    other = tree.flatten(model.init(jax.random.key(4)))
    assert not np.array_equal(one["embed/token/embedding"], other["embed/token/embedding"])


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_never_moves_a_real_token(name: str, shelf: ModuleType, side: str) -> None:
    _, model = small(shelf, name)
    params, real = started(model), ids(time=6)
    plain = model.apply(params, {"input_ids": real})["hidden"]
    width = ((0, 0), (3, 0)) if side == "left" else ((0, 0), (0, 3))
    batch = {
        "input_ids": jnp.pad(real, width, constant_values=7),
        "attention_mask": jnp.pad(jnp.ones_like(real), width),
    }
    padded = model.apply(params, batch)["hidden"]
    padded = padded[:, 3:] if side == "left" else padded[:, :6]
    np.testing.assert_allclose(padded, plain, atol=1e-5, rtol=0)


def test_documents_in_a_row_do_not_see_each_other(name: str, shelf: ModuleType) -> None:
    _, model = small(shelf, name)
    params, tokens = started(model), ids()
    batch = {
        "input_ids": tokens,
        "segment_ids": jnp.array([[1, 1, 1, 1, 2, 2, 2, 2, 2]] * B),
        "position_ids": jnp.array([[0, 1, 2, 3, 0, 1, 2, 3, 4]] * B),
    }
    packed = model.apply(params, batch)["hidden"]
    first = model.apply(params, {"input_ids": tokens[:, :4]})["hidden"]
    second = model.apply(params, {"input_ids": tokens[:, 4:]})["hidden"]
    np.testing.assert_allclose(packed, jnp.concatenate([first, second], 1), atol=1e-5, rtol=0)
    # Resetting the positions alone does not isolate them.
    leaky = model.apply(params, {k: v for k, v in batch.items() if k != "segment_ids"})["hidden"]
    assert np.abs(leaky[:, 4:] - packed[:, 4:]).max() > 1e-2


def test_decoders_never_see_ahead(decoder: str) -> None:
    _, model = small(plugin.find("lmx.models", decoder), decoder)
    params, tokens = started(model), ids()
    changed = tokens.at[:, 5:].set((tokens[:, 5:] + 1) % 31)
    one = model.apply(params, {"input_ids": tokens})["hidden"]
    two = model.apply(params, {"input_ids": changed})["hidden"]
    np.testing.assert_array_equal(one[:, :5], two[:, :5])
    assert np.abs(one[:, 5:] - two[:, 5:]).min(axis=(0, 2)).max() > 0


def test_encoders_see_both_ways_and_have_no_cache(encoder: str) -> None:
    _, model = small(plugin.find("lmx.models", encoder), encoder)
    params, tokens = started(model), ids()
    changed = tokens.at[:, 8].set((tokens[:, 8] + 1) % 31)
    one = model.apply(params, {"input_ids": tokens})["hidden"]
    two = model.apply(params, {"input_ids": changed})["hidden"]
    assert np.abs(one[:, 0] - two[:, 0]).max() > 1e-4
    with pytest.raises(UserError, match="no cache"):
        model.apply(params, {"input_ids": tokens}, cache=12)


@pytest.mark.parametrize("pad", [0, 3])
def test_cached_equals_uncached(decoder: str, pad: int) -> None:
    _, model = small(plugin.find("lmx.models", decoder), decoder)
    params, tokens = started(model), ids()
    whole = model.apply(params, {"input_ids": tokens})["hidden"]
    first = jnp.pad(tokens[:, :4], ((0, 0), (pad, 0)), constant_values=5)
    mask = jnp.pad(jnp.ones((B, 4), jnp.int32), ((0, 0), (pad, 0)))
    out = model.apply(params, {"input_ids": first, "attention_mask": mask}, cache=T + pad)
    pieces, cache = [out["hidden"][:, pad:]], out["cache"]
    for start, stop in ((4, 5), (5, 8), (8, 9)):
        out = model.apply(params, {"input_ids": tokens[:, start:stop]}, cache=cache)
        pieces, cache = [*pieces, out["hidden"]], out["cache"]
    np.testing.assert_allclose(jnp.concatenate(pieces, 1), whole, atol=1e-5, rtol=0)


def test_taps_read_and_write(name: str, shelf: ModuleType) -> None:
    config, model = small(shelf, name)
    params, batch = started(model), {"input_ids": ids()}
    plain = model.apply(params, batch)["hidden"]
    read = {tap: (lambda x, layer: (x, x)) for tap in shelf.TAPS}
    out = jax.jit(lambda p, b: model.apply(p, b, taps=read))(params, batch)
    np.testing.assert_allclose(out["hidden"], plain, atol=1e-5, rtol=0)
    assert set(out["taps"]) == set(shelf.TAPS)
    assert out["taps"]["attn/weights"].shape == (config.layers, B, config.heads, T, T)
    np.testing.assert_allclose(out["taps"]["attn/weights"].sum(-1), 1, atol=1e-6)
    np.testing.assert_array_equal(out["taps"]["final"], out["hidden"])
    for tap in shelf.TAPS:
        written = model.apply(params, batch, taps={tap: lambda x, layer: x * 0.5})["hidden"]
        assert np.abs(written - plain).max() > 1e-3, tap


def test_a_tap_is_told_its_layer(name: str, shelf: ModuleType) -> None:
    config, model = small(shelf, name)
    out = model.apply(started(model), {"input_ids": ids()}, taps={"block": lambda x, i: (x, jnp.asarray(i))})
    assert out["taps"]["block"].tolist() == list(range(config.layers))


def test_unknown_tap_and_overlong_rows_are_refused(name: str, shelf: ModuleType) -> None:
    config, model = small(shelf, name)
    params = started(model)
    with pytest.raises(UserError, match="did you mean 'attn/weights'"):
        model.apply(params, {"input_ids": ids()}, taps={"attn/weight": lambda x, i: x})
    with pytest.raises(UserError, match=f"13 tokens .* {config.positions} positions"):
        model.apply(params, {"input_ids": ids(time=13)})


def test_dropout_draws_by_example_and_step(name: str, shelf: ModuleType) -> None:
    _, model = small(shelf, name)
    params, batch = started(model), {"input_ids": ids()}
    drop = lambda key, **more: model.apply(params, {**batch, **more}, rng=key, train=True)["hidden"]  # noqa: E731
    one = drop(jax.random.key(1))
    np.testing.assert_array_equal(one, drop(jax.random.key(1)))
    assert np.abs(one - drop(jax.random.key(2))).max() > 1e-2
    np.testing.assert_array_equal(
        model.apply(params, batch, rng=jax.random.key(1))["hidden"], model.apply(params, batch)["hidden"]
    )
    # The same example at another place of another batch has the same masks.
    moved = {"input_ids": batch["input_ids"][1:2], "example_index": jnp.array([1])}
    alone = model.apply(params, moved, rng=jax.random.key(1), train=True)["hidden"]
    np.testing.assert_allclose(alone[0], one[1], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("width", 0, "at least 1"),
        ("width", 16, "does not divide"),
        ("heads", True, "whole number"),
        ("dropout_attention", 1.0, "probability"),
        ("activation", "geluu", "did you mean 'gelu'"),
    ],
)
def test_bad_config_is_refused(name: str, shelf: ModuleType, field: str, value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        small(shelf, name, **{field: value})
