"""Laws of every step of data preparation: same input, same output; what goes in is kept or dropped."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import data_prep.steps
from data_prep.read import Document
from data_prep.steps.clean import clean
from data_prep.steps.dedup import dedup
from data_prep.steps.pack import pack
from data_prep.steps.pairs import pairs
from data_prep.steps.pieces import pieces
from data_prep.steps.sentences import sentences
from data_prep.steps.split import split
from data_prep.steps.tokenize import tokenize
from lmx import tokenizer

NAMES = sorted(info.name for info in pkgutil.iter_modules(data_prep.steps.__path__))
WORDS = tokenizer.train_bpe(["a tokenizer for the laws"], 270)


@dataclass(frozen=True)
class Law:
    """What the shelf's laws must know of a step.

    run: texts -> the step's output, in plain values.
    conserves: (texts, output) -> whether all that came in was kept or dropped, and nothing else came out.
    again: the output -> texts to run on once more, where doing it twice must be doing it once.
    """

    run: Callable[[list[str]], Any]
    conserves: Callable[[list[str], Any], bool]
    again: Callable[[Any], list[str]] | None = None


def documents(texts: list[str]) -> list[Document]:
    return [Document(str(i), text, "memory") for i, text in enumerate(texts)]


def texts_of(found: list[Document]) -> list[str]:
    return [document.text for document in found]


def packed(texts: list[str]) -> list[tuple[list[int], list[int]]]:
    return [(tokens.tolist(), lengths) for tokens, lengths in pack(as_bytes(texts), length=4)]


def transitions(rows: list[tuple[list[int], list[int]]]) -> list[tuple[int, int]]:
    """Return (token, next token) of every label, in order."""
    pairs = []
    for tokens, lengths in rows:
        ends = np.cumsum(lengths)
        for start, end in zip(ends - lengths, ends, strict=True):
            pairs += list(zip(tokens[start : end - 1], tokens[start + 1 : end], strict=True))
    return pairs


def as_bytes(texts: list[str]) -> list[np.ndarray]:
    return [np.frombuffer(text.encode(), np.uint8) for text in texts]


def kept_bytes(texts: list[str]) -> list[bytes]:
    """Return the documents that pairs can be made of: with tokens, and at least two of them."""
    found = [text.encode() for text in texts if text]
    return found if len(found) > 1 else []


def paired(texts: list[str]) -> list[tuple[int, list[int], list[int], int]]:
    """Return (document, A, B, label) of each row; each byte is a sentence, so that nothing is cut off."""
    documents = [[np.array([byte]) for byte in text] for text in kept_bytes(texts)]
    if not documents:
        return []
    tally: dict[str, int] = {}
    made = pairs(documents, length=8, first=300, last=301, short=0.3, seed=1, tally=tally)
    out, place, used = [], 0, 0
    for tokens, lengths, label in made:
        a, b = tokens[1 : lengths[0] - 1].tolist(), tokens[lengths[0] : -1].tolist()
        out.append((place, a, b, label))
        used += len(a) + (len(b) if label == 0 else 0)
        if used == len(documents[place]):
            place, used = place + 1, 0
    assert tally["cut"] == 0 and tally["pairs"] == len(out)
    return out


def own_tokens(rows: list[tuple[int, list[int], list[int], int]]) -> list[list[int]]:
    """Return each document's tokens as its rows hold them."""
    found: dict[int, list[int]] = {}
    for place, a, b, label in rows:
        found.setdefault(place, []).extend(a + (b if label == 0 else []))
    return list(found.values())


def halves(mode: str) -> Callable[[list[str]], Any]:
    return lambda texts: tuple(
        [(d.id, d.text) for d in part] for part in split(documents(texts), mode=mode, holdout=0.3, seed=1)
    )


def joined(texts: list[str], parts: Any) -> bool:
    """Whether the parts of each document, train first, make it up."""
    return texts == ["".join(t for part in parts for i, t in part if i == str(n)) for n in range(len(texts))]


