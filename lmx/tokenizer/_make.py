"""Tokenizers that are made from texts: byte-level BPE, and characters.

Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2 (byte-level
BPE).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from lmx.core.errors import UserError, did_you_mean
from lmx.tokenizer._forms import byte_level_bpe
from lmx.tokenizer._load import load
from lmx.tokenizer._settings import DEFAULTS, END, GPT2, Settings
from lmx.tokenizer._tokenizer import Tokenizer


def train_bpe(texts: Iterable[str], size: int) -> Tokenizer:
    """Return a byte-level BPE as GPT-2's, of at most `size` ids: 256 bytes, merges, and `<|endoftext|>` last.

    Few texts may have fewer merges to give than asked for; `vocab_size` tells. The same texts and size give
    the same tokenizer. Raises UserError for a size below 257.
    """
    if size < 257:
        raise UserError(f"a byte-level vocabulary of {size} ids: it needs at least 257 (256 bytes and {END})")
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    trainer = trainers.BpeTrainer(
        vocab_size=size - 1,
        show_progress=False,
        special_tokens=[],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    backend.train_from_iterator(texts, trainer)
    learned = json.loads(backend.to_str())["model"]
    # The trainer puts special tokens first; GPT-2 has its own last.
    vocab = {**learned["vocab"], END: len(learned["vocab"])}
    made = byte_level_bpe(vocab, [(a, b) for a, b in learned["merges"]], special=(END,))
    return Tokenizer(made, kind="bpe", settings=Settings(special=DEFAULTS[GPT2]))


def characters(texts: Iterable[str]) -> Tokenizer:
    """Return a tokenizer with one id for each character of the texts, sorted; it has no special token.

    A character that the texts do not have is a UserError when it is encoded.

    >>> characters(["hello"]).encode("hole")
    [1, 3, 2, 0]
    """
    found: set[str] = set()
    for text in texts:
        found.update(text)
    if not found:
        raise UserError("no characters: the texts are empty")
    # A BPE without merges is one id a character, and far faster than a vocabulary of one-letter words.
    backend = tokenizers.Tokenizer(models.BPE({c: i for i, c in enumerate(sorted(found))}, []))
    backend.decoder = decoders.Fuse()
    return Tokenizer(backend, kind="characters")


def make(name: str, texts: Iterable[str], **kw: Any) -> Tokenizer:
    """Return the tokenizer of a config: `bpe` (size=), `characters`, or `file` (path=), which reads no text.

    Raises UserError for an unknown name or argument, naming the nearest.
    """
    accepted: dict[str, tuple[str, ...]] = {"bpe": ("size",), "characters": (), "file": ("path",)}
    if name not in accepted:
        raise UserError(
            f"no tokenizer {name!r}{did_you_mean(name, accepted)}; there is: {', '.join(accepted)}"
        )
    for key in kw:
        if key not in accepted[name]:
            raise UserError(
                f"tokenizer {name!r} has no {key!r}{did_you_mean(key, accepted[name])}; "
                f"it takes: {', '.join(accepted[name]) or 'nothing'}"
            )
    lacking = [key for key in accepted[name] if key not in kw]
    if lacking:
        raise UserError(f"tokenizer {name!r} needs {lacking[0]}=")
    if name == "bpe":
        return train_bpe(texts, kw["size"])
    return characters(texts) if name == "characters" else load(kw["path"])
