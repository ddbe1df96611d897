"""Losses against torch's, and against numbers by hand: values, gradients, what is ignored or refused."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmx.core import plugin
from lmx.core.errors import UserError
from lmx.core.types import IGNORED
from lmx.optim import _options
from lmx.tasks import _losses, sequence_classification

N, C = 6, 4
DRAW = np.random.default_rng(5)
LOGITS = DRAW.normal(0, 2, (N, C)).astype(np.float32)
LABELS = np.array([0, 3, IGNORED, 1, 1, 2], np.int32)
MANY = DRAW.integers(0, 2, (N, C)).astype(np.int32)
MANY[2] = IGNORED
NUMBERS = DRAW.normal(0, 2, (N, C)).astype(np.float32)
WEIGHTS = (0.25, 3.0, 1.0, 0.5)


def mean(function: Any, predicted: np.ndarray, wanted: np.ndarray, **options: Any) -> tuple[Any, Any]:
    """Return the loss, sum over weight, and its gradient."""

    def quotient(x: Any) -> Any:
        total, weight = function(x, jnp.asarray(wanted), **options)
        return total / weight

    return jax.value_and_grad(quotient)(jnp.asarray(predicted))


def torchs(make: Any, predicted: np.ndarray, wanted: Any) -> tuple[float, np.ndarray]:
    torch = pytest.importorskip("torch", reason="the parity extra is not installed")
    x = torch.tensor(predicted, dtype=torch.float64, requires_grad=True)
    value = make(torch)(x, wanted(torch))
    value.backward()
    return float(value.detach()), x.grad.numpy()


def agree(ours: tuple[Any, Any], theirs: tuple[float, np.ndarray]) -> None:
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-6, rtol=1e-6)
    np.testing.assert_allclose(ours[1], theirs[1], atol=1e-6, rtol=0)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.6])
def test_cross_entropy_is_torchs(weights: Any, smoothing: float) -> None:
    """Weights are in the divisor, and in the smoothed part too; ignored labels are in neither."""

    def make(torch: Any) -> Any:
        each = None if weights is None else torch.tensor(weights, dtype=torch.float64)
        return torch.nn.CrossEntropyLoss(weight=each, label_smoothing=smoothing)

    theirs = torchs(make, LOGITS, lambda torch: torch.tensor(LABELS, dtype=torch.int64))
    ours = mean(_losses.cross_entropy, LOGITS, LABELS, smoothing=smoothing, weights=weights)
    agree(ours, theirs)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_binary_cross_entropy_is_torchs(weights: Any) -> None:
    """Weights count for a yes, and the divisor stays the count."""
    real = MANY[:, 0] != IGNORED

    def make(torch: Any) -> Any:
        each = None if weights is None else torch.tensor(weights, dtype=torch.float64)
        return torch.nn.BCEWithLogitsLoss(pos_weight=each)

    theirs = torchs(make, LOGITS[real], lambda torch: torch.tensor(MANY[real], dtype=torch.float64))
    value, gradient = mean(_losses.binary_cross_entropy, LOGITS, MANY, weights=weights)
    agree((value, gradient[real]), theirs)
    assert not np.asarray(gradient)[~real].any()


@pytest.mark.parametrize(
    ("name", "make", "options"),
    [
        ("mse", lambda torch: torch.nn.MSELoss(), {}),
        ("mae", lambda torch: torch.nn.L1Loss(), {}),
        ("huber", lambda torch: torch.nn.HuberLoss(delta=0.7), {"delta": 0.7}),
    ],
)
def test_losses_of_numbers_are_torchs(name: str, make: Any, options: Any) -> None:
    wanted = NUMBERS.copy()
    wanted[1], wanted[4, 2] = np.nan, np.nan
    real = ~np.isnan(wanted)
    theirs = torchs(make, LOGITS[real], lambda torch: torch.tensor(wanted[real], dtype=torch.float64))
    value, gradient = mean(_losses.NUMBERS[name], LOGITS, wanted, **options)
    agree((value, gradient[real]), theirs)
    assert not np.asarray(gradient)[~real].any()


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_gradient_of_the_focal_loss_is_torchs(weights: Any) -> None:
    real = LABELS != IGNORED

    def make(torch: Any) -> Any:
        def focal(x: Any, wanted: Any) -> Any:
            log = torch.log_softmax(x, -1)[torch.arange(len(wanted)), wanted]
            each = torch.tensor(weights or (1,) * C, dtype=torch.float64)[wanted]
            return (each * (1 - log.exp()) ** 1.5 * -log).sum() / each.sum()

        return focal

    theirs = torchs(make, LOGITS[real], lambda torch: torch.tensor(LABELS[real], dtype=torch.int64))
    value, gradient = mean(_losses.focal, LOGITS, LABELS, gamma=1.5, weights=weights)
    agree((value, gradient[real]), theirs)
    assert not np.asarray(gradient)[~real].any()


def test_focal_loss_by_hand() -> None:
    """The paper's example: with gamma 2, what is told with p = 0.9 counts 100 times less, with 0.968 1000."""
    for p, factor in ((0.9, 0.01), (0.968, 0.032**2), (0.1, 0.81)):
        logits = np.log([[p, 1 - p]]).astype(np.float32)
        total, weight = _losses.focal(jnp.asarray(logits), jnp.array([0]))
        assert math.isclose(float(total), -factor * math.log(p), rel_tol=2e-5)
        assert float(weight) == 1
        yes = np.full((1, 1), math.log(p / (1 - p)), np.float32)
        for label, z in ((1, yes), (0, -yes)):
            total, weight = _losses.binary_focal(jnp.asarray(z), jnp.array([[label]]))
            assert math.isclose(float(total), -factor * math.log(p), rel_tol=2e-5)


