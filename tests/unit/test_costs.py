"""What a step costs: operations, messages and bounds, against counts by hand."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from lmx.core import mesh as mesh_
from lmx.core.errors import UserError
from lmx.costs import chips, flops, messages, roofline
from lmx.models import _kernels, gpt2
from lmx.tasks import causal_lm


def test_operations_by_hand() -> None:
    a, b = jnp.ones((3, 5)), jnp.ones((5, 7))
    assert flops.of(jnp.matmul, a, b) == 2 * 3 * 5 * 7
    assert flops.of(lambda x: jax.lax.scan(lambda c, _: (c @ c, None), x, length=4)[0], jnp.ones((6, 6))) == (
        4 * 2 * 6**3
    )
    again = jax.grad(jax.checkpoint(lambda x: jnp.sum(jnp.sin(x @ x))))
    assert flops.of(again, jnp.ones((4, 4))) == 4 * 2 * 4**3  # forward, again, two gradients


def test_operations_of_a_kernel_are_those_of_its_whole_grid() -> None:
    """Splash attention of 2 x 4 heads of 64: 2 products of 2 B H T^2 K each, the causal mask left aside."""
    q = jax.ShapeDtypeStruct((2, 1024, 4, 64), jnp.bfloat16)
    segments = jax.ShapeDtypeStruct((2, 1024), jnp.int32)
    found = flops.of(lambda q, g: _kernels.splash(q, q, q, g, 1.0, causal=True), q, segments)
    assert found == 2 * 2 * 2 * 4 * 1024**2 * 64


def test_operations_of_gpt2() -> None:
    """values.md 3.3: GPT-2 124M takes 291,648,307,200 for 1,024 tokens forward, of which the causal blocks of
    our attention leave out 3/8 of scores and mixes; PaLM's estimate, of a GPT-2 without biases."""
    config = gpt2.Config(dropout_embed=0.0, dropout_attention=0.0, dropout_residual=0.0)
    model = causal_lm.attach(gpt2.build(config), config)
    params = jax.eval_shape(model.init, jax.random.key(0))
    ids = jax.ShapeDtypeStruct((1, 1024), jnp.int32)
    whole = flops.of(lambda p, x: model.apply(p, {"input_ids": x})["logits"], params, ids)
    attention = 12 * 4 * 1024 * 1024 * 768
    assert whole == 291_648_307_200 - attention * 3 // 8
    parameters = 50257 * 768 + 12 * 12 * 768 * 768 + 25 * 768
    assert flops.trained(parameters, layers=12, width=768, length=1024) * 1024 == 875_062_886_400


def spread(function: Any, shape: tuple[int, ...], to: PartitionSpec) -> list[messages.Message]:
    """Return the messages of a function of one array, cut by rows over 8 devices."""
    mesh = mesh_.make(8)
    place, out = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, to)
    made = jax.jit(function, in_shardings=place, out_shardings=out)
    text = made.lower(jax.ShapeDtypeStruct(shape, jnp.float32)).compile().as_text()
    return messages.found(text, 8)


def test_messages_of_real_programs() -> None:
    (gather,) = spread(lambda x: x * 2, (16, 4), PartitionSpec())
    assert (gather.kind, gather.count, gather.size, gather.group) == ("all-gather", 1, 16 * 4 * 4, 8)
    assert gather.sent == 16 * 4 * 4 * 7 / 8
    (reduce,) = spread(lambda x: x.sum(0), (16, 4), PartitionSpec())
    assert (reduce.kind, reduce.size, reduce.sent) == ("all-reduce", 16, 2 * 16 * 7 / 8)
    assert spread(lambda x: x * 2, (16, 4), PartitionSpec("data")) == []


def test_messages_in_loops_count_each_time() -> None:
    def loop(x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda c, _: (c + (x * c[0]).sum(0), None), jnp.ones(4), length=5)[0]

    (found,) = spread(loop, (16, 4), PartitionSpec())
    assert (found.kind, found.count, found.size) == ("all-reduce", 5, 16)


HLO = """\
HloModule jit_step

%body (p: (s32[], bf16[8,16])) -> (s32[], bf16[8,16]) {
  %g = (bf16[1,16]{1,0}, bf16[8,16]{1,0}) all-gather-start(%x), replica_groups=[2,8]<=[16], dimensions={0}
  %d = bf16[8,16]{1,0} all-gather-done(%g)
  ROOT %t = (s32[], bf16[8,16]) tuple(%i, %d)
}

%fused (q: f32[4]) -> f32[1] {
  ROOT %r = f32[1]{0} reduce-scatter(%q), replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}, to_apply=%add
}

ENTRY %main (a: f32[4]) -> f32[1] {
  %w = (s32[], bf16[8,16]) while(%i), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"12"}}
  %alone = f32[9]{0} all-reduce(%a), replica_groups={{0},{1}}, to_apply=%add
  %p = u8[10]{0} collective-permute(%b), source_target_pairs={{0,1},{1,0}}
  ROOT %f = f32[1]{0} fusion(%a), kind=kLoop, calls=%fused
}
"""