LAWS = {
    "clean": [
        Law(
            lambda texts: [clean(t) for t in texts],
            lambda texts, out: len(texts) == len(out),
            lambda out: out,
        )
    ],
    "dedup": [
        Law(
            lambda texts: tuple(map(texts_of, dedup(documents(texts)))),
            lambda texts, out: sorted(texts) == sorted(out[0] + out[1]) and set(out[0]) == set(texts),
            lambda out: out[0],
        )
    ],
    "split": [Law(halves(mode), joined) for mode in ("document", "tail", "auto")],
    "tokenize": [
        Law(
            lambda texts: [ids.tolist() for ids in tokenize(texts, WORDS, boundary=True)],
            lambda texts, out: (
                texts == [WORDS.decode(ids[1:-1]) for ids in out]
                and all({ids[0], ids[-1]} == {WORDS.eos_id} for ids in out)
            ),
        )
    ],
    "pack": [
        Law(
            packed,
            lambda texts, out: (
                transitions(out)
                == [
                    pair for text in texts for pair in zip(text.encode()[:-1], text.encode()[1:], strict=True)
                ]
            ),
        )
    ],
}

LAWS["pieces"] = [
    Law(
        lambda texts: [
            (tokens.tolist(), lengths)
            for tokens, lengths in pieces(as_bytes(texts), length=7, first=300, last=301)
        ],
        lambda texts, out: (
            [token for tokens, _ in out for token in tokens if token < 300]
            == [byte for text in texts for byte in text.encode()]
            and all(len(tokens) == sum(lengths) <= 7 for tokens, lengths in out)
        ),
    )
]
LAWS["sentences"] = [
    Law(
        lambda texts: [sentences(text) for text in texts],
        lambda texts, out: (
            ["".join(text.split()) for text in texts] == ["".join("".join(found).split()) for found in out]
        ),
        lambda out: ["\n".join(found) for found in out],
    )
]
LAWS["pairs"] = [Law(paired, lambda texts, out: own_tokens(out) == [list(d) for d in kept_bytes(texts)])]

CORPUS = st.lists(st.text(st.characters(codec="utf-8"), max_size=12), max_size=8)


def test_every_step_has_its_law() -> None:
    assert sorted(LAWS) == NAMES, "a new step needs a descriptor in LAWS"


@pytest.mark.parametrize("name", NAMES)
def test_a_step_is_one_function_named_as_its_file(name: str) -> None:
    module = importlib.import_module(f"data_prep.steps.{name}")
    assert inspect.isfunction(getattr(module, name))
    assert getattr(module, name).__doc__


@pytest.mark.parametrize("name", NAMES)
@given(texts=CORPUS)
@example(texts=["\ufeffa\r\nb\rc", "e\u0301\x00\u0301", "\x00\ufeff\ufeff", "", "same", "same"])
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_laws(name: str, texts: list[str]) -> None:
    for law in LAWS.get(name, []):
        before = list(texts)
        out = law.run(texts)
        assert texts == before, "the step changed its input"
        assert law.run(texts) == out, "same input, other output"
        assert law.conserves(texts, out), "in is not kept + dropped"
        if law.again is not None:
            once = law.again(out)
            assert law.again(law.run(once)) == once, "twice is not once"


@given(texts=st.lists(st.text(max_size=9), unique=True, max_size=8), seed=st.integers(0, 9))
@settings(deadline=None, max_examples=40)
def test_a_documents_split_depends_on_its_text_and_seed_alone(texts: list[str], seed: int) -> None:
    texts = [text for text in texts if text.isprintable()]

    def held(some: list[str]) -> set[str]:
        return set(texts_of(split(documents(some), mode="document", holdout=0.4, seed=seed)[1]))

    assert held(texts) == held(texts[::-1]) == {text for text in texts if held([text])}
