"""Sentences: a text into the stretches that pairs of sentences are made of."""

from __future__ import annotations

import re

_END = re.compile(r"(?<=[.!?])[\"')\]”’]*\s+(?=[\"'(\[“‘]*[A-Z0-9])|(?<=[。！？])")


def sentences(text: str) -> list[str]:
    r"""Return the lines of a text, each cut where a sentence ends; blank ones are left out.

    A sentence ends at `.`, `!` or `?` (and what closes a quotation) before white space and a capital or a
    figure, and at their Chinese and Japanese forms. An abbreviation before a name is cut as well: what
    pairs need is stretches of text in their order, not grammar.

    >>> sentences("It rains. \"Does it?\" No!\\n\\nA new line")
    ['It rains.', '"Does it?"', 'No!', 'A new line']
    """
    found = []
    for line in text.splitlines():
        at = 0
        for match in _END.finditer(line):
            closing = match.group().rstrip()
            found.append(line[at : match.start() + len(closing)].strip())
            at = match.end()
        found.append(line[at:].strip())
    return [sentence for sentence in found if sentence]
