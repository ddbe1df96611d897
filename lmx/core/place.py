"""Which process of a run this one is, as the environment says it. It imports no JAX, which may be broken."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from lmx.core.errors import UserError

COORDINATOR, COUNT, INDEX = "LMX_COORDINATOR", "LMX_PROCESSES", "LMX_PROCESS"
"""Environment variables: where the first process listens (HOST:PORT), how many there are, which this is."""

AUTO = "auto"
"""The value of LMX_PROCESSES with which JAX asks the cluster (Slurm, Cloud TPU, Kubernetes) for all three."""

PATIENCE = "LMX_JOIN_SECONDS"
"""Environment variable: seconds to wait for all processes at the start; 300 without it."""

LAUNCHER = "LMX_LAUNCHER"
"""Environment variable: what starts all processes, for the command that goes on; set by launch/local.sh."""

SIMULATED = "xla_force_host_platform_device_count"
"""The flag among XLA_FLAGS that simulates devices: the command that goes on needs as many."""


@dataclass(frozen=True)
class Place:
    """index: which process this is. count: how many there are; 0 where the cluster is to tell. address:
    HOST:PORT of the first. patience: seconds to wait for all."""

    index: int
    count: int
    address: str
    patience: int


def found(environment: Mapping[str, str] = os.environ) -> Place:
    """Return the place of this process. Errors: UserError for variables that are missing or make no sense."""
    given = {name: environment.get(name, "").strip() for name in (COORDINATOR, COUNT, INDEX)}
    patience = _number(PATIENCE, environment.get(PATIENCE, "300"), 1)
    if given[COUNT] == AUTO:
        return Place(0, 0, "", patience)
    count = _number(COUNT, given[COUNT] or "1", 1)
    if count == 1 and not (given[COORDINATOR] or given[INDEX]):
        return Place(0, 1, "", patience)
    if missing := [name for name, value in given.items() if not value]:
        raise UserError(
            f"{', '.join(missing)} not set; several processes need {COORDINATOR}=HOST:PORT, {COUNT} and "
            f"{INDEX}, or {COUNT}={AUTO} on a cluster that JAX knows"
        )
    index = _number(INDEX, given[INDEX], 0)
    host, _, port = given[COORDINATOR].rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UserError(f"{COORDINATOR}={given[COORDINATOR]!r}; expected HOST:PORT, such as 10.0.0.1:8476")
    if index >= count:
        raise UserError(f"{INDEX}={index}, but {COUNT}={count}; expected 0 to {count - 1}")
    return Place(index, count, given[COORDINATOR], patience)


def launched(program: str, words: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return the command that starts this run again, in all its processes.

    program, words: that of one process, `lmx train` and its options.
    """
    if launcher := environment.get(LAUNCHER):
        return f"{launcher} {words}"
    if SIMULATED in (flags := environment.get("XLA_FLAGS", "")):
        program = f"XLA_FLAGS={shlex.quote(flags)} {program}"
    if environment.get(COUNT, "").strip() in ("", "1"):
        return f"{program} {words}"
    return f"{program} {words}   # in each of the run's processes"


def _number(name: str, text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise UserError(f"{name}={text!r}; expected a whole number of at least {least}")
    return int(text)
