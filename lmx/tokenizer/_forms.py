"""The two forms of tokenizer that are built here: GPT-2's byte-level BPE and BERT's WordPiece.

Sources: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2 (byte-level
BPE); Devlin et al. 2019, "BERT", section 3, and google-research/bert's tokenization.py (WordPiece).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from lmx.tokenizer._settings import BERT, DEFAULTS, GPT2, Settings, Stored


def byte_level_bpe(
    vocab: dict[str, int],
    merges: list[tuple[str, str]],
    unknown: str | None = None,
    special: tuple[str, ...] = (),
    prefix_space: bool = False,
) -> tokenizers.Tokenizer:
    """Return GPT-2's tokenizer. special: tokens of the vocabulary. prefix_space: texts begin with a space."""
    backend = tokenizers.Tokenizer(models.BPE(vocab, merges, unk_token=unknown))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space, use_regex=True)
    backend.decoder = decoders.ByteLevel()
    wanted = [name for name in (*special, unknown) if name is not None and name in vocab]
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in wanted])
    return backend


def word_piece(
    vocab: dict[str, int], special: Mapping[str, str], switches: Mapping[str, bool | None]
) -> tokenizers.Tokenizer:
    """Return BERT's tokenizer.

    special: {"unk_token": name, …}, of which `unk`, `cls` and `sep` are in the vocabulary. switches:
    do_lower_case, tokenize_chinese_chars, and strip_accents, which as None follows the case.
    """
    backend = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token=special["unk_token"]))
    backend.normalizer = _normalizer(switches)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    backend.post_processor = _sentences(special, vocab)
    return backend


def bert_switches(files: Stored) -> dict[str, bool | None]:
    """Return what a folder says of BERT's switches, transformers' defaults where it is silent."""
    return {key: files.flag(key, default) for key, default in _SWITCHES.items()}


def follow_class(backend: tokenizers.Tokenizer, files: Stored, special: Mapping[str, str]) -> None:
    """Change what transformers' class changes when it opens a tokenizer.json.

    Its switches (do_lower_case, add_prefix_space, …), given or by default, win over the file's, and BERT's
    texts get [CLS] and [SEP].
    """
    if files.class_name == BERT and isinstance(backend.model, models.WordPiece):
        if isinstance(backend.normalizer, normalizers.BertNormalizer):
            backend.normalizer = _normalizer(bert_switches(files))
        standard = (type(None), processors.BertProcessing, processors.TemplateProcessing)
        if {"cls_token", "sep_token"} <= special.keys() and isinstance(backend.post_processor, standard):
            backend.post_processor = _sentences(special, backend.get_vocab())
    if files.class_name == GPT2 and isinstance(before := backend.pre_tokenizer, pre_tokenizers.ByteLevel):
        before.add_prefix_space = bool(files.flag("add_prefix_space", False))
        backend.pre_tokenizer = before


def begin_and_end(backend: tokenizers.Tokenizer, files: Stored, special: Mapping[str, str]) -> None:
    """Let `add_bos_token` and `add_eos_token` of a folder without tokenizer.json do what they do in
    transformers.
    """
    first, last = (
        special.get(f"{name}_token") if files.flag(f"add_{name}_token", False) else None
        for name in ("bos", "eos")
    )
    if first is None and last is None:
        return

    def around(text: str, kind: int) -> str:
        return " ".join(f"{name}:{kind}" for name in (first, text, last) if name is not None)

    ids = {name: backend.token_to_id(name) for name in (first, last) if name is not None}
    one, two = around("$A", 0), around("$B", 1)
    backend.post_processor = processors.TemplateProcessing(
        single=one, pair=f"{one} {two}", special_tokens=list(ids.items())
    )


def made_by_class(
    spec: dict[str, Any], vocab: Mapping[str, int], settings: Settings
) -> dict[str, Any] | None:
    """Return the switches with which transformers' class makes this very tokenizer, or None where it cannot.

    spec: of tokenizer.json. The class reads of that file only the vocabulary and the added tokens, so that
    anything it does not know of would be lost.
    """
    special = settings.special
    if settings.class_name not in DEFAULTS or not DEFAULTS[settings.class_name].keys() <= special.keys():
        return None  # no such class, or one that would add the special token that is lacking
    parts = ["normalizer", "pre_tokenizer", "decoder", "model"]
    found = _without_vocabulary(spec)
    if settings.class_name == GPT2:
        before = found["pre_tokenizer"] or {}
        switches: dict[str, Any] = {"add_prefix_space": bool(before.get("add_prefix_space"))}
        like = byte_level_bpe({}, [], prefix_space=switches["add_prefix_space"])
    else:
        normalizer = found["normalizer"] or {}
        switches = {key: normalizer.get(_FIELDS[key], default) for key, default in _SWITCHES.items()}
        parts.append("post_processor")
        like = word_piece({name: vocab[name] for name in special.values()}, special, switches)
    wanted = _without_vocabulary(json.loads(like.to_str()))
    return switches if all(found[part] == wanted[part] for part in parts) else None


_SWITCHES = {"do_lower_case": True, "strip_accents": None, "tokenize_chinese_chars": True}
_FIELDS = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}


def _normalizer(switches: Mapping[str, bool | None]) -> normalizers.Normalizer:
    return normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=bool(switches["tokenize_chinese_chars"]),
        strip_accents=switches["strip_accents"],
        lowercase=bool(switches["do_lower_case"]),
    )


def _sentences(special: Mapping[str, str], vocab: Mapping[str, int]) -> processors.PostProcessor:
    first, last = special["cls_token"], special["sep_token"]
    return processors.TemplateProcessing(
        single=f"{first}:0 $A:0 {last}:0",
        pair=f"{first}:0 $A:0 {last}:0 $B:1 {last}:1",
        special_tokens=[(first, vocab[first]), (last, vocab[last])],
    )


def _without_vocabulary(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the spec without its vocabulary; an empty setting of the model is none."""
    model = {key: value or None for key, value in spec["model"].items() if key not in ("vocab", "merges")}
    return {**spec, "model": model}
