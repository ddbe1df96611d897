"""The most memory that was in use at once: of a device, or of this process where the device is a CPU."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Used:
    """bytes: the most at once. of: "device", the fullest one of this process, or "process"."""

    bytes: int
    of: str


def peak(devices: Iterable[Any]) -> Used | None:
    """Return the most memory in use at once so far; None where nobody tells."""
    known = [device.memory_stats() or {} for device in devices if device.platform != "cpu"]
    if known:
        found = [stats["peak_bytes_in_use"] for stats in known if "peak_bytes_in_use" in stats]
        return Used(max(found), "device") if found else None
    try:
        import resource
    except ImportError:  # Windows has none
        return None
    kept = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Used(kept if sys.platform == "darwin" else kept * 1024, "process")
