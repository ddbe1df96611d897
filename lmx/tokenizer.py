"""Text to ids and back: byte-level BPE, characters, or a tokenizer that exists already.

Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2 (byte-level
BPE).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers

from lmx.core.errors import UserError, did_you_mean, one_line
from lmx.core.log import write_whole
from lmx.core.rows import canonical

END = "<|endoftext|>"
"""GPT-2's one special token: it begins and ends a document."""

_VOCABULARIES = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))  # transformers' names, OpenAI's
_SPECIAL = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "pad", "cls", "sep", "mask"))
_ENDS = (END, "</s>")  # taken as the end of a text where no tokenizer_config.json names one


class Tokenizer:
    """Text to ids and back.

    `vocab_size`: the number of ids, added tokens included; the ids are 0 .. vocab_size - 1.
    `eos_id`: the id that ends a document, or None.
    `kind`: "bpe", "characters" or "file": where it came from.
    `sha256`: of the canonical tokenizer.json, which is what `save` writes.
    """

    def __init__(self, backend: tokenizers.Tokenizer, *, kind: str, special: Mapping[str, str] | None = None):
        """Take over a tokenizer of the library; it must not be used elsewhere any more.

        special: {"eos_token": name, ...}, as tokenizer_config.json has them. Raises UserError where the ids
        are not 0 .. n - 1.
        """
        # A tokenizer.json may ask for cutting and padding, which would silently drop the rest of a document.
        backend.no_truncation()
        backend.no_padding()
        vocab = backend.get_vocab(with_added_tokens=True)
        largest = max(vocab.values(), default=-1)
        if largest + 1 != len(vocab):
            raise UserError(
                f"the tokenizer has {len(vocab)} ids, but the largest is {largest}: "
                "ids must be 0 .. n - 1 without gaps"
            )
        self.kind = kind
        self.vocab_size = len(vocab)
        self._special = dict(special or {})
        self.eos_id: int | None = vocab[self._special["eos_token"]] if "eos_token" in self._special else None
        self._json = canonical(json.loads(backend.to_str()))
        self.sha256 = hashlib.sha256(self._json).hexdigest()
        # "<|endoftext|>" in a user's text is text; the library forgets this switch when it saves.
        backend.encode_special_tokens = True
        self._backend = backend
        self._byte_level, self._known = _alphabet(json.loads(self._json))

    def encode(self, text: str) -> list[int]:
        """Return the ids of the text, without special tokens; one spelled out in the text is plain text.

        Raises UserError for a character that has no id, naming it.
        """
        return self.encode_many([text])[0]

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text; the same as `encode` on each, in parallel."""
        for text in texts:
            self._check(text)
        return [found.ids for found in self._backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Iterable[int], skip_special: bool = False) -> str:
        """Return the text of the ids; bytes that are no UTF-8 come out as U+FFFD."""
        ids = [int(i) for i in ids]
        if ids and not 0 <= min(ids) <= max(ids) < self.vocab_size:
            raise UserError(
                f"ids from {min(ids)} to {max(ids)}, but the vocabulary has 0 .. {self.vocab_size - 1}"
            )
        return self._backend.decode(ids, skip_special_tokens=skip_special)

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

        The same tokenizer writes the same bytes. Each file is written beside its place and renamed into it.
        transformers reads a special token spelled out in a text as that token; lmx does not.
        """
        config: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
        }
        config |= self._special
        if "eos_token" in self._special:  # GPT-2 has one token for all three
            config = dict.fromkeys(("bos_token", "unk_token"), self._special["eos_token"]) | config
        if model_max_length is not None:
            config["model_max_length"] = model_max_length
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
        return _revive, (self._json.decode(), self.kind, self._special)


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
    return Tokenizer(
        _gpt2(vocab, [(a, b) for a, b in learned["merges"]]), kind="bpe", special={"eos_token": END}
    )


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


