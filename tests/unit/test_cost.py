"""Operations of batches, peaks of devices and memory, by hand and by data sheets."""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
import pytest

from lmx.commands import _build
from lmx.commands._cost import Operations
from lmx.costs import flops, memory, peak

MODEL = dict(vocab_size=300, positions=32, width=16, layers=2, heads=2, mlp_width=32)
BLOCKS = 2 * (4 * (16 * 16 + 16) + 2 * 16 * 32 + 32 + 16 + 2 * 2 * 16)
"""Attention, feed-forward layer and two norms, twice."""


@dataclass
class Device:
    """A device as JAX describes one."""

    device_kind: str = "NVIDIA H100 80GB HBM3"
    platform: str = "gpu"
    process_index: int = 0
    stats: dict[str, int] | None = field(default_factory=dict)

    def memory_stats(self) -> dict[str, int] | None:
        return self.stats


def operations(name: str, task: str, batch: dict[str, tuple[int, ...]], **options: Any) -> float:
    config = {"model": {"name": name, **MODEL}, "task": {"name": task, **options}}
    params = _build.shapes(_build.model(config))
    return Operations(config, params)({key: np.zeros(shape, np.int32) for key, shape in batch.items()})


def test_a_decoders_batch_is_counted_as_palm_does() -> None:
    """values.md 3.3 for GPT-2 124M; and a tiny one, 6 N + 12 L D T a token, N without positions."""
    body = 12 * 12 * 768 * 768 + 25 * 768
    head, scored = 50257 * 768, 1024
    found = flops.batch(1024, body=body, layers=12, width=768, length=1024, head=head, scored=scored)
    assert found == 875_062_886_400
    tiny = operations("gpt2", "causal_lm", {"input_ids": (8, 32), "labels": (8, 32)})
    assert tiny == 8 * 32 * (6 * (BLOCKS + 2 * 16 + 300 * 16) + 12 * 2 * 16 * 32)


def test_an_encoders_hidden_places_alone_meet_the_vocabulary() -> None:
    body = BLOCKS + 2 * 16  # the norm of the embeddings
    head = 300 * 16 + 300 + 16 * 16 + 16 + 2 * 16
    each = 8 * 32 * (6 * body + 12 * 2 * 16 * 32)
    batch = {"input_ids": (8, 32), "hidden_positions": (8, 5)}
    assert operations("bert", "masked_lm", batch) == each + 6 * head * 8 * 5
    classes = operations("bert", "sequence_classification", {"input_ids": (8, 32)}, labels=3)
    assert classes == each, "no product with the vocabulary"


def test_examples_count_by_the_length_they_are_read_in() -> None:
    short, long = (
        operations("bert", "multiple_choice", {"input_ids": (4, 3, length)}) for length in (16, 32)
    )
    body = BLOCKS + 2 * 16
    assert short == 4 * 3 * 16 * (6 * body + 12 * 2 * 16 * 16)
    assert long == 4 * 3 * 32 * (6 * body + 12 * 2 * 16 * 32)


def test_a_mixtures_batch_is_counted_as_its_tasks() -> None:
    tasks = {
        "write": {"task": {"name": "instruction"}},
        "sort": {"task": {"name": "sequence_classification", "labels": 3}},
    }
    config = {"model": {"name": "gpt2", **MODEL}, "tasks": tasks}
    found = Operations(config, _build.shapes(_build.model(config)))
    ids, key = np.zeros((8, 32), np.int32), np.zeros(8, np.int32)
    alone = {"input_ids": (8, 32)}
    assert found({"input_ids": ids, "task/write": key}) == operations("gpt2", "instruction", alone)
    sort = operations("gpt2", "sequence_classification", alone, labels=3)
    assert found({"input_ids": ids, "task/sort": key}) == sort < operations("gpt2", "instruction", alone)


@pytest.mark.parametrize(
    ("kind", "flops"),
    [
        ("TPU v5 lite", 197e12),
        ("TPU v5", 459e12),
        ("TPU v6 lite", 918e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989.5e12),
        ("NVIDIA H100 PCIe", 756.5e12),
        ("NVIDIA H200", 989.5e12),
        ("NVIDIA GH200 480GB", 989.5e12),
        ("NVIDIA B200", 2250e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("TPU v99", None),
    ],
)
def test_published_peaks(kind: str, flops: float | None) -> None:
    assert peak.published(kind) == flops
    found = peak.of([Device(kind)] * 4)
    assert found == (None if flops is None else peak.Peak(4 * flops, "published"))


def test_the_peak_of_a_cpu_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found = peak.measured()
    assert found > 1e8
    assert peak.measured() == found
    assert peak.of(jax.devices()) == peak.Peak(found, "measured"), "8 devices on the same cores"
    two = [Device(platform="cpu", process_index=index) for index in (0, 0, 1, 1)]
    assert peak.of(two) == peak.Peak(2 * found, "measured")


def test_memory_of_devices_and_of_the_process() -> None:
    stats = [{"peak_bytes_in_use": 5, "bytes_in_use": 9}, {"peak_bytes_in_use": 7}]
    assert memory.peak([Device(stats=one) for one in stats]) == memory.Used(7, "device")
    assert memory.peak([Device(stats=None)]) is None
    found = memory.peak(jax.local_devices())
    assert found is not None and found.of == "process"
    unit = 1 if sys.platform == "darwin" else 1024
    assert found.bytes <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    assert found.bytes > 50e6, "JAX alone takes more"
