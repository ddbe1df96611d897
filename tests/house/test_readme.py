"""The README's commands are what they claim: one line each, naming configs, keys and commands that exist."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
TEXT = (CHECKOUT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))
MARKED = dict(re.findall(r"^<!-- command: (\w+) -->\n```bash\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL))
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
LMX = re.compile(r"(?:^|/)lmx$")


def commands(block: str) -> list[list[str]]:
    """Return the words of each command of a && chain.

    >>> commands("a 'b c' && d")
    [['a', 'b c'], ['d']]
    """
    chains: list[list[str]] = [[]]
    for word in shlex.split(block):
        if word == "&&":
            chains.append([])
        else:
            chains[-1].append(word)
    return chains


def lmx_commands() -> list[list[str]]:
    found = [words for block in BLOCKS for line in block.splitlines() for words in commands(line)]
    return [words[1:] for words in found if words and LMX.search(words[0])]


def load_config(reference: str) -> Any:
    path = CHECKOUT / reference if reference.endswith(".py") else CHECKOUT / "configs" / f"{reference}.py"
    assert path.is_file(), f"README.md names the config {reference!r}, but there is no {path}"
    from lmx.core import config

    return config.load(str(path))


def test_the_two_commands_are_marked() -> None:
    assert MARKED.keys() == {"train", "test"}
    assert len(re.findall("<!-- command:", TEXT)) == 2


@pytest.mark.parametrize("block", MARKED.values(), ids=MARKED)
def test_a_marked_block_is_one_chain(block: str) -> None:
    assert len(block.splitlines()) == 1
    assert not set(block) & set(";|<>$`\\"), "a plain && chain can be pasted into any shell"
    chain = commands(block)
    assert all(chain)
    assert chain[0][:3] == ["python3", "-m", "venv"], "it starts from nothing but Python"
    made = chain[0][3]
    assert all(words[0].startswith(f"{made}/bin/") for words in chain[1:]), "nothing outside the environment"


def test_the_extras_it_installs_exist() -> None:
    extras = {name for group in re.findall(r"\.\[([\w,]+)\]", TEXT) for name in group.split(",")}
    assert extras
    assert extras <= PROJECT["project"]["optional-dependencies"].keys()


def test_the_tools_it_starts_are_installed() -> None:
    scripts = {*PROJECT["project"]["scripts"], "pytest", "pip"}
    assert {Path(words[0]).name for block in MARKED.values() for words in commands(block)[1:]} <= scripts


@pytest.mark.parametrize("words", lmx_commands(), ids=" ".join)
def test_configs_and_flags_exist(words: list[str]) -> None:
    command, *rest = words
    assert (CHECKOUT / "lmx" / "commands" / f"{command.replace('-', '_')}.py").is_file()
    flags = dict(re.findall(r"--([\w.-]+)[= ](\S+)", " ".join(rest)))
    if "config" in flags:
        from lmx.core import config

        changes = {flag.removeprefix("config."): value for flag, value in flags.items() if flag != "config"}
        found = load_config(flags["config"])
        config.override(found, {name: value for name, value in changes.items() if name != "workdir"})


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert "://" in target or (CHECKOUT / target).exists(), target
