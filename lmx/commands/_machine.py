"""What this machine says of itself, for `lmx doctor`."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path

LOCKFILE = Path("/tmp/libtpu_lockfile")
"""What libtpu locks while a process has the TPU."""

GOOGLE, TPUS = "0x1ae0", "/sys/bus/pci/devices/*/vendor"


def installed(names: Iterable[str]) -> dict[str, str | None]:
    """Return {package: its version, or None where it is not installed}."""
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def requirements(name: str) -> list[str]:
    """Return what a package asks for, as its metadata has it; nothing where it is not installed."""
    try:
        return metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return []


def tpu_files(root: Path = Path("/")) -> list[str]:
    """Return the files of a TPU's chips: /dev/accel*, or /dev/vfio/N where the maker is Google."""
    accel = sorted(glob.glob(f"{root}/dev/accel*"))
    if accel:
        return accel
    makers = (_text(Path(path)) for path in glob.glob(f"{root}/{TPUS}"))
    return sorted(glob.glob(f"{root}/dev/vfio/[0-9]*")) if GOOGLE in makers else []


def hardware(root: Path = Path("/")) -> str | None:
    """Return "tpu", "gpu", or None where there is neither."""
    if tpu_files(root):
        return "tpu"
    return "gpu" if (root / "dev/nvidiactl").exists() else None


def open_in(files: Sequence[str], root: Path = Path("/")) -> dict[int, str]:
    """Return {pid: command} of the other processes that have one of these files open, as far as this user may
    know."""
    found = {}
    for process in root.glob("proc/[0-9]*"):
        if int(process.name) != os.getpid() and any(target in files for target in _links(process / "fd")):
            found[int(process.name)] = _text(process / "cmdline").replace("\0", " ").strip() or "?"
    return found


def foreign_lockfile(path: Path = LOCKFILE) -> Path | None:
    """Return libtpu's lock where it is there and this user may not open it."""
    return path if path.exists() and not os.access(path, os.W_OK) else None


def available_memory(root: Path = Path("/")) -> int | None:
    """Return the bytes of RAM that this process may still take, or None where the system does not say."""
    found = []
    for line in _text(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            found.append(int(line.split()[1]) * 1024)
    limit, used = (_text(root / f"sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    if limit.isdecimal() and used.isdecimal():
        found.append(max(0, int(limit) - int(used)))
    return min(found, default=None)


def newest(*folders: Path) -> float:
    """Return the latest time of a file right in one of the folders, 0 where there is none."""
    times = [0.0]
    for folder in folders:
        try:
            times += [entry.stat().st_mtime for entry in os.scandir(folder)]
        except OSError:  # not there, or not ours to read
            continue
    return max(times)


def _links(folder: Path) -> Iterator[str]:
    try:
        names = os.listdir(folder)
    except OSError:  # it ended, or is somebody else's
        return
    for name in names:
        try:
            yield os.readlink(folder / name)
        except OSError:
            continue


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
