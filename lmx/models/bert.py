"""BERT: an encoder of post-norm blocks with learned positions and segments.

Source: Devlin et al. 2018, "BERT: Pre-training of Deep Bidirectional Transformers", section 3; the fields are
those of transformers' BertConfig that change the function.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx

from lmx.core import functions, layers, layout
from lmx.core import rng as rng_
from lmx.core.errors import UserError
from lmx.core.hf_table import Entry, Table
from lmx.core.types import Array, Batch, Model, Outputs, Params, Taps
from lmx.models import _blocks as blocks_
from lmx.models import _fields as fields_
from lmx.models import _layers as layers_
from lmx.models import _sequence as sequence_

STACKS = True
"""Its `apply` takes the layers as one, too (`core.layers`)."""

TAPS = ("embed", "attn/weights", "attn/out", "mlp", "block", "final")
"""Where a tap can sit: after the embeddings, at the attention's weights (B, H, T, T), after the attention and
the feed-forward layer before they join the residual stream, after the block, at the end. `layer` is 0 … L-1
inside the blocks, 0 at `embed` and L at `final`."""


@dataclass(frozen=True)
class Config:
    """Sizes and choices of a BERT; the defaults are bert-base-uncased.

    types: kinds of segments. dropout_*: probabilities; `dropout_hidden` is that of the embeddings and of both
    layers of a block. pooler: whether there is a dense layer with tanh over the first token, which some tasks
    read.
    """

    vocab_size: int = 30522
    positions: int = 512
    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_width: int = 3072
    types: int = 2
    activation: str = "gelu"
    norm_epsilon: float = 1e-12
    dropout_hidden: float = 0.1
    dropout_attention: float = 0.1
    init_range: float = 0.02
    tie_embeddings: bool = True
    pooler: bool = True

    causal: ClassVar[bool] = False
    """Whether a token sees those before it alone."""

    def __post_init__(self) -> None:
        fields_.sizes(self, "vocab_size", "positions", "width", "layers", "heads", "mlp_width", "types")
        fields_.positive(self, "norm_epsilon", "init_range")
        fields_.probabilities(self, "dropout_hidden", "dropout_attention")
        fields_.switches(self, "tie_embeddings", "pooler")
        fields_.heads(self)
        functions.activation(self.activation)


AXES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"embed/token/embedding", ("vocab", "width")),
    (r"embed/position/embedding", ("position", "width")),
    (r"embed/type/embedding", ("type", "width")),
    *blocks_.AXES,
    (r"embed/norm/(scale|bias)", ("width",)),
    (r"pooler/kernel", ("width", "pooled")),
    (r"pooler/bias", ("pooled",)),
)
"""Path -> axis names; the first rule that matches the whole path holds."""


class Embed(nnx.Module):
    """Token plus segment plus position embeddings, normalised."""

    def __init__(self, config: Config) -> None:
        scale = config.init_range
        self.token = layers_.Embedding(config.vocab_size, config.width, scale=scale)
        self.position = layers_.Embedding(config.positions, config.width, scale=scale)
        self.type = layers_.Embedding(config.types, config.width, scale=scale)
        self.norm = layers_.LayerNorm(config.width, epsilon=config.norm_epsilon)

    def __call__(self, ids: Array, types: Array, positions: Array) -> Array:
        """ids (B, T), types and positions (B or 1, T) -> (B, T, D)."""
        return self.norm(self.token(ids) + self.type(types) + self.position(positions))


class Block(nnx.Module):
    """One post-norm block: norm1(x + attention(x)), then norm2(x + mlp(x))."""

    def __init__(self, config: Config) -> None:
        scale = config.init_range
        self.attn = blocks_.SelfAttention(config.width, scale=scale, out_scale=scale)
        self.norm1 = layers_.LayerNorm(config.width, epsilon=config.norm_epsilon)
        self.mlp = blocks_.MLP(config.width, config.mlp_width, scale=scale, down_scale=scale)
        self.norm2 = layers_.LayerNorm(config.width, epsilon=config.norm_epsilon)
        self.config = config

    def __call__(
        self,
        x: Array,
        layer: Array | int,
        *,
        mask: Array,
        groups: Array,
        keys: Array | None,
        tapper: layers_.Tapper,
        first: bool = False,
    ) -> tuple[Array, dict[str, Any]]:
        """(B, T, D) -> (B, T, D), and what the taps captured. first: of the first place alone, (B, 1, D)."""
        config, of = self.config, x.shape
        captured: dict[str, Any] = {}
        query, key, value = self.attn.project(x, config.heads)
        if first:
            x, query, mask = (
                x[:, :1],
                self.attn.query(x[:, :1]).reshape(len(x), 1, config.heads, -1),
                mask[:, :, :1],
            )
        mixed = blocks_.attention(
            query,
            key,
            value,
            mask,
            1 / math.sqrt(query.shape[-1]),
            groups=None if first else groups,
            layer=layer,
            rate=config.dropout_attention,
            keys=keys,
            site=4 * layer + 1,
            tapper=tapper,
            captured=captured,
            of=of[1],
        )
        out = functions.dropout(self.attn.out(mixed), config.dropout_hidden, keys, 4 * layer + 2, of)
        x = self.norm1(x + tapper("attn/out", out, layer, captured))
        out = functions.dropout(
            self.mlp(x, config.activation), config.dropout_hidden, keys, 4 * layer + 3, of
        )
        x = self.norm2(x + tapper("mlp", out, layer, captured))
        return layout.rows(tapper("block", x, layer, captured)), captured


def build(config: Config) -> Model:
    """Return the body: ids -> hidden states after the last block; a task attaches its head to it.

    `apply` reads `input_ids` (B, T) and, where given, `token_type_ids` (B, T; else all 0), `attention_mask`,
    `position_ids`, `segment_ids` and `example_index`; it gives `hidden` (B, T, D) and, with a pooler,
    `pooled` (B, D), from the first place of the row: pad on the right. Positions count real tokens: a row
    padded on the left begins at 0, where transformers' begins behind its padding. Dropout is on where `train`
    is set and a key is given.
    Errors: UserError for a sequence longer than the positions, an unknown tap, and a cache.
    """
    embed = layers_.Blueprint(lambda: Embed(config), AXES, "embed")
    block = layers_.Blueprint(lambda: Block(config), AXES, "block/0")
    pooler = layers_.Blueprint(
        lambda: layers_.Dense(config.width, config.width, scale=config.init_range), AXES, "pooler"
    )

    def init(key: Array) -> Params:
        blocks = block.start_layers(key, "block", config.layers)
        top = {"pooler": pooler.start(key, "pooler")} if config.pooler else {}
        return {"embed": embed.start(key, "embed"), "block": blocks, **top}

    def apply(
        params: Params,
        batch: Batch,
        *,
        rng: Array | None = None,
        train: bool = False,
        taps: Taps | None = None,
        cache: Any = None,
    ) -> Outputs:
        if cache is not None:
            raise UserError("BERT is an encoder: it has no cache and continues no text; use a gpt2")
        ids = batch["input_ids"]
        sequence_.check_length(ids.shape[1], None, config.positions)
        keys = rng_.batch_keys(rng, batch) if train and rng is not None else None
        tapper, captured = layers_.Tapper(taps, TAPS), dict[str, Any]()
        types = batch.get("token_type_ids", jnp.zeros_like(ids))
        x = embed.bind(params["embed"])(ids, types, sequence_.position_ids(batch, ids.shape[1], None))
        x = layout.rows(tapper("embed", functions.dropout(x, config.dropout_hidden, keys, 0), 0, captured))
        seen = {"mask": sequence_.visible_both_ways(batch), "groups": sequence_.groups(batch)}

        def layer(leaves: Params, x: Array, i: Any, first: bool = False) -> tuple[Array, dict[str, Any]]:
            return block.bind(leaves)(x, i, **seen, keys=keys, tapper=tapper, first=first)

        last = config.layers - (config.pooler and not tapper.taps and not layers.stacked(params))
        x, inside = blocks_.through(layer, params["block"], x, last)
        top = x
        if last < config.layers:
            # Under jit it costs its first place alone where only the summary is read. A cut stack is a copy.
            leaves, below = params["block"][str(last)], x
            x, top = (layer(leaves, below, last, first=first)[0] for first in (False, True))
        x = tapper("final", x, config.layers, captured)
        outputs: Outputs = {"hidden": x}
        if config.pooler:
            outputs["pooled"] = jnp.tanh(pooler.bind(params["pooler"])((x if tapper.taps else top)[:, 0]))
        if tapper.taps:
            outputs["taps"] = {**captured, **inside}
        return outputs

    return layers_.plain(init, apply)


def _norm(theirs: str, ours: str) -> tuple[Entry, ...]:
    return (
        Entry(f"{theirs}.LayerNorm.weight", (f"{ours}/scale",)),
        Entry(f"{theirs}.LayerNorm.bias", (f"{ours}/bias",)),
    )


def _dense(theirs: str, ours: str) -> tuple[Entry, ...]:
    return (
        Entry(f"{theirs}.weight", (f"{ours}/kernel",), "transpose"),
        Entry(f"{theirs}.bias", (f"{ours}/bias",)),
    )


HF = Table(
    model_type="bert",
    prefix="bert.",
    fields=(
        ("vocab_size", "vocab_size"),
        ("positions", "max_position_embeddings"),
        ("width", "hidden_size"),
        ("layers", "num_hidden_layers"),
        ("heads", "num_attention_heads"),
        ("mlp_width", "intermediate_size"),
        ("types", "type_vocab_size"),
        ("activation", "hidden_act"),
        ("norm_epsilon", "layer_norm_eps"),
        ("dropout_hidden", "hidden_dropout_prob"),
        ("dropout_attention", "attention_probs_dropout_prob"),
        ("init_range", "initializer_range"),
        ("tie_embeddings", "tie_word_embeddings"),
    ),
    # torch's Linear holds (out, in): every kernel is transposed, unlike GPT-2's.
    entries=(
        Entry("embeddings.word_embeddings.weight", ("embed/token/embedding",)),
        Entry("embeddings.position_embeddings.weight", ("embed/position/embedding",)),
        Entry("embeddings.token_type_embeddings.weight", ("embed/type/embedding",)),
        *_norm("embeddings", "embed/norm"),
        *_dense("encoder.layer.{}.attention.self.query", "block/{}/attn/query"),
        *_dense("encoder.layer.{}.attention.self.key", "block/{}/attn/key"),
        *_dense("encoder.layer.{}.attention.self.value", "block/{}/attn/value"),
        *_dense("encoder.layer.{}.attention.output.dense", "block/{}/attn/out"),
        *_norm("encoder.layer.{}.attention.output", "block/{}/norm1"),
        *_dense("encoder.layer.{}.intermediate.dense", "block/{}/mlp/up"),
        *_dense("encoder.layer.{}.output.dense", "block/{}/mlp/down"),
        *_norm("encoder.layer.{}.output", "block/{}/norm2"),
        *_dense("pooler.dense", "pooler"),
    ),
    ignored=(r"(bert\.)?embeddings\.position_ids",),
    renamed=((r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias")),
    required={"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False},
)
"""The Hugging Face folder of a BERT."""
