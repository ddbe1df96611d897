"""Laws of the metrics' shelf: sums of parts are the sum of the whole; one example by hand."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import pytest

from lmx.core import plugin
from lmx.core.types import Metric

# name -> (options, outputs of two parts, of the whole, figures by hand)
EXAMPLES: dict[str, tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any], dict[str, float]]] = {
    "perplexity": (
        {"bytes_per_token": 4.0},
        [{"loss": 2.0 * math.log(2), "tokens": 2.0}, {"loss": 22.0 * math.log(2), "tokens": 6.0}],
        {"loss": 24.0 * math.log(2), "tokens": 8.0},
        # 24 bits over 8 tokens: 3 bits a token, perplexity 8, and 3 / 4 bits a byte.
        {"loss": 3 * math.log(2), "perplexity": 8.0, "bits_per_byte": 0.75},
    ),
}


@pytest.fixture(params=plugin.names("lmx.metrics"))
def name(request: pytest.FixtureRequest) -> str:
    assert request.param in EXAMPLES, "a metric without an example here"
    return request.param


def test_sums_of_parts_are_the_sum_of_the_whole(name: str) -> None:
    options, parts, whole, figures = EXAMPLES[name]
    metric: Metric = plugin.find("lmx.metrics", name).metric(**options)
    arrays = [{key: jnp.float32(value) for key, value in part.items()} for part in (*parts, whole)]
    one, two, total = (metric.sums(outputs, {}) for outputs in arrays)
    for key in total:
        assert float(one[key] + two[key]) == pytest.approx(float(total[key]))
    found = metric.finish({key: float(value) for key, value in total.items()})
    assert found == pytest.approx(figures)


def test_nothing_to_count_is_no_error(name: str) -> None:
    options, _, whole, _ = EXAMPLES[name]
    metric: Metric = plugin.find("lmx.metrics", name).metric(**options)
    assert all(math.isfinite(value) for value in metric.finish(dict.fromkeys(whole, 0.0)).values())
