"""What Cloud TPU is asked for, in which order; and what happens on a machine, here a folder."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from .conftest import Desk, wait_until

TRAIN = ("--config", "quickstart", "--workdir", "/mnt/lmx/a b")
PLACE = {"NAME": "mine", "PROJECT": "ours", "ZONE": "us-west4-a"}
ASKED = {**PLACE, "TOPOLOGY": "v5e:4x4", "SHARE": "10.0.0.2:/runs"}
QUEUE = ["gcloud", "compute", "tpus", "queued-resources"]
VM = ["gcloud", "compute", "tpus", "tpu-vm"]
# `describe` tells the states, one a call. What is copied to and run on machines, is in the folder MACHINE.
GCLOUD = r"""
case $3-$4 in
queued-resources-describe) head -n 1 "$STATES"; sed -i '1{$!d}' "$STATES" ;;
tpu-vm-scp) [[ -z ${MACHINE:-} ]] || cp "$5" "$MACHINE/${6#*:}" ;;
tpu-vm-ssh)
    [[ -n ${MACHINE:-} ]] || exit 0
    for word in "$@"; do [[ $word != --command=* ]] || command=${word#--command=}; done
    cd "$MACHINE" && HOME=$MACHINE bash -c "$command"
    ;;
esac
"""


def world(desk: Desk, *states: str) -> dict[str, str]:
    """Fake a Google Cloud where the slice is in these states, one after the other."""
    desk.fake("gcloud", GCLOUD)
    (desk.folder / "states").write_text("".join(f"{state}\n" for state in states))
    return {"STATES": str(desk.folder / "states"), "POLL": "1"}


def steps(desk: Desk) -> list[str]:
    """Return the calls that change something, each by its verb; on machines, by what is run there."""
    found = []
    for call in desk.calls("gcloud"):
        command = "".join(word for word in call if word.startswith("--command="))
        ran = "unpack" if " tar " in command else command.partition("worker.sh ")[2].partition(" ")[0]
        found.append(ran or call[4])
    return [step for step in found if step != "describe"]


@pytest.mark.parametrize(
    ("topology", "kind", "runtime", "told"),
    [
        ("v5e:4x4", "v5litepod-16", "v2-alpha-tpuv5-lite", "16 chips of v5e (v5e:4x4) on 4 machines"),
        ("v5e:1x1", "v5litepod-1", "v2-alpha-tpuv5-lite", "1 chip of v5e (v5e:1x1) on 1 machine"),
        ("v6e:2x4", "v6e-8", "v2-alpha-tpuv6e", "8 chips of v6e (v6e:2x4) on 1 machine"),
        ("v5p:2x2x2", "v5p-16", "v2-alpha-tpuv5", "8 chips of v5p (v5p:2x2x2) on 2 machines"),
    ],
)
def test_create(topology: str, kind: str, runtime: str, told: str, desk: Desk) -> None:
    done = desk.run("tpu_vm.sh", "create", **PLACE, TOPOLOGY=topology, SPOT="yes")
    assert done.returncode == 0, done.stderr
    assert f"{told}, spot=yes, in us-west4-a" in done.stderr
    place = ["--project=ours", "--zone=us-west4-a"]
    flags = ["--node-id=mine", f"--accelerator-type={kind}", f"--runtime-version={runtime}", "--spot"]
    assert desk.calls() == [[*QUEUE, "create", "mine", *place, *flags]]


def test_wait(desk: Desk) -> None:
    cloud = world(desk, "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE")
    done = desk.run("tpu_vm.sh", "wait", **PLACE, **cloud)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[1:] == [
        "mine is WAITING_FOR_RESOURCES",
        "mine is PROVISIONING",
        "mine is ACTIVE",
    ]
    done = desk.run("tpu_vm.sh", "wait", **PLACE, **world(desk, "SUSPENDED"))
    assert done.returncode == 2
    assert "mine is SUSPENDED; go on with: launch/tpu_vm.sh resume" in done.stderr
    done = desk.run("tpu_vm.sh", "wait", **PLACE, **world(desk, ""))
    assert "no queued resource mine in us-west4-a" in done.stderr


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        (("SUSPENDED", "ACTIVE"), "delete create scp unpack install start"),
        (("SUSPENDING", "FAILED", "ACTIVE"), "delete create scp unpack install start"),
        (("", "ACTIVE"), "create scp unpack install start"),
        (("PROVISIONING", "ACTIVE"), "scp unpack install start"),
        (("ACTIVE",), "start"),
    ],
    ids=["preempted", "being preempted", "gone", "on its way", "alive"],
)
def test_resume(states: tuple[str, ...], expected: str, desk: Desk) -> None:
    cloud = world(desk, *states)
    done = desk.run("tpu_vm.sh", "resume", *TRAIN, **ASKED, **cloud)
    assert done.returncode == 0, done.stderr
    assert " ".join(steps(desk)) == expected
    (start,) = (call for call in desk.calls("gcloud") if "worker.sh start" in call[-1])
    assert start[: len(VM) + 2] == [*VM, "ssh", "mine"]
    assert "--worker=all" in start
    assert start[-1].endswith(r"start --config quickstart --workdir /mnt/lmx/a\ b ")


def test_what_is_missing_and_a_dry_run(desk: Desk) -> None:
    done = desk.run("tpu_vm.sh", "resume", *TRAIN)
    assert done.returncode == 2
    named = [line.split()[1] for line in done.stderr.splitlines()]
    assert named == ["NAME", "PROJECT", "ZONE", "TOPOLOGY", "SHARE"]
    done = desk.run("tpu_vm.sh", "begin", **ASKED)
    assert done.stderr.startswith("tpu_vm.sh: begin asked; expected one of: create wait copy install run")
    done = desk.run("tpu_vm.sh", "run", "--workdir", "x", **ASKED)
    assert done.stderr.startswith("tpu_vm.sh: --config is missing")
    done = desk.run("tpu_vm.sh", "resume", "--dry-run", *TRAIN, **ASKED)
    assert done.returncode == 0
    verbs = [line.split()[4] for line in done.stderr.splitlines() if line.startswith("+")]
    assert verbs == ["queued-resources"] * 3 + ["tpu-vm"] * 4
    assert "16 chips of v5e (v5e:4x4) on 4 machines" in done.stderr
    for step in ("create", "wait", "copy", "install", "logs", "stop", "state", "delete"):
        assert desk.run("tpu_vm.sh", step, "--dry-run", **ASKED).returncode == 0
    looks = "gcloud compute tpus queued-resources describe mine --project=ours --zone=us-west4-a"
    assert f"+ {looks} --format=value\\(state.state\\) # every 30 s, until it is ACTIVE\n" in done.stderr
    assert desk.calls() == []


@pytest.mark.parametrize(
    ("action", "changed", "told"),
    [
        ("create", {"SPOT": "maybe"}, "SPOT=maybe: expected yes or no"),
        ("create", {"SHARE": "/runs"}, "SHARE=/runs: expected HOST:/PATH"),
        ("resume", {"SHARE": "/runs"}, "SHARE=/runs: expected HOST:/PATH"),
        ("install", {"SHARE": "10.0.0.2:runs"}, "SHARE=10.0.0.2:runs: expected HOST:/PATH"),
        ("install", {"SHARE": "gs://runs"}, "SHARE=gs://runs: expected HOST:/PATH"),
        ("wait", {"ZONE": "us-west4"}, "ZONE=us-west4: expected a zone, such as us-west4-a"),
        ("create", {"NAME": "My_slice"}, "NAME=My_slice: expected small letters, digits and -, at most 63"),
        ("create", {"NAME": "a" * 64}, "expected small letters"),
        ("create", {"NAME": "mine-"}, "expected small letters"),
        ("create", {"NAME": "4x4"}, "expected small letters"),
    ],
)
def test_values_that_cannot_be(action: str, changed: dict[str, str], told: str, desk: Desk) -> None:
    words = TRAIN if action == "resume" else ()
    done = desk.run("tpu_vm.sh", action, *words, **{**ASKED, **changed})
    assert done.returncode == 2
    assert told in done.stderr
    assert desk.calls() == []


@pytest.mark.parametrize(
    "changed",
    [
        {"SPOT": "no"},
        {"SPOT": ""},
        {"ZONE": "northamerica-northeast1-b"},
        {"ZONE": "us-central1-ai1a"},
        {"NAME": "a" * 63},
    ],
)
def test_values_that_can_be(changed: dict[str, str], desk: Desk) -> None:
    done = desk.run("tpu_vm.sh", "create", **{**ASKED, **changed})
    assert done.returncode == 0, done.stderr
    assert "--spot" not in desk.calls("gcloud")[0]


def test_what_a_step_does_not_need_cannot_stop_it(desk: Desk) -> None:
    """Least of all to give back what is paid for."""
    wrong = {"TOPOLOGY": "v5e:3x3", "SHARE": "none", "SPOT": "maybe", "POLL": "abc"}
    assert desk.run("tpu_vm.sh", "delete", **PLACE, **wrong).returncode == 0
    assert desk.calls("gcloud")[0][4] == "delete"


def test_logs_and_delete(desk: Desk) -> None:
    assert desk.run("tpu_vm.sh", "logs", **PLACE).returncode == 0
    assert desk.run("tpu_vm.sh", "delete", **PLACE).returncode == 0
    logs, delete = desk.calls()
    assert (desk.folder / "mine-logs").is_dir()
    assert logs[-2:] == ["--command=bash lmx/launch/worker.sh log", "--output-directory=mine-logs"]
    assert delete[-2:] == ["--force", "--quiet"]


PYTHON = r"""
echo "$PWD $LMX_PROCESSES $*"
trap 'echo heard TERM; exit 75' TERM
trap 'echo heard HUP' HUP
while :; do sleep 0.05; done
"""


def test_a_run_on_a_machine_from_copy_to_stop(desk: Desk, tmp_path: Path) -> None:
    machine = tmp_path / "machine"
    (machine / "lmx-venv" / "bin").mkdir(parents=True)
    (machine / "lmx").mkdir()
    (machine / "lmx" / "stale").touch()
    desk.fake("python", PYTHON).rename(machine / "lmx-venv" / "bin" / "python")
    cloud = {**PLACE, **world(desk), "MACHINE": str(machine)}

    done = desk.run("tpu_vm.sh", "copy", **cloud)
    assert done.returncode == 0, done.stderr
    assert (machine / "lmx" / "launch" / "worker.sh").exists()
    assert (machine / "lmx" / "pyproject.toml").exists()
    assert not (machine / "lmx" / "stale").exists()
    assert not list(tmp_path.glob("tmp.*")), "the archive is removed"

    assert desk.run("tpu_vm.sh", "state", **cloud).stdout == "not started\n"
    done = desk.run("tpu_vm.sh", "run", *TRAIN, **cloud)
    assert done.stdout == "started\n", done.stderr
    log = machine / "lmx-state" / "log"
    wait_until(lambda: log.exists() and "train" in log.read_text())
    assert "auto -m lmx train --config quickstart --workdir /mnt/lmx/a b" in log.read_text()
    assert desk.run("tpu_vm.sh", "state", **cloud).stdout.startswith("running (pid ")
    done = desk.run("tpu_vm.sh", "run", *TRAIN, **cloud)
    assert done.returncode == 1, "one run at a time"
    assert "a run is under way here" in done.stderr

    assert desk.run("tpu_vm.sh", "stop", **cloud).stdout == "ended with code 75\n"
    assert log.read_text().count("heard") == 1
    done = desk.run("tpu_vm.sh", "logs", **cloud)
    assert "heard TERM" in done.stdout


def test_a_shutdown_signals_all_and_the_code_is_kept(desk: Desk, tmp_path: Path) -> None:
    """At shutdown each process of a session gets SIGTERM and then SIGHUP; lmx must hear the first alone."""
    machine = tmp_path / "machine"
    (machine / "lmx-venv" / "bin").mkdir(parents=True)
    slow = PYTHON.replace("exit 75", "sleep 0.5; exit 75")
    desk.fake("python", slow).rename(machine / "lmx-venv" / "bin" / "python")
    home = {"HOME": str(machine)}
    assert desk.run("worker.sh", "start", *TRAIN, **home).stdout == "started\n"
    log, state = machine / "lmx-state" / "log", machine / "lmx-state"
    wait_until(lambda: log.exists() and "train" in log.read_text())
    group = os.getpgid(int((state / "pid").read_text()))
    for number in (signal.SIGTERM, signal.SIGHUP):
        os.killpg(group, number)
    wait_until(lambda: (state / "code").exists() and (state / "code").read_text())
    assert (state / "code").read_text() == "75\n"
    assert "heard HUP" not in log.read_text()
