"""The embedded corpus: English reference text and docstrings of the Python that is running.

The text is read from the installed source files with `ast`; no module is imported.
"""

from __future__ import annotations

import ast
import hashlib
import os
import platform
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from data_prep.read import Corpus, Document, Source
from lmx.core.errors import UserError

# Tests, bundled third-party code and what differs from one installation to the next.
_SKIPPED = {
    "site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__",
    "idlelib", "turtledemo", "lib-dynload", "_bundled", "__phello__",
}  # fmt: skip
_TOPICS = "pydoc_data/topics.py"
_FORMAT = 1  # of what a file's documents look like: part of the fingerprint


def stdlib(*, code: bool = False, root: str | Path | None = None) -> Corpus:
    """Return the standard library's text: a document for each topic of the language reference, and one for
    each module, its docstrings each after the name of what they document.

    code: the modules' source text instead of their docstrings. root: another folder than the running
    Python's. The one source's sha256 is over the files read, so it differs between releases of Python. Raises
    UserError where the source files are not installed.
    """
    folder = Path(root if root is not None else sysconfig.get_path("stdlib"))
    names = _modules(folder)
    if not names:
        raise UserError(
            f"{folder}: no source files of the standard library here; give a text of your own instead"
        )
    digest, size = hashlib.sha256(f"{_FORMAT} {code}\0".encode()), 0
    for name in names:
        data = (folder / name).read_bytes()
        digest.update(f"{name}\0{len(data)}\0".encode())
        digest.update(data)
        size += len(data)
    label = f"python {platform.python_version()} standard library" + (", source code" if code else "")

    def load() -> Iterator[Document]:
        for name in names:
            yield from _documents(folder / name, name, label, code)

    return Corpus((Source(label, size, digest.hexdigest()),), load)


def _modules(folder: Path) -> list[str]:
    found = []
    for here, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in _SKIPPED and not name.startswith("config-")]
        # _sysconfigdata_*.py is written by the build: its bytes depend on the machine.
        found += [
            Path(here, name).relative_to(folder).as_posix()
            for name in files
            if name.endswith(".py") and not name.startswith(("_sysconfigdata", "__hello__"))
        ]
    return sorted(found)


def _documents(path: Path, name: str, label: str, code: bool) -> Iterator[Document]:
    data = path.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a few modules hold escapes that newer Pythons warn of
        try:
            tree = ast.parse(data)
        except (SyntaxError, ValueError):
            return  # templates and deliberately broken files
    if name == _TOPICS:
        yield from _topics(tree, label)
        return
    if code:
        text = data.decode("utf-8", "replace")
    else:
        module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        parts = list(_docstrings(tree, module))
        text = "\n\n".join(part for pair in parts for part in pair)
    if text:
        yield Document(name, text, label)


def _topics(tree: ast.Module, label: str) -> Iterator[Document]:
    """Yield the topics of `topics = {name: text, ...}`."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            for topic, text in sorted(ast.literal_eval(node.value).items()):
                yield Document(f"topic {topic}", text, label)


def _docstrings(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    """Yield (name, docstring) of a module and of what it defines, in the order of the source."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        found = ast.get_docstring(node)
        if found:
            yield name, found
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _docstrings(child, f"{name}.{child.name}")
        elif isinstance(child, ast.stmt | ast.excepthandler):  # definitions under `if`, `try` and `with`
            yield from _docstrings(child, name)
