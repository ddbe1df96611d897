"""The page of a fine-tuning run: pictures in it and beside it, confused pairs, highest losses, intervals."""

from __future__ import annotations

import base64
import json
import os
import re
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

from lmx.core.errors import UserError
from lmx.report import picture, read, render, write
from lmx.report.facts import Judged

from .test_report import Page

NAMES = ["neg", "pos", "<b>odd</b>"]
PAIRS = [[0, 0, 5], [0, 1, 3], [1, 1, 4], [2, 0, 1], [2, 1, 1]]
BINS = {"count": [0, 4, 10], "right": [0, 1, 9], "confidence": [0.0, 2.0, 9.5], "ece": 0.1071, "mce": 0.25}
PLOTS = {"confusion": {"names": NAMES, "pairs": PAIRS}, "calibration": {"unit": "examples", **BINS}}
METRICS = {
    "examples": 14,
    "figures": {"accuracy": 0.64286, "loss": 0.7},
    "intervals": {"level": 0.95, "accuracy": [0.35, 0.85714]},
}
SCRIPT = "<script>alert(1)</script>"


def error(index: int, loss: Any) -> dict[str, Any]:
    scores = {"neg": 0.125, "pos": 0.875}
    told = {"reference": {"label": "neg"}, "prediction": {"label": "pos", "scores": scores}}
    return {"index": index, "loss": loss, "text": f"text {index} {SCRIPT}", **told}


