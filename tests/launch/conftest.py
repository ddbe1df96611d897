"""Programs of clouds that only write down how they were called: no test reaches the real ones."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
NEVER = ("gcloud", "sbatch", "srun", "scontrol", "kubectl", "ssh", "scp", "sky", "sudo")
RECORD = r"""#!/usr/bin/env bash
words=$(printf '%s\x1f' "${0##*/}" "$@")
printf '%s\n' "${words//$'\n'/ }" >>"$CALLS" # one write: several may be at it
"""


class Desk:
    """A folder with the fake programs, first on PATH, and what they were called with."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.calls_file = folder, folder / "calls"
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.home = folder / "home"
        self.home.mkdir()
        for name in NEVER:
            self.fake(name)
        self.environment = {
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "HOME": str(self.home),
            "CALLS": str(self.calls_file),
            "TMPDIR": str(folder),
        }
        self.started: list[subprocess.Popen[str]] = []

    def fake(self, name: str, then: str = "") -> Path:
        """Put a program there that records its arguments, and then does what the bash says."""
        path = self.bin / name
        path.write_text(RECORD + then)
        path.chmod(0o755)
        return path

    def calls(self, of: str | None = None) -> list[list[str]]:
        """Return the words of each call so far, of all programs or of one."""
        lines = self.calls_file.read_text().splitlines() if self.calls_file.exists() else []
        found = [line.split("\x1f")[:-1] for line in lines]
        return [words for words in found if of in (None, words[0])]

    def start(self, script: str, *words: str, **variables: str) -> subprocess.Popen[str]:
        """Start a script of launch/, in a session of its own."""
        process = subprocess.Popen(
            [str(CHECKOUT / "launch" / script), *words],
            env=self.environment | variables,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def run(
        self, script: str, *words: str, timeout: float = 60, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a script of launch/ to its end."""
        process = self.start(script, *words, **variables)
        out, err = process.communicate(timeout=timeout)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def clear(self) -> None:
        """End what a failed test left behind."""
        for process in self.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            for pipe in (process.stdout, process.stderr):
                assert pipe is not None
                pipe.close()
            process.wait()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """Return the fake programs."""
    made = Desk(tmp_path)
    yield made
    made.clear()


def wait_until(true: Callable[[], object], seconds: float = 20) -> None:
    """Wait for something to become true, or fail."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)
