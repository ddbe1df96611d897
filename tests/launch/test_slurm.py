"""What Slurm is asked for, and the job on its first node."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path

import pytest

from .conftest import CHECKOUT, Desk, wait_until

TRAIN = ("--config", "quickstart", "--workdir", "/shared/a b")
JOB = {"SLURM_JOB_ID": "90007", "SLURM_JOB_NODELIST": "n[03-04]", "SLURM_NTASKS": "2"}
STEP = 'SLURM_PROCID=1 exec "${@:3}"'  # srun: after --kill-on-bad-exit and --wait
PYTHON = 'echo "$LMX_COORDINATOR $LMX_PROCESSES $LMX_PROCESS" >>"$NOTES"\n'


def test_it_submits_the_job(desk: Desk) -> None:
    asked = {"NODES": "4", "TIME": "2:00:00", "GPUS": "8", "PARTITION": "long", "PYTHON": "/env/bin/python"}
    done = desk.run("slurm.sh", *TRAIN, **asked)
    assert done.returncode == 0, done.stderr
    assert "4 processes on 4 nodes, 32 chips (4 nodes x 8 GPUs), for up to 2:00:00" in done.stderr
    (call,) = desk.calls("sbatch")
    script = call.index(str(CHECKOUT / "launch" / "slurm_job.sh"))
    assert call[script + 1 :] == ["120", "/env/bin/python", *TRAIN]
    flags = set(call[1:script])
    assert flags >= {"--nodes=4", "--ntasks-per-node=1", "--gpus-per-node=8", "--partition=long", "--requeue"}
    assert flags >= {"--open-mode=append", "--signal=TERM@120", "--time=2:00:00"}
    assert not any(flag.startswith(("--account", "--gpus-per-task")) for flag in flags)


def test_what_else_sbatch_is_told(desk: Desk) -> None:
    asked = {"NODES": "1", "TIME": "60", "CPUS": "12", "MEM": "200G", "MORE": "--exclusive --qos=long"}
    assert desk.run("slurm.sh", *TRAIN, **asked).returncode == 0
    assert {"--cpus-per-task=12", "--mem=200G", "--exclusive", "--qos=long"} <= set(desk.calls("sbatch")[0])


def test_processes_of_a_node_share_its_gpus(desk: Desk) -> None:
    asked = {"NODES": "1", "TIME": "60", "GPUS": "8", "TASKS": "4"}
    assert desk.run("slurm.sh", *TRAIN, **asked).returncode == 0
    assert {"--ntasks-per-node=4", "--gpus-per-task=2"} <= set(desk.calls("sbatch")[0])
    done = desk.run("slurm.sh", *TRAIN, **{**asked, "TASKS": "3"})
    assert done.returncode == 2
    assert "GPUS=8, TASKS=3" in done.stderr


def test_what_is_missing_and_a_dry_run(desk: Desk) -> None:
    done = desk.run("slurm.sh", *TRAIN)
    assert done.returncode == 2
    assert [line.split()[1] for line in done.stderr.splitlines()] == ["NODES", "TIME"]
    done = desk.run("slurm.sh", "--dry-run", *TRAIN, NODES="2", TIME="60")
    assert done.returncode == 0
    assert "2 processes on 2 nodes, no chips, CPUs alone, for up to 60" in done.stderr
    assert "+ sbatch --job-name=lmx --nodes=2" in done.stderr
    assert desk.calls() == []


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        ("2", 120), ("08:09", 540), ("2:00:00", 7200), ("1-2", 93_600), ("1-02:03", 93_780),
        ("0-0:0:61", 120), ("0", None), ("UNLIMITED", None), ("infinite", None),
    ],
)  # fmt: skip
def test_the_time_is_read_as_sbatch_reads_it(time: str, seconds: int | None, desk: Desk) -> None:
    """Told by the longest GRACE that fits into it; seconds count as whole minutes, and 0 is no end."""
    asked = {"NODES": "1", "TIME": time}
    most = 65_535 if seconds is None else min(65_535, seconds - 1)
    done = desk.run("slurm.sh", *TRAIN, **asked, GRACE=str(most))
    assert done.returncode == 0, done.stderr
    assert {f"--time={time}", f"--signal=TERM@{most}"} <= set(desk.calls("sbatch")[0])
    if seconds is not None and seconds <= 65_535:
        done = desk.run("slurm.sh", *TRAIN, **asked, GRACE=str(seconds))
        assert done.returncode == 2
        assert f"GRACE={seconds}, TIME={time}: expected fewer seconds than the job's {seconds}" in done.stderr


@pytest.mark.parametrize(
    ("changed", "workdir", "told"),
    [
        ({"MEM": "lots"}, "/shared/run", "MEM=lots: expected a node's memory"),
        ({"MEM": "1.5G"}, "/shared/run", "MEM=1.5G: expected a node's memory"),
        ({}, "/tmp/run", "--workdir /tmp/run: each node has that folder to itself"),
        ({}, "/var/tmp/run", "--workdir /var/tmp/run: each node has that folder to itself"),
        ({}, "/dev/shm/run", "--workdir /dev/shm/run: each node has that folder to itself"),
    ],
)
def test_what_a_node_would_refuse_or_lose(
    changed: dict[str, str], workdir: str, told: str, desk: Desk
) -> None:
    """In a dry run, too."""
    asked = {"NODES": "2", "TIME": "60", **changed}
    done = desk.run("slurm.sh", "--dry-run", "--config", "quickstart", "--workdir", workdir, **asked)
    assert done.returncode == 2
    assert done.stderr.startswith(f"slurm.sh: {told}")


@pytest.mark.parametrize("time", ["soon", "2h", "1:2:3:4", "1-", "-1", ":30", "1-2-3", "1.5"])
def test_no_time(time: str, desk: Desk) -> None:
    done = desk.run("slurm.sh", *TRAIN, NODES="1", TIME=time)
    assert done.returncode == 2
    assert done.stderr.startswith(
        f"slurm.sh: TIME={time}: expected minutes, [hours:]minutes:seconds, days-hours"
    )
    assert desk.calls() == []


def job(desk: Desk, python: str, **variables: str) -> dict[str, str]:
    """Set the job's world up, and return its variables."""
    desk.fake("scontrol", '[[ $1 == show ]] && printf "n03\\nn04\\n"; exit 0')
    desk.fake("srun", STEP)
    desk.fake("mine", PYTHON + python)
    return {**JOB, "NOTES": str(desk.folder / "notes"), **variables}


