"""How a process finds its place in a run: the variables, the cluster, and SIGTERM afterwards."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from typing import Any

import jax
import numpy as np
import pytest

from lmx.core import place, processes
from lmx.core.errors import UserError

PLACE = {"LMX_COORDINATOR": "10.0.0.1:8476", "LMX_PROCESSES": "4", "LMX_PROCESS": "3"}


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Return what JAX is asked to join with, of each call."""
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **options: calls.append(options))
    monkeypatch.setattr(processes, "_wait_for", lambda *address: None)
    return calls


def test_a_place_that_is_given_is_not_asked_of_the_cluster(joined: list[dict[str, Any]]) -> None:
    processes.join({**PLACE, "LMX_JOIN_SECONDS": "7"})
    (options,) = joined
    assert options["coordinator_address"] == "10.0.0.1:8476"
    assert (options["num_processes"], options["process_id"]) == (4, 3)
    assert options["initialization_timeout"] > 7  # lmx itself gives up after 7, by a line
    assert options["cluster_detection_method"] == "deactivate"


def test_the_cluster_is_asked_for_all_of_it(joined: list[dict[str, Any]]) -> None:
    processes.join({"LMX_PROCESSES": "auto", "LMX_JOIN_SECONDS": "900"})
    (options,) = joined
    assert options.keys() == {"initialization_timeout", "heartbeat_timeout_seconds"}
    assert options["initialization_timeout"] > 900


def test_one_process_joins_nobody(joined: list[dict[str, Any]]) -> None:
    processes.join({})
    processes.join({**PLACE, "LMX_PROCESSES": "1", "LMX_PROCESS": "0"})
    processes.join({"LMX_PROCESSES": "1"})
    assert joined == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"LMX_PROCESS": ""}, "LMX_PROCESS not set"),
        ({"LMX_PROCESS": "4"}, "LMX_PROCESS=4, but LMX_PROCESSES=4; expected 0 to 3"),
        ({"LMX_PROCESSES": "four"}, "LMX_PROCESSES='four'; expected a whole number"),
        ({"LMX_COORDINATOR": "10.0.0.1"}, "LMX_COORDINATOR='10.0.0.1'; expected HOST:PORT"),
        ({"LMX_COORDINATOR": "here:99999"}, "LMX_COORDINATOR='here:99999'; expected HOST:PORT"),
        ({"LMX_PROCESSES": "0", "LMX_PROCESS": "", "LMX_COORDINATOR": ""}, "LMX_PROCESSES='0'; expected"),
        ({"LMX_COORDINATOR": ":8476"}, "LMX_COORDINATOR=':8476'; expected HOST:PORT"),
        ({"LMX_JOIN_SECONDS": "0"}, "LMX_JOIN_SECONDS='0'; expected a whole number of at least 1"),
    ],
)
def test_what_makes_no_sense_is_named(
    changed: dict[str, str], said: str, joined: list[dict[str, Any]]
) -> None:
    with pytest.raises(UserError) as caught:
        processes.join({**PLACE, **changed})
    assert said in str(caught.value)
    assert joined == []


def test_the_command_that_goes_on_starts_all_processes() -> None:
    def told(**environment: str) -> str:
        return place.launched("lmx train", "--config a", environment)

    assert told() == told(LMX_PROCESSES="1") == "lmx train --config a"
    alone = told(LMX_PROCESSES="1", LMX_LAUNCHER="PROCESSES=1 DEVICES=4 x.sh")
    assert alone == "PROCESSES=1 DEVICES=4 x.sh --config a"
    assert told(LMX_PROCESSES="auto") == "lmx train --config a   # in each of the run's processes"
    assert told(LMX_PROCESSES="2", LMX_LAUNCHER="PROCESSES=2 x.sh") == "PROCESSES=2 x.sh --config a"
    simulated = "--xla_a=1 --xla_force_host_platform_device_count=8"
    assert told(XLA_FLAGS=simulated) == f"XLA_FLAGS='{simulated}' lmx train --config a"
    assert told(XLA_FLAGS="--xla_a=1") == "lmx train --config a"
    assert told(XLA_FLAGS=simulated, LMX_PROCESSES="2", LMX_LAUNCHER="x.sh") == "x.sh --config a"