def test_gamma_0_is_cross_entropy() -> None:
    for focal, plain, labels in (
        (_losses.focal, _losses.cross_entropy, LABELS),
        (_losses.binary_focal, _losses.binary_cross_entropy, MANY),
    ):
        one, two = (
            mean(focal, LOGITS, labels, gamma=0, weights=WEIGHTS),
            mean(plain, LOGITS, labels, weights=WEIGHTS),
        )
        np.testing.assert_allclose(one[0], two[0], rtol=1e-6)
        np.testing.assert_allclose(one[1], two[1], atol=1e-6, rtol=0)


def test_smoothing_of_questions_by_hand() -> None:
    """A yes with smoothing 0.2 is wanted at 0.9: at logit 0 that costs log 2 whatever is wanted."""
    total, _ = _losses.binary_cross_entropy(jnp.array([[1.0]]), jnp.array([[1]]), smoothing=0.2)
    wanted = 0.9 * math.log1p(math.exp(-1)) + 0.1 * math.log1p(math.exp(1))
    assert math.isclose(float(total), wanted, rel_tol=1e-6)


@pytest.mark.parametrize("gamma", [0, 0.5, 2])
def test_certain_answers_have_finite_gradients(gamma: float) -> None:
    """Where 1 - p is 0 in f32, the slope of its root is infinite."""
    sure = np.array([[60.0, -60.0]], np.float32)
    for label in (0, 1):
        value, gradient = mean(_losses.focal, sure, np.array([label]), gamma=gamma)
        assert np.isfinite(value) and np.isfinite(gradient).all()
        value, gradient = mean(_losses.binary_focal, sure, np.array([[label, label]]), gamma=gamma)
        assert np.isfinite(value) and np.isfinite(gradient).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sums_are_f32_whatever_the_logits_are(dtype: str) -> None:
    """2,049 equal losses: a half cannot count that far."""
    many = jnp.zeros((2049, 2), dtype)
    for name, known, wanted in (
        ("cross_entropy", _losses.CLASSES, jnp.zeros(2049, jnp.int32)),
        ("focal", _losses.CLASSES, jnp.zeros(2049, jnp.int32)),
        ("cross_entropy", _losses.QUESTIONS, jnp.ones((2049, 2), jnp.int32)),
        ("focal", _losses.QUESTIONS, jnp.ones((2049, 2), jnp.int32)),
        *((name, _losses.NUMBERS, jnp.ones((2049, 2))) for name in _losses.NUMBERS),
    ):
        total, weight = known[name](many, wanted)
        assert (total.dtype, weight.dtype) == (np.float32, np.float32)
        assert float(weight) == wanted.size
    total, weight = _losses.cross_entropy(many, jnp.zeros(2049, jnp.int32))
    assert math.isclose(float(total / weight), math.log(2), rel_tol=1e-6)


