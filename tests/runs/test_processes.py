"""Several processes make one run: the same losses, an end for all where one dies, and going on from there."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from lmx import load
from lmx.core import log, tree
from lmx.runs.checkpoints import Checkpoints

from .conftest import digest, options

DEVICES = "--xla_force_host_platform_device_count"
LONG = {"log": "1 steps", "evaluate": "25 steps", "save": "10 steps", "optim.rate": "3e-3",
        "mesh.data": "-1"}  # fmt: skip


class Started:
    """`python -m lmx train` in some processes that make one run; what each says goes to a file."""

    def __init__(
        self,
        words: list[str],
        environment: Mapping[str, str],
        folder: Path,
        count: int,
        program: tuple[str, ...] = ("-m", "lmx"),
    ) -> None:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"localhost:{free.getsockname()[1]}"
        self.said = [folder / f"process-{index}.txt" for index in range(count)]
        self.all = []
        for index, file in enumerate(self.said):
            own = {"LMX_COORDINATOR": address, "LMX_PROCESSES": str(count), "LMX_PROCESS": str(index)}
            with file.open("w") as out:
                self.all.append(
                    subprocess.Popen(
                        [sys.executable, *program, *words],
                        env={
                            **environment,
                            **(own if count > 1 else {}),
                            "XLA_FLAGS": f"{DEVICES}={8 // count}",
                        },
                        stdin=subprocess.DEVNULL,
                        stdout=out,
                        stderr=out,
                        cwd=folder,
                    )
                )

    def codes(self, timeout: float = 400) -> list[int]:
        """Wait for all and return their exit codes."""
        return [one.wait(timeout) for one in self.all]

    def until(self, workdir: Path, step: int, timeout: float = 300) -> None:
        """Wait until the record holds this step."""
        end = time.monotonic() + timeout
        while not (workdir / "metrics.jsonl").exists() or max(losses(workdir), default=0) < step:
            assert time.monotonic() < end and self.all[0].poll() is None, self.told()
            time.sleep(0.05)

    def told(self) -> str:
        """What all of them said."""
        return "\n--\n".join(file.read_text()[-3000:] for file in self.said)


def start(
    text: Path,
    rows: Path,
    environment: Mapping[str, str],
    workdir: Path,
    count: int,
    program: tuple[str, ...] = ("-m", "lmx"),
    **changes: str,
) -> Started:
    folder = next(one for one in workdir.parents if not one.is_file())
    folder.mkdir(exist_ok=True)
    words = ["train", "--config", "pretrain/from_text", "--workdir", str(workdir)]
    words += options(text, rows, **{**LONG, **changes})
    return Started(words, environment, folder, count, program)


def losses(workdir: Path) -> dict[int, float]:
    records = log.read_jsonl(workdir / "metrics.jsonl")
    return {one["step"]: one["loss"] for one in records if one["kind"] == "train"}


@pytest.mark.slow
@pytest.mark.parametrize("steps", [pytest.param(24, marks=pytest.mark.sample), 50])
def test_two_processes_train_what_one_does_and_outlive_a_death(
    steps: int, text: Path, rows: Path, tmp_path: Path, lmx_environment: dict[str, str]
) -> None:
    """With dropout on 2 x 4 devices: in one process, in two, and in two of which one is killed."""
    fields = {"total": f"{steps} steps", "mesh.data": "2", "mesh.fsdp": "4"}
    for count in (1, 2):
        made = start(text, rows, lmx_environment, tmp_path / str(count) / "run", count, **fields)
        assert made.codes() == [0] * count, made.told()
    one, two = tmp_path / "1" / "run", tmp_path / "2" / "run"
    alone, together = losses(one), losses(two)
    assert list(alone) == list(together) == list(range(1, steps + 1))
    for step, loss in together.items():
        assert loss == pytest.approx(alone[step], rel=1e-5 if step <= 10 else 1e-4), step
    whole = tree.flatten(load(str(one)).params)
    for path, leaf in tree.flatten(load(str(two)).params).items():
        np.testing.assert_allclose(leaf, whole[path], atol=1e-4, rtol=0, err_msg=path)

    killed = tmp_path / "killed" / "run"
    made = start(text, rows, lmx_environment, killed, 2, **fields)
    made.until(killed, 12)
    made.all[1].send_signal(signal.SIGKILL)
    assert made.all[1].wait(60) == -signal.SIGKILL
    began = time.monotonic()
    assert made.all[0].wait(60) not in (0, 75), made.told()
    assert time.monotonic() - began < 30
    assert "another" in made.said[0].read_text().lower()
    made = start(text, rows, lmx_environment, killed, 2, **fields)
    assert made.codes() == [0, 0], made.told()
    assert f"resuming at step 10 of {steps}" in made.said[0].read_text()
    assert digest(killed) == digest(two)


@pytest.mark.slow
def test_a_signal_to_one_of_two_saves_and_the_same_command_goes_on(
    text: Path, rows: Path, tmp_path: Path, lmx_environment: dict[str, str]
) -> None:
    fields = {"total": "60 steps", "save": "50 steps", "evaluate": "50 steps"}
    made = start(text, rows, lmx_environment, tmp_path / "run", 2, **fields)
    made.until(tmp_path / "run", 8)
    made.all[1].send_signal(signal.SIGTERM)
    assert made.codes() == [75, 75], made.told()
    assert "and saved; go on with" in made.said[0].read_text()
    assert "saved" not in made.said[1].read_text()  # one speaks for all
    again = start(text, rows, lmx_environment, tmp_path / "run", 2, **fields)
    assert again.codes() == [0, 0], again.told()
    assert "resuming at step" in again.said[0].read_text()


IN_EVALUATION = """
import os, signal, sys
from lmx.training import evaluate
plain, passes = evaluate.over, []
def over(*given, before, **options):
    passes.append(0)
    def counted():
        passes[-1] += 1
        if os.environ["LMX_PROCESS"] == "1" and len(passes) == 2 and passes[-1] == 2:
            signal.raise_signal(signal.SIGTERM)
        before()
        print("batch", len(passes), passes[-1], flush=True)
    return plain(*given, before=counted, **options)
