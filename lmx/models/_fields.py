"""What every model's Config checks about its fields."""

from __future__ import annotations

from typing import Any

from lmx.core.errors import UserError


def sizes(config: Any, *names: str) -> None:
    """Raise UserError where one of these fields is not a whole number of at least 1."""
    for name in names:
        size = getattr(config, name)
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise UserError(f"model.{name}={size!r}; expected a whole number of at least 1")


def positive(config: Any, *names: str) -> None:
    """Raise UserError where one of these fields is not a number above 0."""
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < float("inf"):
            raise UserError(f"model.{name}={value!r}; expected a number above 0")


def probabilities(config: Any, *names: str) -> None:
    """Raise UserError where one of these fields is not a probability below 1."""
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < 1:
            raise UserError(f"model.{name}={value!r}; expected a probability below 1")


def switches(config: Any, *names: str) -> None:
    """Raise UserError where one of these fields is not True or False."""
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, bool):
            raise UserError(f"model.{name}={value!r}; expected True or False")


def heads(config: Any) -> None:
    """Raise UserError where the width does not divide into the heads."""
    if config.width % config.heads:
        raise UserError(f"model.width={config.width} does not divide into model.heads={config.heads} heads")
