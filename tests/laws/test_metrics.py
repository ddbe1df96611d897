"""Laws of the metrics' shelf: parts add up to the whole, order does not matter, one example by hand."""

from __future__ import annotations

import json
import math
import operator
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from lmx.core import plugin
from lmx.core.errors import UserError
from lmx.core.types import Metric, Totals
from lmx.metrics import intervals

Examples = list[dict[str, Any]]
Draw = Callable[[random.Random], tuple[dict[str, Any], dict[str, Any]]]


@dataclass(frozen=True)
class Case:
    """A metric's options, a few examples with the figures by hand, and how to draw one more example.

    empty: the figures of no examples at all, 0 where it is not said. alone: references are not read.
    """

    predictions: Examples
    references: Examples
    figures: Mapping[str, float]
    draw: Draw
    options: Mapping[str, Any] = field(default_factory=dict)
    empty: Mapping[str, float] = field(default_factory=dict)
    library: str | None = None
    alone: bool = False


def _labels(some: str) -> Examples:
    return [{"label": label} for label in some.split()]


def _values(*some: float) -> Examples:
    return [{"value": value} for value in some]


def _words(rng: random.Random, least: int = 0) -> str:
    return " ".join(rng.choice("a the cat sat mat . 12 Paris".split()) for _ in range(rng.randint(least, 8)))


def _draw_labels(rng: random.Random) -> tuple[dict[str, Any], dict[str, Any]]:
    return {"label": rng.choice("abc")}, {"label": rng.choice("aabc")}


def _draw_values(rng: random.Random) -> tuple[dict[str, Any], dict[str, Any]]:
    return {"value": rng.choice([rng.gauss(0, 1), 1.0])}, {"value": round(rng.gauss(0, 1), 1)}


def _draw_tags(rng: random.Random) -> tuple[dict[str, Any], dict[str, Any]]:
    tags = "O O B-PER I-PER B-LOC I-LOC".split()
    length = rng.randint(0, 9)
    return {"tags": rng.choices(tags, k=length)}, {"tags": rng.choices(tags, k=length)}


def _draw_answers(rng: random.Random) -> tuple[dict[str, Any], dict[str, Any]]:
    return {"answer": _words(rng)}, {"answers": [_words(rng, 1) for _ in range(rng.randint(0, 3))]}


def _draw_texts(rng: random.Random) -> tuple[dict[str, Any], dict[str, Any]]:
    return {"text": _words(rng)}, {"references": [_words(rng, 1) for _ in range(rng.randint(1, 3))]}


def _draw_scores(rng: random.Random) -> tuple[dict[str, Any], dict[str, Any]]:
    cuts = sorted((rng.random(), rng.random()))
    scores = {"a": cuts[0], "b": cuts[1] - cuts[0], "c": 1 - cuts[1]}
    return {"label": max(scores, key=scores.__getitem__), "scores": scores}, {"label": rng.choice("abc")}


def _draw_losses(rng: random.Random) -> tuple[dict[str, Any], dict[str, Any]]:
    return {"loss": 9 * rng.random(), "tokens": rng.randint(1, 9)}, {}


def _draw_hidden(rng: random.Random) -> tuple[dict[str, Any], dict[str, Any]]:
    tokens = rng.randint(1, 9)
    found = {"loss": 9 * rng.random(), "tokens": tokens, "correct": rng.randint(0, tokens)}
    return found | {"next_loss": rng.random(), "pairs": 1, "next_correct": rng.randint(0, 1)}, {}


