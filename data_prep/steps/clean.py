"""Clean: one Unicode form, one kind of line end, no control characters."""

from __future__ import annotations

import re
import unicodedata

# Cc, all of it but \t and \n: C0, DEL and C1.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def clean(text: str) -> str:
    r"""Return the text in NFC, with \n line ends, and without control characters (but \t) or a leading BOM.

    Cleaning twice is cleaning once: characters go before the text is composed, which may join their
    neighbours.

    >>> clean("\ufeffcafe\u0301\r\nbell\x07")
    'café\nbell'
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = _CONTROL.sub("", text).lstrip("\ufeff")
    return unicodedata.normalize("NFC", text)
