"""References to models of the Hugging Face hub: `hf://ORG/NAME@REVISION`."""

from __future__ import annotations

import os
import re

from lmx.core.errors import UserError
from lmx.hf._safetensors import quoted

SCHEME = "hf://"
EXAMPLE = "hf://openai-community/gpt2@607a30d783dfa663caf39e06633721c8d4cfcd7e"

_NAME = re.compile(r"\w([\w.-]{0,94}\w)?", re.ASCII)
_PAGE = re.compile(r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/+(.*)", re.ASCII)
_PLACE = re.compile(r"([^/@]+/[^/@]+)/(?:tree|blob|resolve|commit)/([^/@]+)(?:/.*)?")


def is_reference(text: str) -> bool:
    """Tell whether a reference names a model of the hub."""
    return text.startswith(SCHEME)


def parse(text: str) -> tuple[str, str | None]:
    """Return the repository and the revision that a reference names; None where it names no revision.

    Errors: UserError, with an example, for anything but `hf://ORG/NAME@REVISION`, where ORG/ and @REVISION
    may be left out.

    >>> parse("hf://openai-community/gpt2@main"), parse("hf://gpt2")
    (('openai-community/gpt2', 'main'), ('gpt2', None))
    """
    repo, at, revision = text.removeprefix(SCHEME).partition("@")
    names = repo.split("/")
    fault = ""
    if not is_reference(text):
        fault = f"does not begin with {SCHEME}"
    elif len(names) > 2:
        fault = "has more than one slash in its name"
    elif not all(_NAME.fullmatch(name) and not re.search(r"--|\.\.|\.git$", name) for name in names):
        fault = "is not named as the hub names models (letters, digits and single . - or _ inside)"
    elif at and (not revision.isprintable() or re.search(r"^$|\s|\.\.", revision)):
        fault = "names no possible revision after @"
    if fault:
        raise UserError(f"{quoted(text)} {fault}; expected hf://ORG/NAME@REVISION, such as {EXAMPLE}")
    return repo, revision if at else None


def suggestion(reference: str) -> str:
    """Return `"; did you mean hf://ORG/NAME?"` for a reference that is a slip for that, or an empty string.

    For the message about a name that is neither a reference nor a folder. A name on its own, or one whose
    first part is there as a folder, is taken for a path that was mistyped.

    >>> suggestion("google-bert/bert-base-uncased"), suggestion("https://huggingface.co/a/b/tree/main")
    ('; did you mean hf://google-bert/bert-base-uncased?', '; did you mean hf://a/b@main?')
    >>> suggestion("hf:/a/b"), suggestion("runs"), suggestion("/a/b")
    ('; did you mean hf://a/b?', '', '')
    """
    text = reference.strip()
    name = re.sub(r"hf:/*", "", text, count=1) if text.startswith("hf:") else text
    if (page := _PAGE.fullmatch(name)) is not None:
        name = re.sub(r"[?#].*", "", page[1]).rstrip("/")
        name = _PLACE.sub(r"\1@\2", name)
    elif name == text and ("/" not in name or os.path.isdir(name.split("/")[0])):
        return ""
    meant = SCHEME + name
    if meant == reference:
        return ""
    try:
        parse(meant)
    except UserError:
        return ""
    return f"; did you mean {meant}?"
