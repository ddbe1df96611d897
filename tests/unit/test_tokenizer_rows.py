"""Rows that know where their tokens come from; transformers is the oracle."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers

from lmx import tokenizer
from lmx.core.errors import UserError
from lmx.core.examples import Cut

WORDS = (
    "[PAD] [UNK] [CLS] [SEP] [MASK] where is paris ? the capital of france and a ##n old city . ##s na ##ive"
)
CONTEXT = "Paris is the capital of France and an old city. The city is old."


@pytest.fixture
def bert(tmp_path: Path) -> tuple[tokenizer.Tokenizer, transformers.PreTrainedTokenizerFast]:
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS.split()))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    theirs = transformers.BertTokenizerFast(str(tmp_path / "vocab.txt"))
    return tokenizer.load(tmp_path), theirs


@pytest.mark.parametrize("cut", ["longest", "first", "second"])
@pytest.mark.parametrize("stride", [None, 0, 2])
def test_rows_are_those_of_transformers(
    bert: tuple[tokenizer.Tokenizer, transformers.PreTrainedTokenizerFast], cut: Cut, stride: int
) -> None:
    ours, theirs = bert
    question = "where is the capital of France ?" if cut != "first" else CONTEXT
    context = CONTEXT if cut != "first" else "where is the capital ?"
    wanted = theirs(
        question,
        context,
        truncation={"longest": "longest_first", "first": "only_first", "second": "only_second"}[cut],
        max_length=16,
        stride=stride or 0,
        return_overflowing_tokens=stride is not None,
        return_offsets_mapping=True,
    )
    rows = ours.rows([question], [context], length=16, stride=stride, cut=cut)[0]
    if stride is None:
        wanted = {name: [wanted[name]] for name in ("input_ids", "token_type_ids", "offset_mapping")}
    assert [row.ids.tolist() for row in rows] == wanted["input_ids"]
    assert [row.types.tolist() for row in rows] == wanted["token_type_ids"]
    assert [[tuple(pair) for pair in row.offsets.tolist()] for row in rows] == wanted["offset_mapping"]


def test_a_token_knows_its_text_and_its_characters(
    bert: tuple[tokenizer.Tokenizer, transformers.PreTrainedTokenizerFast],
) -> None:
    row = bert[0].rows(["Where is naïve ?"], ["An old city."], length=32)[0][0]
    assert row.text.tolist() == [-1, 0, 0, 0, 0, 0, -1, 1, 1, 1, 1, 1, -1]
    assert row.offsets.tolist()[3:6] == [[9, 11], [11, 14], [15, 16]]  # na ##ive: characters, not bytes
    assert not row.cut


def test_words_are_counted_and_may_have_many_pieces_or_none(
    bert: tuple[tokenizer.Tokenizer, transformers.PreTrainedTokenizerFast],
) -> None:
    row = bert[0].rows([["an", "\u200b", "cities", "paris"]], length=32, words=True)[0][0]
    assert row.words.tolist() == [-1, 0, 0, 2, 3, -1]  # a ##n, nothing, [UNK], paris


def test_words_of_a_byte_level_tokenizer_keep_the_space_between_them() -> None:
    made = tokenizer.train_bpe(["hello world " * 50], 270)
    row = made.rows([["hello", "world"]], length=16, words=True)[0][0]
    assert row.ids.tolist() == made.encode("hello world")
    assert row.words.max() == 1


def test_windows_cover_the_whole_text(
    bert: tuple[tokenizer.Tokenizer, transformers.PreTrainedTokenizerFast],
) -> None:
    rows = bert[0].rows(["where ?"], [CONTEXT], length=12, stride=3, cut="second")[0]
    seen = {tuple(pair) for row in rows for pair in row.offsets[row.text == 1].tolist()}
    alone = bert[0].rows([CONTEXT], length=64)[0][0]
    assert seen == {tuple(pair) for pair in alone.offsets[alone.text == 0].tolist()}
    assert all(len(row.ids) <= 12 for row in rows)


def test_what_does_not_fit(bert: tuple[tokenizer.Tokenizer, transformers.PreTrainedTokenizerFast]) -> None:
    with pytest.raises(UserError, match="leaves no room for the other"):
        bert[0].rows(["city " * 40], ["old"], length=16, cut="second")
    with pytest.raises(UserError, match="length=3: expected at least 4"):
        bert[0].rows(["city"], ["old"], length=3)
    with pytest.raises(UserError, match="1 texts with 2 second texts"):
        bert[0].rows(["city"], ["old", "new"], length=16)
