"""GPT-2: a decoder of pre-norm blocks with learned positions.

Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3; the fields
are those of transformers' GPT2Config that change the function.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx

from lmx.core import execution, functions, layout
from lmx.core import rng as rng_
from lmx.core.hf_table import Entry, Table
from lmx.core.types import Array, Batch, Model, Outputs, Params, Taps
from lmx.models import _blocks as blocks_
from lmx.models import _fields as fields_
from lmx.models import _layers as layers_
from lmx.models import _sequence as sequence_

PARTS = ("query", "key", "value")

STACKS = True
"""Its `apply` takes the layers as one, too (`core.layers`)."""

TAPS = ("embed", "attn/weights", "attn/out", "mlp", "block", "final")
"""Where a tap can sit: after the embeddings, at the attention's weights (B, H, T, S), after the attention and
the feed-forward layer before they join the residual stream, after the block, after the last norm. `layer` is
0 … L-1 inside the blocks, 0 at `embed` and L at `final`."""


@dataclass(frozen=True)
class Config:
    """Sizes and choices of a GPT-2; the defaults are GPT-2 124M.

    mlp_width: None for 4 x width. dropout_*: probabilities. scale_attention_by_layer: divide the scores of
    layer i by i + 1. upcast_attention: scale the queries first and multiply in f32.
    """

    vocab_size: int = 50257
    positions: int = 1024
    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_width: int | None = None
    activation: str = "gelu_new"
    norm_epsilon: float = 1e-5
    dropout_embed: float = 0.1
    dropout_attention: float = 0.1
    dropout_residual: float = 0.1
    init_range: float = 0.02
    scale_attention: bool = True
    scale_attention_by_layer: bool = False
    upcast_attention: bool = False
    tie_embeddings: bool = True

    causal: ClassVar[bool] = True
    """Whether a token sees those before it alone."""

    def __post_init__(self) -> None:
        fields_.sizes(self, "vocab_size", "positions", "width", "layers", "heads")
        if self.mlp_width is not None:
            fields_.sizes(self, "mlp_width")
        fields_.positive(self, "norm_epsilon", "init_range")
        fields_.probabilities(self, "dropout_embed", "dropout_attention", "dropout_residual")
        fields_.switches(
            self, "scale_attention", "scale_attention_by_layer", "upcast_attention", "tie_embeddings"
        )
        fields_.heads(self)
        functions.activation(self.activation)


AXES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"embed/token/embedding", ("vocab", "width")),
    (r"embed/position/embedding", ("position", "width")),
    *blocks_.AXES,
    (r"final/(scale|bias)", ("width",)),
)
"""Path -> axis names; the first rule that matches the whole path holds."""


class Embed(nnx.Module):
    """Token plus position embeddings."""

    def __init__(self, config: Config) -> None:
        self.token = layers_.Embedding(config.vocab_size, config.width, scale=config.init_range)
        self.position = layers_.Embedding(config.positions, config.width, scale=config.init_range)

    def __call__(self, ids: Array, positions: Array) -> Array:
        """ids (B, T), positions (B or 1, T) -> (B, T, D)."""
        return self.token(ids) + self.position(positions)


class Block(nnx.Module):
    """One pre-norm block: x + attention(norm1(x)), then x + mlp(norm2(x))."""

    def __init__(self, config: Config) -> None:
        scale, inner = config.init_range, config.mlp_width or 4 * config.width
        narrow = layers_.residual_scale(scale, config.layers)
        self.norm1 = layers_.LayerNorm(config.width, epsilon=config.norm_epsilon)
        self.attn = blocks_.SelfAttention(config.width, scale=scale, out_scale=narrow)
        self.norm2 = layers_.LayerNorm(config.width, epsilon=config.norm_epsilon)
        self.mlp = blocks_.MLP(config.width, inner, scale=scale, down_scale=narrow)
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
        cache: Any = None,
    ) -> tuple[Array, dict[str, Any], Any]:
        """(B, T, D) -> (B, T, D), what the taps captured, and this layer's cache, the new tokens in it."""
        config = self.config
        captured: dict[str, Any] = {}
        query, key, value = self.attn.project(self.norm1(x), config.heads)
        if cache is not None:
            cache = sequence_.remember(cache, key, value)
            key, value = sequence_.remembered(cache)
        causal = cache is None  # with a cache the queries stand behind its keys, not beside their own
        scale = 1 / math.sqrt(query.shape[-1]) if config.scale_attention else 1.0
        if config.scale_attention_by_layer:
            query = query / jnp.asarray(layer + 1).astype(query.dtype)
        mixed = blocks_.attention(
            query,
            key,
            value,
            mask,
            scale,
            groups=groups if causal else None,
            layer=layer,
            causal=causal,
            upcast=config.upcast_attention,
            rate=config.dropout_attention,
            keys=keys,
            site=4 * layer + 1,
            tapper=tapper,
            captured=captured,
        )
        out = functions.dropout(self.attn.out(mixed), config.dropout_residual, keys, 4 * layer + 2)
        x = x + tapper("attn/out", out, layer, captured)
        out = functions.dropout(
            self.mlp(self.norm2(x), config.activation), config.dropout_residual, keys, 4 * layer + 3
        )
        x = x + tapper("mlp", out, layer, captured)
        return layout.rows(tapper("block", x, layer, captured)), captured, cache


