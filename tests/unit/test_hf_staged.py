"""Folders that appear by a rename: the place they are written in is nobody else's."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import lmx
from lmx.hf import folder as folders
from lmx.hf.folder import LOCK, staged

LEFT = "hf.lmx-writing-"


def names(path: Path) -> list[str]:
    return sorted(found.name for found in path.iterdir())


def test_what_a_kill_left_is_cleared(tmp_path: Path) -> None:
    """Of a process that is dead, whatever its id; what is in use, and a folder of the user's own, stay."""
    dying = (
        "import os, sys; from pathlib import Path; from lmx.hf.folder import staged\n"
        "with staged(Path(sys.argv[1])) as work: (work / 'half').touch(); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", dying, str(tmp_path / "hf")], check=False).returncode == 9
    left = names(tmp_path)
    assert len(left) == 1
    assert left[0].startswith(LEFT)
    others = [f"{LEFT}{os.getpid()}", f"{LEFT}mine", "hf.lmx-writing"]
    for name in others:
        (tmp_path / name).mkdir()
    with staged(tmp_path / "hf") as work:
        (work / "file").write_text("first")
        with staged(tmp_path / "hf") as second:  # another process, on whatever host, with the same target
            assert work.is_dir()
            assert second != work
            (second / "file").write_text("second")
        assert (tmp_path / "hf" / "file").read_text() == "second"
        (tmp_path / "hf").rename(tmp_path / "aside")
    assert (tmp_path / "hf" / "file").read_text() == "first"
    assert names(tmp_path) == sorted(["aside", "hf", *others])


def test_a_lock_that_was_swept_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may take the lock between its making and its locking."""
    plain, stolen = folders._locked, []

    def late(lock: int) -> bool | None:
        if not stolen:
            stolen.append(lock)
            folders._sweep(tmp_path / "hf")
        return plain(lock)

    monkeypatch.setattr(folders, "_locked", late)
    with staged(tmp_path / "hf") as work:
        assert (work.parent / LOCK).is_file()
        assert work.is_dir()
    assert names(tmp_path) == ["hf"]


def test_many_at_once(tmp_path: Path) -> None:
    said: list[str] = []

    def one(number: int) -> None:
        try:
            with staged(tmp_path / "hf") as work:
                (work / str(number)).touch()
                (work / "whole").touch()
        except lmx.UserError as error:
            said.append(str(error))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(said) == 19
    assert {text.removeprefix(str(tmp_path / "hf")) for text in said} <= {
        " exists already; name another folder, or remove it first",
        f": cannot be written ({os.strerror(errno.ENOTEMPTY)})",
    }
    assert names(tmp_path) == ["hf"]
    assert len(names(tmp_path / "hf")) == 2


@pytest.mark.parametrize("death", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt(), lmx.UserError("bad")])
@pytest.mark.parametrize("place", ["hf", "a/hf", "a/b/c/hf", "kept/d/hf", "a/../b/hf"])
def test_folders_made_for_what_failed_go_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, death: Any
) -> None:
    (tmp_path / "kept").mkdir()
    monkeypatch.chdir(tmp_path)

    def dying(target: Path) -> None:
        with staged(target) as work:
            (work / "half").touch()
            raise death

    for start in (tmp_path, Path()):
        with pytest.raises((lmx.UserError, KeyboardInterrupt)):
            dying(start / place)
        assert names(tmp_path) == ["kept"]
        assert names(tmp_path / "kept") == []
    with staged(Path(place)) as work:
        (work / "whole").touch()
    assert names(Path(place)) == ["whole"]


def test_the_folder_has_the_usual_mode(tmp_path: Path) -> None:
    with staged(tmp_path / "hf"):
        pass
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "hf").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_file_systems_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is swept there, for nobody can tell who lives."""

    def unlocked(*args: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(folders.fcntl, "flock", unlocked)
    (tmp_path / f"{LEFT}x").mkdir()
    (tmp_path / f"{LEFT}x" / LOCK).touch()
    with staged(tmp_path / "hf"):
        pass
    assert names(tmp_path) == ["hf", f"{LEFT}x"]
