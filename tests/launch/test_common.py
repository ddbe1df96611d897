"""What the scripts share: whose words are read, and which are refused before anything is asked for."""

from __future__ import annotations

import sys

import pytest

from .conftest import CHECKOUT, Desk

TPU = {"NAME": "mine", "PROJECT": "ours", "ZONE": "us-west4-a", "TOPOLOGY": "v5e:4x4", "SHARE": "host:/runs"}
GKE = {"NAME": "mine", "IMAGE": "registry/lmx:1", "TOPOLOGY": "v5e:4x4", "CLAIM": "runs"}
SLURM = {"NODES": "1", "TIME": "60"}
LASTS = [("tpu_vm.sh", "run", "/mnt/lmx"), ("kubernetes.sh", "apply", "/runs")]
READS = {"PYTHON": sys.executable, "PYTHONPATH": str(CHECKOUT)}


@pytest.mark.parametrize(("script", "action", "folder"), LASTS)
@pytest.mark.parametrize(
    "words",
    [
        ("--workdir", "runs/a"),
        ("--workdir=runs/a",),
        ("--workdir=~/a",),
        ("--workdir", "@x/a"),
        ("--workdir", "@/../a"),
        ("--workdir", "@/a", "--workdir", "/home/a"),
    ],
)
def test_a_workdir_must_outlive_its_machine(
    script: str, action: str, folder: str, words: tuple[str, ...], desk: Desk
) -> None:
    given = [word.replace("@", folder) for word in words]
    done = desk.run(script, action, "--config", "quickstart", *given, **{**TPU, **GKE})
    assert done.returncode == 2
    outside = given[-1].removeprefix("--workdir=")
    told = f"{script}: --workdir {outside}: expected a folder in {folder}, such as {folder}/mine;"
    assert done.stderr.startswith(told)
    assert desk.calls() == []


@pytest.mark.parametrize(("script", "action", "folder"), LASTS)
@pytest.mark.parametrize("words", [("--workdir", "@/a b"), ("--workdir=@/a",), ("--workdir", "@")])
def test_a_workdir_that_does(
    script: str, action: str, folder: str, words: tuple[str, ...], desk: Desk
) -> None:
    given = [word.replace("@", folder) for word in words]
    done = desk.run(script, action, "--config=quickstart", *given, "--dry-run", **{**TPU, **GKE})
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", [(), ("--config",), ("--config=",), ("--config.workdir=--config x",)])
def test_an_option_without_its_value_is_missing(words: tuple[str, ...], desk: Desk) -> None:
    done = desk.run("slurm.sh", "--workdir", "a", *words, **SLURM)
    assert done.stderr.startswith("slurm.sh: --config is missing")
    assert desk.calls() == []


@pytest.mark.parametrize(
    ("script", "action"),
    [("tpu_vm.sh", step) for step in "create wait copy install state logs stop delete".split()]
    + [("kubernetes.sh", "logs"), ("kubernetes.sh", "delete")],
)
def test_words_that_nobody_reads(script: str, action: str, desk: Desk) -> None:
    done = desk.run(script, action, "--config", "x", **TPU)
    assert done.returncode == 2
    assert done.stderr.startswith(f"{script}: {action} takes no other words, got: --config x;")
    assert desk.calls() == []


ASKS = [
    (("slurm.sh",), SLURM),
    (("tpu_vm.sh", "run"), TPU),
    (("tpu_vm.sh", "resume", "--dry-run"), TPU),
]


@pytest.mark.parametrize(("call", "given"), ASKS, ids=lambda one: one[0] if isinstance(one, tuple) else "")
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--config", "quickstrat"), "no config 'quickstrat' (did you mean 'quickstart'?)"),
        (("--config=quickstart", "--config.batch.siez=8"), "unknown config key 'batch.siez'"),
        (("--config=quickstart", "--config.batch.size", "no"), "config.batch.size='no': expected a whole"),
        (("--config=quickstart", "--seed=2"), "unknown argument '--seed=2'"),
    ],
)
def test_lmx_reads_the_words_first(
    call: tuple[str, ...], given: dict[str, str], words: tuple[str, ...], told: str, desk: Desk
) -> None:
    done = desk.run(*call, "--workdir=/mnt/lmx/a", *words, **given, **READS)
    assert done.returncode == 2
    assert f"{call[0]}: lmx train: {told}" in done.stderr
    assert desk.calls() == []


