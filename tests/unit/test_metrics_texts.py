"""BLEU, ROUGE and distinct-n of texts: published values, and the libraries' own figures."""

from __future__ import annotations

import random
import sys
from typing import Any

import numpy as np
import pytest

from lmx.core.errors import UserError
from lmx.core.types import Metric
from lmx.metrics import bleu, distinct, rouge

# The example of sacreBLEU's README: three texts with two references each.
HYPOTHESES = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."]
REFERENCES = [
    ["The dog bit the man.", "The dog had bit the man."],
    ["It was not unexpected.", "No one was surprised."],
    ["The man bit him first.", "The man had bitten the dog."],
]
WORDS = "the The cat cats sat sitting on mat. , mat! (dog) U.S. don't 3.5 naïve 中文".split()


@pytest.fixture(scope="module")
def sacrebleu() -> Any:
    return pytest.importorskip("sacrebleu", reason="sacrebleu comes with pip install 'lmx[eval]'")


@pytest.fixture(scope="module")
def scorer() -> Any:
    return pytest.importorskip(
        "rouge_score.rouge_scorer", reason="rouge-score comes with pip install 'lmx[eval]'"
    )


def _figures(metric: Metric, texts: list[str], references: list[list[str]]) -> dict[str, float]:
    return metric.finish(
        metric.sums([{"text": one} for one in texts], [{"references": one} for one in references])
    )


def _drawn(seed: int, join: str = " ") -> tuple[list[str], list[list[str]]]:
    """Texts and their references, of which each text has another number."""
    rng = random.Random(seed)

    def text(least: int) -> str:
        return join.join(rng.choices(WORDS, k=rng.randint(least, 12)))

    references = [[text(1) for _ in range(rng.randint(1, 3))] for _ in range(rng.choice([1, 3, 20]))]
    texts = [rng.choice([text(0), one[0], one[0][: rng.randint(0, 30)]]) for one in references]
    return texts, references


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, 48.530827),
        ({"tokenize": "none"}, 49.1919566),
        ({"tokenize": "intl"}, 43.91623493),
        ({"smooth": "none"}, 48.530827),
        *(({"order": n}, one) for n, one in enumerate((77.65, 60.50, 53.93, 48.53, 46.14, 43.28), start=1)),
    ],
)
def test_bleu_of_sacrebleus_readme(sacrebleu: Any, options: dict[str, Any], wanted: float) -> None:
    tolerance = 1e-6 if "order" not in options else 5e-3
    assert _figures(bleu.metric(**options), HYPOTHESES, REFERENCES)["bleu"] == pytest.approx(
        wanted, abs=tolerance
    )


@pytest.mark.parametrize(
    ("text", "reference", "wanted"),
    [
        ("this is a test", "this is a test", 1.0),
        ("this is a fest", "this is a test", 0.223606797749979),
        ("test", "a test", 0.3678794411714425),
        ("a little test", "a test", 0.03218297948685433),
    ],
)
def test_bleu_of_single_sentences(sacrebleu: Any, text: str, reference: str, wanted: float) -> None:
    metric = bleu.metric(tokenize="none", smooth="floor", smooth_value=0.01, effective=True)
    assert _figures(metric, [text], [[reference]])["bleu"] == pytest.approx(100 * wanted, abs=1e-8)


def test_bleu_equals_sacrebleu(sacrebleu: Any) -> None:
    for seed in range(100):
        texts, references = _drawn(seed)
        rng = random.Random(seed)
        options = {
            "tokenize": rng.choice(["13a", "intl", "char", "zh", "none"]),
            "lowercase": rng.random() < 0.5,
        }
        smooth = rng.choice(["exp", "floor", "add-k", "none"])
        most = max(map(len, references))
        streams = [[some[i] if i < len(some) else None for some in references] for i in range(most)]
        theirs = sacrebleu.BLEU(**options, smooth_method=smooth)
        wanted = theirs.corpus_score(texts, streams)
        found = _figures(bleu.metric(**options, smooth=smooth), texts, references)
        assert found["bleu"] == pytest.approx(wanted.score, rel=1e-12)
        assert found["brevity_penalty"] == pytest.approx(wanted.bp, rel=1e-12)
        counts = {len(some) for some in references}
        ours = bleu.signature(counts.pop() if len(counts) == 1 else None, **options, smooth=smooth)
        assert ours == str(theirs.get_signature())


