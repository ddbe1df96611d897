"""Digests of files: what a damaged list of them says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmx.runs import digests


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "file").write_text("text")
    (tmp_path / digests.FILES).write_text(json.dumps(digests.of_files(tmp_path)))
    return tmp_path


def test_a_changed_or_missing_file_is_named(folder: Path) -> None:
    assert digests.damaged(folder) is None
    (folder / "below" / "file").write_text("texT")
    assert digests.damaged(folder) == "below/file is damaged (its digest differs)"
    (folder / "below" / "file").unlink()
    assert digests.damaged(folder) == "below/file is missing"


@pytest.mark.parametrize(
    "content", ["[]", "null", "3", '"text"', '[["below/file", "0"]]', '{"below/file": 1}', '{"x": null}']
)
def test_a_list_of_the_wrong_shape_is_a_reason(folder: Path, content: str) -> None:
    (folder / digests.FILES).write_text(content)
    assert digests.damaged(folder) == "digests.json is damaged (no object of strings)"


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000])
def test_a_list_that_is_no_json_is_a_reason(folder: Path, content: bytes) -> None:
    (folder / digests.FILES).write_bytes(content)
    assert digests.damaged(folder) == "digests.json is not JSON"


def test_a_list_that_cannot_be_read_is_a_reason(folder: Path) -> None:
    (folder / digests.FILES).unlink()
    (folder / digests.FILES).mkdir()
    assert digests.damaged(folder) == "digests.json cannot be read (Is a directory)"
