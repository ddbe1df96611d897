"""The checks of `lmx doctor`: each a function of facts that tells one line."""

from __future__ import annotations

import importlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lmx.core import place
from lmx.core.errors import UserError, one_line

OK, WARN, FAIL = "ok", "warn", "FAIL"

PYTHON = (3, 11)
"""The oldest Python that lmx supports, and TRIED the newest that it was tried on."""

TRIED = (3, 13)

LEAST: Mapping[str, str] = {"jax": "0.10.2", "flax": "0.12.8", "optax": "0.2.8", "orbax-checkpoint": "0.12.8"}
"""The oldest releases that lmx supports, as pyproject.toml has them; jaxlib is what jax asks for."""

PLUGINS: Mapping[str, str] = {
    "libtpu": "tpu",
    "jax-cuda13-plugin": "gpu",
    "jax-cuda12-plugin": "gpu",
}
"""What brings an accelerator to JAX, and the extra of lmx that installs it."""

TRAINED, SAVED = 16, 12
"""Bytes a parameter: in f32 with its gradient and Adam's two moments; in a checkpoint, no gradient."""

PARAMETERS = 124_439_808
"""Those of GPT-2 124M: what is asked of memory and disk where no config is named."""

CACHE_BYTES = 10e9
"""From here on the cache of compiled programs is called large."""


class Finding(NamedTuple):
    """What a check found. level: OK, WARN or FAIL. remedy: what to do, empty where nothing is to be done."""

    level: str
    subject: str
    found: str
    remedy: str = ""

    def line(self) -> str:
        """Return it as one line."""
        return f"{self.level:<4} {self.subject}: {self.found}" + (f"; {self.remedy}" if self.remedy else "")


class Size(NamedTuple):
    """How large a model is. name: whose."""

    parameters: int
    name: str


DEFAULT = Size(PARAMETERS, "GPT-2 124M")


def checked(subject: str, check: Callable[[], Finding]) -> Finding:
    """Return what a check finds; where it fails itself, that."""
    try:
        return check()
    except Exception as error:  # no check may end the others
        return Finding(WARN, subject, f"could not be checked ({type(error).__name__}: {one_line(error)})")


def size_of(number: float) -> str:
    """Return bytes as GB, or MB where they are few."""
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"


# --- Software ------------------------------------------------------------------------------------------


def python(version: Sequence[int]) -> Finding:
    """Tell whether lmx supports a Python of this version."""
    shown, own = ".".join(map(str, version[:3])), tuple(version[:2])
    if own < PYTHON:
        return Finding(FAIL, "python", shown, f"lmx needs {'.'.join(map(str, PYTHON))} or newer")
    if own > TRIED:
        return Finding(WARN, "python", f"{shown}, newer than lmx was tried on ({'.'.join(map(str, TRIED))})")
    return Finding(OK, "python", shown)


def versions(
    installed: Mapping[str, str | None], asked: Mapping[str, Sequence[str]], answer: Mapping[str, Any]
) -> Finding:
    """Tell whether jax, jaxlib and flax are there, new enough, agree with one another, and can be imported.

    installed: {package: version, or None}. asked: {package: its requirements, as its metadata has them}.
    answer: of `_asked.devices`.
    """
    from packaging.requirements import Requirement
    from packaging.version import Version

    reinstall = "install them together: pip install lmx"
    shown = ", ".join(f"{name} {installed.get(name) or 'missing'}" for name in ("jax", "jaxlib", "flax"))
    for name in (*LEAST, "jaxlib"):
        if installed.get(name) is None:
            return Finding(FAIL, "versions", f"{shown}; {name} is not installed", reinstall)
    for name, least in LEAST.items():
        if Version(installed[name] or "") < Version(least):
            found = f"{name} {installed[name]}, lmx needs {least} or newer"
            return Finding(FAIL, "versions", found, reinstall)
    for name, texts in asked.items():
        for text in texts:
            wanted = Requirement(text)
            there = installed.get(wanted.name)
            if wanted.marker is not None or there is None:
                continue
            if not wanted.specifier.contains(there, prereleases=True):
                found = (
                    f"{name} {installed[name]} needs {wanted.name}{wanted.specifier}, {there} is installed"
                )
                return Finding(FAIL, "versions", found, reinstall)
    if "broken" in answer:
        return Finding(FAIL, "versions", f"{shown}; {answer['broken']}: {answer['error']}", reinstall)
    return Finding(OK, "versions", shown)