def test_a_process_knows_its_place(desk: Desk) -> None:
    done = desk.run("slurm_job.sh", "120", "mine", *TRAIN, **job(desk, "exit 3"))
    assert done.returncode == 3, done.stderr
    assert (desk.folder / "notes").read_text() == "n03:20007 2 1\n"
    assert desk.calls("mine") == [["mine", "-m", "lmx", "train", *TRAIN]]
    assert desk.calls("scontrol") == [["scontrol", "show", "hostnames", "n[03-04]"]]


@pytest.mark.parametrize(
    ("code", "left", "again"),
    [("75", 100, True), ("75", 5000, False), ("75", None, False), ("1", 100, False), ("0", 100, False)],
    ids=["time is up", "cancelled", "unknown", "failed", "done"],
)
def test_only_a_run_that_time_stopped_is_queued_again(
    code: str, left: int | None, again: bool, desk: Desk
) -> None:
    end = {} if left is None else {"SLURM_JOB_END_TIME": str(int(time.time()) + left)}
    done = desk.run("slurm_job.sh", "120", "mine", *TRAIN, **job(desk, f"exit {code}", **end))
    assert done.returncode == int(code)
    assert (["scontrol", "requeue", "90007"] in desk.calls("scontrol")) == again
    assert ("does not say when the job's time is up" in done.stdout) == (code == "75" and left is None)


def test_the_job_outlives_a_signal_and_passes_none_on(desk: Desk, tmp_path: Path) -> None:
    python = "trap 'echo heard >>\"$NOTES\"' TERM; for i in {1..20}; do sleep 0.05; done; exit 75"
    process = desk.start("slurm_job.sh", "120", "mine", *TRAIN, **job(desk, python))
    wait_until(lambda: (tmp_path / "notes").exists())
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 75
    assert not re.search("heard", (tmp_path / "notes").read_text())
