"""The page tells the numbers of the files, escapes what it shows, and asks nothing of the network."""

from __future__ import annotations

import json
import math
import os
import re
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from lmx.core.errors import UserError
from lmx.core.log import Jsonl
from lmx.report import Report, chart, markup, read, render, write

EVIL = "<script>alert('x')</script><img src=http://evil.example/a.png onerror=\"b\">&amp;"
VOID = {"meta", "link", "img", "br", "input"}


class Page(HTMLParser):
    """A well-formed page: its tags, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == [], "every tag is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style",):
            self.words.append(data)

    @property
    def text(self) -> str:
        return "\n".join(self.words)


def a_run(folder: Path, steps: int = 200) -> Path:
    """Write the files of a made-up run."""
    config = {"model": {"name": "gpt2", "layers": 4}, "task": {"name": "causal_lm"}, "optim": {"rate": 6e-4}}
    (folder / "data").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({**config, "evil": EVIL, "betas": [0.9, 0.95]}))
    metrics = Jsonl(folder / "metrics.jsonl")
    for step in range(1, steps + 1):
        train = {"loss": 8 / step + 3, "rate": 6e-4 * step / steps, "grad_norm": 1.5 + 1 / step}
        speed = {"tokens_per_second": 20000.0 + step, "tokens": step * 512, "seconds": step / 5}
        metrics.write({"kind": "train", "step": step, **train, **speed})
        if step % 50 == 0:
            loss = 3.1 + 9 / step
            figures = {"loss": loss, "perplexity": math.exp(loss), "bits_per_byte": loss / 2.5}
            metrics.write({"kind": "evaluation", "split": "validation", "step": step, **figures})
    samples = Jsonl(folder / "samples.jsonl")
    samples.write({"step": 100, "prompt": "Early", "text": " words"})
    samples.write({"step": 200, "prompt": "A <b>prompt</b>", "text": f" and {EVIL}\x00\x1b[31m"})
    facts = {"lmx": "0.1.0", "jax": "0.10.2", "device_kind": "cpu", "devices": 1, "parameters": 124439808}
    more = {"parameters_without_positions": 123653376, "seconds": 193.4, "steps": 200, "tokens": 102400}
    best = {"best": {"step": 150, "loss": 3.0517}, "export": EVIL}
    (folder / "run.json").write_text(json.dumps({**facts, **more, **best}))
    (folder / "data" / "manifest.json").write_text(json.dumps(manifest()))
    return folder


def manifest(kept: int = 653) -> dict[str, Any]:
    split = {"bytes": 2110477, "documents": 593, "labels": 608038, "rows": 4755, "tokens": 608631}
    counts = {
        "documents": {"in": 656, "kept": kept, "dropped": {"blank": 2, "duplicate": 1}},
        "bytes": {"in": 99},
    }
    tokenizer = {"kind": "bpe", "vocab_size": 4096, "sha256": "ae" * 32}
    sources = [{"path": EVIL, "bytes": 7, "sha256": "6d" * 32}]
    split_of = {"train": {**split, "text_sha256": "6e" * 32, "shards": [{"name": "t"}]}}
    return {"splits": split_of, "counts": counts, "tokenizer": tokenizer, "sources": sources}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_run(tmp_path_factory.mktemp("runs") / "quick")


@pytest.fixture(scope="module")
def html(run: Path) -> str:
    return write(run).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_the_numbers_are_those_of_the_files(run: Path, page: Page) -> None:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    final = [record for record in records if record["kind"] == "evaluation"][-1]
    for shown in (
        f"{final['loss']:.4f}",
        f"{final['perplexity']:.2f}",
        f"{final['bits_per_byte']:.4f}",
        "nats per token; best 3.0517 at step 150",
        "20,101",  # tokens/s, median
        "3:13",
        "193.4 s",
        "124.4M",
        "124,439,808; 123,653,376 without positions",
        "gpt2, causal_lm · 200 steps · 102,400 tokens · cpu",
    ):
        assert shown in page.words, shown


def test_the_tables_hold_every_evaluation_and_the_ends_of_training(page: Page) -> None:
    for step in (50, 100, 150, 200):
        assert f"{3.1 + 9 / step:.4f}" in page.words
    assert "Training: 40 of 200 records, evenly spaced" in page.words
    assert f"{8 / 1 + 3:.4f}" in page.words
    assert f"{8 / 200 + 3:.4f}" in page.words


def test_data_config_and_environment_are_told(page: Page) -> None:
    text = page.text
    assert "656 documents in = 653 kept + 3 dropped" in text
    assert "do not add up" not in text
    for shown in ("4,755", "608,631", "bpe", "ae" * 32, "6e" * 32, "6d" * 32, "counts.bytes.in", "duplicate"):
        assert shown in page.words, shown
    for shown in ("model.layers", "optim.rate", "0.0006", "0.9, 0.95", "jax", "0.10.2"):
        assert shown in page.words, shown


def test_what_users_wrote_is_shown_and_not_run(html: str, page: Page) -> None:
    assert "<script" not in html.lower()
    assert "<img" not in html.lower()
    assert page.text.count("alert('x')") == 4, "in a sample, the config, a source and the environment"
    assert "A <b>prompt</b>" in page.words
    assert "\x00" not in html
    assert "\x1b" not in html
    assert "␀␛[31m" in page.text


def test_the_page_is_self_contained(html: str, page: Page) -> None:
    for tag, attributes in page.tags:
        assert tag not in {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
        assert not {"src", "href", "srcset", "action", "xlink:href", "style", "onclick"} & attributes.keys()
    assert "url(" not in html
    assert "@import" not in html
    policies = [a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_the_page_is_accessible(page: Page) -> None:
    charts = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(charts) == 5
    assert all(one["role"] == "img" and one["aria-label"] for one in charts)
    assert "validation: from 3.28 at step 50 to 3.145 at step 200." in str(charts[0]["aria-label"])
    assert ("html", {"lang": "en"}) in page.tags
    assert [tag for tag, _ in page.tags if tag in ("h1", "h2")] == ["h1"] + ["h2"] * 5
    assert "step 200: validation 3.145" in page.words, "a tooltip"


def test_writing_is_atomic_and_repeatable(run: Path, html: str) -> None:
    assert write(run).read_text(encoding="utf-8") == html
    assert sorted(os.listdir(run)) == [
        "config.json", "data", "metrics.jsonl", "report.html", "run.json", "samples.jsonl",
    ]  # fmt: skip


# --- lesser runs ---


def test_a_config_alone_is_enough(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    page = Page(write(tmp_path).read_text(encoding="utf-8"))
    assert page.text.count("no numbers yet") == 5
    assert "No step has been recorded yet." in page.text


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.json is missing"):
        write(tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", "{", "not JSON"),
        ("config.json", "[]", "expected a JSON object"),
        ("run.json", "\udc80", "not JSON"),
        ("data/manifest.json", "nope", "not JSON"),
        ("metrics.jsonl", "{}\nx\n{}\n", "line 2"),
        ("metrics.jsonl", '{"kind": "train", "loss": 1}\n', "record 1: no `step`"),
        ("metrics.jsonl", '{"kind": "train", "step": 1, "loss": "low"}\n', "loss = 'low' is not a number"),
        ("metrics.jsonl", '{"kind": "train", "step": "NaN"}\n', "not a whole number"),
        ("metrics.jsonl", '{"kind": "train", "step": 1, "rate": [1]}\n', r"rate = \[1\] is not a number"),
        ("samples.jsonl", '{"step": 1}\n', "record 1: no `text`"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    folder = a_run(tmp_path / "run", steps=2)
    (folder / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=message) as caught:
        write(folder)
    assert str(folder / name) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (folder / "report.html").exists()


def test_a_torn_last_line_does_no_harm(tmp_path: Path) -> None:
    folder = a_run(tmp_path / "run", steps=50)
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"kind": "train", "step": 51, "lo')
    assert len(read(folder).train) == 50
    write(folder)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "report.html").mkdir()
    with pytest.raises(UserError, match=r"report\.html: cannot be written"):
        write(tmp_path)


def test_counts_that_do_not_add_up_are_said(tmp_path: Path) -> None:
    report = Report("r", {}, data=manifest(kept=1))
    assert "656 documents in = 1 kept + 3 dropped: the counts do not add up." in Page(render(report)).text
    flat = Report("r", {}, data={"counts": {"in": 5, "kept": 4, "dropped": 1}})
    assert "5 documents in = 4 kept + 1 dropped" in Page(render(flat)).words


@pytest.mark.parametrize(
    "data",
    [
        {"splits": {"train": 5}},
        {"sources": ["a", "b"]},
        {"counts": 3},
        {"splits": [1]},
        {"deep": [{"a": []}]},
    ],
)
def test_odd_manifests_are_shown_as_they_are(data: dict[str, Any]) -> None:
    Page(render(Report("r", {}, data=data)))


def test_losses_that_are_not_finite_break_the_line_and_are_counted(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    metrics = Jsonl(tmp_path / "metrics.jsonl")
    for step in range(1, 300):
        loss = math.nan if step == 100 else math.inf if step == 200 else 2.0
        metrics.write({"kind": "train", "step": step, "loss": loss, "grad_norm": math.nan})
    metrics.write({"kind": "evaluation", "step": 300, "loss": math.nan, "perplexity": math.inf})
    text = write(tmp_path).read_text(encoding="utf-8")
    assert "2 records are not finite, the first at step 100." in text
    assert "not finite" in Page(text).words, "the headline does not invent a number"
    paths = re.findall(r' d="([^"]*)"', text)
    assert all(re.fullmatch(r"[MLHVv0-9. -]*", path) for path in paths), "no nan in a path"
    faint = re.search(r'<path class="faint a" d="([^"]*)"', text)
    assert faint
    assert faint[1].count("M") == 3


@pytest.mark.parametrize("loss", [0.0, 3.0, -2.0, 1e-30, 1e50, math.inf])
def test_one_point(loss: float) -> None:
    record = {"kind": "train", "step": 0, "loss": loss, "rate": loss, "grad_norm": loss}
    text = render(Report("r", {}, train=(record,)))
    Page(text)
    assert "nan" not in "".join(re.findall(r"<svg.*?</svg>", text)).lower()
    finite = math.isfinite(loss)
    assert text.count("no numbers yet") == (1 if finite else 5), "only the throughput is unknown"
    assert text.count("<circle") == (4 if finite else 0)


def test_a_hundred_thousand_points_stay_a_small_page_and_keep_the_spike() -> None:
    train = tuple({"step": at, "loss": 3 + (97 if at == 61234 else 0), "rate": 1e-4} for at in range(100_000))
    start = time.process_time()
    text = render(Report("r", {}, train=train))
    assert time.process_time() - start < 8
    assert len(text) < 300_000
    first = re.search(r'<path class="faint a" d="([^"]*)"', text)
    assert first
    places = [tuple(map(float, pair.split())) for pair in re.split("[ML]", first[1])[1:]]
    assert len(places) <= 1000
    assert min(y for _, y in places) == pytest.approx(chart.TOP, abs=1), "100 lies at the top of the axis"


# --- charts ---


def test_downsampling_keeps_extremes_ends_and_order() -> None:
    points = [(float(x), math.sin(x / 50) * (1 + x / 1e4)) for x in range(12_345)]
    points[777] = (777.0, 1e6)
    points[9000] = (9000.0, -1e6)
    kept = [point for point in chart.downsample(points, 1000) if point is not None]
    assert len(kept) <= 1000
    assert kept == sorted(kept)
    assert {points[0], points[-1], points[777], points[9000]} <= set(kept)
    assert set(kept) <= set(points)
    assert chart.downsample(points[:1000], 1000) == points[:1000]


def test_downsampling_breaks_lines_at_gaps() -> None:
    points = [(float(x), math.nan if x % 500 == 7 else 1.0) for x in range(5000)]
    assert chart.downsample(points, 100).count(None) == 10
    assert [p for p in chart.downsample([(0.0, math.nan)] * 5000, 100) if p] == []
    assert chart.downsample([(0.0, math.inf), (1.0, 2.0)], 100) == [None, (1.0, 2.0)]


def test_smoothing_is_a_centred_mean() -> None:
    points = [(float(x), float(x)) for x in range(20)]
    assert chart.smooth(points, 5) == points, "a straight line stays"
    spiked = chart.smooth([(0.0, 0.0), (1.0, 3.0), (2.0, math.nan), (3.0, 6.0), (4.0, 0.0)], 3)
    assert [y for _, y in spiked][:2] == [0.0, 1.5]
    assert math.isnan(spiked[2][1])
    assert [y for _, y in spiked][3:] == [3.0, 0.0]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.3, 2.1, [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]),
        (0, 2000, [0, 500, 1000, 1500, 2000]),
        (0, 6e-4, [0, 2e-4, 4e-4, 6e-4]),
        (-1, 1, [-1, -0.5, 0, 0.5, 1]),
        (3, 3, [2.6, 2.8, 3.0, 3.2, 3.4]),
    ],
)
def test_ticks_are_round_and_enclose(low: float, high: float, expected: list[float]) -> None:
    assert chart.ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize("low", [0.0, 1e-300, 1e-12, 1.0, 1e16, 1e99, -5.0])
@pytest.mark.parametrize("span", [0.0, 1e-15, 1e-3, 7.0, 1e20])
def test_ticks_of_any_range_are_few_and_rise(low: float, span: float) -> None:
    found = chart.ticks(low, low + span)
    assert 2 <= len(found) <= 12
    assert found[-1] > found[0]
    slack = 1e-8 * (found[-1] - found[0])
    assert found[0] - slack <= low <= low + span <= found[-1] + slack
    assert len({*chart.labels(found)[0]}) == len(found), "every tick reads differently"


def test_tick_labels_are_short() -> None:
    assert chart.labels([0, 500, 1000]) == (["0", "500", "1,000"], "")
    assert chart.labels([0, 12500, 25000]) == (["0", "12.5k", "25k"], "")
    assert chart.labels([0, 2e6]) == (["0", "2M"], "")
    assert chart.labels([0, 2e-4, 6e-4]) == (["0", "2", "6"], " ×10⁻⁴")
    assert chart.labels([2.5, 3.0]) == (["2.5", "3.0"], "")


def test_values_are_spelled_for_people() -> None:
    values = [None, True, 1234567, 0.0006, 1e-7, 3.0, [1, "a"], {}, "x"]
    shown = ["none", "yes", "1,234,567", "0.0006", "1e-07", "3", "1, a", "none", "x"]
    assert [markup.spell(value) for value in values] == shown
    assert [markup.short(value) for value in (950, 4240896, 124439808, "?")] == [
        "950",
        "4.24M",
        "124.4M",
        "?",
    ]