def build(config: Config) -> Model:
    """Return the body: ids -> hidden states after the last norm; a task attaches its head to it.

    `apply` reads `input_ids` (B, T) and, where given, `attention_mask`, `position_ids`, `segment_ids` and
    `example_index`; it gives `hidden` (B, T, D) and `pooled` (B, D), that of each row's last real token.
    `cache=S` (a number) starts a cache with S seats and fills it, `cache=` a cache goes on from it; both give
    `cache`. Dropout is on where `train` is set and a key is given.
    Errors: UserError for a sequence longer than the positions, and for an unknown tap.
    """
    embed = layers_.Blueprint(lambda: Embed(config), AXES, "embed")
    block = layers_.Blueprint(lambda: Block(config), AXES, "block/0")
    final = layers_.Blueprint(
        lambda: layers_.LayerNorm(config.width, epsilon=config.norm_epsilon), AXES, "final"
    )

    def init(key: Array) -> Params:
        blocks = block.start_layers(key, "block", config.layers)
        return {"embed": embed.start(key, "embed"), "block": blocks, "final": final.start(key, "final")}

    def apply(
        params: Params,
        batch: Batch,
        *,
        rng: Array | None = None,
        train: bool = False,
        taps: Taps | None = None,
        cache: Any = None,
    ) -> Outputs:
        time = batch["input_ids"].shape[1]
        sequence_.check_length(time, cache, config.positions)
        keys = rng_.batch_keys(rng, batch) if train and rng is not None else None
        tapper = layers_.Tapper(taps, TAPS)
        captured: dict[str, Any] = {}
        cache = sequence_.open_cache(cache, batch, config.layers, config.heads, config.width // config.heads)
        x = embed.bind(params["embed"])(batch["input_ids"], sequence_.position_ids(batch, time, cache))
        x = layout.rows(tapper("embed", functions.dropout(x, config.dropout_embed, keys, 0), 0, captured))
        seen = {"mask": sequence_.visible(batch, time, cache), "groups": sequence_.groups(batch)}

        def layer(leaves: Params, x: Array, i: Any) -> tuple[Array, dict[str, Any]]:
            seat = sequence_.layer_cache(cache, i)
            x, read, seat = block.bind(leaves)(x, i, **seen, keys=keys, tapper=tapper, cache=seat)
            if cache is not None:
                cache["layer"][str(i)] = seat
            return x, read

        # A cache has a seat of its own in each layer, and no backward pass.
        with execution.on(execution.current() if cache is None else execution.plain()):
            x, inside = blocks_.through(layer, params["block"], x, config.layers)
        x = tapper("final", final.bind(params["final"])(x), config.layers, captured)
        rows = jnp.arange(x.shape[0])
        outputs: Outputs = {"hidden": x, "pooled": x[rows, sequence_.last_real(batch)]}
        if tapper.taps:
            outputs["taps"] = {**captured, **inside}
        if cache is not None:
            outputs["cache"] = sequence_.advance(cache, time)
        return outputs

    return layers_.plain(init, apply)


HF = Table(
    model_type="gpt2",
    prefix="transformer.",
    fields=(
        ("vocab_size", "vocab_size"),
        ("positions", "n_positions"),
        ("width", "n_embd"),
        ("layers", "n_layer"),
        ("heads", "n_head"),
        ("mlp_width", "n_inner"),
        ("activation", "activation_function"),
        ("norm_epsilon", "layer_norm_epsilon"),
        ("dropout_embed", "embd_pdrop"),
        ("dropout_attention", "attn_pdrop"),
        ("dropout_residual", "resid_pdrop"),
        ("init_range", "initializer_range"),
        ("scale_attention", "scale_attn_weights"),
        ("scale_attention_by_layer", "scale_attn_by_inverse_layer_idx"),
        ("upcast_attention", "reorder_and_upcast_attn"),
        ("tie_embeddings", "tie_word_embeddings"),
    ),
    # GPT-2's kernels lie as (in, out), as ours do: none is transposed.
    entries=(
        Entry("wte.weight", ("embed/token/embedding",)),
        Entry("wpe.weight", ("embed/position/embedding",)),
        Entry("h.{}.ln_1.weight", ("block/{}/norm1/scale",)),
        Entry("h.{}.ln_1.bias", ("block/{}/norm1/bias",)),
        *(
            Entry(f"h.{{}}.attn.c_attn.{theirs}", tuple(f"block/{{}}/attn/{p}/{ours}" for p in PARTS), "join")
            for ours, theirs in (("kernel", "weight"), ("bias", "bias"))
        ),
        Entry("h.{}.attn.c_proj.weight", ("block/{}/attn/out/kernel",)),
        Entry("h.{}.attn.c_proj.bias", ("block/{}/attn/out/bias",)),
        Entry("h.{}.ln_2.weight", ("block/{}/norm2/scale",)),
        Entry("h.{}.ln_2.bias", ("block/{}/norm2/bias",)),
        Entry("h.{}.mlp.c_fc.weight", ("block/{}/mlp/up/kernel",)),
        Entry("h.{}.mlp.c_fc.bias", ("block/{}/mlp/up/bias",)),
        Entry("h.{}.mlp.c_proj.weight", ("block/{}/mlp/down/kernel",)),
        Entry("h.{}.mlp.c_proj.bias", ("block/{}/mlp/down/bias",)),
        Entry("ln_f.weight", ("final/scale",)),
        Entry("ln_f.bias", ("final/bias",)),
    ),
    ignored=(r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)",),
    required={"add_cross_attention": False},
    aliases=(  # GPT2Config.attribute_map of transformers 5.23
        ("hidden_size", "n_embd"),
        ("max_position_embeddings", "n_positions"),
        ("num_attention_heads", "n_head"),
        ("num_hidden_layers", "n_layer"),
    ),
)
"""The Hugging Face folder of a GPT-2."""
