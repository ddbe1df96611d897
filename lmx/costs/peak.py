"""The operations a second that devices can reach: as their maker says, or, of CPUs, as a product shows.

Source: of TPUs lmx.costs.chips, by the names that JAX has for them; NVIDIA's data sheets of A100 (312 TFLOPS
in BFLOAT16), and, with sparsity, which doubles them, H100 (1,979 as SXM, 1,513 as PCIe), H200 and GH200
(1,979), B200 (4,500) and L4 (242), as of November 2026.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lmx.costs.chips import CHIPS

TPUS: Mapping[str, str] = {
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
    "TPU v6 lite": "v6e",
    "TPU v6e": "v6e",
}
"""JAX's `device_kind` -> the chip."""

GPUS: Mapping[str, float] = {
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA H100 80GB HBM3": 1979e12 / 2,
    "NVIDIA H100 PCIe": 1513e12 / 2,
    "NVIDIA H200": 1979e12 / 2,
    "NVIDIA GH200 480GB": 1979e12 / 2,
    "NVIDIA B200": 4500e12 / 2,
    "NVIDIA L4": 242e12 / 2,
}
"""JAX's `device_kind` -> dense bf16 operations a second. Parts of a GPU (MIG) have other names: no peak."""

SIZE = 1024
"""Rows of the matrices whose product is measured."""


@dataclass(frozen=True)
class Peak:
    """flops: operations a second, of all devices. source: "published", in bf16, or "measured", in f32."""

    flops: float
    source: str


def of(devices: Any) -> Peak | None:
    """Return the peak of a sequence of devices of one kind, together; None for one that is not listed here.

    CPU devices of a process share its cores: what a product on one reaches counts once a process.
    """
    first, processes = devices[0], len({device.process_index for device in devices})
    if first.platform == "cpu":
        return Peak(measured() * processes, "measured")
    each = published(first.device_kind)
    return None if each is None else Peak(each * len(devices), "published")


def published(kind: str) -> float | None:
    """Return the bf16 operations a second of a device by JAX's `device_kind`; None for one not listed."""
    return CHIPS[TPUS[kind]].flops if kind in TPUS else GPUS.get(kind)


@functools.cache
def measured(seconds: float = 0.25) -> float:
    """Return the f32 operations a second of the best of several products of 1,024 rows on this machine's CPU.

    Where others use the machine, it is less than it could be. seconds: how long to go on; three products are
    made at least. Measured once a process.
    """
    place = jax.local_devices(backend="cpu")[0]
    matrix = jax.device_put(np.full((SIZE, SIZE), 0.5, np.float32), place)
    product = jax.jit(jnp.matmul)
    product(matrix, matrix).block_until_ready()  # compiled
    best, tried, end = float("inf"), 0, time.monotonic() + seconds
    while tried < 3 or time.monotonic() < end:
        began = time.perf_counter()
        product(matrix, matrix).block_until_ready()
        best, tried = min(best, time.perf_counter() - began), tried + 1
    return 2 * SIZE**3 / best