CASES = {
    # Three of four.
    "accuracy": Case(_labels("a b b c"), _labels("a b a c"), {"accuracy": 0.75}, _draw_labels),
    # Bin 1, (0, 1/2]: 0.4 right; its gap is 0.6. Bin 2: 0.9 right, 0.7 wrong; 0.8 against 1/2, a gap of 0.3.
    "calibration": Case(
        [{"scores": {"a": a, "b": b}} for a, b in ((0.4, 0.3), (0.9, 0.1), (0.3, 0.7))],
        _labels("a a a"),
        {"ece": (1 * 0.6 + 2 * 0.3) / 3, "mce": 0.6},
        _draw_scores,
        options={"bins": 2},
    ),
    # Centred: (-1, 0, 1), (-2, 1, 1): 3 / sqrt(2 * 6). Ranks (1, 2, 3), (1, 2.5, 2.5): 1.5 / sqrt(2 * 1.5).
    "correlation": Case(
        _values(1, 2, 3),
        _values(0, 3, 3),
        {"pearson": 3 / math.sqrt(12), "spearman": 1.5 / math.sqrt(3)},
        _draw_values,
        empty={"pearson": math.nan, "spearman": math.nan},
    ),
    # Words a b a, a: 2 different of 4; pairs ab, ba: 2 of 2, for none crosses into the next text.
    "distinct": Case(
        [{"text": "a b a"}, {"text": "a"}],
        [{"references": ["x"]}, {"references": ["y"]}],
        {"distinct_1": 0.5, "distinct_2": 1.0},
        _draw_texts,
        alone=True,
    ),
    # Two of three texts came to their end.
    "ended": Case(
        [{"ended": True}, {"ended": False}, {"ended": True}],
        [{}, {}, {}],
        {"ended": 2 / 3},
        lambda rng: ({"ended": rng.random() < 0.7}, {}),
        alone=True,
    ),
    # seqeval's README: of MISC (3, 5) and PER (0, 1), only PER is found; MISC is found a word too early.
    "entity_f1": Case(
        [{"tags": "O O B-MISC I-MISC I-MISC I-MISC O".split()}, {"tags": "B-PER I-PER O".split()}],
        [{"tags": "O O O B-MISC I-MISC I-MISC O".split()}, {"tags": "B-PER I-PER O".split()}],
        {"precision": 0.5, "recall": 0.5, "f1": 0.5}
        | {"precision_macro": 0.5, "recall_macro": 0.5, "f1_macro": 0.5}
        | {"precision/MISC": 0.0, "recall/MISC": 0.0, "f1/MISC": 0.0}
        | {"precision/PER": 1.0, "recall/PER": 1.0, "f1/PER": 1.0},
        _draw_tags,
    ),
    # a: 2 right of 2 predicted, 3 actual: F1 4/5. b: 1 of 2, 1: 2/3. Micro: 3 of 4. Weights: 3 and 1.
    "f1": Case(
        _labels("a a b b"),
        _labels("a a a b"),
        {"precision_micro": 0.75, "recall_micro": 0.75, "f1_micro": 0.75}
        | {"precision_macro": 0.75, "recall_macro": (2 / 3 + 1) / 2, "f1_macro": (4 / 5 + 2 / 3) / 2}
        | {"precision_weighted": 3.5 / 4, "recall_weighted": 3 / 4, "f1_weighted": (12 / 5 + 2 / 3) / 4},
        _draw_labels,
    ),
    # 2 true positives, 1 true negative, 1 false negative: 2 / sqrt(2 * 3 * 1 * 2).
    "matthews": Case(_labels("a a b b"), _labels("a a a b"), {"matthews": 2 / math.sqrt(12)}, _draw_labels),
    # 24 bits over 8 hidden tokens, 5 of them found; 2 bits over 2 pairs, 1 of them told right.
    "masked_lm": Case(
        [
            {"loss": 2 * math.log(2), "tokens": 2, "correct": 1}
            | {"next_loss": math.log(2), "pairs": 1, "next_correct": 1},
            {"loss": 22 * math.log(2), "tokens": 6, "correct": 4}
            | {"next_loss": math.log(2), "pairs": 1, "next_correct": 0},
        ],
        [{}, {}],
        {"loss": 4 * math.log(2), "masked_loss": 3 * math.log(2), "perplexity": 8.0}
        | {"masked_accuracy": 0.625, "next_loss": math.log(2), "next_accuracy": 0.5},
        _draw_hidden,
        options={"pairs": True},
        empty={"perplexity": 1.0},
        alone=True,
    ),
    "perplexity": Case(
        [{"loss": 2.0 * math.log(2), "tokens": 2}, {"loss": 22.0 * math.log(2), "tokens": 6}],
        [{}, {}],
        # 24 bits over 8 tokens: 3 bits a token, perplexity 8, and 3 / 4 bits a byte.
        {"loss": 3 * math.log(2), "perplexity": 8.0, "bits_per_byte": 0.75},
        _draw_losses,
        options={"bytes_per_token": 4.0},
        empty={"perplexity": 1.0},
        alone=True,
    ),
    # Errors 1, -3, 0: squares 1 + 9, magnitudes 1 + 3.
    "regression": Case(
        _values(2, 0, 5),
        _values(1, 3, 5),
        {"mse": 10 / 3, "rmse": math.sqrt(10 / 3), "mae": 4 / 3},
        _draw_values,
        empty={"mse": math.nan, "rmse": math.nan, "mae": math.nan},
    ),
    # "cat sat" has 2 of the 3 words of the better answer: F1 4/5. The second is right, the third is not.
    "squad": Case(
        [{"answer": "The cat sat."}, {"answer": ""}, {"answer": ""}],
        [{"answers": ["dog", "a cat sat down"]}, {"answers": []}, {"answers": ["dog"]}],
        {"exact_match": 100 / 3, "f1": 60.0}
        | {"has_answer/exact_match": 0.0, "has_answer/f1": 40.0}
        | {"no_answer/exact_match": 100.0, "no_answer/f1": 100.0},
        _draw_answers,
    ),
    # 4 of 5 words, 3 of 4 pairs, 2 of 3 triples, 1 of 2 quadruples; as long as the reference.
    "bleu": Case(
        [{"text": "the cat sat on mats"}],
        [{"references": ["the cat sat on it"]}],
        {"bleu": 100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25, "brevity_penalty": 1.0, "length_ratio": 1.0},
        _draw_texts,
        empty={"brevity_penalty": 1.0},
        library="sacrebleu",
    ),
    # Words: 3 of 3 and of 4; the pair "one two": 1 of 2 and of 3; the longest subsequence: 2 of 3 and of 4.
    "rouge": Case(
        [{"text": "four one two"}],
        [{"references": ["one two three four"]}],
        {"rouge1": 6 / 7, "rouge2": 2 / 5, "rougeL": 4 / 7, "rougeLsum": 4 / 7},
        _draw_texts,
        library="rouge_score",
    ),
}


