"""The parts of models, against numbers from elsewhere and against plain numpy."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from lmx.core import functions, rng
from lmx.core.types import Array, Batch, Params, Taps
from lmx.models import _attention, _sequence, bert, gpt2
from lmx.tasks import causal_lm

B, T, H, K = 3, 11, 2, 5


def draw(seed: int, *shape: int, dtype: Any = np.float64) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def spread(mesh_size: int) -> NamedSharding:
    mesh = jax.make_mesh(
        (mesh_size,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:mesh_size]
    )
    return NamedSharding(mesh, PartitionSpec("data"))


# --- Activations --------------------------------------------------------------------------------------


def test_gelu_at_known_points() -> None:
    points = jnp.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(
        functions.activation("gelu")(points), [0.8413447, 1.9544997, 2.9959505], atol=3e-7
    )
    np.testing.assert_allclose(
        functions.activation("gelu_new")(points), [0.8411920, 1.9545977, 2.9963626], atol=3e-7
    )


def test_the_two_gelus_differ_most_at_2_70() -> None:
    with jax.enable_x64(True):
        x = jnp.linspace(-6, 6, 2401)
        gap = np.abs(functions.activation("gelu")(x) - functions.activation("gelu_new")(x))
    assert gap.max() == pytest.approx(4.73e-4, abs=5e-7)
    assert abs(float(x[int(gap.argmax())])) == pytest.approx(2.70, abs=0.01)


@pytest.mark.parametrize("name", sorted(functions.ACTIVATIONS))
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-9), (np.float32, 1e-5)])
def test_activate_dense_is_the_two_in_turn(name: str, dtype: Any, tolerance: float) -> None:
    act = functions.activation(name)
    with jax.enable_x64(dtype is np.float64):
        args = [
            jnp.asarray(draw(i, *shape, dtype=dtype)) for i, shape in enumerate([(2, 5, 7), (7, 3), (3,)])
        ]
        agree(
            lambda x, kernel, bias: functions.activate_dense(x, kernel, bias, act),
            lambda x, kernel, bias: (
                jnp.einsum("btd,df->btf", act(x), kernel, precision="highest") + bias[None, None]
            ),
            args,
            tolerance,
        )


def agree(ours: Callable[..., Any], plain: Callable[..., Any], args: list[Any], tolerance: float) -> None:
    """Values and all gradients of two functions are equal, under jit, for a random cotangent."""

    @jax.jit
    def both(*args: Any) -> Any:
        (got, pull), (value, plain_pull) = jax.vjp(ours, *args), jax.vjp(plain, *args)
        assert got.dtype == value.dtype
        cotangent = jnp.asarray(draw(99, *value.shape)).astype(value.dtype)
        return (got, value), (pull(cotangent), plain_pull(cotangent))

    (got, value), gradients = both(*args)
    np.testing.assert_allclose(got, value, atol=tolerance)
    for mine, theirs in zip(*gradients, strict=True):
        assert mine.dtype == theirs.dtype
        np.testing.assert_allclose(mine, theirs, atol=tolerance * max(1, float(jnp.abs(theirs).max())))


# --- Norm ---------------------------------------------------------------------------------------------


def test_layer_norm_by_hand() -> None:
    # Mean 2, variance 2/3; with epsilon 1/3 the divisor is 1.
    y = functions.layer_norm(jnp.array([[1.0, 2.0, 3.0]]), jnp.array([1.0, 1.0, 2.0]), jnp.ones(3), 1 / 3)
    np.testing.assert_allclose(y, [[0.0, 1.0, 3.0]], atol=1e-6)


def test_layer_norm_epsilon_is_inside_the_root() -> None:
    constant = functions.layer_norm(jnp.full((1, 4), 7.0), jnp.ones(4), jnp.zeros(4), 1e-5)
    np.testing.assert_array_equal(constant, jnp.zeros((1, 4)))
    small = functions.layer_norm(jnp.array([[-1e-3, 1e-3]]), jnp.ones(2), jnp.zeros(2), 1e-5)
    np.testing.assert_allclose(small, np.array([[-1, 1]]) * 1e-3 / np.sqrt(1e-6 + 1e-5), rtol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-9), (np.float32, 1e-5)])
def test_layer_norm_gradient(dtype: Any, tolerance: float) -> None:
    def plain(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        mean = x.mean(-1, keepdims=True)
        variance = ((x - mean) ** 2).mean(-1, keepdims=True)
        return (x - mean) / jnp.sqrt(variance + 1e-5) * scale[None] + bias[None]

    with jax.enable_x64(dtype is np.float64):
        args = [jnp.asarray(draw(i, *shape, dtype=dtype)) for i, shape in enumerate([(9, 13), (13,), (13,)])]
        agree(lambda x, s, b: functions.layer_norm(x, s, b, 1e-5), plain, args, tolerance)


def test_half_precision_is_normalised_in_f32() -> None:
    x = jnp.asarray(300 + draw(0, 4, 64), jnp.bfloat16)  # squares of 300 would drown the variance in bf16
    wide = functions.layer_norm(x.astype(jnp.float32), jnp.ones(64), jnp.zeros(64), 1e-5)
    half = functions.layer_norm(x, jnp.ones(64), jnp.zeros(64), 1e-5)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), wide, atol=0.02)


# --- Attention ----------------------------------------------------------------------------------------


def naive(
    query: np.ndarray, key: np.ndarray, value: np.ndarray, mask: np.ndarray, scale: float
) -> np.ndarray:
    """Attention by loops, one query at a time, over the keys it may see."""
    out = np.zeros((*query.shape[:3], value.shape[3]))
    for b, t, h in itertools.product(*map(range, query.shape[:3])):
        seen = np.flatnonzero(mask[b % len(mask), 0, t])
        scores = np.array([scale * query[b, t, h] @ key[b, s, h] for s in seen])
        weights = np.exp(scores - scores.max())
        out[b, t, h] = (weights / weights.sum()) @ value[b, seen, h]
    return out


def batches() -> dict[str, dict[str, np.ndarray]]:
    lengths = np.array([11, 7, 4])
    segments = np.sort(np.random.default_rng(5).integers(1, 4, (B, T)), axis=1)
    segments[2, 8:] = 0
    return {
        "causal": {},
        "right": {"attention_mask": (np.arange(T)[None] < lengths[:, None]).astype(np.int32)},
        "left": {"attention_mask": (np.arange(T)[None] >= T - lengths[:, None]).astype(np.int32)},
        "segments": {"segment_ids": segments.astype(np.int32)},
    }


@pytest.mark.parametrize("kind", batches())
@pytest.mark.parametrize("edges", [(0, 11), (0, 4, 11), (0, 2, 5, 8, 11)])
def test_attention_against_loops(kind: str, edges: tuple[int, ...]) -> None:
    with jax.enable_x64(True):
        query, key, value = (draw(i, B, T, H, K) for i in range(3))
        batch = {name: jnp.asarray(array) for name, array in batches()[kind].items()}
        mask = _sequence.visible(batch, T, None)
        expected = naive(query, key, value, np.asarray(mask), 0.3)
        args = [jnp.asarray(x) for x in (query, key, value)]
        np.testing.assert_allclose(
            _attention._attend(*args, mask, None, 0.3, edges, None), expected, atol=1e-12
        )
        weights = _attention.attention_weights(args[0], args[1], mask, 0.3, upcast=False)
        np.testing.assert_allclose(_attention.mix(weights, args[2]), expected, atol=1e-12)


def test_masks_by_hand() -> None:
    left = _sequence.visible({"attention_mask": jnp.array([[0, 1, 1]])}, 3, None)[0, 0]
    np.testing.assert_array_equal(left, np.array([[1, 0, 0], [0, 1, 0], [0, 1, 1]], bool))
    right = _sequence.visible({"attention_mask": jnp.array([[1, 1, 0]])}, 3, None)[0, 0]
    np.testing.assert_array_equal(right, np.array([[1, 0, 0], [1, 1, 0], [1, 1, 0]], bool))
    both = {"attention_mask": jnp.array([[1, 0, 0]]), "segment_ids": jnp.array([[1, 2, 2]])}
    alone = _sequence.visible(both, 3, None)[0, 0]
    np.testing.assert_array_equal(alone, np.eye(3, dtype=bool))
    packed = _sequence.visible({"segment_ids": jnp.array([[1, 1, 2]])}, 3, None)[0, 0]
    np.testing.assert_array_equal(packed, np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1]], bool))


@pytest.mark.parametrize("edges", [(0, 11), (0, 2, 5, 8, 11)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-9), (np.float32, 1e-5)])
def test_attention_gradient(edges: tuple[int, ...], dtype: Any, tolerance: float) -> None:
    with jax.enable_x64(dtype is np.float64):
        args = [jnp.asarray(draw(i, B, T, H, K, dtype=dtype)) for i in range(3)]
        mask = _sequence.visible({"segment_ids": jnp.asarray(batches()["segments"]["segment_ids"])}, T, None)

        def plain(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
            weights = _attention.attention_weights(query, key, mask, 0.3, upcast=False)
            return _attention.mix(weights, value)

        agree(
            lambda q, k, v: _attention._attend(q, k, v, mask, None, 0.3, edges, None), plain, args, tolerance
        )


def test_attention_with_more_keys_than_queries() -> None:
    with jax.enable_x64(True):
        query, key, value = draw(0, 1, 3, H, K), draw(1, 1, 8, H, K), draw(2, 1, 8, H, K)
        mask = np.random.default_rng(3).random((1, 1, 3, 8)) < 0.6
        mask[..., 0] = True
        ours = _attention.attend(*map(jnp.asarray, (query, key, value, mask)), 0.5)
        np.testing.assert_allclose(ours, naive(query, key, value, mask, 0.5), atol=1e-12)


def test_long_sequences_are_cut_and_short_ones_are_not() -> None:
    assert _attention._edges(127) == (0, 127)
    assert _attention._edges(130) == (0, 65, 130)
    assert _attention._edges(1001) == (0, 250, 500, 750, 1001)


def test_half_precision_keeps_its_softmax_in_f32() -> None:
    args = [jnp.asarray(draw(i, 1, 600, 1, 8), jnp.bfloat16) for i in range(3)]
    args[2] = jnp.ones_like(args[2])  # weights that add up to 1 leave it as it is
    out = _attention.attend(*args, _sequence.visible({}, 600, None), 1e-3, causal=True)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), 1, atol=0.01)


# --- Dropout ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("edges", [(0, 11), (0, 4, 11)])
def test_attention_drops_weights_as_the_plain_path_does(edges: tuple[int, ...]) -> None:
    """The same masks, value and gradients as softmax, dropout and product one after the other."""
    keys = rng.example_keys(jax.random.key(3), jnp.arange(B))
    with jax.enable_x64(True):
        args = [jnp.asarray(draw(i, B, T, H, K)) for i in range(3)]
        mask = _sequence.visible({}, T, None)

        def plain(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
            weights = _attention.attention_weights(query, key, mask, 0.3, upcast=False)
            return _attention.mix(functions.dropout(weights, 0.4, keys, 5), value)

        def ours(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
            words, drops = rng.words(keys, 5), _attention.Dropout(0.4, T)
            return _attention._attend(query, key, value, mask, words, 0.3, edges, drops)

        agree(ours, plain, args, 1e-9)
        none = jnp.abs(plain(*args) - _attention.attend(*args, mask, 0.3))
        assert float(jnp.max(none)) > 0.1, "dropout was off"


def test_dropout_keeps_the_mean_exactly() -> None:
    keys = rng.example_keys(jax.random.key(0), jnp.arange(4))
    for rate in (0.1, 0.5, 1 / 3):
        out = np.asarray(functions.dropout(jnp.ones((4, 50_000)), rate, keys, 1))
        assert set(np.unique(out)) == {np.float32(0), np.float32(1 / (1 - rate))}
        assert (out == 0).mean() == pytest.approx(rate, abs=5 * np.sqrt(rate * (1 - rate) / out.size))


def test_dropout_scales_half_precision_in_f32() -> None:
    """1 / 0.9 is 1.109 in bfloat16; 9 / 0.9 is 10."""
    out = functions.dropout(
        jnp.full((1, 99), 9.0, jnp.bfloat16), 0.1, rng.example_keys(jax.random.key(0), jnp.arange(1)), 1
    )
    assert set(np.unique(np.asarray(out, np.float32))) == {0.0, 10.0}


def test_dropout_sends_the_gradient_through_the_same_mask() -> None:
    keys = rng.example_keys(jax.random.key(0), jnp.arange(3))
    x = jnp.asarray(draw(0, 3, 40, dtype=np.float32))
    out, pull = jax.vjp(lambda x: functions.dropout(x, 0.3, keys, 2, (3, 50)), x)
    (got,) = pull(jnp.ones_like(x))
    np.testing.assert_allclose(got, np.asarray(out) / np.asarray(x), rtol=1e-6)
    assert 0.2 < float(jnp.mean(got == 0)) < 0.4


def test_dropout_is_off_without_keys_or_rate() -> None:
    x = jnp.ones((2, 3))
    keys = rng.example_keys(jax.random.key(0), jnp.arange(2))
    assert functions.dropout(x, 0.5, None, 0) is x
    assert functions.dropout(x, 0.0, keys, 0) is x


def test_dropout_masks_do_not_depend_on_the_devices() -> None:
    def masked(x: jax.Array, index: jax.Array) -> jax.Array:
        return functions.dropout(x, 0.3, rng.example_keys(jax.random.key(7), index), 5)

    x, index = np.ones((8, 37), np.float32), np.arange(100, 108)
    outs = [
        np.asarray(jax.jit(masked)(jax.device_put(x, spread(n)), jax.device_put(index, spread(n))))
        for n in (1, 2, 4, 8)
    ]
    for out in outs[1:]:
        np.testing.assert_array_equal(out, outs[0])
    assert not np.array_equal(outs[0][0], outs[0][1]), "examples must not share a mask"


# --- Together, on several devices ---------------------------------------------------------------------


def test_loss_and_gradients_do_not_depend_on_the_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmx.tasks._cross_entropy.CHUNK", 8 * 50 * 31)  # three chunks
    config = gpt2.Config(vocab_size=31, positions=130, width=12, layers=2, heads=3, init_range=0.2)
    model = causal_lm.attach(gpt2.build(config), config)
    params, objective = jax.jit(model.init)(jax.random.key(0)), causal_lm.objective(model)
    ids = np.random.default_rng(0).integers(0, 31, (8, 130)).astype(np.int32)
    batch = {"input_ids": ids, "example_index": np.arange(8, dtype=np.int32)}

    def step(params: Any, batch: Any) -> Any:
        return jax.value_and_grad(lambda p: objective(p, batch, jax.random.key(1))[0])(params)

    results = [jax.jit(step)(params, jax.device_put(batch, spread(n))) for n in (1, 8)]
    for one, eight in zip(*map(jax.tree.leaves, results), strict=True):
        limit = 2e-5 * max(1.0, float(jnp.abs(one).max()))
        np.testing.assert_allclose(np.asarray(eight), np.asarray(one), atol=limit)


def test_a_model_in_f64_is_computed_in_f64() -> None:
    with jax.enable_x64(True):
        config = gpt2.Config(vocab_size=31, positions=8, width=12, layers=1, heads=3)
        model = causal_lm.attach(gpt2.build(config), config)
        params = jax.tree.map(lambda x: x.astype(jnp.float64), jax.jit(model.init)(jax.random.key(0)))
        batch = {"input_ids": jnp.zeros((2, 8), jnp.int32)}
        loss = jax.value_and_grad(lambda p: causal_lm.objective(model)(p, batch, None)[0])
        total, gradients = jax.eval_shape(loss, params)  # the types alone are asked for
        assert total.dtype == jnp.float64
        assert {g.dtype for g in jax.tree.leaves(gradients)} == {jnp.dtype("float64")}


def test_positions_go_on_behind_the_last_token() -> None:
    """By hand: padding in front counts nothing, padding behind is counted on as transformers does."""
    mask = jnp.array([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1], [1, 0, 1, 0]])
    found = _sequence.position_ids({"attention_mask": mask}, 4, None)
    assert found.tolist() == [[0, 1, 2, 3], [0, 0, 1, 2], [0, 0, 0, 1], [0, 0, 1, 2]]


@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_a_summary_costs_the_last_block_its_first_place_alone(rate: float) -> None:
    """BERT's summary is that of the hidden states, dropout and padding included, for fewer operations."""
    config = bert.Config(
        vocab_size=50, positions=32, width=16, layers=2, heads=2, mlp_width=64,
        dropout_hidden=rate, dropout_attention=rate,
    )  # fmt: skip
    model = bert.build(config)
    params = jax.tree.map(lambda x: x + 0.1, model.init(jax.random.key(0)))
    ids = jax.random.randint(jax.random.key(1), (3, 32), 0, 50)
    real = jnp.arange(32)[None, :] < jnp.array([[32], [20], [5]])
    batch = {"input_ids": ids, "attention_mask": real.astype(jnp.int32)}

    def summary(params: Params, batch: Batch, taps: Taps | None = None) -> Array:
        return model.apply(params, batch, rng=jax.random.key(2), train=True, taps=taps)["pooled"]

    def whole(params: Params, batch: Batch) -> Array:
        return summary(params, batch, taps={"final": lambda x, layer: x})

    def gradient(of: Callable[..., Array]) -> Any:
        return jax.jit(jax.value_and_grad(lambda params: of(params, batch).sum()))(params)

    for one, two in zip(*map(jax.tree.leaves, (gradient(summary), gradient(whole))), strict=True):
        np.testing.assert_allclose(one, two, atol=2e-5, rtol=1e-5)
    costs = [jax.jit(f).lower(params, batch).compile().cost_analysis()["flops"] for f in (summary, whole)]
    # Of 12 products of a block (4 of attention, 8 of the layer behind it) the last one keeps 2.
    assert costs[0] < 0.75 * costs[1]
