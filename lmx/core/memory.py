"""The allocator: keep the memory that XLA's temporaries give back, so that no step faults it in again."""

from __future__ import annotations

import ctypes
import functools
import platform
import sys

import jax

# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -3, -4, -8

COMPILED = "/jax/core/compile/backend_compile_duration"
"""JAX's name of what it says after each program that it compiled or took from its cache."""

LONG = 1.0  # seconds


def tune_allocator(*, alike: bool = False) -> bool:
    """Let glibc's malloc keep freed blocks, however large; return whether it agreed.

    XLA allocates a step's temporaries anew for every step. glibc maps large blocks (above a threshold that it
    raises to 32 MiB at most) straight from the system and unmaps them when they are freed, so that every step
    touches fresh pages, which the system zeroes: a quarter of a small model's step. The arena of a thread
    holds blocks up to 64 MiB and maps larger ones whatever the threshold, which is 1 GiB here, the most that
    fits. alike: all steps need blocks of the same sizes, so that all threads may share the first arena, which
    holds any, and nothing is mapped; blocks of many sizes would leave gaps in it that no other fits in, and
    memory would grow.

    To be called once, before JAX allocates. What steps used at their peak, a process keeps; what a compiler
    used, which may be as much, it gives back after each program that took longer than LONG to compile.
    Without glibc on Linux this does nothing.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    mallopt.argtypes, mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    kept = mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    # Older glibc refuses more than 32 MiB.
    mapped = mallopt(_M_MMAP_THRESHOLD, 2**30) or mallopt(_M_MMAP_THRESHOLD, 2**25)
    shared = not alike or (mallopt(_M_ARENA_MAX, 1) and mallopt(_M_MMAP_MAX, 0))
    _give_back_what_compiling_used()
    return bool(kept and mapped and shared)


@functools.cache  # once, however many runs a process makes
def _give_back_what_compiling_used() -> None:
    trim = ctypes.CDLL(None).malloc_trim

    def hear(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event == COMPILED and duration_secs > LONG:
            trim(0)

    jax.monitoring.register_event_duration_secs_listener(hear)
