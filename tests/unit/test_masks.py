"""Hidden tokens: how many, which, what becomes of them, and that each epoch hides others."""

import numpy as np
import pytest

from lmx.core.errors import UserError
from lmx.core.types import IGNORED
from lmx.core.vocabulary import Vocabulary
from lmx.tasks import _masks, bert_pretraining, masked_lm

PAD, UNKNOWN, FIRST, LAST, MASK = range(5)
SIZE = 1000
INNER = np.zeros(SIZE, bool)
INNER[500:] = True  # ids from 500 on continue a word
WORDS = Vocabulary(SIZE, MASK, np.arange(5), INNER)


def rows(
    count: int, length: int = 128, *, epoch: int = 0, filler: int = 0, seed: int = 0
) -> dict[str, np.ndarray]:
    """Return rows [CLS] text [SEP], the last `filler` places padding; every third word has three pieces."""
    draw = np.random.default_rng(seed)
    tokens = draw.integers(5, 500, (count, length))
    tokens[:, 3::9], tokens[:, 4::9] = draw.integers(500, SIZE, (2, count, 1))
    tokens[:, 0], tokens[:, length - filler - 1], tokens[:, length - filler :] = FIRST, LAST, PAD
    segments = np.ones((count, length), np.int32)
    segments[:, length - filler :] = 0
    return {
        "tokens": tokens.astype(np.int32),
        "segment_ids": segments,
        "position_ids": np.tile(np.arange(length, dtype=np.int32), (count, 1)),
        "label": np.zeros(count, np.int32),
        "index": np.arange(count),
        "epoch": np.full(count, epoch),
    }


def hide(
    given: dict[str, np.ndarray], seed: int = 0, share: float = 0.15, unit: str = "piece"
) -> dict[str, np.ndarray]:
    return _masks.hide(given, WORDS, seed=seed, share=share, unit=unit)


@pytest.mark.parametrize(
    ("length", "filler", "share", "wanted"),
    # round(0.15 x 126) = 19, round(0.15 x 26) = 4, round(0.15 x 2) = 0 but at least 1, round(0.4 x 126) = 50
    [(128, 0, 0.15, 19), (128, 100, 0.15, 4), (4, 0, 0.15, 1), (128, 0, 0.4, 50)],
)
def test_the_count_is_that_of_real_tokens(length: int, filler: int, share: float, wanted: int) -> None:
    found = hide(rows(5, length, filler=filler), share=share)
    assert (found["labels"] != IGNORED).sum(1).tolist() == [wanted] * 5


@pytest.mark.parametrize("unit", _masks.UNITS)
def test_labels_are_what_was_hidden(unit: str) -> None:
    given = rows(40)
    found = hide(given, unit=unit)
    hidden = found["labels"] != IGNORED
    assert (found["labels"][hidden] == given["tokens"][hidden]).all()
    assert (found["input_ids"][~hidden] == given["tokens"][~hidden]).all()
    assert not hidden[(given["tokens"] < 5)].any()  # no special token is hidden, nor padding
    places = found["hidden_positions"]
    assert places.shape == (40, 19)
    for row in range(40):
        wanted = np.flatnonzero(hidden[row]).tolist()
        assert places[row].tolist() == wanted + [0] * (19 - len(wanted))


@pytest.mark.parametrize("unit", _masks.UNITS)
def test_eight_of_ten_are_masked_and_one_is_another_token(unit: str) -> None:
    given = rows(400)
    found = hide(given, unit=unit)
    hidden = found["labels"] != IGNORED
    inputs, count = found["input_ids"][hidden], hidden.sum()
    masked, same = (inputs == MASK).sum() / count, (inputs == found["labels"][hidden]).sum() / count
    # Of 7,600 draws, three standard deviations are 0.014; of spans, which are replaced alike, 2.5 times that.
    slack = 0.035 if unit == "span" else 0.014
    assert masked == pytest.approx(0.8, abs=slack) and same == pytest.approx(0.1, abs=slack)
    assert (inputs[inputs != MASK] >= 5).all()  # the other tokens are none of the special ones


