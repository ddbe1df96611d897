"""What must be set before JAX starts to work: the compile cache and the allocator."""

from __future__ import annotations

import os
from pathlib import Path


def start() -> None:
    """Tune the allocator; keep compiled programs between runs, in JAX_COMPILATION_CACHE_DIR or else in the
    user's cache folder."""
    from lmx.core.memory import tune_allocator

    tune_allocator()
    import jax

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(root / "lmx" / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
