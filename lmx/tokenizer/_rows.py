"""Rows of tokens that know where they come from: of which text, of which characters, of which word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tokenizers

from lmx.core.errors import UserError
from lmx.core.examples import Cut, Row

_STRATEGIES: dict[Cut, str] = {"longest": "longest_first", "first": "only_first", "second": "only_second"}


def encode(
    backend: tokenizers.Tokenizer,
    inputs: Sequence[Any],
    *,
    length: int,
    stride: int | None,
    cut: Cut,
    special: bool,
    words: bool,
    direction: str,
) -> list[list[Row]]:
    """Return the rows of each input, a text or a pair: one, or with a stride as many as it takes.

    backend: switched to this truncation and left so.
    Errors: UserError where `length` does not hold the special tokens, the stride and one token.
    """
    pair = bool(inputs) and isinstance(inputs[0], tuple)
    least = (backend.num_special_tokens_to_add(pair) if special else 0) + (stride or 0) + 1
    if length < least:
        raise UserError(
            f"length={length}: expected at least {least}, for the special tokens, the stride of "
            f"{stride or 0} and one token"
        )
    if stride and pair and cut != "longest":  # the library panics where nothing is left beside the stride
        whole = [len(one.ids) for one in _plainly(backend, inputs, words, special)]
        kept = [
            one[0 if cut == "second" else 1]
            for one, count in zip(inputs, whole, strict=True)
            if count > length
        ]
        longest = max((len(one.ids) for one in _plainly(backend, kept, words, False)), default=0)
        if longest + least > length:
            raise UserError(
                f"length={length}: a text of {longest} tokens that is not cut leaves no room for the other; "
                f"expected at least {longest + least}"
            )
    strategy = _STRATEGIES[cut] if pair else "longest_first"
    backend.enable_truncation(length, stride=stride or 0, strategy=strategy, direction=direction)
    try:
        found = backend.encode_batch(inputs, is_pretokenized=words, add_special_tokens=special)
    except Exception as error:
        if "too short to respect" not in str(error):
            raise
        raise UserError(
            f"length={length}: the text that is not cut leaves no room for the other; raise length"
        ) from error
    return [
        [_row(each) for each in ((one, *one.overflowing) if stride is not None else (one,))] for one in found
    ]


def _plainly(
    backend: tokenizers.Tokenizer, inputs: Sequence[Any], words: bool, special: bool
) -> list[tokenizers.Encoding]:
    backend.no_truncation()
    return backend.encode_batch(inputs, is_pretokenized=words, add_special_tokens=special)


def _row(found: tokenizers.Encoding) -> Row:
    def whole(values: Sequence[int | None]) -> np.ndarray:
        return np.array([-1 if value is None else value for value in values], np.int32)

    return Row(
        ids=np.array(found.ids, np.int32),
        types=np.array(found.type_ids, np.int32),
        text=whole(found.sequence_ids),
        offsets=np.array(found.offsets, np.int32).reshape(-1, 2),
        words=whole(found.word_ids),
        cut=bool(found.overflowing),
    )
