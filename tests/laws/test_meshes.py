"""No mesh changes what is trained: 50 steps with dropout on, on meshes of 8 devices and on one device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from lmx import optim
from lmx.core import functions, layers, layout, rng, tree
from lmx.core import mesh as mesh_
from lmx.core.errors import UserError
from lmx.core.execution import PLAIN, Execution
from lmx.core.types import Model
from lmx.models import bert, gpt2
from lmx.runs.checkpoints import Checkpoints
from lmx.tasks import causal_lm, masked_lm
from lmx.training import state, step

CONFIG = gpt2.Config(
    vocab_size=61, positions=16, width=32, layers=2, heads=4,
    dropout_embed=0.1, dropout_attention=0.1, dropout_residual=0.1,
)  # fmt: skip
AXES = (*gpt2.AXES, *causal_lm.AXES)
STEPS = 50
MESHES: dict[str, dict[str, int]] = {
    "data 8": {"data": 8},
    "fsdp 8": {"data": 1, "fsdp": 8},
    "2 x 2 x 2": {"data": 2, "fsdp": 2, "tensor": 2},
}
WAYS = {name: (sizes, False) for name, sizes in MESHES.items()} | {
    "2 x 2 x 2, layers as one": (MESHES["2 x 2 x 2"], True)
}


def model() -> Model:
    return causal_lm.attach(gpt2.build(CONFIG), CONFIG)


def chain() -> Any:
    return optim.make("adamw", rate=3e-3, schedule="constant", warmup=2, total=STEPS, decay=0.1, clip=1.0)[1]


def batch(number: int) -> dict[str, np.ndarray]:
    """Return 16 rows, each of two documents and some padding: their numbers of labels differ."""
    draw = np.random.default_rng(number)
    made = causal_lm.encode(
        {
            "tokens": (draw.integers(0, 61, (16, 1)) + np.arange(17)) % 61,  # to be learnt
            "segment_ids": np.sort(draw.integers(0, 3, (16, 17)), axis=1)[:, ::-1],
            "position_ids": np.zeros((16, 17), np.int32),
        }
    )
    return {**made, "example_index": np.arange(16, dtype=np.int32) + 16 * number}


def trained(sizes: dict[str, int], one: bool = False) -> tuple[np.ndarray, state.State]:
    """Return the loss of each step, and the state after the last; one: the layers are held and run as one."""
    mesh, built, optimizer = mesh_.make(**sizes), model(), chain()
    built, how = (layers.together(built), Execution(layers="scanned")) if one else (built, PLAIN)
    now = state.start(built, optimizer, seed=3, mesh=mesh, axes=AXES)
    update = step.build(built, causal_lm.objective(built), optimizer, seed=3, mesh=mesh, axes=AXES, how=how)
    losses = []
    for number in range(STEPS):
        now, sums = update(now, mesh_.put(batch(number), mesh))
        losses.append(float(sums["loss"]) / float(sums["weight"]))
    return np.array(losses), now


@pytest.fixture(scope="module")
def alone() -> tuple[np.ndarray, state.State]:
    return trained({"data": 1})


@pytest.fixture(scope="module", params=WAYS)
def spread(request: pytest.FixtureRequest) -> tuple[np.ndarray, state.State]:
    return trained(*WAYS[request.param])


def test_fifty_steps_with_dropout_are_those_of_one_device(
    alone: tuple[np.ndarray, state.State], spread: tuple[np.ndarray, state.State]
) -> None:
    np.testing.assert_allclose(spread[0][:10], alone[0][:10], rtol=1e-5)
    np.testing.assert_allclose(spread[0], alone[0], rtol=1e-4)
    one, many = (tree.flatten(jax.device_get(layers.apart(now.params))) for _, now in (alone, spread))
    assert one.keys() == many.keys()
    for path, leaf in many.items():
        np.testing.assert_allclose(leaf, one[path], atol=1e-4, rtol=0, err_msg=path)
    assert alone[0][-1] < alone[0][0] - 0.5


def test_a_state_restores_onto_any_other_mesh(
    alone: tuple[np.ndarray, state.State], spread: tuple[np.ndarray, state.State], tmp_path: Path
) -> None:
    """Bit for bit, each leaf where the other mesh has it."""
    kept = Checkpoints(tmp_path / "checkpoints", keep_last=1, keep_best=0)
    now = spread[1]
    kept.save(STEPS, now.params, now.optimizer, facts={"rank": None})
    kept.wait()
    for sizes in MESHES.values():
        mesh = mesh_.make(**sizes)
        wanted = state.abstract(model(), chain(), mesh=mesh, axes=AXES)
        params, optimizer, _ = kept.restore(STEPS, wanted.params, wanted.optimizer)
        found = state.State(now.step, params, optimizer)
        assert jax.tree.structure(found) == jax.tree.structure(wanted)
        for leaf, before, place in zip(
            *map(jax.tree.leaves, (found, layers.apart(now), wanted)), strict=True
        ):
            assert np.array_equal(np.asarray(leaf), np.asarray(before))
            if leaf is not now.step:
                assert leaf.sharding.is_equivalent_to(place.sharding, leaf.ndim)
    kept.close()


@pytest.mark.parametrize("sizes", MESHES.values(), ids=MESHES)
def test_dropout_masks_are_bit_equal(sizes: dict[str, int]) -> None:
    mesh = mesh_.make(**sizes)
    index = np.arange(16, dtype=np.int32) + 7

    def masks(index: Any) -> Any:
        keys = rng.example_keys(rng.stream_key(3, 5, "dropout"), index)
        ones = layout.rows(jax.numpy.ones((16, 8, 4, 6)), None, "heads")
        return functions.dropout(ones, 0.3, keys, 2)

    def there(index: Any) -> Any:
        with layout.on(mesh):
            return masks(index)

    given = mesh_.put({"index": index}, mesh)["index"]
    assert np.array_equal(np.asarray(jax.jit(there)(given)), np.asarray(jax.jit(masks)(index)))


@pytest.mark.parametrize("build", [gpt2, bert])
def test_a_state_is_cut_from_birth(build: Any) -> None:
    """On fsdp 8 no device holds more than an eighth of the matrices, of the optimizer's state neither."""
    config = build.Config(vocab_size=64, positions=16, width=32, layers=2, heads=4, mlp_width=64)
    task = causal_lm if build is gpt2 else masked_lm
    body, axes = task.attach(build.build(config), config), (*build.AXES, *task.AXES)
    mesh = mesh_.make(data=1, fsdp=8)
    now = state.start(body, chain(), seed=0, mesh=mesh, axes=axes)
    for path, leaf in tree.flatten(now.params).items():
        own = leaf.addressable_shards[0].data.size
        assert own == leaf.size // 8 if leaf.ndim == 2 and leaf.shape[0] > 2 else own <= leaf.size, path
    held = sum(x.addressable_shards[0].data.size for x in jax.tree.leaves(now.optimizer))
    whole = sum(x.size for x in jax.tree.leaves(now.optimizer))
    assert held < whole / 6


