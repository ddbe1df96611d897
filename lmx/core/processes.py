"""Several processes that make one run: joining them, agreeing, and what one of them does for all."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np

from lmx.core import place
from lmx.core.errors import UserError, one_line
from lmx.core.log import say

SILENCE = 20
"""Seconds after which a process that says nothing is taken for dead, and the others end."""

WITHIN = 5.0
"""Seconds after which all processes learn that one was asked to stop, at the most and about."""

LINGER = 5.0
"""Seconds for which the first process outlives a mistake that the others found as well."""

Found = TypeVar("Found")


def join(environment: Mapping[str, str] = os.environ) -> None:
    """Join the other processes of the run, where the environment names them, before JAX looks for devices.

    Errors: UserError for variables that are missing or make no sense, and where the coordinator cannot be
    reached.
    """
    here = place.found(environment)
    if here.count == 0:
        _initialize("the cluster", here.patience)
    if here.count < 2:
        return
    say(
        f"process {here.index} of {here.count}: joining the others by {here.address}, for at most "
        f"{here.patience} s"
    )
    if here.index > 0:
        host, _, port = here.address.rpartition(":")
        _wait_for(host, int(port), here.patience)
    _initialize(
        here.address,
        here.patience,
        coordinator_address=here.address,
        num_processes=here.count,
        process_id=here.index,
        # Left to itself JAX would still ask Slurm which devices are this process's, and take one GPU.
        cluster_detection_method="deactivate",
    )


def _wait_for(host: str, port: int, patience: int) -> None:
    """Wait until the first process listens there: JAX would end this one by an abort.

    Errors: UserError where nothing listens in `patience` seconds.
    """
    end = time.monotonic() + patience
    while True:
        try:
            socket.create_connection((host.strip("[]"), port), timeout=5).close()
            return
        except (OSError, OverflowError) as error:
            if time.monotonic() > end:
                raise UserError(
                    f"cannot join the other processes by {host}:{port}: {one_line(error)} (for {patience} s, "
                    f"{place.PATIENCE}); is the first one started, and is the address its own?"
                ) from error
            time.sleep(0.2)


def _initialize(where: str, patience: int, **options: Any) -> None:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    given_up = threading.Timer(patience, _give_up, (where, patience, not options))
    given_up.daemon = True
    given_up.start()
    try:  # JAX, whose patience is longer, would end this process by an abort
        jax.distributed.initialize(
            **options, initialization_timeout=patience + 60, heartbeat_timeout_seconds=SILENCE
        )
    except (RuntimeError, ValueError, OSError) as error:
        if isinstance(error, ValueError) and "coordinator_address" not in options:
            raise UserError(
                f"{place.COUNT}={place.AUTO}, but JAX finds no cluster that it knows (Cloud TPU, Slurm, "
                f"Open MPI, Kubernetes); set {place.COORDINATOR}, {place.COUNT} and {place.INDEX}, or none "
                "of them for one process"
            ) from error
        raise UserError(
            f"cannot join the other processes by {where}: {one_line(error)}; are all of them started, and is "
            "the address that of the first one?"
        ) from error
    finally:
        given_up.cancel()
    _mind_sigterm()


def _give_up(where: str, patience: int, auto: bool) -> None:
    """End this process, whose main thread waits in JAX for good."""
    told = (
        f"lmx: cannot join the other processes by {where}: not all of them came within {patience} s "
        f"({place.PATIENCE}); are all of them started, as many as {where if auto else place.COUNT} says?\n"
    )
    os.write(2, told.encode())
    os._exit(2)


def linger() -> None:
    """Let the others end by themselves, where all of them end by one mistake: they hang on the first, and
    each that outlives it aborts with the stack of JAX's library."""
    try:
        here = place.found()
        mine = here.index == 0 if here.count else first()
    except (UserError, RuntimeError, AssertionError):  # the last two where JAX has no devices
        return
    if mine:
        time.sleep(LINGER)


def _mind_sigterm() -> None:
    """Let SIGTERM do again what it did before JAX joined: JAX takes it for itself, so that a process that has
    not begun to train would go on as if nobody had asked it to end."""
    if threading.current_thread() is threading.main_thread():
        before = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def count() -> int:
    """Return how many processes make this run."""
    return jax.process_count()


def first() -> bool:
    """Tell whether this process is the one that writes and speaks for all."""
    return jax.process_index() == 0


def by_first(work: Callable[[], Found]) -> Found | None:
    """Return what the first process's work gave, None in all others, which wait for it.

    Errors: UserError in all of them where it failed in the first.
    """
    if count() == 1:
        return work()
    found, told = None, ""
    if first():
        try:
            found = work()
        except UserError as error:
            told = str(error) or "it failed"
    said = shared(told)
    if said:
        raise UserError(said)
    return found


def after_first(work: Callable[[], Found]) -> Found:
    """Return what the work gives, done by the first process first and then by each other, which finds on the
    disk what the first one left there.

    Errors: UserError in all of them where it failed in the first.
    """
    found = by_first(work)
    return found if found is not None else work()


def asked_by_any(
    asked: Callable[[], bool], *, within: float = WITHIN, clock: Callable[[], float] = time.monotonic
) -> Callable[[bool], bool]:
    """Return the question whether any process is asked to stop, for each step and each batch of an
    evaluation; it is told whether something long is about to follow, in all processes alike.

    It is put to the others about every `within` seconds, for all to answer alike: at the first time, and then
    after as many as the slowest process makes in that time by what it took since it was put last, but no more
    than twice as many as then, for what follows may take far longer. And before something long, and at the
    next time after that, of which the pace would tell nothing.
    """
    if count() == 1:
        return lambda long: asked()
    steps, left, before = 0, 1, clock()

    def agreed(long: bool) -> bool:
        nonlocal steps, left, before
        steps, left = steps + 1, left - 1
        if left > 0 and not long:
            return False
        now = clock()
        said = gathered([float(bool(asked())), (now - before) / steps])
        left = 1 if long else max(1, min(int(within / max(said[:, 1].max(), 1e-9)), 2 * steps))
        steps, before = 0, now
        return bool(said[:, 0].any())

    return agreed


def shared(text: str) -> str:
    """Return the first process's text in all of them."""
    if count() == 1:
        return text
    from jax.experimental import multihost_utils

    raw = np.frombuffer(text.encode(), np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(raw))))
    data = np.resize(raw, length) if len(raw) else np.zeros(length, np.uint8)
    return bytes(np.asarray(multihost_utils.broadcast_one_to_all(data))).decode()


def gathered(values: Sequence[float]) -> np.ndarray:
    """Return what each process gave, (processes, values); all of them must give as many."""
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(np.array(values, np.float32))).reshape(
        count(), len(values)
    )


def whole(tree: Any) -> Any:
    """Return a tree of arrays as numpy arrays, whole in each process; all of them must ask."""
    if count() == 1:
        return jax.tree.map(np.asarray, jax.device_get(tree))
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(tree, tiled=True)
