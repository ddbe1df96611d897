"""What every test has: 8 simulated CPU devices, strict numerics, no network, seeds, a way to run lmx."""

from __future__ import annotations

import ipaddress
import os
import random
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
_DEVICES = "--xla_force_host_platform_device_count"

# All of this is read when jax or transformers is first imported, so it stands before any such import.
if _DEVICES not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_DEVICES}=8".strip()
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"

import jax
import numpy as np
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture(autouse=True, scope="session")
def compile_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Compile each program once per run of the suite: tests build the same small models again and again."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder  # workers share it
    jax.config.update("jax_disable_most_optimizations", True)  # for what fixtures make before the first test
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder / "compiled")
    jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture(autouse=True)
def quick_compiles(request: pytest.FixtureRequest) -> None:
    """Compile without LLVM's optimisations: to compile tiny models is most of what the suite costs.

    The operations and their types stay the same. Slow tests, whose programs run long, compile as users do.
    """
    slow = request.node.get_closest_marker("slow") is not None
    jax.config.update("jax_disable_most_optimizations", not slow)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each file to one worker of `-n`: what its tests share is made and compiled once."""
    from xdist.scheduler import LoadFileScheduling

    return LoadFileScheduling(config, log)


class NetworkError(AssertionError):
    """A test tried to leave this machine. Not an OSError, so that no retry or fallback swallows it."""


def _is_local(host: Any) -> bool:
    name = host.decode("ascii", "replace") if isinstance(host, bytes) else host
    if name in (None, "", "localhost"):
        return True
    try:
        return ipaddress.ip_address(str(name).split("%")[0]).is_loopback
    except ValueError:
        return False


def _refuse_remote(host: Any) -> None:
    if not _is_local(host):
        raise NetworkError(
            f"a test tried to reach {host!r}; tests may connect to loopback and unix sockets only: "
            "use a local file or a server on 127.0.0.1 instead"
        )


@pytest.fixture(autouse=True, scope="session")
def no_network() -> Iterator[None]:
    """Forbid connections and name look-ups beyond loopback and unix sockets, in this process."""
    patch = pytest.MonkeyPatch()
    look_up = socket.getaddrinfo

    def guarded(method: str) -> Callable[..., Any]:
        plain = getattr(socket.socket, method)

        def call(self: socket.socket, *args: Any) -> Any:
            # connect(address), connect_ex(address), sendto(bytes, [flags,] address)
            if self.family in (socket.AF_INET, socket.AF_INET6) and isinstance(args[-1], tuple):
                _refuse_remote(args[-1][0])
            return plain(self, *args)

        return call

    def guarded_look_up(host: Any, *args: Any, **kwargs: Any) -> Any:
        _refuse_remote(host)
        return look_up(host, *args, **kwargs)

    for method in ("connect", "connect_ex", "sendto"):
        patch.setattr(socket.socket, method, guarded(method))
    patch.setattr(socket, "getaddrinfo", guarded_look_up)
    yield
    patch.undo()


@pytest.fixture(autouse=True)
def seeds() -> None:
    """Start every test from the same seeds of Python and numpy."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - for code under test that draws from the global state


@pytest.fixture(autouse=True, scope="module")
def programs() -> Iterator[None]:
    """Forget the programs of each module's tests: a worker would come to hold gigabytes of them."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def checkout() -> Path:
    """Return the root of the checkout."""
    return CHECKOUT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of data sets; skip the test where it is absent."""
    folder = Path(os.environ.get("LMX_SHARED_DATA") or CHECKOUT.parent / "shared" / "data").resolve()
    if not folder.is_dir():
        pytest.skip(f"no data folder at {folder}; LMX_SHARED_DATA can name another")
    return folder


@pytest.fixture(scope="session")
def tiny_starts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return {model: a Hugging Face folder} of a random BERT and a random GPT-2, with their tokenizers.

    BERT's tokenizer knows letters, GPT-2's bytes, so that any ASCII text has tokens; both have 512 positions.
    """
    import string

    from lmx import tokenizer
    from lmx.commands import _build, _export
    from lmx.core.types import Checkpoint

    root = tmp_path_factory.mktemp("starts")
    letters = string.ascii_lowercase + string.digits
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *string.punctuation, *letters]
    words += [f"##{letter}" for letter in letters]
    (root / "bert_text").mkdir()
    (root / "bert_text" / "vocab.txt").write_text("\n".join(words))
    (root / "bert_text" / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    tokenizer.train_bpe(["the cat sat on the mat. " * 20], 270).save(root / "gpt2_text")
    found = {}
    for name, size in (("bert", len(words)), ("gpt2", 270)):
        model = dict(name=name, vocab_size=size, positions=512, width=16, layers=1, heads=2, mlp_width=32)
        config = {"model": model, "task": {"name": {"bert": "features", "gpt2": "causal_lm"}[name]}}
        params = jax.jit(_build.model(config).init)(jax.random.key(0))
        found[name] = root / name
        made = Checkpoint(params, config, folder=str(root / f"{name}_text"))
        _export.write(made, found[name], certify=False)
    return found


@pytest.fixture(scope="session")
def lmx_environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the environment in which tests start lmx: the checkout's code, one CPU device, fixed threads."""
    mine = ("XLA_FLAGS", "JAX_", "LMX_", "PYTEST_", "PYTHON", "COVERAGE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(mine)}
    return kept | {
        "PYTHONPATH": str(CHECKOUT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "XDG_CACHE_HOME": str(
            tmp_path_factory.getbasetemp() / "cache"
        ),  # compiled programs, for this session
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "XLA_FLAGS": f"{_DEVICES}=1",
        # XLA's and BLAS's thread pools: the same on every machine, because other counts give other bits.
        "NPROC": "2",
        "OMP_NUM_THREADS": "2",
        "OPENBLAS_NUM_THREADS": "2",
    }


RunLmx = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run_lmx(tmp_path: Path, lmx_environment: dict[str, str]) -> RunLmx:
    """Return `run_lmx(*args, check=True, env=None, cwd=None, timeout=300)`, which runs `python -m lmx *args`.

    It runs in `tmp_path` and returns the CompletedProcess with stdout and stderr as text. `check` fails the
    test, showing both, where the exit code is not 0; pass `check=False` to look at the code. `env` adds
    variables; one whose value is None is removed.
    """

    def run(
        *args: str | Path,
        check: bool = True,
        env: Mapping[str, str | None] | None = None,
        cwd: Path | None = None,
        timeout: float = 300,
    ) -> subprocess.CompletedProcess[str]:
        merged = {**lmx_environment, **(env or {})}
        command = [sys.executable, "-m", "lmx", *map(str, args)]
        done = subprocess.run(
            command,
            cwd=cwd or tmp_path,
            env={name: value for name, value in merged.items() if value is not None},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=timeout,
        )
        if check and done.returncode != 0:
            shown = f"{command} exited with {done.returncode}\n{done.stdout}\n{done.stderr}"
            pytest.fail(shown, pytrace=False)
        return done

    return run