def test_a_file_is_read_where_the_machines_see_it_too(desk: Desk) -> None:
    text = "from lmx.core.config import inherit\ndef get_config():\n    c = inherit('quickstart')\n"
    (desk.folder / "mine.py").write_text(f"{text}    c.toatl = '9 steps'\n    return c\n")
    done = desk.run("slurm.sh", "--workdir=a", "--config=mine.py", **SLURM, **READS)
    assert done.returncode == 2
    assert done.stderr.startswith("slurm.sh: lmx train: unknown config key 'toatl'")


@pytest.mark.parametrize("line", ["os.environ['OF_THE_NODE']", "import of_the_node"])
def test_a_file_may_need_what_only_the_machines_have(line: str, desk: Desk) -> None:
    (desk.folder / "mine.py").write_text(f"import os\ndef get_config():\n    {line}\n")
    done = desk.run("slurm.sh", "--workdir=a", "--config=mine.py", **SLURM, **READS)
    assert done.returncode == 0, done.stderr


def test_a_warning_hides_no_mistake(desk: Desk) -> None:
    (desk.folder / "sitecustomize.py").write_text("import sys\nprint('a warning', file=sys.stderr)\n")
    words = ("--workdir=a", "--config=quickstrat")
    path = f"{desk.folder}:{CHECKOUT}"
    done = desk.run("slurm.sh", *words, **SLURM, **{**READS, "PYTHONPATH": path})
    assert done.returncode == 2
    assert "no config 'quickstrat'" in done.stderr


@pytest.mark.parametrize(
    "python", ["nowhere/python", "/bin/false", "/bin/cat"], ids=["none", "without lmx", "no Python"]
)
def test_where_there_is_no_lmx_nothing_is_read(python: str, desk: Desk) -> None:
    done = desk.run("slurm.sh", "--workdir=a", "--config=none", **SLURM, PYTHON=python)
    assert done.returncode == 0, done.stderr
    assert desk.calls("sbatch")


def test_a_file_of_the_machines_is_not_looked_for_here(desk: Desk) -> None:
    words = ("--workdir=/mnt/lmx/a", "--config=lmx/configs/quickstart.py")
    done = desk.run("tpu_vm.sh", "run", *words, **TPU, **READS)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("script", "words", "told"),
    [
        (
            "worker.sh",
            (),
            "worker.sh: nothing asked; expected install SHARE, start OPTIONS, stop, state or log",
        ),
        ("worker.sh", ("begin",), "worker.sh: begin asked; expected"),
        ("worker.sh", ("install",), "worker.sh: install asked; expected"),
        ("worker.sh", ("start",), "worker.sh: start asked; expected"),
        ("worker.sh", ("state", "foo"), "worker.sh: state foo asked; expected"),
        ("slurm_job.sh", (), "slurm_job.sh: expected GRACE, PYTHON and a job of Slurm around it"),
        (
            "slurm_job.sh",
            ("120", "python", "--config=x"),
            "slurm_job.sh: expected GRACE, PYTHON and a job of Slurm",
        ),
    ],
)
def test_a_script_of_the_machines_called_by_hand(
    script: str, words: tuple[str, ...], told: str, desk: Desk
) -> None:
    job = {"SLURM_JOB_ID": "7"} if len(words) < 2 else {}
    done = desk.run(script, *words, **job)
    assert done.returncode == 2
    assert done.stderr.startswith(told)
    assert done.stderr.count("\n") == 1
    done = desk.run(script, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert script in done.stdout
    assert desk.calls() == []
    assert list(desk.home.iterdir()) == []