def a_run(folder: Path, name: str = "") -> Path:
    end = f"-{name}" if name else ""
    (folder / "config.json").write_text("{}")
    (folder / f"metrics{end}.json").write_text(json.dumps(METRICS))
    (folder / f"plots{end}.json").write_text(json.dumps(PLOTS))
    rows = [error(30 - at, 5.0 - at / 10) for at in range(25)]
    (folder / f"errors{end}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def size(png: bytes) -> tuple[int, int]:
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    wide, high = struct.unpack(">II", png[16:24])
    return wide, high


def test_the_page_tells_what_the_files_hold(tmp_path: Path) -> None:
    html = write(a_run(tmp_path)).read_text()
    page = Page(html)
    for shown in (
        "0.6429",
        "0.3500 to 0.8571",
        "95 % interval",
        "pos (0.875)",
        "<b>odd</b>",
        "37.5 %",
        "50.0 %",
    ):
        assert shown in page.words, shown
    assert "9 of 14 on the diagonal, that is right." in page.words
    assert (
        "Expected calibration error 0.1071, largest gap of a bin 0.2500; 14 examples in 3 bins." in page.words
    )
    assert "<script" not in html
    body = html[html.index("Highest losses") :]
    losses = [float(loss) for loss in re.findall(r'<td class="n">(\d\.\d{4})</td><td>text', body)]
    assert losses == [5.0 - at / 10 for at in range(20)]
    pairs = html[html.index("The pairs confused most") :]
    rows = re.findall(r"<tr><td>(.*?)</td><td>(.*?)</td><td class=\"n\">(\d+)</td>", pairs)
    assert rows[:3] == [
        ("neg", "pos", "3"),
        ("&lt;b&gt;odd&lt;/b&gt;", "neg", "1"),
        ("&lt;b&gt;odd&lt;/b&gt;", "pos", "1"),
    ]


def test_the_pictures_are_in_the_page_and_beside_it(tmp_path: Path) -> None:
    html = write(a_run(tmp_path)).read_text()
    page = Page(html)
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    files = [tmp_path / "confusion.png", tmp_path / "calibration.png"]
    for attributes, file in zip(images, files, strict=True):
        source = attributes["src"]
        assert source is not None and source.startswith("data:image/png;base64,")
        assert base64.b64decode(source.partition(",")[2]) == file.read_bytes()
        assert attributes["alt"]
        assert min(size(file.read_bytes())) > 250
    (policy,) = [a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    before = [file.read_bytes() for file in files]
    for file in files:
        file.unlink()
    assert write(tmp_path).read_text() == html, "all of it comes from the run's files"
    assert [file.read_bytes() for file in files] == before


def test_each_of_several_tasks_has_its_part(tmp_path: Path) -> None:
    a_run(a_run(tmp_path, "ner"), "qa")
    page = Page(write(tmp_path).read_text())
    assert [word for word in page.words if word.startswith("Held-out")] == [
        "Held-out examples: ner",
        "Held-out examples: qa",
    ]
    assert {"confusion-ner.png", "calibration-qa.png"} <= set(os.listdir(tmp_path))
    assert [one.name for one in read(tmp_path).judged] == ["ner", "qa"]


def test_without_matplotlib_the_page_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    page = Page(write(a_run(tmp_path)).read_text())
    assert "pip install 'lmx[train]'" in page.words
    assert "0.6429" in page.words
    assert not list(tmp_path.glob("*.png"))


def test_a_run_of_texts_has_no_such_part(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    text = write(tmp_path).read_text()
    assert "Held-out" not in text
    assert text == render(read(tmp_path))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("plots.json", {"confusion": {"names": ["a"]}}),
        ("plots.json", {"confusion": {"names": ["a"], "pairs": [[0, 5, 1]]}}),
        ("plots.json", {"calibration": {"count": [1], "right": "x"}}),
        ("metrics.json", {"figures": {}}),
        ("metrics.json", {"examples": 1, "figures": {"a": []}, "intervals": {}}),
    ],
)
def test_files_of_another_make_are_named(tmp_path: Path, name: str, content: dict[str, Any]) -> None:
    a_run(tmp_path)
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(UserError, match=re.escape(name)) as caught:
        write(tmp_path)
    assert "\n" not in str(caught.value)


def test_answers_are_shown_by_their_kind(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    kinds: list[dict[str, Any]] = [
        {"words": [*"abc"], "reference": {"tags": [*"OBO"]}, "prediction": {"tags": [*"OOB"]}},
        {"text": "t", "text_pair": "u", "reference": {"value": 2.5}, "prediction": {"value": 1.0}},
        {"question": "q", "context": "c" * 700, "reference": {"answers": []}, "prediction": {"answer": ""}},
        {"prompt": "p", "reference": {"references": ["r"]}, "prediction": {"loss": 3.0, "tokens": 2}},
        {"text": "m", "reference": {"labels": []}, "prediction": {"labels": ["x", "y"], "scores": {}}},
    ]  # fmt: skip
    rows = [{"index": at, "loss": 9.0 - at, **one} for at, one in enumerate(kinds)]
    (tmp_path / "errors.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = Page(write(tmp_path).read_text())
    for shown in ("a b c", "2: B, 3: O", "2: O, 3: B", "2.5", "none", "loss 3, tokens 2", "x, y", " u"):
        assert shown in page.words, shown
    assert f" {'c' * 599}…" in page.words


# --- Pictures ---


def confusion(names: list[str], pairs: list[list[int]]) -> bytes:
    found = picture.draw(Judged("", {}, {"confusion": {"names": names, "pairs": pairs}}))
    assert found is not None
    return found["confusion.png"]


def test_equal_numbers_are_equal_bytes_whatever_the_users_style() -> None:
    import matplotlib

    before = confusion(NAMES, PAIRS)
    assert b"tEXt" not in before and b"tIME" not in before, "no versions, no time"
    with matplotlib.rc_context({"font.size": 30, "savefig.dpi": 20, "image.cmap": "hot"}):
        assert confusion(NAMES, PAIRS) == before
        assert matplotlib.rcParams["font.size"] == 30
    assert confusion(NAMES, [[0, 0, 6], *PAIRS[1:]]) != before


def test_names_stay_apart_and_every_one_can_be_drawn() -> None:
    """A warning of a missing letter would be an error here."""
    long = ["card_payment_wrong_exchange_rate", "card_payment_fee_charged_twice", "ok\n then"]
    shown = picture.labels([*long, "好", ""], range(5))
    assert shown == [
        "card_payment_…xchange_rate",
        "card_payment_…harged_twice",
        "ok then",
        "class 3",
        "class 4",
    ]
    assert all(len(name) <= picture.LETTERS for name in shown)
    confusion(["a $\\frac$", "好", "%_&\\"], PAIRS)


def test_many_classes_are_drawn_larger_and_the_most_confused_of_very_many() -> None:
    few, many = confusion(NAMES, PAIRS), confusion([f"n{at}" for at in range(77)], [[76, 75, 2], [3, 3, 9]])
    assert size(many)[0] > 2 * size(few)[0]
    names = [f"n{at}" for at in range(500)]
    plot = {"names": names, "pairs": [[499, 7, 3], *([at, at, 9] for at in range(500))]}
    drawn = picture.chosen(plot)
    assert len(drawn) == picture.CLASSES
    assert drawn == sorted(drawn)
    assert {7, 499} <= set(drawn)


def test_values_are_drawn_also_where_some_are_not_finite() -> None:
    def scatter(*targets: list[list[Any]]) -> bytes:
        found = picture.draw(Judged("", {}, {"scatter": {"count": 2, "targets": list(targets)}}))
        assert found is not None and list(found) == ["scatter.png"]
        return found["scatter.png"]

    plain = scatter([[0.0, 1.0], [2.0, 2.5]])
    assert size(plain)[0] > 300
    assert scatter([[0.0, 1.0], [2.0, 2.5]]) == plain
    assert scatter([[0.0, "NaN"], [2.0, 2.5]]) != plain
    scatter([[0.0, "NaN"]])
    scatter([[1.0, 1.0]], [[2.0, 2.0]])