def test_parts_add_up_to_the_whole() -> None:
    """Also where the labels of the parts weigh unequally: a mean of means would be another number."""
    batch = {"labels": jnp.asarray(LABELS)}
    loss = sequence_classification.loss
    whole = loss({"logits": jnp.asarray(LOGITS)}, batch, weights=WEIGHTS)
    parts = [
        loss(
            {"logits": jnp.asarray(LOGITS[i:j])},
            {"labels": jnp.asarray(LABELS[i:j])},
            weights=WEIGHTS,
            loss={"name": "cross_entropy"},
        )
        for i, j in ((0, 2), (2, 6))
    ]
    for place in (0, 1):
        np.testing.assert_allclose(whole[place], parts[0][place] + parts[1][place], rtol=1e-6)
    means = [float(one[0] / one[1]) for one in parts]
    assert abs(sum(means) / 2 - float(whole[0] / whole[1])) > 0.05


def test_small_weights_do_not_shrink_the_gradient_of_a_small_batch() -> None:
    """The weight is the labels' own, below 1 too: divided by at least 1, the loss would be a tenth."""
    total, weight = _losses.cross_entropy(jnp.zeros((1, 2)), jnp.array([0]), weights=(0.1, 0.4))
    assert math.isclose(float(weight), 0.1, rel_tol=1e-6)
    assert math.isclose(float(total / weight), math.log(2), rel_tol=1e-6)


def test_a_batch_without_a_known_label_counts_nothing() -> None:
    none, blank = jnp.full((2,), IGNORED), jnp.full((2, 3), jnp.nan)
    for function, wanted in (
        (_losses.cross_entropy, none),
        (_losses.focal, none),
        (_losses.binary_cross_entropy, jnp.full((2, 3), IGNORED)),
        (_losses.binary_cross_entropy, blank),
        (_losses.mse, blank),
    ):
        total, weight = function(jnp.ones((2, 3)), wanted)
        assert (float(total), float(weight)) == (0.0, 0.0)


def test_unlike_shapes_are_refused() -> None:
    column, row = jnp.ones((3, 1)), jnp.ones((3,))
    for name in _losses.NUMBERS:
        for one, two in ((column, row), (row, column), (column, jnp.ones((1, 1)))):
            with pytest.raises(UserError, match=r"labels of shape \(.*; the task predicts"):
                _losses.NUMBERS[name](one, two)
    for known, labels in ((_losses.CLASSES, jnp.ones((3, 1), int)), (_losses.QUESTIONS, jnp.ones((3,), int))):
        for function in known.values():
            with pytest.raises(UserError, match=r"labels of shape .*; expected"):
                function(jnp.ones((3, 2)), labels)