def test_what_cuts_a_leaf() -> None:
    """By the table: width by fsdp, heads, mlp and vocab by tensor; another axis where that one is odd."""
    mesh = mesh_.make(data=2, fsdp=2, tensor=2)
    assert layout.spec(("width", "mlp"), (32, 64), mesh) == PartitionSpec("fsdp", "tensor")
    assert layout.spec(("vocab", "width"), (61, 32), mesh) == PartitionSpec(None, "fsdp")
    assert layout.spec(("mlp", "width"), (64, 33), mesh) == PartitionSpec(("tensor", "fsdp"), None)
    assert layout.spec(("width",), (32,), mesh) == PartitionSpec(None)
    assert layout.spec(("heads",), (32,), mesh) == PartitionSpec("tensor")


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        (
            {"data": -1, "fsdp": 3},
            "does not fit 8 devices; the product of what is not -1 must divide 8, as 2 and 4 do",
        ),
        ({"data": 4, "fsdp": 4}, "mesh.data=4, mesh.fsdp=4, mesh.tensor=1 does not fit 8 devices"),
        ({"data": -1, "fsdp": -1}, "only one of them can be -1"),
        ({"data": 0}, "expected sizes of at least 1, or -1"),
    ],
)
def test_a_mesh_that_does_not_fit(sizes: dict[str, int], told: str) -> None:
    with pytest.raises(UserError) as raised:
        mesh_.make(**sizes)
    assert told in str(raised.value)


def test_a_tensor_axis_that_does_not_divide_the_model() -> None:
    with pytest.raises(UserError) as raised:
        layout.check({"heads": 3, "mlp": 36}, mesh_.make(tensor=8))
    assert "mesh.tensor=8 does not divide the model's heads (3); the nearest that does is 3" in str(
        raised.value
    )
    layout.check({"heads": 3, "mlp": 36}, mesh_.make(data=1, tensor=3))
