"""How a model is executed: the type it computes in, what its backward pass keeps, how its layers lie.

No choice here changes what is computed but for rounding; each is proven against the plain path.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from lmx.core.errors import UserError, did_you_mean

COMPUTE = ("float32", "bfloat16")
REMAT = ("none", "block", "dots")
LAYERS = ("unrolled", "scanned")
ATTENTION = ("auto", "xla", "cudnn", "splash")

LANE = 128
"""Splash attention cuts a row into blocks of a multiple of this."""


@dataclass(frozen=True)
class Execution:
    """The choices.

    compute: the type of activations and products, None for that of the parameters; sums, norms, softmaxes and
    losses are in f32 at least whatever it is. remat: what of each block is computed again in the backward
    pass: "none" keeps what the backward pass needs, "dots" keeps products alone, "block" each block's input
    alone. layers: "scanned" compiles one block and loops over the layers. attention: who computes it;
    "auto" for splash attention on TPUs, where it can do it, and XLA elsewhere.
    Errors: UserError for a choice that there is not.
    """

    compute: str | None = None
    remat: str = "none"
    layers: str = "unrolled"
    attention: str = "auto"

    def __post_init__(self) -> None:
        known = {"remat": REMAT, "layers": LAYERS, "attention": ATTENTION, "compute": COMPUTE}
        for name, values in known.items():
            value = getattr(self, name)
            if value not in values and not (name == "compute" and value is None):
                values = ("auto", *values) if name == "compute" else values
                hint = did_you_mean(str(value), values)
                raise UserError(f"execution.{name}={value!r}{hint}; expected {', '.join(values)}")


PLAIN = Execution()
"""All in the parameters' own type, everything kept, layer after layer."""

_CURRENT: ContextVar[Execution] = ContextVar("execution", default=PLAIN)
_PLATFORM: ContextVar[str | None] = ContextVar("platform", default=None)


@contextmanager
def on(execution: Execution, platform: str | None = None) -> Iterator[None]:
    """Execute what is traced within in this way, on devices of this platform (JAX's name; None for those that
    are there)."""
    before, there = _CURRENT.set(execution), _PLATFORM.set(platform or _PLATFORM.get())
    try:
        yield
    finally:
        _CURRENT.reset(before)
        _PLATFORM.reset(there)


def platform() -> str:
    """Return JAX's name of the devices that what is traced now is for."""
    return _PLATFORM.get() or jax.default_backend()


def current() -> Execution:
    """Return how what is traced now is executed."""
    return _CURRENT.get()


def plain() -> Execution:
    """Return the current choices without those that a loop over layers or a backward pass asks for."""
    return dataclasses.replace(current(), remat="none", layers="unrolled")


def compute(own: Any) -> str:
    """Return the name of the type to compute in; own: that of the parameters."""
    return _CURRENT.get().compute or str(jnp.dtype(own))


def suits(backend: str | None = None) -> str | None:
    """Return the compute type that suits the devices: bf16, but the parameters' own on CPUs."""
    return None if (backend or platform()) == "cpu" else "bfloat16"


def kernel(time: int, *, dropout: bool) -> str:
    """Return which attention is to compute rows of T tokens: what is asked for, or, of "auto", what is best.

    dropout: whether it is to drop weights out. Errors: UserError for a kernel that is asked for by name and
    cannot do it.
    """
    asked, there = current().attention, platform()
    if asked == "auto":
        return "splash" if there == "tpu" and not dropout and time % LANE == 0 else "xla"
    if asked != "xla" and dropout:
        raise UserError(
            f"execution.attention={asked} cannot drop weights out; set model.dropout_attention=0, or "
            "execution.attention=xla"
        )
    if asked == "splash" and time % LANE:
        raise UserError(
            f"execution.attention=splash takes rows of a multiple of {LANE} tokens; these have {time}"
        )
    if asked == "cudnn" and there not in ("cuda", "rocm", "gpu"):
        raise UserError(f"execution.attention=cudnn is for GPUs; this is a {there}; write xla")
    if asked == "cudnn" and compute("float32") != "bfloat16":
        raise UserError(
            f"execution.attention=cudnn computes in bfloat16, not in {compute('float32')}; set "
            "execution.compute=bfloat16, or execution.attention=xla"
        )
    return asked