def plugin(installed: Mapping[str, str | None], asked: Sequence[str]) -> Finding:
    """Tell whether the plugins of accelerators that are installed are those that jax asks for.

    asked: jax's requirements, of all extras.
    """
    from packaging.requirements import Requirement

    there = {name: version for name in PLUGINS if (version := installed.get(name)) is not None}
    if not there:
        return Finding(OK, "plugin", "none installed, and none is needed on a CPU")
    for name, version in there.items():
        wanted = [one for one in map(Requirement, asked) if one.name == name]
        for one in wanted:
            if not one.specifier.contains(version, prereleases=True):
                found = f"{name} {version}, but jax {installed.get('jax')} needs {one.specifier}"
                return Finding(FAIL, "plugin", found, f"pip install 'lmx[{PLUGINS[name]}]'")
        if not wanted:
            return Finding(
                WARN, "plugin", f"{name} {version}, of which jax {installed.get('jax')} says nothing"
            )
    return Finding(OK, "plugin", ", ".join(f"{name} {version}" for name, version in there.items()))


def processes(environment: Mapping[str, str] = os.environ) -> Finding:
    """Tell whether this process knows its place among those of a run."""
    try:
        here = place.found(environment)
    except UserError as error:
        return Finding(FAIL, "processes", str(error))
    if here.count == 0:
        return Finding(OK, "processes", "as many as the cluster tells")
    if here.count == 1:
        return Finding(OK, "processes", "one")
    return Finding(OK, "processes", f"this is number {here.index} of {here.count}, joined by {here.address}")


# --- The machine ---------------------------------------------------------------------------------------


def accelerator(
    hardware: str | None, answer: Mapping[str, Any], platforms: str = "", *, taken: bool = False
) -> Finding:
    """Tell whether JAX uses the accelerator that is there.

    hardware: "tpu", "gpu" or None. answer: of `_asked.devices`. platforms: JAX_PLATFORMS. taken: by another
    process, so that JAX was asked for the CPU alone.
    """
    if taken:
        return Finding(WARN, "accelerator", f"a {str(hardware).upper()}, not asked, for it is taken")
    if "broken" in answer:
        return Finding(FAIL, "accelerator", "not asked, for JAX cannot be imported", "see versions, above")
    backend = answer.get("backend")
    if backend is None:
        slices = " (machines of one slice answer only together)" if hardware == "tpu" else ""
        found = f"JAX does not start: {answer.get('error')}{slices}"
        return Finding(FAIL, "accelerator", found, "see the other lines; JAX_PLATFORMS=cpu does without one")
    shown = f"{answer['count']} x {answer['kind']} ({backend})"
    if hardware and backend == "cpu" and platforms:
        found = f"a {hardware.upper()} is here, but JAX_PLATFORMS={platforms}; JAX runs on {shown}"
        return Finding(WARN, "accelerator", found, "unset it to use the accelerator")
    if hardware and backend == "cpu":
        found = f"a {hardware.upper()} is here, but JAX runs on {shown}"
        return Finding(FAIL, "accelerator", found, f"pip install 'lmx[{hardware}]'")
    return Finding(OK, "accelerator", shown if backend != "cpu" else f"none here; JAX runs on {shown}")


def holders(devices: Sequence[str], found: Mapping[int, str], lockfile: Path | None) -> Finding:
    """Tell whether another process has the TPU.

    devices: the TPU's files. found: {pid: command} of those that have them open. lockfile: libtpu's, where
    it is there and this user may not write to it.
    """
    if not devices:
        return Finding(OK, "held", "no TPU here")
    if found:
        shown = ", ".join(f"pid {pid} ({command[:60]})" for pid, command in sorted(found.items()))
        return Finding(FAIL, "held", f"the TPU is taken by {shown}", "end it, or wait for it")
    if lockfile is not None:
        return Finding(FAIL, "held", f"{lockfile} belongs to somebody else", f"sudo rm {lockfile}")
    return Finding(OK, "held", f"nobody has {devices[0]} open")


