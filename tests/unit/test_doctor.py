"""`lmx doctor`: each check on its good and its failing side."""

from __future__ import annotations

import os
import subprocess
import tomllib
import types
from pathlib import Path
from typing import Any

import pytest

from lmx.commands import _health, _machine
from lmx.commands._health import FAIL, OK, WARN, Finding, Size

GOOD: dict[str, str | None] = {
    "jax": "0.10.2", "jaxlib": "0.10.2", "flax": "0.12.8", "optax": "0.2.8", "orbax-checkpoint": "0.12.8",
}  # fmt: skip
# As the metadata of jax 0.10.2 and flax has them.
ASKED = {
    "jax": ["jaxlib<=0.10.2,>=0.10.1", 'libtpu==0.0.42.*; extra == "tpu"', 'jaxlib==0.10.1; extra == "ci"',
            'jax-cuda13-plugin[with-cuda]<=0.10.2,>=0.10.2; extra == "cuda13"'],
    "flax": ["jax>=0.10.0", "numpy>=1.23"],
}  # fmt: skip
CPU = {"backend": "cpu", "kind": "cpu", "count": 1, "bytes": None}
TPU = {"backend": "tpu", "kind": "TPU v5 lite", "count": 4, "bytes": 16_000_000_000}


def expect(finding: Finding, level: str, *said: str) -> None:
    line = finding.line()
    assert finding.level == level, line
    assert line.startswith(f"{level:<4} {finding.subject}: ")
    assert "\n" not in line
    for part in said:
        assert part in line


# --- Software ------------------------------------------------------------------------------------------


def test_what_is_supported_is_what_pyproject_says(checkout: Path) -> None:
    project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == f">={'.'.join(map(str, _health.PYTHON))}"
    kinds = [line.split(" :: ")[-1] for line in project["classifiers"] if "Python :: 3." in line]
    assert max(tuple(map(int, kind.split("."))) for kind in kinds) == _health.TRIED
    least = dict(one.split(">=") for one in project["dependencies"] if ">=" in one)
    assert {name: least[name] for name in _health.LEAST} == _health.LEAST
    assert {*_health.PLUGINS.values()} <= project["optional-dependencies"].keys()


def test_python() -> None:
    expect(_health.python((3, 12, 4)), OK, "3.12.4")
    expect(_health.python((3, 10, 9)), FAIL, "3.10.9", "lmx needs 3.11 or newer")
    expect(_health.python((3, 15, 0)), WARN, "newer than lmx was tried on")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"jax": None}, "jax is not installed"),
        ({"jaxlib": None}, "jaxlib is not installed"),
        ({"flax": "0.10.0"}, "flax 0.10.0, lmx needs 0.12.8 or newer"),
        ({"jax": "0.9.1", "jaxlib": "0.9.1"}, "jax 0.9.1, lmx needs 0.10.2 or newer"),
        ({"jaxlib": "0.12.0.1"}, "jax 0.10.2 needs jaxlib<=0.10.2,>=0.10.1, 0.12.0.1 is installed"),
    ],
)
def test_versions_that_do_not_agree(changed: dict[str, str | None], said: str) -> None:
    finding = _health.versions({**GOOD, **changed}, ASKED, CPU)
    expect(finding, FAIL, said, "install them together")


def test_versions() -> None:
    expect(_health.versions(GOOD, ASKED, CPU), OK, "jax 0.10.2, jaxlib 0.10.2, flax 0.12.8")
    broken = {"broken": "flax.nnx", "error": "ImportError: cannot import name 'core'"}
    expect(_health.versions(GOOD, ASKED, broken), FAIL, "flax.nnx: ImportError: cannot import name 'core'")


def test_plugin() -> None:
    expect(_health.plugin(GOOD, ASKED["jax"]), OK, "none installed")
    expect(_health.plugin({**GOOD, "libtpu": "0.0.42.1"}, ASKED["jax"]), OK, "libtpu 0.0.42.1")
    old = _health.plugin({**GOOD, "libtpu": "0.0.17"}, ASKED["jax"])
    expect(old, FAIL, "libtpu 0.0.17, but jax 0.10.2 needs ==0.0.42.*", "'lmx[tpu]'")
    old = _health.plugin({**GOOD, "jax-cuda13-plugin": "0.9.0"}, ASKED["jax"])
    expect(old, FAIL, "jax-cuda13-plugin 0.9.0", "'lmx[gpu]'")
    expect(_health.plugin({**GOOD, "jax-cuda12-plugin": "1"}, ASKED["jax"]), WARN, "says nothing")