def test_smoothing_leaves_the_totals_as_they_are(sacrebleu: Any) -> None:
    """sacreBLEU writes add-k's counts into the lists that it is given."""
    metric = bleu.metric(smooth="add-k")
    totals = metric.sums([{"text": "a b c d e"}], [{"references": ["a b c d x"]}])
    assert metric.finish(totals) == metric.finish(totals)
    assert totals["correct"].tolist() == [4, 3, 2, 1]


def test_bleu_tells_how_it_was_made(sacrebleu: Any) -> None:
    release = sacrebleu.__version__
    assert bleu.signature(2) == f"nrefs:2|case:mixed|eff:no|tok:13a|smooth:exp|version:{release}"
    assert bleu.signature(None, order=2).endswith(f"version:{release}|order:2")


def test_bleu_is_of_texts_as_people_read_them(sacrebleu: Any) -> None:
    """A tokenizer's pieces, joined by spaces, give another figure, and the signature cannot tell."""
    pieces = [" ".join(text[i : i + 3] for i in range(0, len(text), 3)) for text in HYPOTHESES]
    cut = [[" ".join(one[i : i + 3] for i in range(0, len(one), 3)) for one in some] for some in REFERENCES]
    figures = [_figures(bleu.metric(), *pair)["bleu"] for pair in ((HYPOTHESES, REFERENCES), (pieces, cut))]
    assert figures[0] == pytest.approx(48.530827, abs=1e-6)
    assert abs(figures[1] - figures[0]) > 0.5


def test_bleu_is_of_the_corpus_not_a_mean_of_sentences(sacrebleu: Any) -> None:
    ones = [_figures(bleu.metric(), [a], [b])["bleu"] for a, b in zip(HYPOTHESES, REFERENCES, strict=True)]
    assert abs(np.mean(ones) - 48.530827) > 0.5


def test_several_references_are_not_one_after_the_other(sacrebleu: Any) -> None:
    """E2E's protocol: n-grams of any reference count, once; the best single reference gives less."""
    single = [_figures(bleu.metric(), HYPOTHESES, [[some[i]] for some in REFERENCES])["bleu"] for i in (0, 1)]
    assert _figures(bleu.metric(), HYPOTHESES, REFERENCES)["bleu"] > max(single)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokenize": "13b"}, r"tokenize='13b' \(did you mean '13a'\?\); expected one of 13a, intl"),
        ({"smooth": "expo"}, r"smooth='expo' \(did you mean 'exp'\?\)"),
        ({"smooth_value": 0.1}, "smooth_value=0.1 with smooth='exp'"),
        ({"order": 0}, "order=0; expected the longest n-gram"),
    ],
)
def test_unknown_options_of_bleu_are_the_users_error(options: dict[str, Any], message: str) -> None:
    for make in (bleu.metric, lambda **some: bleu.signature(1, **some)):
        with pytest.raises(UserError, match=message):
            make(**options)


@pytest.mark.parametrize(
    ("text", "reference", "name", "wanted"),
    [
        ("testing", "testing one two", "rouge1", 1 / 2),
        ("testing one", "testing one two", "rouge2", 2 / 3),
        ("testing one", "testing one two", "rougeL", 4 / 5),
        ("testing two", "testing one two", "rougeL", 4 / 5),
        # Precision 4/10 and recall 4/5: the union over lines of the longest common subsequences.
        ("w1 w2 w6 w7 w8\nw1 w3 w8 w9 w5", "w1 w2 w3 w4 w5", "rougeLsum", 8 / 15),
        ("", "testing one two", "rougeLsum", 0.0),
    ],
)
def test_rouge_of_the_librarys_tests(
    scorer: Any, text: str, reference: str, name: str, wanted: float
) -> None:
    assert _figures(rouge.metric(), [text], [[reference]])[name] == pytest.approx(wanted, rel=1e-12)


def test_rouge_equals_rouge_score(scorer: Any) -> None:
    for seed in range(100):
        texts, references = _drawn(seed, join="\n" if seed % 2 else " ")
        stemmer = seed % 3 == 0
        theirs = scorer.RougeScorer(list(rouge.NAMES), use_stemmer=stemmer)
        found = _figures(rouge.metric(stemmer=stemmer), texts, references)
        for name in rouge.NAMES:  # the best reference of each figure by itself
            best = [
                max(theirs.score(one, text)[name].fmeasure for one in some)
                for text, some in zip(texts, references, strict=True)
            ]
            assert found[name] == pytest.approx(np.mean(best), rel=1e-12, abs=1e-15)


