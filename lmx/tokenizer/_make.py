"""Tokenizers that are made from texts: byte-level BPE, WordPiece, and characters.

Sources: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2 (byte-level
BPE); Devlin et al. 2019, "BERT", section 3 (WordPiece).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers

from lmx.core.errors import UserError, did_you_mean
from lmx.tokenizer._forms import byte_level_bpe, word_piece
from lmx.tokenizer._load import load
from lmx.tokenizer._settings import BERT, DEFAULTS, END, GPT2, Settings
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


def train_word_piece(texts: Iterable[str], size: int, lowercase: bool = True) -> Tokenizer:
    """Return a WordPiece tokenizer as BERT's, of at most `size` ids: [PAD], [UNK], [CLS], [SEP], [MASK], the
    characters of the texts, and pieces.

    lowercase: also takes accents off, as bert-base-uncased does. The same texts and options give the same
    tokenizer. A character that the texts do not have is [UNK] later. Raises UserError where the size does not
    hold the characters.
    """
    special = [DEFAULTS[BERT][f"{name}_token"] for name in ("pad", "unk", "cls", "sep", "mask")]
    switches = {"do_lower_case": lowercase, "strip_accents": None, "tokenize_chinese_chars": True}
    empty = word_piece({name: i for i, name in enumerate(special)}, DEFAULTS[BERT], switches)
    words: Counter[str] = Counter()
    for text in texts:
        clean = empty.normalizer.normalize_str(text)
        words.update(word for word, _ in empty.pre_tokenizer.pre_tokenize_str(clean))
    vocab = {piece: i for i, piece in enumerate([*special, *_pieces(words, size - len(special))])}
    if len(vocab) > size:
        raise UserError(
            f"tokenizer.size={size}: the texts' characters alone, at the beginning of a word and inside, "
            f"take {len(vocab)} ids; raise it"
        )
    made = word_piece(vocab, DEFAULTS[BERT], switches)
    made.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special])
    return Tokenizer(made, kind="wordpiece", settings=Settings(special=DEFAULTS[BERT], class_name=BERT))


def _pieces(words: Mapping[str, int], size: int) -> list[str]:
    """Return the pieces of a WordPiece vocabulary, `##` before those that continue a word.

    The library's own trainer numbers the continuing characters in the order of a hash table, so that ties
    fall differently each time. Here a character inside a word is one of its own, in a private plane of
    Unicode, and the trainer of BPE, which numbers characters in their order, sees no difference.
    """
    inner = {c: chr(0xF0000 + i) for i, c in enumerate(sorted({c for word in words for c in word[1:]}))}
    outer = {mark: c for c, mark in inner.items()}
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    firsts = {word[0] for word in words}
    trainer = trainers.BpeTrainer(
        vocab_size=size, show_progress=False, initial_alphabet=sorted(firsts | outer.keys())
    )
    marked = ((word[0] + "".join(inner[c] for c in word[1:]), count) for word, count in sorted(words.items()))
    backend.train_from_iterator((f"{word} " * count for word, count in marked), trainer)
    learned = json.loads(backend.to_str())["model"]["vocab"]
    found = []
    for piece in sorted(learned, key=learned.__getitem__):
        plain = "".join(outer.get(c, c) for c in piece)
        found.append(f"##{plain}" if piece[0] in outer else plain)
    return found


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
    """Return the tokenizer of a config: `bpe` (size=), `wordpiece` (size=, lowercase=), `characters`, or
    `file` (path=), which reads no text.

    Raises UserError for an unknown name or argument, naming the nearest.
    """
    accepted: dict[str, tuple[str, ...]] = {
        "bpe": ("size",),
        "wordpiece": ("size", "lowercase"),
        "characters": (),
        "file": ("path",),
    }
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
    if name == "wordpiece":
        return train_word_piece(texts, **kw)
    return characters(texts) if name == "characters" else load(kw["path"])