UNTOLD = """\
HloModule jit_step

%c (p: (s32[], f32[4])) -> pred[] {
  %n = s32[]{:T(128)} constant(24)
  %p = (s32[]{:T(128)}, f32[4]{0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %n), direction=LT
}

%body (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %r = f32[4]{0} all-reduce(%x), replica_groups={{0,1,2,3}}, to_apply=%add
  ROOT %t = (s32[], f32[4]) tuple(%i, %r)
}

ENTRY %main (a: f32[4]) -> f32[4] {
  %s = f32[1]{0} fusion(%a), kind=kCustom, calls=%all-reduce-scatter.1, metadata={op_name="step"}
  ROOT %w = (s32[]{:T(128)}, f32[4]{0}) while(%i), condition=%c, body=%body, metadata={op_name="while"}
}

%all-reduce-scatter.1 (q: f32[4]) -> f32[1] {
  %r = f32[4]{0} all-reduce(%q), replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'}, to_apply=%s
  ROOT %d = f32[1]{0} dynamic-slice(%r, %place), dynamic_slice_sizes={1}
}
"""
"""As the TPU compiler writes a loop, whose rounds stand in the condition, and a reduce-scatter."""


def test_messages_of_a_tpus_text() -> None:
    found = {one.kind: one for one in messages.found(HLO, 16)}
    assert found.keys() == {"all-gather", "reduce-scatter", "collective-permute"}  # not the one among itself
    gather = found["all-gather"]
    assert (gather.count, gather.size, gather.group) == (12, 8 * 16 * 2, 8)
    assert gather.sent == 12 * 256 * 7 / 8
    scatter = found["reduce-scatter"]
    assert (scatter.count, scatter.size, scatter.group, scatter.sent) == (1, 16, 4, 12)
    assert found["collective-permute"].sent == 10
    inside, scattered = messages.found(UNTOLD, 8)
    assert (inside.kind, inside.count, inside.size, inside.group) == ("all-reduce", 24, 16, 4)
    assert (scattered.kind, scattered.sent, scattered.group) == ("reduce-scatter", 12, 4)


def test_bounds_by_hand() -> None:
    chip = chips.CHIPS["v5e"]
    found = roofline.bounds(chip, operations=197e12, moved=819e9 / 2, sent=50e9, model=98.5e12)
    assert found is not None
    assert (found.compute, found.memory, found.links) == (1.0, 0.5, 0.25)
    assert (found.binds, found.least, found.mfu) == ("operations", 1.0, 0.5)
    slow = roofline.bounds(chip, operations=197e12, moved=0, sent=400e9, model=98.5e12)
    assert slow is not None and (slow.binds, slow.mfu) == ("links", 0.25)
    assert roofline.bounds(chips.CHIPS["cpu"], operations=1, moved=1, sent=1, model=1) is None
    unknown = roofline.bounds(chip, operations=197e12, moved=None, sent=50e9, model=98.5e12)
    assert unknown is not None and (unknown.binds, unknown.memory) == ("operations", 0.0)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("v5e", "expected the chips along each dimension"),
        ("v7:4x4", "'v7' is no chip known here; expected such as v5e:4x4, v5p:2x2x2, v6e:4x4, cpu:8"),
        ("v5e:8", "has 1 dimension, but v5e is wired in 2; write it such as v5e:4x4"),
        ("v5p:4x4", "has 2 dimensions, but v5p is wired in 3"),
        ("v5e:0x4", "expected the chips along each dimension"),
        ("cpu:two", "expected the chips along each dimension"),
        ("v5e:32x32", "v5e comes in the shapes 1x1, 2x2, 2x4, 4x4, 4x8, 8x8, 8x16, 16x16"),
        ("v6e:3x7", "v6e comes in the shapes 1x1, 2x2"),
        ("v5p:32x32x32", "has 32768 chips; slices of v5p have 4 to 6144"),
        ("v5p:1x1x1", "has 1 chip; slices of v5p have 4 to 6144"),
    ],
)
def test_a_slice_that_is_none(name: str, told: str) -> None:
    with pytest.raises(UserError) as raised:
        chips.parsed(name)
    assert told in str(raised.value)


def test_slices() -> None:
    assert (chips.parsed("v5e:4x4").chips, chips.parsed("v5p:2x2x4").chips) == (16, 16)
    assert chips.parsed("v5p:2x2x4").name == "v5p:2x2x4"
    assert np.isclose(chips.CHIPS["v6e"].flops or 0, 918e12)