def test_rouge_lsum_reads_each_line_as_a_sentence(scorer: Any) -> None:
    reference, text = "the cat sat.\nthe dog ran.", "the dog ran.\nthe cat sat."
    lines = _figures(rouge.metric(), [text], [[reference]])
    assert lines["rougeLsum"] == 1.0  # sentence by sentence all is there
    assert lines["rougeL"] == pytest.approx(1 / 2)  # in this order only one is
    flat = _figures(rouge.metric(), [text.replace("\n", " ")], [[reference.replace("\n", " ")]])
    assert flat["rougeLsum"] == flat["rougeL"] == lines["rougeL"]


def test_rouge_lsum_without_newlines_is_rouge_l(scorer: Any) -> None:
    for seed in range(20):
        found = _figures(rouge.metric(), *_drawn(seed))
        assert found["rougeLsum"] == pytest.approx(found["rougeL"], rel=1e-12)


def test_rouge_lsum_parts_sentences_where_asked(scorer: Any) -> None:
    """Texts in one line, as models write them: without the newlines the figure is silently that of rougeL."""
    text, reference = "The cat sat. A dog ran 3.5 miles!", "A dog ran 3.5 miles! The cat sat."
    parted = _figures(rouge.metric(sentences=True), [text], [[reference]])
    theirs = scorer.RougeScorer(["rougeLsum"]).score(
        "A dog ran 3.5 miles!\nThe cat sat.", "The cat sat.\nA dog ran 3.5 miles!"
    )
    assert parted["rougeLsum"] == theirs["rougeLsum"].fmeasure == 1.0
    plain = _figures(rouge.metric(), [text], [[reference]])
    assert plain["rougeLsum"] == plain["rougeL"] < 1.0
    assert {**parted, "rougeLsum": 0} == {**plain, "rougeLsum": 0}  # nothing else is touched
    given = "One. Two\nthree."
    assert rouge.lines(given) == given  # its lines are its sentences


def test_rouge_stems_only_where_asked(scorer: Any) -> None:
    assert _figures(rouge.metric(), ["cats sitting"], [["cat sits"]])["rouge1"] == 0.0
    assert _figures(rouge.metric(stemmer=True), ["cats sitting"], [["cat sits"]])["rouge1"] == 1.0


@pytest.mark.parametrize("make", [bleu.metric, rouge.metric])
def test_a_text_needs_a_reference(sacrebleu: Any, scorer: Any, make: Any) -> None:
    with pytest.raises(UserError, match=r"reference 1: 'references' is \[\]; expected a list of one or more"):
        _figures(make(), ["a", "b"], [["a"], []])
    with pytest.raises(UserError, match="reference 0: 'references' is 'abc'"):
        make().sums([{"text": "abc"}], [{"references": "abc"}])


@pytest.mark.parametrize(("name", "library"), [("bleu", "sacrebleu"), ("rouge", "rouge_score")])
def test_a_missing_library_is_named_with_its_cure(
    name: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [one for one in sys.modules if one.split(".")[0] == library]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UserError, match=rf"{name} needs .*get it with: pip install 'lmx\[eval\]'"):
        {"bleu": bleu, "rouge": rouge}[name].metric()


def test_distinct_is_over_the_corpus_not_a_mean_of_texts() -> None:
    """Each text has no word twice; together they are half repetition."""
    texts, nothing = ["a b c", "a b c"], [["x"], ["x"]]
    assert _figures(distinct.metric(), texts, nothing) == {"distinct_1": 0.5, "distinct_2": 0.5}


def test_distinct_takes_each_character_where_there_are_no_spaces() -> None:
    assert _figures(distinct.metric(), ["你好 你好"], [["x"]]) == {"distinct_1": 0.5, "distinct_2": 1.0}
    found = _figures(distinct.metric(order=3, characters=True), ["你好 你好"], [["x"]])
    assert found == pytest.approx({"distinct_1": 2 / 4, "distinct_2": 2 / 3, "distinct_3": 1.0})
    with pytest.raises(UserError, match="order=0"):
        distinct.metric(order=0)


def test_distinct_equals_counting_by_hand() -> None:
    for seed in range(100):
        texts, references = _drawn(seed)
        found = _figures(distinct.metric(order=4), texts, references)
        for n in range(1, 5):
            every = [
                " ".join(t.split()[i : i + n])
                for t in texts
                for i in range(len(t.split()))
                if i + n <= len(t.split())
            ]
            assert found[f"distinct_{n}"] == (len(set(every)) / len(every) if every else 0.0)
