"""Attention by kernels that are made for one kind of device: cuDNN's on GPUs, splash attention on TPUs.

Neither keeps the weights: they are computed again, block by block, in the backward pass.
Source: Dao et al. 2022, "FlashAttention", section 3.1; JAX's `pallas.ops.tpu.splash_attention`, which leaves
out the blocks that a causal mask forbids.
"""

from __future__ import annotations

import functools

import jax
import numpy as np
from jax.sharding import PartitionSpec

from lmx.core import execution, layout
from lmx.core.execution import LANE
from lmx.core.mesh import ROWS, TENSOR
from lmx.core.types import Array

BLOCK = 512
"""Tokens of a block at most: blocks of 512 fill the products, and their scores fit a core's own memory."""


def cudnn(query: Array, key: Array, value: Array, mask: Array, scale: float, *, causal: bool) -> Array:
    """As `_attention.attend`, by cuDNN, which takes half precision alone."""
    return jax.nn.dot_product_attention(
        query, key, value, mask=mask, scale=scale, is_causal=causal, implementation="cudnn"
    )


def splash(query: Array, key: Array, value: Array, groups: Array, scale: float, *, causal: bool) -> Array:
    """As `_attention.attend`, by splash attention: (B, T, H, K) -> (B, T, H, K).

    groups (B, T): numbers; a token sees those of its own alone. On CPUs the kernel is interpreted, slowly.
    """
    run = functools.partial(_splash, scale=scale, causal=causal)
    mesh = layout.current()
    if mesh is None:
        return run(query, key, value, groups)
    heads = TENSOR if query.shape[2] % mesh.shape.get(TENSOR, 1) == 0 else None
    cut = PartitionSpec(ROWS, None, heads)
    return jax.shard_map(
        run, mesh=mesh, in_specs=(cut, cut, cut, PartitionSpec(ROWS)), out_specs=cut, check_vma=False
    )(query, key, value, groups)


def _splash(query: Array, key: Array, value: Array, groups: Array, *, scale: float, causal: bool) -> Array:
    # Not above: a third of a second, for those who never use it.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash_
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks_

    time, heads = query.shape[1:3]
    block = max(size for size in range(LANE, min(BLOCK, time) + 1, LANE) if time % size == 0)
    mask = masks_.CausalMask((time, time)) if causal else masks_.FullMask((time, time))
    kernel = splash_.make_splash_mha(
        masks_.MultiHeadMask([mask] * heads),
        block_sizes=splash_.BlockSizes(*(block,) * 8),
        head_shards=1,
        q_seq_shards=1,
        interpret=execution.platform() != "tpu",
    )
    scaled = (query.astype(np.promote_types(query.dtype, np.float32)) * scale).astype(query.dtype)
    q, k, v = (x.transpose(0, 2, 1, 3) for x in (scaled, key, value))
    mixed: Array = jax.vmap(kernel)(q, k, v, splash_.SegmentIds(groups, groups))
    return mixed.transpose(0, 2, 1, 3)
