"""BERT's pretraining losses against transformers, on batches that lmx makes, whole and in parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmx.commands import _build
from lmx.core.types import Params
from lmx.core.vocabulary import Vocabulary
from lmx.training import accumulate, objectives

SIZE, LENGTH, ROWS = 97, 24, 8
WORDS = Vocabulary(SIZE, 4, np.arange(5), np.arange(SIZE) >= 60)
MODEL = dict(name="bert", vocab_size=SIZE, positions=LENGTH, layers=2, width=20, heads=2, mlp_width=28)


def rows(layout: str) -> dict[str, np.ndarray]:
    """Return rows of unequal lengths, as data_prep lays them out."""
    draw = np.random.default_rng(3)
    shape = (ROWS, LENGTH)
    tokens, segments, positions = draw.integers(5, SIZE, shape), np.zeros(shape, int), np.zeros(shape, int)
    for row in range(ROWS):
        end = LENGTH - row
        split = 5 + row
        segments[row, :split], segments[row, split:end] = 1, 2
        tokens[row, 0], tokens[row, split - 1], tokens[row, end - 1], tokens[row, end:] = 2, 3, 3, 0
        positions[row, :split], positions[row, split:end] = np.arange(split), np.arange(end - split)
    label = np.arange(ROWS) % 3 == 0
    found = {"tokens": tokens, "segment_ids": segments, "position_ids": positions, "label": label}
    return {
        **{k: v.astype(np.int32) for k, v in found.items()},
        "index": np.arange(ROWS),
        "epoch": np.zeros(ROWS, int),
    }


def built(name: str) -> tuple[dict, Params, dict[str, jax.Array]]:
    config = {"model": MODEL, "task": {"name": name}, "seed": 0}
    params = _build.model(config).init(jax.random.key(5))
    params = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape), params)
    batch = _build.encoder(config, WORDS)(rows("pairs"))
    return config, params, {name: jnp.asarray(value) for name, value in batch.items()}


def test_loss_equals_transformers(tmp_path) -> None:
    """The sum of the mean loss of hidden tokens and that of pairs, from an exported BertForPreTraining."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from lmx.commands import _export
    from lmx.core.types import Checkpoint

    config, params, batch = built("bert_pretraining")
    _export.write(Checkpoint(params, config), tmp_path / "export")
    theirs = transformers.BertForPreTraining.from_pretrained(tmp_path / "export").eval()
    names = ("input_ids", "attention_mask", "token_type_ids", "labels", "next_sentence_label")
    with torch.no_grad():
        wanted = theirs(**{name: torch.tensor(np.asarray(batch[name])).long() for name in names}).loss.item()
    model = _build.model(config)
    loss = _build.loss(config)
    for given in (batch, {name: value for name, value in batch.items() if name != "hidden_positions"}):
        total, weight, sums = objectives.plain(model, loss)(params, given, None)
        assert abs(float(total / weight) - wanted) < 1e-5
        assert float(sums["tokens"]) == np.sum(np.asarray(batch["labels"]) != -100)


@pytest.mark.parametrize("name", ["masked_lm", pytest.param("bert_pretraining", marks=pytest.mark.slow)])
def test_parts_are_the_whole(name: str) -> None:
    """Rows hide unequal numbers of tokens, so that a mean of the parts' means would be another figure."""
    config, params, batch = built(name)
    task = _build.task(config)
    whole = getattr(task, "whole", dict)(batch)
    counts = np.sum(np.asarray(batch["labels"]) != -100, axis=1)
    assert len(set(counts.tolist())) > 1
    of = accumulate.gradients(_build.objective(config, _build.model(config)), {}, None)
    found = [jax.jit(accumulate.accumulate(of, parts))(params, whole) for parts in (1, 4)]
    for one, two in zip(jax.tree.leaves(found[0]), jax.tree.leaves(found[1]), strict=True):
        np.testing.assert_allclose(one, two, rtol=2e-5, atol=2e-5)
    alone = jax.jit(of)(params, batch)  # without what `whole` adds: the same on the whole batch
    assert float(alone[2]["loss"] / alone[1]) == pytest.approx(
        float(found[0][2]["loss"] / found[0][1]), rel=1e-6
    )


def test_the_pieces_of_a_row_do_not_see_one_another() -> None:
    config, params, batch = built("masked_lm")
    apply = _build.model(config).apply
    first = apply(params, batch)["logits"][0, :5]
    alone = {name: value[:1, :5] for name, value in batch.items() if value.shape == batch["labels"].shape}
    np.testing.assert_allclose(apply(params, alone)["logits"][0], first, atol=2e-6)
    picked = jnp.take_along_axis(apply(params, batch)["logits"], batch["hidden_positions"][..., None], axis=1)
    np.testing.assert_allclose(apply(params, batch)["hidden_logits"], picked, atol=2e-6)