def test_the_metadata_here_agrees() -> None:
    packages = _machine.installed((*_health.LEAST, "jaxlib", "no-such-package"))
    assert packages["no-such-package"] is None
    asked = {name: _machine.requirements(name) for name in _health.LEAST}
    assert any(text.startswith("jaxlib") for text in asked["jax"])
    expect(_health.versions(packages, asked, CPU), OK, f"jax {packages['jax']}")
    assert _machine.requirements("no-such-package") == []


# --- The machine ---------------------------------------------------------------------------------------


def test_accelerator() -> None:
    expect(_health.accelerator("tpu", TPU), OK, "4 x TPU v5 lite (tpu)")
    expect(_health.accelerator(None, CPU), OK, "none here; JAX runs on 1 x cpu")
    expect(_health.accelerator("tpu", CPU), FAIL, "a TPU is here, but JAX runs on 1 x cpu", "'lmx[tpu]'")
    expect(_health.accelerator("gpu", CPU), FAIL, "'lmx[gpu]'")
    expect(_health.accelerator("gpu", CPU, "cpu"), WARN, "JAX_PLATFORMS=cpu", "unset it")
    expect(_health.accelerator("tpu", CPU, taken=True), WARN, "a TPU, not asked, for it is taken")
    expect(_health.accelerator("tpu", {"error": "no answer within 120 s"}), FAIL, "no answer within 120 s")
    expect(_health.accelerator(None, {"broken": "jax", "error": "x"}), FAIL, "cannot be imported")


def test_holders(tmp_path: Path) -> None:
    files = ["/dev/accel0", "/dev/accel1"]
    expect(_health.holders([], {}, None), OK, "no TPU here")
    expect(_health.holders(files, {}, None), OK, "nobody has /dev/accel0 open")
    expect(_health.holders(files, {12: "python -m lmx train"}, None), FAIL, "pid 12 (python -m lmx train)")
    expect(_health.holders(files, {}, Path("/tmp/libtpu_lockfile")), FAIL, "sudo rm /tmp/libtpu_lockfile")


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux's /proc")
def test_who_has_a_file_open_is_found(tmp_path: Path) -> None:
    chip = tmp_path / "accel0"
    chip.touch()
    with chip.open() as mine, subprocess.Popen(["sleep", "60"], stdin=mine) as other:
        try:
            assert _machine.open_in([str(chip)]) == {other.pid: "sleep 60"}  # and not this process
        finally:
            other.kill()
    assert _machine.open_in([str(chip)]) == {}


def test_a_lockfile_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / "lock"
    assert _machine.foreign_lockfile(lock) is None
    lock.touch()
    assert _machine.foreign_lockfile(lock) is None
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert _machine.foreign_lockfile(lock) == lock


def test_the_files_of_chips(tmp_path: Path) -> None:
    assert _machine.tpu_files(tmp_path) == []
    assert _machine.hardware(tmp_path) is None
    (tmp_path / "dev" / "vfio").mkdir(parents=True)
    (tmp_path / "dev" / "vfio" / "0").touch()
    card = tmp_path / "sys" / "bus" / "pci" / "devices" / "0000:00:05.0"
    card.mkdir(parents=True)
    (card / "vendor").write_text("0x10de\n")
    assert _machine.tpu_files(tmp_path) == [], "somebody else's card"
    (tmp_path / "dev" / "nvidiactl").touch()
    assert _machine.hardware(tmp_path) == "gpu"
    (card / "vendor").write_text("0x1ae0\n")
    assert _machine.tpu_files(tmp_path) == [f"{tmp_path}/dev/vfio/0"]
    (tmp_path / "dev" / "accel0").touch()
    assert _machine.tpu_files(tmp_path) == [f"{tmp_path}/dev/accel0"]
    assert _machine.hardware(tmp_path) == "tpu"