evaluate.over = over
from lmx.__main__ import main
sys.exit(main(sys.argv[1:]))
"""
"""lmx, of which the second process gets a signal within its second evaluation."""


@pytest.mark.slow
def test_a_signal_to_one_of_two_within_an_evaluation_puts_it_off(
    text: Path, rows: Path, tmp_path: Path, lmx_environment: dict[str, str]
) -> None:
    fields = {"total": "12 steps", "save": "4 steps", "evaluate": "4 steps"}
    made = start(text, rows, lmx_environment, tmp_path / "run", 2, ("-c", IN_EVALUATION), **fields)
    assert made.codes() == [75, 75], made.told()
    seen = [[line for line in file.read_text().splitlines() if "batch 2 " in line] for file in made.said]
    assert seen[0] == seen[1], "all leave the evaluation before the same batch"
    assert Checkpoints(tmp_path / "run" / "checkpoints").facts(8)["owed"] is True
    again = start(text, rows, lmx_environment, tmp_path / "run", 2, **fields)
    assert again.codes() == [0, 0], again.told()
    assert Checkpoints(tmp_path / "run" / "checkpoints").facts(8)["owed"] is False
    whole = start(text, rows, lmx_environment, tmp_path / "whole", 2, **fields)
    assert whole.codes() == [0, 0], whole.told()
    assert digest(tmp_path / "run") == digest(tmp_path / "whole")
    told = [log.read_jsonl(tmp_path / name / "metrics.jsonl") for name in ("run", "whole")]
    evaluated = [[(one["step"], one["loss"]) for one in each if one["kind"] == "evaluation"] for each in told]
    assert evaluated[0] == evaluated[1] and [step for step, _ in evaluated[0]] == [4, 8, 12]


LATE = """
import os, sys, time
from lmx.commands import _build
plain = _build.mesh
def late(*given):
    time.sleep(2.0 * (os.environ["LMX_PROCESS"] == "1"))
    return plain(*given)
_build.mesh = late
from lmx.__main__ import main
sys.exit(main(sys.argv[1:]))
"""
"""lmx, of which the second process finds its mistake two seconds after the first."""


@pytest.mark.parametrize(
    ("changes", "own", "told"),
    [
        ({"mesh.fsdp": "3"}, {}, "does not fit 8 devices"),
        ({"workdir": "file/run"}, {}, "file/run cannot be written to: Not a directory"),
        ({}, {"JAX_PLATFORMS": "cuda"}, "JAX cannot start (no device of JAX_PLATFORMS=cuda is here)"),
    ],
)
def test_a_mistake_is_told_by_each_process_and_no_stack(
    changes: dict[str, str],
    own: dict[str, str],
    told: str,
    text: Path,
    rows: Path,
    tmp_path: Path,
    lmx_environment: dict[str, str],
) -> None:
    """The first process holds what the others hang on: it ends last."""
    if own and Path("/dev/nvidiactl").exists():
        pytest.skip("there is a GPU here")
    (tmp_path / "file").touch()
    changes = dict(changes)
    workdir = tmp_path / changes.pop("workdir", "run")
    made = start(text, rows, lmx_environment | own, workdir, 2, ("-c", LATE), **changes)
    assert made.codes() == [2, 2], made.told()
    for file in made.said:
        said = [
            line for line in file.read_text().splitlines() if "[Gloo]" not in line and "connected" not in line
        ]
        assert len(said) == 2 and said[-1].startswith("lmx train: ") and told in said[-1], file.read_text()


@pytest.mark.parametrize(
    ("index", "port", "told"),
    [
        (0, None, "lmx: cannot join the other processes by {}: not all of them came within 1 s"),
        (1, 9, "lmx train: cannot join the other processes by {}"),
    ],
    ids=["others that never come", "a coordinator that is not there"],
)
def test_a_process_that_stays_alone(
    index: int, port: int | None, told: str, run_lmx: object, tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{port or free.getsockname()[1]}"
    place = {"LMX_COORDINATOR": address, "LMX_PROCESSES": "2", "LMX_PROCESS": str(index)}
    words = ["train", "--config", "quickstart", "--workdir", str(tmp_path / "run")]
    done = run_lmx(*words, check=False, env={**place, "LMX_JOIN_SECONDS": "1"})  # type: ignore[operator]
    assert done.returncode == 2, done.stderr
    said = done.stderr.strip().splitlines()
    assert len(said) == 2 and said[-1].startswith(told.format(address)), done.stderr
    assert not (tmp_path / "run").exists()