def memory(size: Size, available: int | None, answer: Mapping[str, Any]) -> Finding:
    """Tell whether the state of a model fits into a device, or into RAM where JAX runs on the CPU.

    available: bytes of RAM that are free.
    """
    need = TRAINED * size.parameters
    asked = f"{size.name} takes {size_of(need)} in f32 with Adam, before activations"
    if answer.get("bytes"):
        if need > answer["bytes"]:
            found = f"{size_of(answer['bytes'])} a device, but {asked}"
            return Finding(WARN, "memory", found, "cut the state over devices: --config.mesh.fsdp=N")
        return Finding(OK, "memory", f"{size_of(answer['bytes'])} a device; {asked}")
    if available is None:
        return Finding(WARN, "memory", "this system does not say how much is free")
    if need > available and answer.get("backend", "cpu") == "cpu":
        return Finding(
            FAIL, "memory", f"{size_of(available)} free, but {asked}", "a smaller model, or more RAM"
        )
    return Finding(OK, "memory", f"{size_of(available)} free; {asked}")


def disk(size: Size, folder: Path) -> Finding:
    """Tell whether two checkpoints have room where the folder is, or would be."""
    there = _existing(folder)
    free, need = shutil.disk_usage(there).free, 2 * SAVED * size.parameters
    asked = f"two checkpoints of {size.name} take {size_of(need)}"
    if free < need:
        return Finding(
            FAIL, "disk", f"{size_of(free)} free in {there}, but {asked}", "name another --workdir"
        )
    return Finding(OK, "disk", f"{size_of(free)} free in {there}; {asked}")


def workdir(folder: Path) -> Finding:
    """Tell whether a run could write where the folder is, or would be."""
    there = _existing(folder)
    if not there.is_dir():
        return Finding(FAIL, "workdir", f"{there} is no folder", "name another --workdir")
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"lmx")
    except OSError as error:
        found = f"{there} cannot be written to: {error.strerror}"
        return Finding(FAIL, "workdir", found, "name another --workdir, or change its owner")
    found = f"{there} can be written to"
    return Finding(OK, "workdir", found if there == folder.absolute() else f"{folder} can be made: {found}")


def bucket(url: str) -> Finding:
    """Tell whether a bucket can be written to, and that a run needs it mounted."""
    mount = "lmx writes to folders: mount it (Cloud Storage FUSE, say) and name the folder"
    try:
        path = importlib.import_module("etils.epath").Path(url) / f".lmx-doctor-{os.getpid()}"
        path.write_text("lmx")
        path.unlink()
    except ImportError as error:
        found = f"{url} cannot be tried without etils and gcsfs ({one_line(error)})"
        return Finding(FAIL, "workdir", found, f"{mount}; pip install 'etils[epath]' gcsfs to try it")
    except Exception as error:  # whatever the cloud's client may raise
        return Finding(FAIL, "workdir", f"{url} cannot be written to: {one_line(error)}", mount)
    return Finding(FAIL, "workdir", f"{url} can be written to, but is no folder", mount)


def clock(now: float, newest: float, drift: float) -> Finding:
    """Tell whether the clock may be right. now: seconds of the epoch. newest: the latest time of a file that
    is there. drift: seconds that it went faster than time did, while this ran."""
    shown = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now))
    remedy = "set it, or let NTP do so: files are compared by time, and clouds refuse wrong clocks"
    if newest > now + 86400:
        return Finding(
            FAIL, "clock", f"{shown}, but a file here is {(newest - now) / 86400:.0f} days newer", remedy
        )
    if abs(drift) > 1:
        return Finding(WARN, "clock", f"{shown}; it was set by {drift:+.0f} s while this ran", remedy)
    if newest > now + 60:
        return Finding(WARN, "clock", f"{shown}, but a file here is {newest - now:.0f} s newer", remedy)
    return Finding(OK, "clock", shown)


def cache(folder: Path) -> Finding:
    """Tell whether compiled programs can be kept, and how many are."""
    where = workdir(folder)
    if where.level != OK:
        return Finding(
            WARN, "cache", where.found, "programs are compiled anew: set JAX_COMPILATION_CACHE_DIR"
        )
    sizes = list(_sizes(folder))
    shown = f"{folder}: {len(sizes)} files, {size_of(sum(sizes))}"
    if sum(sizes) > CACHE_BYTES:
        return Finding(WARN, "cache", shown, "it can be removed at any time")
    return Finding(OK, "cache", shown)


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest above it that is there."""
    folder = folder.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def _sizes(folder: Path) -> Iterable[int]:
    for at, _, names in os.walk(folder):
        for name in names:
            try:
                yield os.stat(os.path.join(at, name)).st_size
            except OSError:  # another run cleans up
                continue