@pytest.fixture(params=plugin.names("lmx.metrics"))
def case(request: pytest.FixtureRequest) -> Case:
    assert request.param in CASES, "a metric without an example here"
    found = CASES[request.param]
    if found.library:
        pytest.importorskip(found.library, reason=f"{found.library} comes with pip install 'lmx[eval]'")
    return found


@pytest.fixture
def metric(case: Case, request: pytest.FixtureRequest) -> Metric:
    name = next(name for name, one in CASES.items() if one is case)
    made: Metric = plugin.find("lmx.metrics", name).metric(**case.options)
    return made


def _add(one: Totals, two: Totals) -> dict[str, Any]:
    assert one.keys() == two.keys()
    return {name: one[name] + two[name] for name in one}


def _equal(one: Totals, two: Totals) -> None:
    """Whole numbers to the bit, sums of floats to rounding."""
    assert one.keys() == two.keys()
    for name in one:
        if isinstance(one[name], Counter):
            assert one[name] == two[name]
        elif np.issubdtype(np.asarray(one[name]).dtype, np.integer):
            np.testing.assert_array_equal(one[name], two[name])
        else:
            np.testing.assert_allclose(one[name], two[name], rtol=1e-13, atol=0)


def _drawn(case: Case, seed: int) -> tuple[Examples, Examples]:
    rng = random.Random(seed)
    pairs = [case.draw(rng) for _ in range(rng.randint(1, 30))]
    return [one for one, _ in pairs], [two for _, two in pairs]


def test_the_example_by_hand(case: Case, metric: Metric) -> None:
    found = metric.finish(metric.sums(case.predictions, case.references))
    assert found == pytest.approx(case.figures, rel=1e-12)
    assert all(type(value) is float for value in found.values())
    json.dumps(found, allow_nan=False)


