"""What prompts, responses and dialogues may come as: texts, lists of them, a text that a separator parts."""

from __future__ import annotations

from typing import Any

import numpy as np

from lmx.core.errors import UserError
from lmx.core.examples import Example
from lmx.tasks import _examples


def prompt(given: Any) -> str:
    """Return a prompt as one text; of a list of sentences, empty ones are nothing."""
    given = given.tolist() if isinstance(given, np.ndarray) else given
    if isinstance(given, (list, tuple)) and all(isinstance(one, str) for one in given):
        given = " ".join(one.strip() for one in given if one.strip())
    return _examples.text({"prompt": given}, "prompt").strip()


def turns(given: Any, separator: str | None) -> list[str]:
    """Return turns as a list. Errors: UserError for anything else, and for an empty turn."""
    if isinstance(given, str):
        if separator is None:
            raise UserError(
                f"turns={_examples.shown(given)}; expected a list, or task.separator, the text between turns"
            )
        parts = given.split(separator)
        given = parts[:-1] if len(parts) > 1 and not parts[-1].strip() else parts
    return texts({"turns": given}, "turns")


def texts(example: Example, name: str) -> list[str]:
    """Return a text or a list of texts as a list, without the space around them; [] where there is none."""
    given = example.get(name)
    if given is None:
        return []
    given = given.tolist() if isinstance(given, np.ndarray) else given
    if isinstance(given, str):
        return [_examples.text({name: given}, name).strip()]
    if not isinstance(given, (list, tuple)) or not given:
        raise UserError(f"{name}={_examples.shown(given)}; expected a text, or a list of texts")
    return [
        _examples.text({place: one}, place).strip()
        for place, one in ((f"{name}[{i}]", one) for i, one in enumerate(given))
    ]
