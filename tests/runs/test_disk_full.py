"""Imports and exports where the disk is full: one line, and nothing left behind."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from lmx.commands import _certify
from lmx.core.errors import UserError
from lmx.runs.checkpoints import Checkpoints, WriteError
from tests.unit import _hf_folders as made

from ._certified import complaint, noisy, small_bert

ROWS = 20_000


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 650 kB, which no compression makes much smaller."""
    config = {**made.GPT2, "vocab_size": ROWS}
    return made.folder(tmp_path_factory.mktemp("large") / "source", config, noisy(made.gpt2(rows=ROWS)))


def limited(source: Path, out: Path, largest: int) -> subprocess.CompletedProcess[str]:
    """Import in a process that may write files of that size, as under `ulimit -f`."""
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({largest}, {largest}))"
    run = f"import sys; {limit}; from lmx.__main__ import main; sys.exit(main())"
    words = ["-c", run, "import-hf", "--source", str(source), "--output", str(out)]
    compiled = {"JAX_COMPILATION_CACHE_DIR": str(source.parent / "compiled")}  # nothing cut short goes there
    return subprocess.run(
        [sys.executable, *words],
        env={**os.environ, **compiled, "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("largest", [300_000, 500])
def test_files_that_may_not_be_that_large(source: Path, tmp_path: Path, largest: int) -> None:
    out = tmp_path / "new" / "out"
    done = limited(source, out, largest)
    assert done.stderr == f"lmx import-hf: {out}: cannot be written ({os.strerror(errno.EFBIG)})\n"
    assert done.returncode == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", ["200k", "400k"])
def test_a_disk_that_is_full(source: Path, tmp_path: Path, size: str) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "lmx", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only where a file system can be mounted")
    try:
        for command, option in (("import-hf", "--source"), ("export-hf", "--checkpoint")):
            out = place / "new" / command
            words = ["-m", "lmx", command, option, str(source), "--output", str(out)]
            done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
            assert done.stderr == f"lmx {command}: {out}: cannot be written (No space left on device)\n"
            assert list(place.iterdir()) == []
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("when", ["begun", "awaited"])
def test_orbax_s_own_complaints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its message is of many lines and paths; the reason alone is told."""
    source = small_bert(tmp_path / "source")

    def failing(*args: Any, **kwargs: Any) -> None:
        raise ValueError("RESOURCE_EXHAUSTED: Error\nwriting: Failed to write [os_error_code='28']")

    manager = ocp.CheckpointManager
    monkeypatch.setattr(manager, "save" if when == "begun" else "wait_until_finished", failing)
    words = ["import-hf", "--source", str(source), "--output", str(tmp_path / "new" / "out")]
    reason = f"cannot be written ({os.strerror(errno.ENOSPC)})"
    assert complaint(capsys, words) == f"{tmp_path / 'new' / 'out'}: {reason}"
    assert list(tmp_path.iterdir()) == [source]


def test_a_manager_is_closed_after_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, closed = Checkpoints(tmp_path / "kept"), []
    kept.save(1, {"a": jnp.zeros(3)}, facts={"loss": None})
    plain = ocp.CheckpointManager.close

    def failing(*args: Any) -> None:
        raise OSError(errno.EIO, "broken")

    def closing(manager: Any) -> None:
        closed.append(manager)
        plain(manager)

    monkeypatch.setattr(ocp.CheckpointManager, "wait_until_finished", failing)
    monkeypatch.setattr(ocp.CheckpointManager, "close", closing)
    with pytest.raises(WriteError) as error:
        kept.close()
    assert error.value.reason == os.strerror(errno.EIO)
    assert len(closed) == 1


@pytest.mark.slow
def test_double_precision_is_read_only_where_jax_has_it(tmp_path: Path) -> None:
    """Not "damaged": the digests are those of the wide values."""
    wide = {name: tensor.astype(np.float64) + 1e-12 for name, tensor in made.gpt2().items()}
    source = made.folder(tmp_path / "source", made.GPT2, wide)
    words = ["-m", "lmx", "import-hf", "--dtype", "float64", "--source", str(source), "--output"]
    environment = {**os.environ, "JAX_ENABLE_X64": "1"}
    out = tmp_path / "in"
    subprocess.run([sys.executable, *words, str(out)], env=environment, check=True)
    with pytest.raises(UserError) as error:
        _certify.verify(out, say=lambda text: None)
    told = str(error.value)
    assert "are float64 (" in told
    assert told.endswith("which jax has only where JAX_ENABLE_X64=1 is set; set it and try again")
    verify = ["-m", "lmx", "verify", str(out)]
    subprocess.run([sys.executable, *verify], env=environment, check=True)