@pytest.mark.parametrize(
    ("given", "weights", "message"),
    [
        ("focl", None, r"task\.loss='focl' \(did you mean 'focal'\?\); expected cross_entropy, focal, or"),
        (3, None, r"task\.loss=3; expected cross_entropy"),
        ({"gamma": 2}, None, r"task\.loss=None; expected"),
        ({"name": "focal", "gama": 1}, None, r"task\.loss\.gama: focal .* \(did you mean 'gamma'\?\)"),
        ({"name": "cross_entropy", "gamma": 1}, None, r"it has: smoothing, weights"),
        ("no_such_thing.loss", None, r"no module 'no_such_thing'; is its folder on PYTHONPATH"),
        ("math.no_such", None, r"math has no function 'no_such'"),
        ({"name": "focal", "gamma": -1}, None, r"task\.loss\.gamma=-1; expected 0 or a positive number"),
        ({"name": "cross_entropy", "smoothing": 1}, None, r"task\.loss\.smoothing=1; expected a probability"),
        ("cross_entropy", (1, 2, 3), r"task\.weights=\[1, 2, 3\]; expected 4 positive numbers"),
        ("cross_entropy", (1, 2, 3, 0), r"expected 4 positive numbers, one per label"),
    ],
)
def test_what_cannot_be_is_refused(given: Any, weights: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        _losses.find(given, _losses.CLASSES, weights=weights)(jnp.asarray(LOGITS), jnp.asarray(LABELS))


def test_classes_are_weighed_once() -> None:
    with pytest.raises(UserError, match=r"task\.loss\.weights and task\.class_weights"):
        _losses.find({"name": "cross_entropy", "weights": (1, 50)}, _losses.CLASSES, weights=(1, 2))


def test_numbers_have_no_weights_of_classes() -> None:
    with pytest.raises(UserError, match=r"task\.loss='mse' takes no weights of classes"):
        _losses.find("mse", _losses.NUMBERS, weights=(1, 2))


def test_a_loss_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_own_losses.py").write_text(
        "def margin(logits, labels, *, by=1.0):\n"
        "    return (logits[:, 0] * by).sum(), labels.size * 1.0\n\n\n"
        "def wrong(logits, labels):\n    return logits.sum()\n\n\n"
        "def rows(logits, labels):\n    return logits[:, 0], labels.size\n\n\n"
        "def broken(logits, labels):\n    return logits.nothing\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    batch, outputs = {"labels": jnp.asarray(LABELS)}, {"logits": jnp.asarray(LOGITS)}
    given = {"name": "my_own_losses.margin", "by": 2.0}
    total, weight, _ = sequence_classification.loss(outputs, batch, loss=given)
    np.testing.assert_allclose(total, 2 * LOGITS[:, 0].sum(), rtol=1e-6)
    assert weight == N
    with pytest.raises(UserError, match=r"margin' takes no weights of classes"):
        sequence_classification.loss(outputs, batch, loss=given, weights=WEIGHTS)
    with pytest.raises(UserError, match=r"wrong' gave \w*Array\w*; expected \(sum, weight\)"):
        sequence_classification.loss(outputs, batch, loss="my_own_losses.wrong")
    with pytest.raises(
        UserError, match=rf"rows' gave \[\({N},\), \(\)\]; expected \(sum, weight\), two numbers"
    ):
        sequence_classification.loss(outputs, batch, loss="my_own_losses.rows")
    with pytest.raises(
        UserError, match=rf"broken' failed on .* \({N}, \d+\) and wanted \({N},\): AttributeError"
    ):
        sequence_classification.loss(outputs, batch, loss="my_own_losses.broken")
    sys.modules.pop("my_own_losses")


@pytest.mark.parametrize("kind", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_a_choice_that_is_none_gets_no_share_of_smoothing(kind: Any) -> None:
    """It has the least number of its type as its logit, which as f32 is not the least any more."""
    real = jnp.asarray([[1.0, 2.0, 0.5]], kind)
    filled = jnp.pad(real, ((0, 0), (0, 2)), constant_values=jnp.finfo(kind).min)
    label = jnp.asarray([1])
    wanted, found = (_losses.cross_entropy(x, label, smoothing=0.1)[0] for x in (real, filled))
    assert float(found) == pytest.approx(float(wanted), rel=1e-6)


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        ("def broken(:", "my_own.broken", "my_own cannot be imported: SyntaxError|my_own.broken cannot"),
        ("raise RuntimeError('no card')", "my_own.f", "cannot be imported: RuntimeError: no card"),
        (
            "def mine(a, b): ...",
            "my_own.mien",
            "no function 'mien' .did you mean 'mine'|no module 'my_own.mien'",
        ),
        ("", "my_own..f", "'my_own.+' is no name of a module"),
    ],
)
@pytest.mark.parametrize(
    "find",
    [
        lambda name: _losses.find(name, _losses.CLASSES),
        lambda name: _options.find("optimizer", name, {}),
        lambda name: plugin.find("lmx.metrics", name, needs=("metric",)),
    ],
    ids=["loss", "optimizer", "metric"],
)
def test_a_module_of_ones_own_that_cannot_be_had(
    find: Any, text: str, name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that takes dotted names refuses in one line, whatever the code raises."""
    (tmp_path / "my_own.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=said):
        find(name)
    sys.modules.pop("my_own", None)
