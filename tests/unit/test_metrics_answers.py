"""Exact match and F1 of answers: what SQuAD's evaluation script gives, counted here in another way."""

from __future__ import annotations

import random
import re
import string
from fractions import Fraction

import pytest

from lmx.metrics import squad


def _figures(pairs: list[tuple[str, list[str]]]) -> dict[str, float]:
    metric = squad.metric()
    return metric.finish(
        metric.sums([{"answer": one} for one, _ in pairs], [{"answers": some} for _, some in pairs])
    )


def _tokens(text: str) -> list[str]:
    kept = "".join("" if letter in string.punctuation else letter for letter in text.lower())
    # An article is a run of word characters of its own; what stands beside it stays apart.
    return "".join(" " if part in ("a", "an", "the") else part for part in re.split(r"(\w+)", kept)).split()


def _score(answer: str, right: list[str]) -> tuple[int, Fraction]:
    """Return exact match and F1 in exact fractions, by crossing off words one at a time."""
    best, exact, given = Fraction(0), 0, _tokens(answer)
    for words in [words for words in map(_tokens, right) if words] or [[]]:
        exact = max(exact, int(words == given))
        left, common = list(words), 0
        for word in given:
            if word in left:
                left.remove(word)
                common += 1
        if words and given:
            best = max(best, Fraction(2 * common, len(words) + len(given)))
        else:
            best = max(best, Fraction(int(words == given)))
    return exact, best


WORDS = "the The a An cat, Cat dog's dogs ... ! Paris U.S.A. usa – é É 1976 \u00a0 theatre".split(" ")


def _text(rng: random.Random) -> str:
    return rng.choice([" ", "  ", "\n"]).join(rng.choices(WORDS, k=rng.randint(0, 5)))


def test_answers_equal_an_exact_count() -> None:
    for seed in range(100):
        rng = random.Random(seed)
        length = rng.choice([1, 3, 40])
        pairs = [(_text(rng), [_text(rng) for _ in range(rng.randint(0, 3))]) for _ in range(length)]
        found = _figures(pairs)
        for prefix, part in (
            ("", pairs),
            ("has_answer/", [pair for pair in pairs if pair[1]]),
            ("no_answer/", [pair for pair in pairs if not pair[1]]),
        ):
            if not part:
                assert f"{prefix}f1" not in found
                continue
            scores = [_score(*pair) for pair in part]
            for name, place in (("exact_match", 0), ("f1", 1)):
                wanted = 100 * sum((Fraction(one[place]) for one in scores), Fraction(0)) / len(part)
                assert found[prefix + name] == pytest.approx(float(wanted), rel=1e-12)


@pytest.mark.parametrize(
    ("answer", "right", "exact", "f1"),
    [
        ("The Cat!", "cat", 1, 1),  # case, punctuation and articles do not count
        ("U.S.A.", "USA", 1, 1),  # punctuation goes before words are cut
        ("dog's", "dog s", 0, 0),
        ("a theatre", "theatre", 1, 1),  # "the" goes as a word only
        ("  in\n1976 ", "in 1976", 1, 1),
        ("1976", "in 1976", 0, 2 / 3),
        ("cat cat", "cat", 0, 2 / 3),  # a word counts as often as both have it
        ("Zürich", "zürich", 1, 1),
        ("10–20", "1020", 0, 0),  # only ASCII punctuation goes
    ],
)
def test_answers_are_compared_as_squad_does(answer: str, right: str, exact: int, f1: float) -> None:
    assert squad.score(answer, [right]) == (exact, pytest.approx(f1))


def test_the_best_of_several_answers_counts_for_each_figure() -> None:
    assert squad.score("Denver Broncos", ["Carolina Panthers", "the Broncos", "Denver Broncos"]) == (1, 1.0)


def test_questions_without_an_answer() -> None:
    assert squad.score("", []) == (1, 1.0)
    assert squad.score("The", []) == (1, 1.0)  # nothing is left of it
    assert squad.score("Paris", []) == (0, 0.0)
    assert squad.score("", ["Paris"]) == (0, 0.0)
    assert squad.score("", ["the", "Paris"]) == (0, 0.0)  # "the" is passed over


def test_a_model_that_never_answers_is_seen_in_the_parts() -> None:
    found = _figures([("", []), ("", []), ("", []), ("", ["Paris"])])
    assert found["f1"] == 75.0
    assert found["has_answer/f1"] == 0.0
    assert found["no_answer/exact_match"] == 100.0
