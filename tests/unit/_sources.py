"""What the tests of table files share: small files, rows read from them, and the words of a refusal."""

from pathlib import Path
from typing import Any

import pytest

from lmx.core.errors import UserError
from lmx.sources import table

CLASSES: dict[str, Any] = {"fields": ["id", "text", "text_pair", "label"], "required": ["text", "label"]}
TAGGED: dict[str, Any] = {"fields": ["id", "words", "tags"], "required": ["words", "tags"]}
ASKED: dict[str, Any] = {
    "fields": ["id", "question", "context", "answers"],
    "required": ["question", "context"],
}


def put(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(path: Any, **options: Any) -> list[dict[str, Any]]:
    found = table.source("train", train=path, **{**CLASSES, **options})
    return [dict(found[index]) for index in range(len(found))]


def refusal(path: Any, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        read(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message
