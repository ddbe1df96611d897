"""Several processes on this machine: places, signals, deaths and exit codes, with a Python that is none."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path

import pytest

from .conftest import CHECKOUT, Desk, wait_until

TRAIN = ("--config", "quickstart", "--workdir", "runs/a b")
FAKE = r"""
echo "$LMX_PROCESS pid $$" >>"$NOTES"
echo "$LMX_PROCESS place $LMX_COORDINATOR $LMX_PROCESSES ${CUDA_VISIBLE_DEVICES:-} ${XLA_FLAGS:-}" >>"$NOTES"
echo "$LMX_PROCESS platform ${JAX_PLATFORMS:-}" >>"$NOTES"
echo "$LMX_PROCESS launcher $LMX_LAUNCHER" >>"$NOTES"
echo "said by $LMX_PROCESS"
hear() { echo "$LMX_PROCESS $1" >>"$NOTES"; [[ -n ${DEAF:-} ]] || exit 75; }
for name in INT TERM HUP; do trap "hear $name" $name; done
echo "$LMX_PROCESS ready" >>"$NOTES"
until [[ $(grep -c ready "$NOTES") == "$LMX_PROCESSES" ]]; do sleep 0.05; done # for the others' traps
part="DO_$LMX_PROCESS"
[[ ${!part:-go} == go ]] && while :; do sleep 0.05; done
exit "${!part}"
"""


class Run:
    """A start of local.sh with fake processes, and their notes."""

    def __init__(self, desk: Desk, **variables: str) -> None:
        self.notes_file = desk.folder / "notes"
        desk.fake("python", FAKE)
        self.process = desk.start("local.sh", *TRAIN, NOTES=str(self.notes_file), **variables)

    def notes(self, kind: str = "") -> list[str]:
        text = self.notes_file.read_text() if self.notes_file.exists() else ""
        return [line for line in sorted(text.splitlines()) if kind in line]

    def finish(self, seconds: float = 20) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=seconds)
        for note in self.notes(" pid "):
            with pytest.raises(ProcessLookupError):
                os.kill(int(note.split()[-1]), 0)
        return self.process.returncode, out, err


def test_each_process_has_its_place(desk: Desk) -> None:
    run = Run(desk, PROCESSES="3", DO_0="0", DO_1="0", DO_2="0", GPUS="2")
    code, out, err = run.finish()
    assert code == 0, err
    assert desk.calls("python") == [["python", "-m", "lmx", "train", *TRAIN]] * 3
    coordinators = {note.split()[2] for note in run.notes(" place ")}
    assert len(coordinators) == 1
    assert re.fullmatch(r"localhost:\d+", coordinators.pop())
    assert [note.split()[3:5] for note in run.notes(" place ")] == [["3", "0,1"], ["3", "2,3"], ["3", "4,5"]]
    assert out == "said by 0\n"
    assert "[1] said by 1\n" in err
    assert "3 processes on 6 chips of this machine" in err


def test_the_gpus_that_are_ones_own_are_shared_out(desk: Desk) -> None:
    mine = {"GPUS": "1", "CUDA_VISIBLE_DEVICES": "4,GPU-5f,7"}
    run = Run(desk, PROCESSES="2", DO_0="0", DO_1="0", **mine)
    assert run.finish()[0] == 0
    assert [note.split()[4] for note in run.notes(" place ")] == ["4", "GPU-5f"]
    done = desk.run("local.sh", *TRAIN, PROCESSES="4", **mine)
    assert done.returncode == 2
    assert "CUDA_VISIBLE_DEVICES=4,GPU-5f,7 has fewer than 4" in done.stderr


def test_simulated_devices(desk: Desk) -> None:
    run = Run(desk, PROCESSES="1", DO_0="0", DEVICES="4", XLA_FLAGS="--other")
    assert run.finish()[0] == 0
    (note,) = run.notes(" place ")
    assert note.endswith("--other --xla_force_host_platform_device_count=4")


@pytest.mark.parametrize(
    ("given", "platform"),
    [
        ({"GPUS": "1"}, "cuda"),
        ({"GPUS": "1", "JAX_PLATFORMS": "rocm"}, "rocm"),
        ({"DEVICES": "2", "JAX_PLATFORMS": "cuda"}, "cpu"),
        ({}, ""),
    ],
)
def test_jax_may_not_take_the_cpu_for_a_gpu(given: dict[str, str], platform: str, desk: Desk) -> None:
    run = Run(desk, PROCESSES="1", DO_0="0", **given)
    assert run.finish()[0] == 0
    assert run.notes(" platform ") == [f"0 platform {platform}"]


def test_each_process_is_told_what_starts_them_all(desk: Desk) -> None:
    """So that lmx can name the command that goes on."""
    run = Run(desk, PROCESSES="1", DEVICES="2", DO_0="0")
    assert run.finish()[0] == 0
    assert run.notes(" launcher ") == [f"0 launcher PROCESSES=1 DEVICES=2 {CHECKOUT}/launch/local.sh"]


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP"])
def test_a_signal_reaches_each_process_once(name: str, desk: Desk) -> None:
    run = Run(desk, PROCESSES="2")
    wait_until(lambda: len(run.notes(" ready")) == 2)
    os.killpg(run.process.pid, signal.Signals[f"SIG{name}"])  # as a terminal does: to the whole group
    code, _, err = run.finish()
    assert code == 75, err
    assert run.notes(name) == [f"0 {name}", f"1 {name}"]
    assert "ended with code" not in err


def test_a_second_signal_is_passed_on_too(desk: Desk) -> None:
    run = Run(desk, PROCESSES="2", DEAF="yes")
    wait_until(lambda: len(run.notes(" ready")) == 2)
    for count in (2, 4):
        run.process.send_signal(signal.SIGTERM)
        wait_until(lambda count=count: len(run.notes("TERM")) == count)
    os.killpg(run.process.pid, signal.SIGKILL)
    for note in run.notes(" pid "):
        os.kill(int(note.split()[-1]), signal.SIGKILL)


@pytest.mark.parametrize(("died", "other"), [("0", "1"), ("1", "0")])
def test_a_process_that_dies_takes_the_others_along(died: str, other: str, desk: Desk) -> None:
    run = Run(desk, PROCESSES="2", GRACE="60", **{f"DO_{died}": "3"})
    code, _, err = run.finish()
    assert code == 3
    assert f"process {died} ended with code 3; so do the others (the same command goes on" in err
    assert run.notes("TERM") == [f"{other} TERM"]


def test_after_a_mistake_the_same_command_does_not_go_on(desk: Desk) -> None:
    code, _, err = Run(desk, PROCESSES="2", DO_1="2").finish()
    assert code == 2
    assert "process 1 ended with code 2; so do the others\n" in err


def test_a_process_that_hears_nothing_is_killed(desk: Desk) -> None:
    run = Run(desk, PROCESSES="2", DO_1="9", DEAF="yes", GRACE="1")
    assert run.finish()[0] == 9


def test_the_first_failure_counts_and_no_saved_stop(desk: Desk) -> None:
    assert Run(desk, PROCESSES="2", DO_0="75", DO_1="4").finish()[0] == 4


def test_stopped_and_saved_counts_before_done(desk: Desk) -> None:
    assert Run(desk, PROCESSES="2", DO_0="75", DO_1="0").finish()[0] == 75


def test_what_is_missing_is_named_at_once(desk: Desk) -> None:
    done = desk.run("local.sh", "--config", "quickstart")
    assert done.returncode == 2
    assert done.stderr == "local.sh: PROCESSES is not set: how many processes to start, such as PROCESSES=2\n"
    done = desk.run("local.sh", PROCESSES="2")
    assert [line.split(":")[1].split()[0] for line in done.stderr.splitlines()] == ["--config", "--workdir"]
    done = desk.run("local.sh", *TRAIN, PROCESSES="two")
    assert done.stderr == "local.sh: PROCESSES=two: expected a whole number of at least 1\n"
    assert desk.calls() == []


@pytest.mark.parametrize("dry", [(), ("--dry-run",)], ids=["", "dry"])
@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"PYTHON": "nowhere/python"}, "nowhere/python was not found"),
        ({"GPUS": "1", "DEVICES": "4"}, "GPUS=1, DEVICES=4: expected one of them"),
    ],
)
def test_what_cannot_be(given: dict[str, str], told: str, dry: tuple[str, ...], desk: Desk) -> None:
    desk.fake("python")
    done = desk.run("local.sh", *dry, *TRAIN, PROCESSES="2", **given)
    assert done.returncode == 2
    assert done.stderr.startswith(f"local.sh: {told}")
    assert desk.calls() == []


def test_a_dry_run_starts_nothing(desk: Desk) -> None:
    desk.fake("python")
    done = desk.run("local.sh", "--dry-run", *TRAIN, PROCESSES="2", GPUS="4")
    assert " JAX_PLATFORMS=cuda python -m lmx train " in done.stderr
    done = desk.run("local.sh", "--dry-run", *TRAIN, PROCESSES="2", DEVICES="4")
    assert done.returncode == 0
    assert "2 processes on 4 simulated devices each; nothing is rented" in done.stderr
    assert r"python -m lmx train --config quickstart --workdir runs/a\ b" in done.stderr
    assert desk.calls() == []


@pytest.mark.slow
def test_two_processes_train(desk: Desk, lmx_environment: dict[str, str], tmp_path: Path) -> None:
    """Two real processes of two devices: they train, stop on SIGTERM with code 75, go on, and export."""
    kept = {name: value for name, value in lmx_environment.items() if name not in ("PATH", "HOME")}
    tiny = {
        "total": "100 steps", "model.layers": "1", "model.width": "32", "model.heads": "2",
        "batch.size": "8", "batch.length": "32", "model.positions": "32", "log": "1 steps",
        "evaluate": "50 steps", "save": "50 steps", "sample": "100 steps",
        "tokenizer.name": "characters", "data.boundary": "False", "data.name": "text",
        "data.path": "text.txt", "samples.prompts": "('The',)", "samples.tokens": "8",
    }  # fmt: skip
    (tmp_path / "text.txt").write_text("".join(f"The {n} cats sat on {n + 1} mats.\n" for n in range(3000)))
    words = [f"--config.{name}={value}" for name, value in tiny.items()]
    variables = {**kept, "PROCESSES": "2", "DEVICES": "2", "PYTHON": sys.executable, "XLA_FLAGS": ""}
    train = ("--config", "quickstart", "--workdir", "run", *words)
    process = desk.start("local.sh", *train, **variables)
    metrics = tmp_path / "run" / "metrics.jsonl"
    wait_until(
        lambda: process.poll() is not None or (metrics.exists() and metrics.read_text().count("\n") > 5), 120
    )
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 75, err
    assert "stopped at step" in err
    done = desk.run("local.sh", *train, timeout=240, **variables)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "export" / "model.safetensors").exists()
