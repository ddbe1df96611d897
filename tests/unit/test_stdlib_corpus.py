"""The embedded corpus: the running Python's own reference text and docstrings."""

import json.decoder
import sys
from pathlib import Path

import pytest

from data_prep.read import Document
from data_prep.stdlib import stdlib
from lmx.core.errors import UserError

MODULE = '''"""The module.

    Indented.
"""
import antigravity_that_is_never_imported

def plain(): pass

class Outer:
    """A class."""
    async def method(self):
        """A method, "\\d"."""
        def inner():
            """Inside."""
    if True:
        def other(self):
            """Under an if."""
try:
    pass
except ImportError:
    def fallback():
        """Under an except."""
'''


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    return list(stdlib())


def test_about_two_megabytes_of_prose(documents: list[Document]) -> None:
    assert 1_500_000 < sum(len(document.text) for document in documents) < 4_000_000
    assert len(documents) > 400
    assert len({document.id for document in documents}) == len(documents)
    assert all(document.text for document in documents)


def test_topics_and_docstrings(documents: list[Document]) -> None:
    by_id = {document.id: document.text for document in documents}
    assert sum(name.startswith("topic ") for name in by_id) >= 70
    assert by_id["topic assert"].lstrip().startswith('The "assert" statement')
    text = by_id["json/decoder.py"]
    assert text.startswith(
        "json.decoder\n\nImplementation of JSONDecoder\n\njson.decoder.JSONDecodeError\n\nSub"
    )
    assert json.decoder.JSONDecoder.decode.__doc__.split("\n")[0] in text  # type: ignore[union-attr]


def test_no_tests_and_nothing_installed(documents: list[Document]) -> None:
    parts = {part for document in documents for part in document.id.split("/")}
    assert not parts & {"site-packages", "test", "tests", "idlelib", "turtledemo", "__pycache__"}
    assert all(not document.id.startswith("/") for document in documents)


def test_the_source_is_a_fingerprint_and_known_early(tmp_path: Path) -> None:
    for name in ("b.py", "a/__init__.py", "tests/no.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(MODULE)
    before = stdlib(root=tmp_path).sources
    assert len(before) == 1
    assert before[0].path.startswith(f"python {sys.version.split()[0].rstrip('+')}")
    (tmp_path / "tests/no.py").write_text("")
    assert stdlib(root=tmp_path).sources == before
    assert stdlib(root=tmp_path, code=True).sources != before
    (tmp_path / "b.py").write_text(MODULE + "\n")
    assert stdlib(root=tmp_path).sources != before


def test_a_module_by_hand(tmp_path: Path) -> None:
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack/__init__.py").write_text(MODULE)
    (tmp_path / "broken.py").write_text("def (")
    (tmp_path / "silent.py").write_text("x = 1\n")
    (document,) = stdlib(root=tmp_path)
    assert document.id == "pack/__init__.py"
    assert document.text.split("\n\n") == [
        "pack", "The module.", "Indented.",
        "pack.Outer", "A class.",
        "pack.Outer.method", 'A method, "\\d".',
        "pack.Outer.method.inner", "Inside.",
        "pack.Outer.other", "Under an if.",
        "pack.fallback", "Under an except.",
    ]  # fmt: skip
    assert [d.text for d in stdlib(root=tmp_path, code=True)] == [MODULE, "x = 1\n"]


def test_no_source_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no source files"):
        stdlib(root=tmp_path)
