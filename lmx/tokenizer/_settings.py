"""What goes with a tokenizer beside its ids: the special tokens' names, the padding side, the length.

A Hugging Face folder spreads them over tokenizer_config.json, special_tokens_map.json and added_tokens.json;
they are read here in the order in which transformers reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken

from lmx.core.errors import UserError
from lmx.tokenizer._files import LARGEST_CONFIG, read_config, read_text

END = "<|endoftext|>"
"""GPT-2's one special token: it begins and ends a document."""

BERT, GPT2, GENERIC = "BertTokenizer", "GPT2Tokenizer", "PreTrainedTokenizerFast"
SPECIAL = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "pad", "cls", "sep", "mask"))
DEFAULTS: Mapping[str, Mapping[str, str]] = {
    BERT: {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "sep", "pad", "cls", "mask")},
    GPT2: dict.fromkeys(("bos_token", "eos_token", "unk_token"), END),
}
"""The special tokens that transformers' classes have where no file names them."""

_ENDS = (END, "</s>")  # taken as the end of a text where neither a file nor a class names one
_MODELS = {"bert": BERT, "gpt2": GPT2}  # model_type of config.json -> its class of tokenizer
_ENDLESS = int(1e30)  # transformers' model_max_length of a tokenizer that has none
_EXTRA = ("extra_special_tokens", "additional_special_tokens")
_CARRIED: Mapping[str, tuple[type, ...]] = {
    "clean_up_tokenization_spaces": (bool,),
    "split_special_tokens": (bool,),
    "model_input_names": (list,),
    "chat_template": (str, list, dict),
}
"""Keys of tokenizer_config.json that change nothing here and that are saved as they came."""
_READ = {
    "tokenizer_class", "model_max_length", "max_len", "padding_side", "truncation_side",
    "added_tokens_decoder", "do_lower_case", "strip_accents", "tokenize_chinese_chars", "add_prefix_space",
    "add_bos_token", "add_eos_token", *SPECIAL, *_EXTRA, *_CARRIED,
}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """What a tokenizer_config.json says.

    special: {"eos_token": name, …}; each name has an id. class_name: transformers' class, where it is known
    to rebuild this very tokenizer. carried: further keys, saved as they are (a chat template is never run).
    ignored: the keys of the source that lmx neither reads nor saves (`auto_map`, for example).
    """

    special: Mapping[str, str] = field(default_factory=dict)
    class_name: str = GENERIC
    padding_side: str = "right"
    truncation_side: str = "right"
    model_max_length: int | None = None
    carried: Mapping[str, Any] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stored:
    """The small files of a folder: the merged config, transformers' class, and the tokens to add by id."""

    folder: Path
    config: Mapping[str, Any]
    class_name: str | None
    added: Mapping[int, AddedToken]

    def flag(self, key: str, default: bool | None) -> bool | None:
        """Return a switch of the config. Errors: UserError where it is neither true, false nor null."""
        value = self.config.get(key, default)
        if value is not None and not isinstance(value, bool):
            raise UserError(f"{self._file}: {key} is {value!r}, expected true or false")
        return default if value is None else value

    @property
    def _file(self) -> Path:
        return self.folder / "tokenizer_config.json"

    def settings(self, backend: tokenizers.Tokenizer, source: str) -> Settings:
        """Return the settings of a tokenizer that was read from the file `source` of the folder."""
        special = self._names(backend, source)
        for key, types in _CARRIED.items():
            value = self.config.get(key)
            if value is not None and not isinstance(value, types):
                raise UserError(f"{self._file}: {key} is {str(value)[:80]!r}, expected {types[0].__name__}")
        carried = {key: self.config[key] for key in _CARRIED if self.config.get(key) is not None}
        extra = [name for name in self._extra() if name not in special.values()]
        for name in extra:
            if backend.token_to_id(name) is None:
                raise UserError(f"{self._file}: the special token {name!r}, which {source} has no id for")
        if extra:
            carried["extra_special_tokens"] = extra
        if (template := self.folder / "chat_template.jinja").is_file():
            carried["chat_template"] = read_text(template, LARGEST_CONFIG)
        padding = backend.padding or {}
        truncation = backend.truncation or {}
        return Settings(
            special=special,
            class_name=self.class_name or GENERIC,
            padding_side=self._side("padding_side", padding.get("direction", "right")),
            truncation_side=self._side("truncation_side", truncation.get("direction", "right")),
            model_max_length=self._length(),
            carried=carried,
            ignored=tuple(sorted(key for key in self.config if key not in _READ)),
        )

    def _names(self, backend: tokenizers.Tokenizer, source: str) -> dict[str, str]:
        special = {}
        for key in SPECIAL:
            value = self.config.get(key)
            name = value.get("content") if isinstance(value, dict) else value
            if name is None:
                continue
            if not isinstance(name, str) or backend.token_to_id(name) is None:
                raise UserError(f"{self._file}: {key} is {name!r}, which {source} has no id for")
            special[key] = name
        for key, name in self._guessed(backend).items():
            if key not in self.config and backend.token_to_id(name) is not None:
                special[key] = name
        return special

    def _guessed(self, backend: tokenizers.Tokenizer) -> dict[str, str]:
        """Return the names that no file gives: the class's, those of the model, or a known end token."""
        guessed = dict(DEFAULTS.get(self.class_name or "", {}))
        if not guessed and "eos_token" not in self.config:
            end = next((name for name in _ENDS if backend.token_to_id(name) is not None), None)
            # GPT-2's end token is also the one that begins a text, and the unknown one.
            guessed |= DEFAULTS[GPT2] if end == END else {"eos_token": end} if end is not None else {}
        pad = (backend.padding or {}).get("pad_token")
        if isinstance(pad, str):
            guessed.setdefault("pad_token", pad)
        unknown = getattr(backend.model, "unk_token", None)
        if isinstance(unknown, str):
            guessed["unk_token"] = unknown
        return guessed

    def _extra(self) -> list[str]:
        value: Any = next((self.config[key] for key in _EXTRA if self.config.get(key)), [])
        names = list(value.values()) if isinstance(value, dict) else value
        if not isinstance(names, list):
            raise UserError(f"{self._file}: {_EXTRA[0]} is {str(value)[:80]!r}, expected a list of tokens")
        return list(dict.fromkeys(_content(name) for name in names))

    def _side(self, key: str, default: str) -> str:
        side = self.config.get(key) or default.lower()
        if side not in ("left", "right"):
            raise UserError(f"{self._file}: {key} is {side!r}, expected 'left' or 'right'")
        return str(side)

    def _length(self) -> int | None:
        length = self.config.get("model_max_length", self.config.get("max_len"))
        if length is None:
            return None
        if isinstance(length, bool) or not isinstance(length, int | float) or not 1 <= length <= _ENDLESS:
            raise UserError(f"{self._file}: model_max_length is {length!r:.80}, expected a number from 1")
        return None if int(length) == _ENDLESS else int(length)