def test_each_epoch_hides_others_and_nothing_else_matters() -> None:
    given = rows(6)
    first = hide(given)
    assert (hide(given)["input_ids"] == first["input_ids"]).all()
    for other in (
        hide({**given, "epoch": np.ones(6, int)}),
        hide({**given, "index": np.arange(6) + 6}),
        hide(given, 1),
    ):
        assert ((other["labels"] != IGNORED) != (first["labels"] != IGNORED)).any(1).all()
    # A row in another batch, at another place, is hidden alike.
    alone = hide({name: value[4:5] for name, value in given.items()})
    assert (alone["labels"] == first["labels"][4:5]).all()


def test_whole_words_are_hidden_whole() -> None:
    given = rows(50)
    hidden = hide(given, unit="word")["labels"] != IGNORED
    inner = INNER[given["tokens"]]
    assert (hidden[:, 1:] == hidden[:, :-1])[inner[:, 1:]].all()
    pieces = hide(given, unit="piece")["labels"] != IGNORED
    assert not (pieces[:, 1:] == pieces[:, :-1])[inner[:, 1:]].all()  # which single pieces are not
    assert (hidden.sum(1) <= 19).all() and hidden.sum(1).mean() > 18.5


def test_spans_are_longer_than_words() -> None:
    given = rows(50)
    runs = {}
    for unit in ("piece", "span"):
        hidden = hide(given, unit=unit)["labels"] != IGNORED
        runs[unit] = hidden.sum() / (hidden[:, 1:] & ~hidden[:, :-1]).sum()
    # Spans of 1 / 0.2 words on average, cut at 10: 1 + 0.8 + ... + 0.8^9 = 4.5 words; the budget cuts some.
    assert runs["piece"] < 1.4 and 2.5 < runs["span"] < 5.5


def test_spans_favour_no_place() -> None:
    """A span that the budget cuts is cut at a word; passing over it would favour the ends of texts."""
    given = rows(3000, 60)
    given["tokens"][:, 1:-1] = 10  # words of one token
    hidden = (hide(given, unit="span")["labels"] != IGNORED).mean(0)
    # A place is in a span that begins up to 9 before it, so the first ones are hidden less often; all later
    # ones alike. Standard deviation 0.0065.
    assert hidden[20:-1].max() - hidden[20:-1].min() < 0.06
    assert abs(hidden[-6:-1].mean() - hidden[20:40].mean()) < 0.03


def test_a_row_of_padding_hides_nothing() -> None:
    given = rows(2)
    given["segment_ids"][1], given["tokens"][1] = 0, 0
    found = hide(given)
    assert (found["labels"][1] == IGNORED).all() and (found["hidden_positions"][1] == 0).all()


def test_what_is_no_option() -> None:
    for options in ({"share": 0.0}, {"share": 1.0}, {"share": True}, {"unit": "words"}):
        with pytest.raises(UserError, match=r"task\."):
            masked_lm.check(**options)
    without = Vocabulary(SIZE, None, np.arange(5), INNER)
    with pytest.raises(UserError, match="no mask token"):
        masked_lm.encode(rows(1), vocabulary=without, seed=0)


def test_a_pair_as_the_model_reads_it() -> None:
    given = rows(3, 12, filler=2)
    given["segment_ids"][:, 6:10] = 2
    given["label"] = np.array([0, 1, 1], np.int32)
    given["segment_ids"][2], given["tokens"][2] = 0, 0
    found = bert_pretraining.encode(given, vocabulary=WORDS, seed=0)
    assert found["token_type_ids"][0].tolist() == [0] * 6 + [1] * 4 + [0] * 2
    assert found["attention_mask"][0].tolist() == [1] * 10 + [0] * 2
    assert found["next_sentence_label"].tolist() == [0, 1, IGNORED]  # 0 follows; a row of padding is no pair