def test_parts_add_up_to_the_whole(case: Case, metric: Metric) -> None:
    for seed in range(20):
        predictions, references = _drawn(case, seed)
        whole = metric.sums(predictions, references)
        for cut in {0, 1, len(predictions) // 2, len(predictions)}:
            first = metric.sums(predictions[:cut], references[:cut])
            _equal(_add(first, metric.sums(predictions[cut:], references[cut:])), whole)
        ones = [metric.sums([one], [two]) for one, two in zip(predictions, references, strict=True)]
        total = ones[0]
        for one in ones[1:]:
            total = _add(total, one)
        _equal(total, whole)
        assert metric.finish(total) == pytest.approx(metric.finish(whole), rel=1e-12, nan_ok=True)


def test_order_does_not_matter(case: Case, metric: Metric) -> None:
    for seed in range(20):
        predictions, references = _drawn(case, seed)
        order = random.Random(seed).sample(range(len(predictions)), len(predictions))
        shuffled = metric.sums([predictions[i] for i in order], [references[i] for i in order])
        straight = metric.sums(predictions, references)
        _equal(shuffled, straight)
        one, two = metric.finish(shuffled), metric.finish(straight)
        assert {key: np.float64(value).tobytes() for key, value in one.items()} == {
            key: np.float64(value).tobytes() for key, value in two.items()
        }


def test_finish_leaves_the_totals_as_they_are(case: Case, metric: Metric) -> None:
    total = metric.sums(*_drawn(case, 0))
    first = metric.finish(total)
    assert metric.finish(total) == pytest.approx(first, rel=0, abs=0, nan_ok=True)
    _equal(total, metric.sums(*_drawn(case, 0)))


def test_nothing_to_count_is_no_error(case: Case, metric: Metric) -> None:
    found = metric.finish(metric.sums([], []))
    assert found == pytest.approx({name: case.empty.get(name, 0.0) for name in found}, nan_ok=True)


def test_a_missing_field_is_the_users_error(case: Case, metric: Metric) -> None:
    with pytest.raises(UserError, match=r"prediction 0 has no .*'unheard_of'"):
        metric.sums([{"unheard_of": 1}, *case.predictions[1:]], case.references)
    if not case.alone:
        with pytest.raises(UserError, match=r"reference 0 has no .*'unheard_of'"):
            metric.sums(case.predictions, [{"unheard_of": 1}, *case.references[1:]])


def test_a_value_of_another_kind_is_the_users_error(case: Case, metric: Metric) -> None:
    for side in (0,) if case.alone else (0, 1):
        examples = [case.predictions, case.references]
        for key in examples[side][0]:
            broken = [list(some) for some in examples]
            broken[side][-1] = broken[side][-1] | {key: {1: [None]}}
            with pytest.raises(UserError, match=rf"{'reference' if side else 'prediction'} \d+: '{key}' is "):
                metric.sums(broken[0], broken[1])


def test_unequal_counts_are_the_users_error(case: Case, metric: Metric) -> None:
    with pytest.raises(UserError, match=r"predictions for \d+ references"):
        metric.sums(case.predictions, case.references[1:])


def test_intervals_are_those_of_scoring_each_sample_anew(case: Case, metric: Metric) -> None:
    predictions, references = _drawn(case, 3)
    N, samples = len(predictions), 40
    # The draws are part of what intervals promises: equal seeds give equal intervals.
    generator = np.random.default_rng((7, 0x17A112DC))
    figures = []
    for _ in range(samples):
        drawn = generator.integers(0, N, N)
        figures.append(
            metric.finish(metric.sums(*(operator.itemgetter(*drawn)(p) for p in (predictions, references))))
        )
    found = intervals(metric, predictions, references, seed=7, samples=samples, level=0.8)
    assert found.keys() == {name for one in figures for name in one}
    for name, ends in found.items():
        values = [one[name] for one in figures if not math.isnan(one.get(name, math.nan))]
        assert ends == pytest.approx(tuple(np.quantile(values, [0.1, 0.9])), rel=1e-12)
        assert all(type(end) is float for end in ends)
    assert found == intervals(metric, predictions, references, seed=7, samples=samples, level=0.8)
    assert found != intervals(metric, predictions, references, seed=8, samples=samples, level=0.8)


@pytest.mark.parametrize("name", plugin.names("lmx.metrics"))
def test_the_figures_of_errors_are_named(name: str) -> None:
    """Where the lower is the better, the checkpoint with the highest must not be chosen."""
    module, case = plugin.find("lmx.metrics", name), CASES[name]
    made = module.metric(**case.options)
    figures = set(made.finish(made.sums(case.predictions, case.references)))
    errors = {"loss", "perplexity", "bits_per_byte", "mse", "rmse", "mae", "ece", "mce"}
    errors |= {"masked_loss", "next_loss"}
    assert set(getattr(module, "LOWER", ())) & figures == errors & figures
