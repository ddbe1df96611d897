"""What each way to execute a step saves, by the compiler's own account of memory; nothing is run."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from lmx import optim
from lmx.core import execution
from lmx.core import mesh as mesh_
from lmx.core.execution import Execution
from lmx.models import gpt2
from lmx.tasks import causal_lm
from lmx.tasks._cross_entropy import CHUNK, cross_entropy
from lmx.training import state, step

B, T, D, L = 8, 64, 32, 8
SIZES = gpt2.Config(vocab_size=61, positions=T, width=D, layers=L, heads=2)
FLOAT = 4
"""Bytes of one."""


@functools.cache
def memory(remat: str = "none", parts: int = 1, fsdp: int = 1) -> Any:
    """Return what the compiler says of the memory of a step of scanned layers on each device, and the bytes
    of its state."""
    model = causal_lm.attach(gpt2.build(SIZES), SIZES)
    _, optimizer = optim.make(name="adamw", rate=1e-3, schedule="constant", warmup=0, total=10)
    mesh = mesh_.make(data=1, fsdp=fsdp, devices=jax.devices()[:fsdp])
    how, place = Execution(remat=remat, layers="scanned"), mesh_.by_example(mesh)
    made = step.build(
        model, causal_lm.objective(model), optimizer, seed=0, mesh=mesh, axes=gpt2.AXES, how=how, parts=parts
    )
    batch = {
        "input_ids": jax.ShapeDtypeStruct((B, T), jnp.int32, sharding=place),
        "example_index": jax.ShapeDtypeStruct((B,), jnp.int32, sharding=place),
    }
    held = state.abstract(model, optimizer, mesh=mesh, axes=gpt2.AXES)
    found = made.func.lower(*made.args, held, batch).compile().memory_analysis()
    return found, sum(math.prod(one.shape) * FLOAT for one in jax.tree.leaves(held))


def temporaries(**how: Any) -> int:
    return int(memory(**how)[0].temp_size_in_bytes)


def test_remat_saves_what_the_backward_pass_need_not_keep() -> None:
    """Of a token, a layer keeps its input (D) at least; query, key, value, what attention mixed, the sum
    after it and the inner layer before its activation (4 D) are 9 D more, which `block` makes again. `dots`
    keeps the results of products, 8 D of those."""
    kept = {remat: temporaries(remat=remat) for remat in execution.REMAT}
    token = (L - 1) * B * T * D * FLOAT
    assert kept["none"] - kept["block"] > 9 * token
    assert 6 * token < kept["dots"] - kept["block"] < 8.5 * token
    assert kept["dots"] < kept["none"]


def test_parts_need_the_memory_of_one() -> None:
    """Beside a part's own the gradients so far are held, and a part's, and their sum; the parameters are a
    third of the state."""
    whole, parameters = temporaries(), memory()[1] / 3
    assert temporaries(parts=4) < whole / 4 + 3 * parameters


def test_the_state_is_cut_and_given_up() -> None:
    """The new state lies where the old one lay; over 8 devices each holds an eighth, and vectors whole."""
    found, size = memory()
    assert found.alias_size_in_bytes == pytest.approx(size, rel=0.001)
    cut, _ = memory(fsdp=8)
    vectors = 3 * FLOAT * (L * 13 * D + 2 * D)
    assert cut.alias_size_in_bytes < size / 8 + vectors


def test_a_loss_in_chunks_never_holds_all_logits() -> None:
    """GPT-2's vocabulary: 8,192 tokens have 1.65 GB of logits. The chunked loss holds one chunk, the head's
    gradient, and both gradients once more at most."""
    rows, vocabulary, width = 8192, 50257, 768
    shapes = [(1, rows, width), (vocabulary, width)]
    labels = jnp.zeros((1, rows), jnp.int32)

    def needed(loss: Callable[..., Any]) -> int:
        both = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
        args = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        return int(both.lower(*args).compile().memory_analysis().temp_size_in_bytes)

    def plain(hidden: jax.Array, head: jax.Array) -> jax.Array:
        logits = jax.nn.log_softmax(jnp.matmul(hidden, head.T, precision="highest"))
        return -jnp.sum(jnp.take_along_axis(logits, labels[..., None], -1))

    logits, gradients = rows * vocabulary * FLOAT, sum(math.prod(shape) for shape in shapes) * FLOAT
    assert needed(plain) > logits
    chunked = needed(lambda hidden, head: cross_entropy(hidden, head, labels, 0))
    assert chunked < 2 * CHUNK * FLOAT + 2 * gradients
