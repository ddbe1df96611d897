"""The rules of the house, checked on every file: floors, doors, sizes, names, docstrings, lazy imports."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
CODE = [
    path for folder in ("lmx", "data_prep", "configs") for path in sorted((CHECKOUT / folder).rglob("*.py"))
]
PACKAGES = [path for path in CODE if path.relative_to(CHECKOUT).parts[0] != "configs"]
CODE_OF_LMX = [path for path in CODE if path.is_relative_to(CHECKOUT / "lmx")]
FILE_LINES = 400
FUNCTION_LINES = 60
FORBIDDEN_NAMES = {"utils", "util", "helpers", "misc"}
HEAVY = {"jax", "numpy", "flax", "optax", "orbax", "grain", "transformers", "torch"}
FORBIDDEN_IMPORTS = {"torch", "tensorflow", "clu", "seqio"}

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
needs_linter = pytest.mark.skipif(not importlib.util.find_spec("importlinter"), reason="needs import-linter")


def name_of(path: Path) -> str:
    return path.relative_to(CHECKOUT).as_posix()


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def functions(tree: ast.Module) -> Iterator[FunctionNode]:
    return (node for node in ast.walk(tree) if isinstance(node, FunctionNode))


def public(tree: ast.Module) -> Iterator[FunctionNode | ast.ClassDef]:
    for node in tree.body:
        if isinstance(node, (FunctionNode, ast.ClassDef)) and not node.name.startswith("_"):
            yield node


def unannotated(node: FunctionNode, method: bool) -> list[str]:
    given = node.args
    named = [*given.posonlyargs, *given.args, *given.kwonlyargs, *filter(None, (given.vararg, given.kwarg))]
    bound = method and not any(ast.unparse(decorator) == "staticmethod" for decorator in node.decorator_list)
    missing = [argument.arg for argument in named[bound:] if argument.annotation is None]
    return missing + ([] if node.returns or node.name == "__init__" else ["return"])


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    program = "from importlinter.cli import lint_imports_command as command; command()"
    command = [sys.executable, "-c", program, "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


@needs_linter
def test_imports_keep_the_contracts() -> None:
    done = lint_imports(CHECKOUT)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


# One planted error for each contract: {contract: (file of the model project, the forbidden line)}.
PLANTED = {
    "floors": ("lmx/models/__init__.py", "from lmx.tasks import x"),
    "data-prep-below": ("data_prep/__init__.py", "from lmx.runs import x"),
    "data-prep-above": ("lmx/sources/__init__.py", "from data_prep import x"),
    "face": ("lmx/core/__init__.py", "import lmx"),
    "no-torch": ("lmx/hf/__init__.py", "def f():\n    import torch.nn"),
    "door-ml-collections": ("lmx/optim.py", "from ml_collections import ConfigDict"),
    "door-orbax": ("lmx/training/__init__.py", "import orbax.checkpoint"),
    "door-transformers": ("lmx/hf/__init__.py", "import transformers"),
    "door-tokenizers": ("data_prep/__init__.py", "from tokenizers import Tokenizer"),
    "door-safetensors": ("lmx/runs/__init__.py", "import safetensors.numpy"),
    "door-huggingface-hub": ("lmx/hf/__init__.py", "from huggingface_hub import HfApi"),
    "door-grain": ("lmx/training/__init__.py", "import grain"),
    "door-array-record": ("data_prep/__init__.py", "from array_record.python import array_record_module"),
    "door-tensorboardx": ("lmx/report.py", "import tensorboardX"),
    "door-matplotlib": ("lmx/report.py", "import matplotlib.pyplot"),
    "door-tensorflow-datasets": ("lmx/tasks/__init__.py", "import tensorflow_datasets"),
    "door-apache-beam": ("lmx/sources/__init__.py", "import apache_beam"),
    "door-sklearn": ("lmx/training/__init__.py", "import sklearn.metrics"),
    "door-sacrebleu": ("lmx/generation/__init__.py", "import sacrebleu"),
    "door-pyarrow": ("lmx/tasks/__init__.py", "import pyarrow"),
    "door-seqeval": ("lmx/generation/__init__.py", "import seqeval"),
    "door-rouge-score": ("lmx/generation/__init__.py", "from rouge_score import rouge_scorer"),
}


@needs_linter
def test_each_contract_catches_a_planted_error(tmp_path: Path) -> None:
    linter = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    contracts = {contract["id"]: contract["name"] for contract in linter["contracts"]}
    assert contracts.keys() == PLANTED.keys(), "each contract has its planted error here"

    shutil.copy(CHECKOUT / "pyproject.toml", tmp_path)
    (floors,) = (contract for contract in linter["contracts"] if contract["id"] == "floors")
    modules = [f"lmx/{name.strip()}" for layer in floors["layers"] for name in layer.split("|")]
    files = {path for path, _ in PLANTED.values()}
    for module in ["lmx", "data_prep", *modules]:
        package = f"{module}/__init__.py"
        file = tmp_path / (f"{module}.py" if f"{module}.py" in files or "__main__" in module else package)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    assert lint_imports(tmp_path).returncode == 0

    for path, line in PLANTED.values():
        file = tmp_path / path
        file.write_text(f"{file.read_text()}{line}\n")
    done = lint_imports(tmp_path)
    broken = {name for name in contracts.values() if f"{name} BROKEN" in " ".join(done.stdout.split())}
    assert done.returncode == 1
    assert broken == set(contracts.values())


@pytest.mark.parametrize("path", CODE, ids=name_of)
def test_files_and_functions_are_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= FILE_LINES, f"{name_of(path)} has {lines} lines, at most {FILE_LINES}: split it"
    for node in functions(parse(path)):
        length = (node.end_lineno or node.lineno) - node.lineno + 1
        assert length <= FUNCTION_LINES, f"{name_of(path)}:{node.lineno} {node.name} has {length} lines"


@pytest.mark.parametrize("path", CODE, ids=name_of)
def test_names_say_something(path: Path) -> None:
    parts = {part.strip("_") for part in path.relative_to(CHECKOUT).with_suffix("").parts}
    assert not parts & FORBIDDEN_NAMES, f"{name_of(path)}: name it after what it is"


@pytest.mark.parametrize("path", CODE, ids=name_of)
def test_torch_and_tensorflow_stay_out(path: Path) -> None:
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            imported = {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported = {(node.module or "").split(".")[0]}
        else:
            continue
        assert not imported & FORBIDDEN_IMPORTS, f"{name_of(path)}:{node.lineno} imports {imported}"


@pytest.mark.parametrize("path", CODE, ids=name_of)
def test_modules_have_docstrings(path: Path) -> None:
    assert ast.get_docstring(parse(path)), f"{name_of(path)} has no module docstring"


@pytest.mark.parametrize("path", PACKAGES, ids=name_of)
def test_public_names_have_docstrings_and_annotations(path: Path) -> None:
    missing = []
    for node in public(parse(path)):
        if not ast.get_docstring(node):
            missing.append(f"{node.name}: docstring")
        methods = [inner for inner in getattr(node, "body", []) if isinstance(inner, FunctionNode)]
        in_class = isinstance(node, ast.ClassDef)
        for inner in methods if in_class else [node]:
            missing += [f"{inner.name}: {name}" for name in unannotated(inner, in_class)]
    assert not missing, f"{name_of(path)}: {', '.join(missing)}"


def modules_after(code: str, environment: dict[str, str], cwd: Path) -> set[str]:
    """Return the top-level names in sys.modules after the code ran in a fresh interpreter."""
    tail = (
        "\nimport json, sys\nprint()\nprint(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    command = [sys.executable, "-c", code + tail]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.smoke
def test_importing_lmx_is_light(lmx_environment: dict[str, str], tmp_path: Path) -> None:
    assert not modules_after("import lmx", lmx_environment, tmp_path) & HEAVY


@pytest.mark.smoke
@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"]], ids=" ".join)
def test_help_is_light(arguments: list[str], lmx_environment: dict[str, str], tmp_path: Path) -> None:
    code = f"""
import sys
sys.argv = ["lmx", *{arguments!r}]
from lmx.__main__ import main
try:
    status = main()
except SystemExit as stop:
    status = stop.code
assert not status, status
"""
    assert not modules_after(code, lmx_environment, tmp_path) & HEAVY


def test_layers_name_every_room_of_lmx() -> None:
    linter = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    (floors,) = (contract for contract in linter["contracts"] if contract["id"] == "floors")
    declared = {name.strip() for layer in floors["layers"] for name in re.split(r"[|:]", layer)}
    entries = [
        path for path in (CHECKOUT / "lmx").iterdir() if path.suffix == ".py" or any(path.glob("*.py"))
    ]
    assert {path.stem for path in entries} - {"__init__"} == declared