def load(path: str | Path) -> Tokenizer:
    """Return the tokenizer of a tokenizer.json, or of a folder.

    A folder holds tokenizer.json, or vocab.json + merges.txt, or encoder.json + vocab.bpe (GPT-2's own
    names); its tokenizer_config.json, if any, names the special tokens. Raises UserError naming the file and
    the reason.
    """
    path = Path(path)
    if path.is_file():
        return _from_json(path)
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder; expected a tokenizer.json or a folder with one")
    if (path / "tokenizer.json").is_file():
        return _from_json(path / "tokenizer.json")
    for vocab, merges in _VOCABULARIES:
        here = [(path / name).is_file() for name in (vocab, merges)]
        if all(here):
            return _from_vocabulary(path / vocab, path / merges)
        if any(here):
            raise UserError(f"{path}: {vocab} and {merges} belong together, but only one of them is there")
    raise UserError(
        f"{path}: no tokenizer (tokenizer.json, vocab.json + merges.txt, or encoder.json + vocab.bpe)"
    )


def exists(folder: str | Path) -> bool:
    """Tell whether a folder holds a tokenizer's files."""
    pairs = ((Path(folder) / one, Path(folder) / two) for one, two in _VOCABULARIES)
    return (Path(folder) / "tokenizer.json").is_file() or any(a.is_file() and b.is_file() for a, b in pairs)


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


def _gpt2(
    vocab: dict[str, int], merges: list[tuple[str, str]], unknown: str | None = None
) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE(vocab, merges, unk_token=unknown))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = decoders.ByteLevel()
    special = [name for name in (END, unknown) if name is not None and name in vocab]
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special])
    return backend


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not JSON ({one_line(error)})") from error


def _from_json(path: Path) -> Tokenizer:
    spec = _read(path)
    if not isinstance(spec, dict) or "model" not in spec:
        raise UserError(f"{path}: is not a tokenizer.json (it has no 'model')")
    try:
        backend = tokenizers.Tokenizer.from_str(json.dumps(spec))
    except Exception as error:  # the library raises plain Exception
        raise UserError(f"{path}: the tokenizer cannot be opened ({one_line(error)})") from error
    return _named(backend, path)


def _from_vocabulary(vocab_path: Path, merges_path: Path) -> Tokenizer:
    vocab = _read(vocab_path)
    if not isinstance(vocab, dict) or not all(isinstance(i, int) for i in vocab.values()):
        raise UserError(f"{vocab_path}: is not a vocabulary (expected an object of token: id)")
    try:
        lines = merges_path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{merges_path}: cannot be read ({one_line(error)})") from error
    merges = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or (number == 1 and line.startswith("#version")):
            continue
        pair = line.rstrip("\r").split(" ")
        if len(pair) != 2:
            raise UserError(f"{merges_path}, line {number}: expected two pieces, found {len(pair)}")
        merges.append((pair[0], pair[1]))
    try:
        backend = _gpt2(vocab, merges, "<unk>" if "<unk>" in vocab else None)
    except Exception as error:
        raise UserError(f"{merges_path}: does not fit {vocab_path.name} ({one_line(error)})") from error
    return _named(backend, vocab_path)


def _named(backend: tokenizers.Tokenizer, path: Path) -> Tokenizer:
    """Wrap a tokenizer read from `path`, its special tokens named by the tokenizer_config.json beside it."""
    beside = path.parent / "tokenizer_config.json"
    config = _read(beside) if beside.is_file() else {}
    if not isinstance(config, dict):
        raise UserError(f"{beside}: expected an object")

    special = {}
    for key in _SPECIAL:
        value = config.get(key)
        name = value.get("content") if isinstance(value, dict) else value
        if name is None:
            continue
        if not isinstance(name, str) or backend.token_to_id(name) is None:
            raise UserError(f"{beside}: {key} is {name!r}, which {path.name} has no id for")
        special[key] = name
    unknown = getattr(backend.model, "unk_token", None)
    if isinstance(unknown, str) and backend.token_to_id(unknown) is not None:
        special.setdefault("unk_token", unknown)
    end = next((name for name in _ENDS if backend.token_to_id(name) is not None), None)
    if end is not None:
        special.setdefault("eos_token", end)
    try:
        return Tokenizer(backend, kind="file", special=special)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _revive(spec: str, kind: str, special: dict[str, str]) -> Tokenizer:
    return Tokenizer(tokenizers.Tokenizer.from_str(spec), kind=kind, special=special)
