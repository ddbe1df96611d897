"""What must be set before JAX starts to work, and how this program was called."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path


def start(*, alike: bool = False) -> None:
    """Tune the allocator, keep compiled programs between runs, in JAX_COMPILATION_CACHE_DIR or else in the
    user's cache folder, join the other processes of the run, and start the backend. All but the first say
    nothing from then on.

    alike: whether all steps of this command need blocks of the same sizes, see `core.memory`. To be called
    once all that a command needs is imported: from then on Ctrl-C raises KeyboardInterrupt.
    Errors: UserError where JAX finds no device.
    """
    from lmx.core import log, processes, stop
    from lmx.core.errors import UserError
    from lmx.core.memory import tune_allocator

    tune_allocator(alike=alike)
    import jax

    jax.config.update("jax_compilation_cache_dir", str(cache_folder()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    processes.join()
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"JAX cannot start ({no_devices(error)}); is JAX_PLATFORMS right?") from error
    if not processes.first():
        log.silence()
    stop.begun()


def no_devices(error: BaseException) -> str:
    """Return why JAX finds no device: it asserts, without a word, where none of JAX_PLATFORMS is there."""
    from lmx.core.errors import one_line

    platforms = os.environ.get("JAX_PLATFORMS", "")
    return one_line(error) if str(error) else f"no device of JAX_PLATFORMS={platforms} is here"


def cache_folder() -> Path:
    """Return where compiled programs are kept between runs."""
    if told := os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return Path(told)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lmx" / "compiled"


def check_fits(needed: int) -> None:
    """Raise UserError where a state of so many bytes a device does not fit: before anything compiles.

    A CPU device has its share of the machine's memory.
    """
    import jax

    from lmx.core.errors import UserError

    device = jax.local_devices()[0]
    have = (device.memory_stats() or {}).get("bytes_limit")
    if have is None and device.platform == "cpu" and hasattr(os, "sysconf"):
        have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // len(jax.local_devices())
    if have is not None and needed > have:
        raise UserError(
            f"parameters and the optimizer's state need {needed / 1e9:.1f} GB a device, which has "
            f"{have / 1e9:.1f} GB; make the model smaller, or cut the state over more devices (mesh.fsdp)"
        )


def program() -> str:
    """Return the words that call lmx as it was called: `lmx` where that is this one, else its path."""
    called = sys.argv[0] if sys.argv else ""
    if Path(called).name == "__main__.py" and Path(called).parent.name == "lmx":
        return f"{_shortest(sys.executable)} -m lmx"
    return _shortest(called) if Path(called).name == "lmx" else "lmx"


def _shortest(path: str) -> str:
    """Return the name alone of a program that the shell finds by it."""
    found, name = shutil.which(Path(path).name), Path(path).name
    return name if found is not None and _same(found, path) else shlex.quote(path)


def _same(one: str, two: str) -> bool:
    try:
        return os.path.samefile(one, two)
    except OSError:
        return False
