"""The tokenizer itself: text to ids and back, batches for a model, and a folder that others can open."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from lmx.core.errors import UserError
from lmx.core.examples import Cut, Row
from lmx.core.log import write_whole
from lmx.core.rows import canonical
from lmx.core.vocabulary import Vocabulary
from lmx.tokenizer._files import blamed
from lmx.tokenizer._forms import made_by_class
from lmx.tokenizer._rows import encode
from lmx.tokenizer._settings import GENERIC, Settings, mark_special


class Tokenizer:
    """Text to ids and back.

    `vocab_size`: the number of ids, added tokens included; the ids are 0 .. vocab_size - 1.
    `bos_id`, `eos_id`, `pad_id`, `unk_id`, `cls_id`, `sep_id`, `mask_id`: the special tokens' ids, or None.
    `padding_side`: "right" or "left". `model_max_length`: the most ids of a text, or None.
    `kind`: "bpe", "characters" or "file": where it came from.
    `sha256`: of the canonical tokenizer.json, which is what `save` writes.
    `ignored`: the keys of the source's tokenizer_config.json that lmx neither reads nor saves.
    """

    def __init__(self, backend: tokenizers.Tokenizer, *, kind: str, settings: Settings | None = None):
        """Take over a tokenizer of the library; it must not be used elsewhere any more.

        settings: what goes with it; each special token it names has an id. Raises UserError where the ids
        are not 0 .. n - 1.
        """
        # A tokenizer.json may ask for cutting and padding, which would silently drop the rest of a document.
        backend.no_truncation()
        backend.no_padding()
        self.settings = settings or Settings()
        mark_special(backend, self.settings)
        vocab = backend.get_vocab(with_added_tokens=True)
        largest = max(vocab.values(), default=-1)
        if largest + 1 != len(vocab):
            raise UserError(
                f"the tokenizer has {len(vocab)} ids, but the largest is {largest}: "
                "ids must be 0 .. n - 1 without gaps"
            )
        self.kind = kind
        self.vocab_size = len(vocab)
        special = self.settings.special
        ids = {key: vocab[name] for key, name in special.items()}
        self.bos_id, self.eos_id, self.unk_id = (ids.get(f"{name}_token") for name in ("bos", "eos", "unk"))
        self.pad_id, self.mask_id = ids.get("pad_token"), ids.get("mask_token")
        self.cls_id, self.sep_id = ids.get("cls_token"), ids.get("sep_token")
        self.padding_side = self.settings.padding_side
        self.model_max_length = self.settings.model_max_length
        self.ignored = self.settings.ignored

        spec = json.loads(backend.to_str())
        self._json = canonical(spec)
        self.sha256 = hashlib.sha256(self._json).hexdigest()
        self._switches = made_by_class(spec, vocab, self.settings)
        self._byte_level, self._known = _alphabet(spec)
        # "<|endoftext|>" in a user's text is text; the library forgets this switch when it saves.
        backend.encode_special_tokens = True
        self._backend = backend
        self._batching: tokenizers.Tokenizer | None = None
        self._lock = threading.Lock()

    def encode(self, text: str) -> list[int]:
        """Return the ids of the text, without special tokens; one spelled out in the text is plain text.

        Raises UserError for a character that has no id, naming it.
        """
        return self.encode_many([text])[0]

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text; the same as `encode` on each, in parallel."""
        for text in texts:
            self._check(text)
        with blamed("the tokenizer cannot encode the text"):
            found = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [one.ids for one in found]

    def decode(self, ids: Iterable[int], skip_special: bool = False) -> str:
        """Return the text of the ids; bytes that are no UTF-8 come out as U+FFFD."""
        ids = [int(i) for i in ids]
        if ids and not 0 <= min(ids) <= max(ids) < self.vocab_size:
            raise UserError(
                f"ids from {min(ids)} to {max(ids)}, but the vocabulary has 0 .. {self.vocab_size - 1}"
            )
        with blamed("the tokenizer cannot decode the ids"):
            return self._backend.decode(ids, skip_special_tokens=skip_special)

    def batch(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        length: int,
        multiple: int | None = None,
        special: bool = True,
    ) -> tuple[dict[str, np.ndarray], int]:
        """Return what a model reads of the texts, or of the pairs of texts, and how many of them were cut.

        The arrays are `input_ids`, `attention_mask` and `token_type_ids`, int32 (B, T), equal to
        transformers' `tokenizer(texts, pairs, truncation=True, padding=…, max_length=length)`: BERT's rows
        are [CLS] A [SEP] B [SEP] of types 0 and 1, a special token spelled out in a text is that token, and
        of a pair the longer text is cut first.

        length: the most ids of a row. multiple: None makes every row `length` long; a number, as long as the
        longest row, rounded up to a multiple of it but not beyond `length`. special: add special tokens.
        Rows are filled up on `padding_side` with `pad_id`, or, in a tokenizer without one such as GPT-2's,
        with `eos_id` (or 0), which attention_mask 0 marks as no part of the text.
        Raises UserError where `length` does not hold the special tokens alone.

        >>> arrays, cut = bert.batch(["Hello world"], length=6)      # doctest: +SKIP
        >>> arrays["input_ids"], cut                                 # doctest: +SKIP
        (array([[ 101, 7592, 2088,  102,    0,    0]], dtype=int32), 0)
        """
        if pairs is not None and len(pairs) != len(texts):
            raise UserError(f"{len(texts)} texts with {len(pairs)} second texts; expected as many")
        if multiple is not None and multiple < 1:
            raise UserError(f"multiple={multiple}: expected at least 1")
        found = self._rows(texts, pairs, length, special)
        longest = max((len(one.ids) for one in found), default=0)
        T = length if multiple is None else min(length, -(-longest // multiple) * multiple)
        shape = (len(found), T)
        arrays = {
            "input_ids": np.full(shape, self.filler, np.int32),
            "attention_mask": np.zeros(shape, np.int32),
            "token_type_ids": np.zeros(shape, np.int32),
        }
        for row, one in enumerate(found):
            count = len(one.ids)
            here = slice(T - count, T) if self.padding_side == "left" else slice(0, count)
            arrays["input_ids"][row, here] = one.ids
            arrays["attention_mask"][row, here] = 1
            arrays["token_type_ids"][row, here] = one.type_ids
        return arrays, sum(bool(one.overflowing) for one in found)

    @property
    def filler(self) -> int:
        """The id that fills rows up: `pad_id`, or in a tokenizer without one `eos_id`, or 0."""
        return next((i for i in (self.pad_id, self.eos_id) if i is not None), 0)

    def rows(
        self,
        texts: Sequence[Any],
        pairs: Sequence[Any] | None = None,
        *,
        length: int,
        stride: int | None = None,
        cut: Cut = "longest",
        words: bool = False,
        special: bool = True,
    ) -> list[list[Row]]:
        """Return the rows of each text, or pair of texts: ids with where they come from, not filled up.

        length: the most ids of a row. stride: None cuts what is too long; a number goes on with a further
        row that begins with that many tokens of the one before. cut: which text of a pair gives way. words:
        texts are lists of words. special: add special tokens.
        Raises UserError where `length` is too short, and where the text that should give way cannot.
        """
        if pairs is not None and len(pairs) != len(texts):
            raise UserError(f"{len(texts)} texts with {len(pairs)} second texts; expected as many")
        given = [*texts, *(pairs or ())]
        for text in given:
            for part in text if words else (text,):
                self._check(part)
        if words and self._byte_level:  # its words carry the space before them
            given = [[word if i == 0 else f" {word}" for i, word in enumerate(text)] for text in given]
        first, second = given[: len(texts)], given[len(texts) :]
        inputs = first if pairs is None else list(zip(first, second, strict=True))
        with self._lock, blamed("the tokenizer cannot encode the texts"):
            return encode(
                self._for_batches(),
                inputs,
                length=length,
                stride=stride,
                cut=cut,
                special=special,
                words=words,
                direction=self.settings.truncation_side,
            )

    def vocabulary(self) -> Vocabulary:
        """Return what hiding words needs to know of the ids.

        An id continues a word where its piece is marked so (WordPiece's `##`), or, in a byte-level
        vocabulary, where it begins with a letter or a figure and not with a space.
        """
        added = self._backend.get_added_tokens_decoder()
        special = {index for index, token in added.items() if token.special}
        vocab = self._backend.get_vocab(with_added_tokens=True)
        special |= {vocab[name] for name in self.settings.special.values()}
        inner = np.zeros(self.vocab_size, bool)
        for piece, index in vocab.items():
            inner[index] = piece[:1].isalnum() if self._byte_level else piece.startswith("##")
        return Vocabulary(self.vocab_size, self.mask_id, np.array(sorted(special), np.int32), inner)

    def check_vocabulary(self, size: int, where: str) -> None:
        """Raise UserError where a model with `size` embeddings cannot take every id; `where` names the model.

        A model may well have more: vocabularies are padded to round numbers.
        """
        if self.vocab_size > size:
            raise UserError(
                f"{where}: the tokenizer has {self.vocab_size} ids, but the model's vocabulary only {size}; "
                "expected the tokenizer that the model was made with"
            )

    def token_bytes(self, token: int) -> int:
        """Return how many bytes of UTF-8 text one id stands for.

        Exact for byte-level and character vocabularies, where an id may be a part of a character; for others
        the length of the id decoded alone.
        """
        piece = self._backend.id_to_token(token)
        if self._byte_level and piece is not None and set(piece) <= _BYTES.keys():
            return len(piece)  # one letter of the byte alphabet a byte
        return len(self.decode([token]).encode())

    def save(self, folder: str | Path, *, model_max_length: int | None = None) -> None:
        """Write tokenizer.json and tokenizer_config.json, which transformers' AutoTokenizer opens offline.

        model_max_length: in place of the tokenizer's own. The same tokenizer writes the same bytes. Each file
        is written beside its place and renamed into it. transformers reads a special token spelled out in a
        text as that token; `encode` does not.
        """
        kept, switches = self.settings, self._switches
        config: dict[str, Any] = {
            "tokenizer_class": GENERIC if switches is None else kept.class_name,
            "clean_up_tokenization_spaces": False,
            **kept.carried,
            **(switches or {}),
            **kept.special,
        }
        sides = {"padding_side": kept.padding_side, "truncation_side": kept.truncation_side}
        config |= {key: side for key, side in sides.items() if side != "right"}  # which is the default
        length = model_max_length or kept.model_max_length
        if length is not None:
            config["model_max_length"] = length
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(folder / "tokenizer.json", self._json)
            write_whole(
                folder / "tokenizer_config.json",
                json.dumps(config, indent=2, sort_keys=True).encode() + b"\n",
            )
        except OSError as error:
            raise UserError(f"{folder}: the tokenizer cannot be saved ({error.strerror})") from error

    def _rows(
        self, texts: Sequence[str], pairs: Sequence[str] | None, length: int, special: bool
    ) -> list[tokenizers.Encoding]:
        for text in (*texts, *(pairs or ())):
            self._check(text)
        inputs = list(texts) if pairs is None else list(zip(texts, pairs, strict=True))
        with self._lock, blamed("the tokenizer cannot encode the texts"):
            batching = self._for_batches()
            least = batching.num_special_tokens_to_add(pairs is not None) if special else 1
            if length < max(least, 1):
                raise UserError(f"length={length}: expected at least {max(least, 1)}, for the special tokens")
            batching.enable_truncation(length, direction=self.settings.truncation_side)
            return batching.encode_batch(inputs, add_special_tokens=special)

    def _for_batches(self) -> tokenizers.Tokenizer:
        if self._batching is None:  # the library keeps its settings with the tokenizer: one for each use
            self._batching = tokenizers.Tokenizer.from_str(self._json.decode())
            self._batching.encode_special_tokens = self.settings.carried.get("split_special_tokens", False)
        return self._batching

    def _check(self, text: str) -> None:
        try:
            data = text.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"character {error.start} of the text is {text[error.start]!r}, half of a pair"
            ) from error
        if self._known is None:
            return
        if self._byte_level:
            if not set(data) <= self._known:
                unknown = next(c for c in text if not set(c.encode()) <= self._known)
                raise UserError(f"{unknown!r} has no id: the vocabulary lacks its bytes")
        elif not self._known.issuperset(text):
            at = next(i for i, c in enumerate(text) if c not in self._known)
            raise UserError(
                f"{text[at]!r} (character {at} of the text) has no id: it is not among "
                f"the {self.vocab_size} known characters; use a tokenizer that knows every text "
                "(tokenizer.name=bpe), or add the character to the training text"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        return _revive, (self._json.decode(), self.kind, self.settings)


def _revive(spec: str, kind: str, settings: Settings) -> Tokenizer:
    return Tokenizer(tokenizers.Tokenizer.from_str(spec), kind=kind, settings=settings)


def _byte_letters() -> dict[str, int]:
    """Return {letter: byte}: GPT-2 writes each byte as a printable letter; those that are not move up to
    256+."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    moved = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(moved)}


_BYTES = _byte_letters()


def _alphabet(spec: dict[str, Any]) -> tuple[bool, frozenset[Any] | None]:
    """Return (byte level?, the bytes or characters that have an id, or None where nothing can be unknown).

    A BPE without an unknown token drops in silence what it has no id for; that must be an error instead.
    """
    model, before = spec["model"], spec.get("pre_tokenizer") or {}
    stages = [before, *before.get("pretokenizers", [])]
    byte_level = any(stage.get("type") == "ByteLevel" for stage in stages)
    if model.get("type") != "BPE" or model.get("unk_token") is not None or model.get("byte_fallback"):
        return byte_level, None
    if byte_level:
        known = frozenset(_BYTES[c] for c in _BYTES if c in model["vocab"])
        return True, None if len(known) == 256 else known
    # A normalizer may turn an unknown character into a known one, so there only the plain case is checked.
    plain = not spec.get("normalizer") and not before
    return False, frozenset(c for c in model["vocab"] if len(c) == 1) if plain else None