def test_memory() -> None:
    small, large = Size(1_000_000, "small"), Size(7_000_000_000, "7B")
    expect(_health.memory(small, 8_000_000_000, CPU), OK, "8.0 GB free; small takes 16 MB")
    expect(_health.memory(large, 8_000_000_000, CPU), FAIL, "8.0 GB free, but 7B takes 112.0 GB")
    expect(_health.memory(large, 8_000_000_000, TPU), WARN, "16.0 GB a device", "--config.mesh.fsdp=N")
    expect(_health.memory(small, 8_000_000_000, TPU), OK, "16.0 GB a device; small takes 16 MB")
    expect(_health.memory(small, None, CPU), WARN, "does not say")


def test_available_memory(tmp_path: Path) -> None:
    assert _machine.available_memory(tmp_path) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    2000 kB\n")
    assert _machine.available_memory(tmp_path) == 2_048_000
    group = tmp_path / "sys" / "fs" / "cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("400\n")
    assert _machine.available_memory(tmp_path) == 2_048_000
    (group / "memory.max").write_text("1000\n")
    assert _machine.available_memory(tmp_path) == 600


def test_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = types.SimpleNamespace(free=3_000_000_000)
    monkeypatch.setattr(_health.shutil, "disk_usage", lambda path: usage)
    wanted = "two checkpoints of GPT-2 124M take 3.0 GB"  # 124,439,808 x 12 x 2 = 2.987e9
    expect(_health.disk(_health.DEFAULT, tmp_path / "not" / "there"), OK, f"free in {tmp_path}", wanted)
    usage.free = 2_900_000_000
    expect(_health.disk(_health.DEFAULT, tmp_path), FAIL, "2.9 GB free", wanted)


def test_workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expect(_health.workdir(tmp_path / "a" / "b"), OK, f"b can be made: {tmp_path} can be written to")
    expect(_health.workdir(tmp_path), OK, f"workdir: {tmp_path} can be written to")
    assert list(tmp_path.iterdir()) == [], "it leaves nothing behind"
    (tmp_path / "file").touch()
    expect(_health.workdir(tmp_path / "file"), FAIL, "is no folder")

    def refuse(**options: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(_health.tempfile, "TemporaryFile", refuse)
    expect(_health.workdir(tmp_path), FAIL, "Permission denied")
    expect(_health.cache(tmp_path), WARN, "Permission denied", "JAX_COMPILATION_CACHE_DIR")


def test_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    class Remote:
        def __init__(self, url: str) -> None:
            self.url = url

        def __truediv__(self, name: str) -> Remote:
            return Remote(f"{self.url}/{name}")

        def write_text(self, text: str) -> None:
            calls.append(f"write {self.url}")
            if "closed" in self.url:
                raise RuntimeError("403: no access")

        def unlink(self) -> None:
            calls.append(f"unlink {self.url}")

    there = types.SimpleNamespace(Path=Remote)
    monkeypatch.setattr(_health.importlib, "import_module", lambda name: there)
    expect(_health.bucket("gs://open/run"), FAIL, "can be written to, but is no folder", "mount it")
    assert [call.split("/.lmx")[0] for call in calls] == ["write gs://open/run", "unlink gs://open/run"]
    expect(_health.bucket("gs://closed"), FAIL, "cannot be written to: 403: no access")

    def missing(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(_health.importlib, "import_module", missing)
    expect(_health.bucket("gs://open"), FAIL, "cannot be tried", "etils", "gcsfs", "mount it")


def test_clock(tmp_path: Path) -> None:
    now = 1_800_000_000.0
    expect(_health.clock(now, now - 5, 0.01), OK, "2027-01-15 08:00 UTC")
    expect(_health.clock(now, now + 10 * 86400, 0), FAIL, "a file here is 10 days newer")
    expect(_health.clock(now, now + 600, 0), WARN, "a file here is 600 s newer")
    expect(_health.clock(now, now, -3600), WARN, "it was set by -3600 s while this ran")
    (tmp_path / "old").touch()
    os.utime(tmp_path / "old", (5, 5))
    assert _machine.newest(tmp_path) == 5
    assert _machine.newest(tmp_path / "not there") == 0


def test_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "program").write_bytes(b"x" * 2_000_000)
    expect(_health.cache(tmp_path), OK, "1 files, 2 MB")
    monkeypatch.setattr(_health, "CACHE_BYTES", 1e6)
    expect(_health.cache(tmp_path), WARN, "2 MB", "can be removed at any time")


def test_a_check_that_fails_itself_is_a_line() -> None:
    def check() -> Finding:
        raise KeyError("what\nelse")

    expect(_health.checked("disk", check), WARN, "disk: could not be checked (KeyError")
