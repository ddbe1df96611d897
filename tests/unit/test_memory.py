"""The allocator keeps what a step frees, whichever thread of XLA's allocated it."""

import platform
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from lmx.commands import train
from lmx.core import config as config_
from lmx.core import memory
from lmx.core.errors import UserError

FAULTS = """
import resource, sys, threading
from lmx.core.memory import tune_allocator

SIZE = int(sys.argv[1])
assert tune_allocator(alike=True)
faults = []

def fill():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = b"x" * (SIZE << 20)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

for _ in range(3):  # a thread each, as in a pool
    thread = threading.Thread(target=fill)
    thread.start()
    thread.join()
print(*faults)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc here is not glibc's")
@pytest.mark.parametrize("size", [160, 1100])
def test_a_large_block_of_a_thread_is_faulted_in_once(size: int) -> None:
    """160 MiB are 40,960 pages of 4 KiB; arenas of threads, which hold 64 MiB at most, would map anew, and so
    would any above 1 GiB, the highest threshold that glibc takes: a step of GPT-2 124M has such a block."""
    run = subprocess.run(
        [sys.executable, "-c", FAULTS, str(size)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    first, *later = map(int, run.stdout.split())
    assert first > 50  # 80 where pages are of 2 MiB
    assert max(later) < first / 10


COMPILING = """
import jax
from lmx.core.memory import COMPILED, tune_allocator

assert tune_allocator()

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4 // 1024

blocks = [b"x" * (1 << 20) for _ in range(300)]
last = b"x" * (1 << 20)  # what lies behind them keeps the heap from shrinking
full = resident()
del blocks
for event, seconds in (("/some/other", 9.0), (COMPILED, 0.2), (COMPILED, 9.0)):
    jax.monitoring.record_event_duration_secs(event, seconds)
    print(full - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc here is not glibc's")
def test_what_a_compiler_used_is_given_back() -> None:
    """LLVM takes hundreds of MB for a step, which would lie idle beside the step's own blocks."""
    run = subprocess.run([sys.executable, "-c", COMPILING], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    other, short, long = map(int, run.stdout.split())
    assert max(other, short) < 30 and long > 250


@pytest.mark.parametrize(
    ("name", "changes", "alike"),
    [
        ("quickstart", {}, True),
        ("finetune/sst2", {}, False),
        ("finetune/sst2", {"batch.length": "64", "batch.multiple": "64"}, True),
        # Each task has rows of its own.
        ("finetune/multi", {"batch.length": "64", "batch.multiple": "64"}, False),
    ],
)
def test_one_arena_is_for_rows_of_one_length(
    name: str, changes: dict[str, str], alike: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(memory, "tune_allocator", lambda alike: asked.append(alike))
    config = config_.load(name)
    config_.override(config, changes)
    with suppress(UserError):  # of fine-tuning's start, which is not there
        train.checked(config_.plain(config), tmp_path)
    assert asked == [alike]