def stored(folder: Path) -> Stored:
    """Return what the small files of a folder say. Errors: UserError naming the file and the reason."""
    file = folder / "tokenizer_config.json"
    config = read_config(file)
    model = read_config(folder / "config.json")
    if "added_tokens_decoder" in config:
        added = _decoder(config["added_tokens_decoder"], file)
    else:  # the older files; transformers lets them override the newer one
        config |= read_config(folder / "special_tokens_map.json")
        added = _older(folder / "added_tokens.json", _named(config))
    name = config.get("tokenizer_class") or model.get("tokenizer_class")
    name = name or _MODELS.get(str(model.get("model_type")))
    if name is not None and not isinstance(name, str):
        raise UserError(f"{file}: tokenizer_class is {name!r:.80}, expected a name")
    return Stored(folder, config, name.removesuffix("Fast") if name else None, added)


def add_tokens(backend: tokenizers.Tokenizer, files: Stored, source: str) -> None:
    """Add the tokens that the small files name beyond those of the vocabulary, and see to it that each gets
    the id they say.
    """
    for token_id, token in sorted(files.added.items()):
        known = {str(one): one for one in backend.get_added_tokens_decoder().values()}
        if repr(known.get(str(token))) != repr(token):
            backend.add_tokens([token])
        found = backend.token_to_id(str(token))
        if found != token_id:
            raise UserError(
                f"{files.folder}: the added token {str(token)!r} should have id {token_id}, but {source} "
                f"gives it {found}"
            )
    # A token of the vocabulary may be named together with how it takes the spaces around it.
    known = {str(one): one for one in backend.get_added_tokens_decoder().values()}
    for value in (files.config.get(key) for key in SPECIAL):
        if not isinstance(value, dict) or (name := _content(value)) in known:
            continue
        if backend.token_to_id(name) is not None:
            backend.add_special_tokens([_token(**{"normalized": False, **value, "special": True})])


def mark_special(backend: tokenizers.Tokenizer, settings: Settings) -> None:
    """Make the named tokens known as special, so that decoding can leave them out."""
    known = {str(token) for token in backend.get_added_tokens_decoder().values()}
    names = [*settings.special.values(), *settings.carried.get("extra_special_tokens", [])]
    for name in dict.fromkeys(names):
        if name not in known:
            backend.add_special_tokens([AddedToken(name, special=True, normalized=False)])


def _named(config: Mapping[str, Any]) -> set[str]:
    values = (config.get(key) for key in SPECIAL)
    return {_content(value) for value in values if value is not None}


def _content(token: Any) -> str:
    return str(token.get("content") if isinstance(token, dict) else token)


def _decoder(value: Any, file: Path) -> dict[int, AddedToken]:
    try:
        return {int(key): _token(**one) for key, one in value.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{file}: added_tokens_decoder is not {{id: token}} ({error})") from error


def _older(file: Path, special: set[str]) -> dict[int, AddedToken]:
    found = read_config(file)
    if not all(type(token_id) is int and token_id >= 0 for token_id in found.values()):
        raise UserError(f"{file}: expected an object of token: id")
    return {
        token_id: _token(content, normalized=content not in special, special=content in special)
        for content, token_id in found.items()
    }


def _token(
    content: str,
    single_word: bool = False,
    lstrip: bool = False,
    rstrip: bool = False,
    normalized: bool = True,
    special: bool = False,
    **_: Any,
) -> AddedToken:
    return AddedToken(
        content, single_word=single_word, lstrip=lstrip, rstrip=rstrip, normalized=normalized, special=special
    )
