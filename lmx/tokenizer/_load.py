"""Opening the tokenizer of a folder: by the tokenizers library alone where possible, else by transformers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import tokenizers
from tokenizers import models

from lmx.core.errors import UserError, one_line
from lmx.core.files import open_file
from lmx.tokenizer._files import LARGEST, MOST_IDS, blamed, read_bytes, read_json, read_text
from lmx.tokenizer._forms import begin_and_end, bert_switches, byte_level_bpe, follow_class, word_piece
from lmx.tokenizer._settings import BERT, DEFAULTS, END, GPT2, SPECIAL, Settings, Stored, add_tokens, stored
from lmx.tokenizer._tokenizer import Tokenizer

_BPE_FILES = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))  # transformers' names, OpenAI's
_ANY_CLASS = (
    "tokenizer.model",
    "tekken.json",
    "tiktoken.model",
)  # transformers opens them whatever the class
_OTHERS = ("*.model", "tekken.json", "vocab.json", "vocab.txt")  # what transformers may make sense of


def load(path: str | Path) -> Tokenizer:
    """Return the tokenizer of a tokenizer.json, or of a folder.

    A folder holds tokenizer.json; vocab.json + merges.txt, or encoder.json + vocab.bpe (GPT-2's own names);
    vocab.txt (BERT); or what transformers' AutoTokenizer opens without network and without running code of
    the folder (SentencePiece models, for example). Its tokenizer_config.json, special_tokens_map.json and
    added_tokens.json name the special tokens. Raises UserError naming the file and the reason.

    Where a class of transformers overrules a tokenizer.json (BertTokenizer's do_lower_case), so does this.
    """
    path = Path(path)
    if path.is_file():
        return _from_json(path)
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder; expected a tokenizer.json or a folder with one")
    if (path / "tokenizer.json").is_file():
        return _from_json(path / "tokenizer.json")
    files = stored(path)
    if files.class_name in (None, GPT2):
        for vocab, merges in _BPE_FILES:
            here = [(path / name).is_file() for name in (vocab, merges)]
            if all(here):
                return _from_bpe(path / vocab, path / merges, files)
            if any(here):
                raise UserError(
                    f"{path}: {vocab} and {merges} belong together, but only one of them is there"
                )
    if files.class_name in (None, BERT) and (path / "vocab.txt").is_file():
        return _from_word_list(path / "vocab.txt", files)
    if exists(path):
        return _by_transformers(files)
    raise UserError(
        f"{path}: no tokenizer (tokenizer.json, vocab.json + merges.txt, encoder.json + vocab.bpe, "
        "vocab.txt, or a SentencePiece model)"
    )


def exists(folder: str | Path) -> bool:
    """Tell whether a folder holds a tokenizer's files."""
    folder = Path(folder)
    pairs = ((folder / one, folder / two) for one, two in _BPE_FILES)
    if (folder / "tokenizer.json").is_file() or any(a.is_file() and b.is_file() for a, b in pairs):
        return True
    found = (path for pattern in _OTHERS if pattern != "vocab.json" for path in folder.glob(pattern))
    return any(path.is_file() for path in found)


def _from_json(path: Path) -> Tokenizer:
    spec = read_json(path, LARGEST)
    if not isinstance(spec, dict) or "model" not in spec:
        raise UserError(f"{path}: is not a tokenizer.json (it has no 'model')")
    with blamed(f"{path}: the tokenizer cannot be opened"):
        backend = tokenizers.Tokenizer.from_str(json.dumps(spec))
    files = stored(path.parent)
    with blamed(f"{path}: the tokenizer cannot be opened"):
        add_tokens(backend, files, path.name)
        settings = files.settings(backend, path.name)
        follow_class(backend, files, settings.special)
    return _checked(backend, settings, path)


def _from_bpe(vocab_path: Path, merges_path: Path, files: Stored) -> Tokenizer:
    vocab = read_json(vocab_path, LARGEST)
    if not isinstance(vocab, dict) or not all(type(i) is int for i in vocab.values()):
        raise UserError(f"{vocab_path}: is not a vocabulary (expected an object of token: id)")
    merges = []
    for number, line in enumerate(read_text(merges_path, LARGEST).split("\n"), 1):
        if not line.strip() or (number == 1 and line.startswith("#version")):
            continue
        pair = line.rstrip("\r").split(" ")
        if len(pair) != 2:
            raise UserError(f"{merges_path}, line {number}: expected two pieces, found {len(pair)}")
        merges.append((pair[0], pair[1]))
    with blamed(f"{merges_path}: does not fit {vocab_path.name}"):
        unknown = "<unk>" if "<unk>" in vocab else None
        space = bool(files.flag("add_prefix_space", False))
        backend = byte_level_bpe(vocab, merges, unknown, (END,), space)
    with blamed(f"{vocab_path}: the tokenizer cannot be opened"):
        add_tokens(backend, files, vocab_path.name)
        settings = files.settings(backend, vocab_path.name)
        begin_and_end(backend, files, settings.special)
    return _checked(backend, settings, vocab_path)


def _from_word_list(path: Path, files: Stored) -> Tokenizer:
    lines = read_bytes(path, LARGEST).count(b"\n")
    if lines > MOST_IDS:
        raise UserError(f"{path}: has {lines:,} lines, a vocabulary at most {MOST_IDS:,}")
    with blamed(f"{path}: is not a vocabulary"):
        vocab = models.WordPiece.read_file(str(path))
    special = {}
    for key in ("unk_token", "cls_token", "sep_token"):
        value = files.config.get(key, DEFAULTS[BERT][key])
        special[key] = str(value.get("content") if isinstance(value, dict) else value)
        if special[key] not in vocab:
            raise UserError(f"{path}: has no {special[key]!r}, the {key} of a BERT vocabulary")
    files = Stored(files.folder, files.config, BERT, files.added)
    with blamed(f"{path}: the tokenizer cannot be opened"):
        backend = word_piece(vocab, special, bert_switches(files))
        add_tokens(backend, files, path.name)
        settings = files.settings(backend, path.name)
    return _checked(backend, settings, path)


def _by_transformers(files: Stored) -> Tokenizer:
    """Open what only transformers knows; its fast backend is taken over, and transformers is let go."""
    folder = files.folder
    for path in sorted(folder.iterdir()):  # transformers would follow any link
        if path.is_symlink() and not path.is_dir():
            os.close(open_file(folder, path.name))
    with _offline():
        from transformers import AutoTokenizer

        try:
            found = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
            backend = tokenizers.Tokenizer.from_str(found.backend_tokenizer.to_str())
            special = {key: str(getattr(found, key)) for key in SPECIAL if getattr(found, key, None)}
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # any file may be broken, and Rust's panics are no Exception
            hint = ""
            if any(folder.glob("*.model")) and find_spec("sentencepiece") is None:
                hint = "; a SentencePiece model needs: pip install sentencepiece protobuf"
            raise UserError(
                f"{folder}: transformers cannot open the tokenizer ({one_line(error)}{hint})"
            ) from error
    # A class whose files are not there makes up a vocabulary of its own, without a word.
    names = {
        key: name for key, name in found.vocab_files_names.items() if key in ("vocab_file", "merges_file")
    }
    lacking = [name for name in names.values() if not (folder / name).is_file()]
    if lacking and not any((folder / name).is_file() for name in _ANY_CLASS):
        raise UserError(f"{folder}: {type(found).__name__} needs {lacking[0]}, which is not there")
    wanted = Stored(folder, {**files.config, **dict.fromkeys(SPECIAL), **special}, files.class_name, {})
    with blamed(f"{folder}: the tokenizer cannot be opened"):
        settings = wanted.settings(backend, "the tokenizer")
    return _checked(backend, settings, folder)


@contextmanager
def _offline() -> Iterator[None]:
    """Keep the Hub's client from the network and transformers from talking, for as long as this lasts."""
    from huggingface_hub import constants
    from transformers.utils import logging

    offline, verbosity = constants.HF_HUB_OFFLINE, logging.get_verbosity()
    constants.HF_HUB_OFFLINE = True
    logging.set_verbosity_error()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline
        logging.set_verbosity(verbosity)


def _checked(backend: tokenizers.Tokenizer, settings: Settings, path: Path) -> Tokenizer:
    if (count := backend.get_vocab_size()) > MOST_IDS:
        raise UserError(f"{path}: has {count:,} ids, a vocabulary at most {MOST_IDS:,}")
    try:
        return Tokenizer(backend, kind="file", settings=settings)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
