"""What must be set before JAX starts to work, and how this program was called."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path


def start(*, alike: bool = False) -> None:
    """Tune the allocator, keep compiled programs between runs, in JAX_COMPILATION_CACHE_DIR or else in the
    user's cache folder, and start the backend.

    alike: whether all steps of this command need blocks of the same sizes, see `core.memory`. To be called
    once all that a command needs is imported: from then on Ctrl-C raises KeyboardInterrupt.
    Errors: UserError where JAX finds no device.
    """
    from lmx.core import stop
    from lmx.core.errors import UserError, one_line
    from lmx.core.memory import tune_allocator

    tune_allocator(alike=alike)
    import jax

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(root / "lmx" / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    try:
        jax.devices()
    except RuntimeError as error:
        raise UserError(f"JAX cannot start ({one_line(error)}); is JAX_PLATFORMS right?") from error
    stop.begun()


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