def test_the_question_whether_to_stop_goes_round_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here a step takes 60 s once, then 1 s; in the other process, which is asked at step 9, always 2 s."""
    now, made, asked_at = [0.0], [0], []

    def gathered(values: list[float]) -> np.ndarray:
        asked_at.append(made[0])
        return np.array([values, [float(made[0] >= 9), 2.0]])

    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "gathered", gathered)
    agreed = processes.asked_by_any(lambda: False, within=5.0, clock=lambda: now[0])
    said = []
    for step in range(1, 9):
        made[0], now[0] = step, now[0] + (60 if step == 1 else 1)
        said.append(agreed(False))
    assert asked_at == [1, 2, 4, 6, 8]  # after 60 s of compiling each step, then as many as take 4 s of 5
    assert not any(said)
    made[0] = 9
    assert not agreed(False)
    made[0] = 10
    assert agreed(False)


def test_a_stop_is_asked_for_before_something_long_and_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of a millisecond, of which thousands would go by until the next question."""
    now, asked_at, made = [0.0], [], [0]

    def gathered(values: list[float]) -> np.ndarray:
        asked_at.append(made[0])
        return np.array([values, values])

    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "gathered", gathered)
    agreed = processes.asked_by_any(lambda: made[0] == 31, within=5.0, clock=lambda: now[0])
    for step in range(1, 32):
        made[0], now[0] = step, now[0] + 0.001
        stops = agreed(step == 30)  # an evaluation follows, in which the signal comes
    assert asked_at == [1, 3, 7, 15, 30, 31]
    assert stops


def test_a_stop_within_an_evaluation_whose_batches_take_far_longer_than_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Batches of a second after steps of a millisecond, by whose pace 5,000 would go by unasked."""
    now, asked_at, made = [0.0], [], [0]

    def gathered(values: list[float]) -> np.ndarray:
        asked_at.append(made[0])
        return np.array([values, values])

    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "gathered", gathered)
    agreed = processes.asked_by_any(lambda: made[0] >= 34, within=5.0, clock=lambda: now[0])
    for step in range(1, 31):
        made[0], now[0] = step, now[0] + 0.001
        assert not agreed(step == 30)
    asked_at.clear()
    while not agreed(False):
        made[0], now[0] = made[0] + 1, now[0] + 1
        assert made[0] < 50
    assert asked_at == [30, 32, 36]  # before the first batch, the third, the seventh


def test_auto_without_a_cluster_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_found(**options: Any) -> None:
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", none_found)
    with pytest.raises(UserError, match="LMX_PROCESSES=auto, but JAX finds no cluster"):
        processes.join({"LMX_PROCESSES": "auto"})
    with pytest.raises(UserError, match=r"cannot join the other processes by 10\.0\.0\.1:8476"):
        processes.join({**PLACE, "LMX_PROCESS": "0"})


JOINED = """
import os, signal, sys
import jax
from lmx.core import place, processes
processes._initialize("here", 60, coordinator_address=sys.argv[1], num_processes=1, process_id=0,
                      cluster_detection_method="deactivate")
print("gpus", jax.config.read("jax_cuda_visible_devices"), flush=True)
os.kill(os.getpid(), signal.SIGTERM)
import time
time.sleep(5)
print("went on")
"""


def test_sigterm_ends_a_process_that_has_joined_but_not_begun(lmx_environment: dict[str, str]) -> None:
    """JAX's own handler, set when a process joins, swallows SIGTERM. And Slurm's variables hide no GPU."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    slurm = {"JOB_ID": "7", "STEP_NODELIST": "n1", "NTASKS": "1", "PROCID": "0", "LOCALID": "0"}
    done = subprocess.run(
        [sys.executable, "-c", JOINED, address],
        env=lmx_environment | {f"SLURM_{name}": value for name, value in slurm.items()},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == -signal.SIGTERM, done.stdout + done.stderr
    assert done.stdout == "gpus all\n"
