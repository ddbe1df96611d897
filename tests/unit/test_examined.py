"""What a run leaves for its reader: spreads, confusions, calibration and the highest losses, by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmx import metrics
from lmx.commands import _examined
from lmx.commands._judge import Judged
from lmx.core.examples import Encoded
from lmx.tasks import (
    instruction,
    question_answering,
    sentence_similarity,
    sequence_classification,
    sequence_regression,
    token_classification,
)

LOG = np.float32(math.log(3))


# --- The spread of several runs ---


def test_the_spread_by_hand() -> None:
    """1, 2, 4, 5: mean 3, squares 4 + 1 + 1 + 4 = 10, over n - 1 = 3."""
    assert metrics.spread([5.0, 1.0, 4.0, 2.0]) == {
        "mean": 3.0,
        "deviation": pytest.approx(math.sqrt(10 / 3)),
        "min": 1.0,
        "max": 5.0,
    }


def test_one_value_has_no_deviation_and_nan_is_not_hidden() -> None:
    one = metrics.spread([2.5])
    assert (one["mean"], one["min"], one["max"]) == (2.5, 2.5, 2.5)
    assert math.isnan(one["deviation"])
    assert all(math.isnan(value) for value in metrics.spread([1.0, math.nan, 2.0]).values())
    far = metrics.spread([1.0, math.inf])
    assert (far["mean"], far["max"]) == (math.inf, math.inf)
    assert math.isnan(far["deviation"])
    close = metrics.spread([1e9 + 1, 1e9 + 2, 1e9 + 3])
    assert close["deviation"] == pytest.approx(1.0, abs=1e-12), "no difference of large squares"


# --- Confusions and calibration ---


def test_confusions_are_counted_row_by_reference() -> None:
    predicted, actual = list("abacab"), list("aabbcz")
    found = metrics.confusion(predicted, actual, ["a", "b", "c", "unseen"])
    assert found["names"] == ["a", "b", "c", "unseen", "z"]
    assert found["pairs"] == [[0, 0, 1], [0, 1, 1], [1, 0, 1], [1, 2, 1], [2, 0, 1], [4, 1, 1]]


def test_calibration_of_labels_by_hand() -> None:
    """Confidences 0.9 and 0.9 (one right), 0.6 (right): the gaps are |0.5 - 0.9| and |1 - 0.6|."""
    shares = [("a", 0.9), ("a", 0.9), ("b", 0.6)]
    told = [{"label": name, "scores": {name: p, "ab"["ba".index(name)]: 1 - p}} for name, p in shares]
    wanted = [{"label": name} for name in "abb"]
    found = _examined.plots(told, wanted, ["a", "b"])
    assert found["confusion"] == {"names": ["a", "b"], "pairs": [[0, 0, 1], [1, 0, 1], [1, 1, 1]]}
    assert found["calibration"]["ece"] == pytest.approx((2 * 0.4 + 1 * 0.4) / 3)
    assert found["calibration"]["mce"] == pytest.approx(0.4)
    assert found["calibration"]["unit"] == "examples"
    assert sum(found["calibration"]["count"]) == 3
    assert (found["calibration"]["count"][13], found["calibration"]["right"][13]) == (2, 1)
    assert found["calibration"]["confidence"][13] == pytest.approx(1.8)


def test_words_that_the_model_did_not_see_are_no_confusion() -> None:
    told = [{"tags": ["O", "B-X", "O"], "probabilities": [0.8, 0.7, None]}]
    found = _examined.plots(told, [{"tags": ["O", "O", "B-X"]}], ["O", "B-X"])
    assert found["confusion"]["pairs"] == [[0, 0, 1], [0, 1, 1]]
    assert found["calibration"]["unit"] == "words"
    assert found["calibration"]["ece"] == pytest.approx((0.2 + 0.7) / 2)


def test_each_of_several_labels_is_a_question() -> None:
    """x: yes at 0.8 (right); y: no at 0.9 (wrong, for y is there)."""
    told = [{"labels": ["x"], "scores": {"x": 0.8, "y": 0.1}}]
    found = _examined.plots(told, [{"labels": ["x", "y"]}], ["x", "y"])
    assert found.keys() == {"calibration"}
    assert found["calibration"]["ece"] == pytest.approx((0.2 + 0.9) / 2)
    assert found["calibration"]["unit"] == "labels"


def test_values_are_points_of_each_target() -> None:
    told, wanted = [{"value": 1.0}, {"value": 3.0}], [{"value": 2.0}, {"value": 4.0}]
    assert _examined.plots(told, wanted, ()) == {
        "scatter": {"count": 2, "targets": [[(2.0, 1.0), (4.0, 3.0)]]}
    }
    both = _examined.plots([{"value": [1.0, 5.0]}], [{"value": [2.0, 6.0]}], ())
    assert both["scatter"]["targets"] == [[(2.0, 1.0)], [(6.0, 5.0)]]
    many = [{"value": float(i)} for i in range(12_001)]
    points = _examined.plots(many, many, ())["scatter"]
    assert points["count"] == 12_001
    assert [pair[0] for pair in points["targets"][0][:3]] == [0.0, 3.0, 6.0]
    assert len(points["targets"][0]) == 4001
    assert _examined.plots([{"answer": "x"}], [{"answers": ["x"]}], ()) == {}


# --- The highest losses ---


def test_the_highest_losses_come_first(tmp_path: Path) -> None:
    losses = [0.5, math.nan, 2.0, 2.0, math.inf, 0.1]
    examples = [{"id": str(i), "text": f"t{i}", "label": "a"} for i in range(6)]
    told = [{"label": "b", "scores": {"a": 0.1, "b": 0.9}} for _ in examples]
    wanted = [{"label": "a"} for _ in examples]
    more: dict[str, Any] = {"fields": ["id", "text", "text_pair"], "names": ["a", "b"]}
    judged = Judged([None] * 6, told, wanted, losses, {}, {}, {})
    _examined.write(tmp_path, examples, judged, **more)
    found = [json.loads(line) for line in (tmp_path / "errors.jsonl").read_text().splitlines()]
    assert [row["index"] for row in found] == [4, 2, 3, 0, 5], "NaN is no loss; equal ones in their order"
    assert found[0]["loss"] == "Infinity"
    assert found[1] == {
        "index": 2, "loss": 2.0, "id": "2", "text": "t2", "reference": {"label": "a"}, "prediction": told[0],
    }  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == ["errors.jsonl", "plots.json"]
    (tmp_path / "errors.jsonl").unlink()
    _examined.write(tmp_path, examples, replace(judged, losses=None), **more)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plots.json"]


def test_no_more_than_fifty() -> None:
    told = [{"value": 0.0}] * 80
    found = _examined.worst([{"text": "x"}] * 80, told, told, [float(i) for i in range(80)], ["text"])
    assert [row["index"] for row in found] == list(range(79, 29, -1))


# --- The loss of one example ---


def features(*given: dict[str, Any], origin: list[int] | None = None) -> Encoded:
    arrays = [{name: np.asarray(value) for name, value in one.items()} for one in given]
    return Encoded(arrays, origin or list(range(len(given))), {})


def test_a_label_costs_its_log_probability() -> None:
    """Logits (0, log 3): probabilities 1/4 and 3/4."""
    encoded = features({"labels": 0}, {"labels": 1})
    logits = {"logits": [np.array([0, LOG], np.float32)] * 2}
    found = sequence_classification.losses([{}, {}], encoded, logits, facts={})
    assert found == pytest.approx([math.log(4), math.log(4 / 3)], rel=1e-6)
    steep = {"logits": [np.array([3e4, 0.0], np.float32)]}
    assert sequence_classification.losses([{}], features({"labels": 1}), steep, facts={}) == [3e4]


def test_several_labels_cost_a_yes_or_no_each() -> None:
    """Sigmoids of 0 and log 3: 1/2 and 3/4; wanted are no and yes."""
    encoded = features({"labels": [0, 1]}, {"labels": [1, 0]})
    logits = {"logits": [np.array([0, LOG], np.float32)] * 2}
    found = sequence_classification.losses([{}, {}], encoded, logits, facts={}, multi_label=True)
    assert found == pytest.approx([math.log(2) + math.log(4 / 3), math.log(2) + math.log(4)], rel=1e-6)


def test_a_value_costs_its_squared_error_in_its_own_units() -> None:
    """Standardised: 0.5 stands for 10 + 0.5 x 4 = 12, and 12 - 15 = -3."""
    facts = {"mean": [10.0], "deviation": [4.0]}
    outputs = {"logits": [np.array([0.5], np.float32)]}
    assert sequence_regression.losses([{"value": 15.0}], features({}), outputs, facts=facts) == [9.0]
    two = {"logits": [np.array([1.0, 2.0], np.float32)]}
    assert sequence_regression.losses([{"value": [3.0, 2.0]}], features({}), two, facts={}) == [2.0]
    pair = {"embeddings": [np.array([[1.0, 0.0], [0.6, 0.8]])]}
    told = sentence_similarity.losses([{"value": 5.0}], features({}), pair, facts={"values": [0.0, 5.0]})
    assert told == pytest.approx([4.0]), "a cosine of 0.6 on a scale to 5 is 3"


def test_tags_cost_the_mean_of_the_words_seen() -> None:
    """Two windows: word 0 in the first, word 1 in the second, word 2 in none; word 3 is another's."""
    row = np.array([0, LOG], np.float32)
    flat = np.zeros(2, np.float32)
    encoded = features(
        {"input_ids": [9, 9, 9], "word_index": [-1, 0, -1]},
        {"input_ids": [9, 9], "word_index": [-1, 1]},
        {"input_ids": [9], "word_index": [-1]},
        origin=[0, 0, 1],
    )
    outputs = {"logits": [np.stack([flat, row, flat]), np.stack([row, row]), np.stack([flat])]}
    examples = [{"words": list("abc"), "tags": ["O", "B-X", "O"]}, {"words": ["d"], "tags": ["O"]}]
    found = token_classification.losses(examples, encoded, outputs, facts={"names": ["O", "B-X"]})
    assert found[0] == pytest.approx((math.log(4) + math.log(4 / 3)) / 2, rel=1e-6)
    assert math.isnan(found[1])


def test_an_answer_costs_its_start_and_end_in_the_mean_window() -> None:
    row = np.array([0, LOG, 50], np.float32)  # the third place is padding, beyond the ids
    encoded = features(
        {"input_ids": [1, 2], "start_positions": 0, "end_positions": 1},
        {"input_ids": [1, 2], "start_positions": 0, "end_positions": 0},
        origin=[0, 0],
    )
    outputs = {"start_logits": [row, row], "end_logits": [row, row]}
    found = question_answering.losses([{}], encoded, outputs, facts={})
    first, second = math.log(4) + math.log(4 / 3), 2 * math.log(4)
    assert found == pytest.approx([(first + second) / 2], rel=1e-6)


def test_a_response_costs_nats_per_token() -> None:
    encoded = features({"labels": [-100, 5, 6]}, {"labels": [7, -100]}, origin=[0, 0])
    outputs = {"nats": [np.float32(3.0), np.float32(6.0)]}
    found = instruction.losses([{}, {}], encoded, outputs, facts={"turns": False})
    assert found[0] == 3.0
    assert math.isnan(found[1])
