"""A model of transformers beside lmx's: of one folder, fed alike, and compared in all that they give."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from lmx.commands import _build, _hf
from lmx.core import tree
from lmx.core.types import IGNORED, Checkpoint, Outputs
from lmx.hf import convert
from tests.parity._draws import Arrays, Case

TAPS = {name: (lambda x, layer: (x, x)) for name in ("embed", "attn/weights", "block", "final")}

QUICK = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
}
"""For XLA: compile in a third of the time. The programs run for milliseconds."""


def _feature_loss(hidden: Any, pooled: Any, mask: np.ndarray, as_theirs: Callable[[np.ndarray], Any]) -> Any:
    """Return a number to differentiate where a class has no loss: uneven weights on each real output."""
    places = np.arange(np.prod(hidden.shape)).reshape(hidden.shape)
    weights = np.sin(places % 97 + 0.5) * mask[..., None]
    total = (hidden * as_theirs(weights)).sum()
    return (total if pooled is None else total + (pooled * as_theirs(weights[:, 3])).sum()) / len(weights)


def theirs(case: Case, model: Any, batch: Arrays, *, gradients: bool = True) -> tuple[Arrays, Arrays]:
    """Return ({output: array}, {tensor: gradient of the loss}) of transformers, in the model's type."""
    dtype = next(model.parameters()).dtype
    inputs = {
        name: torch.from_numpy(array).to(dtype if array.dtype == np.float32 else torch.int64)
        for name, array in batch.items()
    }
    mask = batch["attention_mask"]
    if case.kind == "next_token":
        inputs["labels"] = _shifted(inputs["input_ids"], mask)
    found: dict[str, Any] = {}
    body = getattr(model, "transformer", getattr(model, "bert", model))
    watched = {"block": body.h[-1]} if case.family == "gpt2" else {"pooled": body.pooler}
    hooks = [
        part.register_forward_hook(lambda _m, _x, y, name=name: found.update({name: y}))
        for name, part in watched.items()
        if part is not None
    ]
    out = model(**inputs, output_hidden_states=True, output_attentions=True)
    for hook in hooks:
        hook.remove()
    hidden, last_block = out.hidden_states, found.pop("block", out.hidden_states[-1])
    found |= {"embed": hidden[0], "final": hidden[-1], "hidden": hidden[-1]}
    found |= {f"block/{i}": x for i, x in enumerate((*hidden[1:-1], last_block))}
    found |= {f"attn/weights/{i}": x for i, x in enumerate(out.attentions)}
    found |= {name: out[name] for name in ("logits", "start_logits", "end_logits") if name in out}
    if case.kind == "pretraining":
        found |= {"logits": out.prediction_logits, "next_logits": out.seq_relationship_logits}
    if case.family == "gpt2":
        ends = np.max(np.where(mask == 1, np.arange(mask.shape[1]), 0), axis=1)
        found["pooled"] = hidden[-1][torch.arange(len(ends)), torch.from_numpy(ends)]
    if case.kind == "features":
        found["loss"] = _feature_loss(
            hidden[-1], found.get("pooled"), mask, lambda weights: torch.from_numpy(weights).to(dtype)
        )
    elif case.kind == "next_token" and dtype == torch.float64:  # transformers makes this loss in f32
        found["loss"] = torch.nn.functional.cross_entropy(
            out.logits[:, :-1].flatten(0, 1), inputs["labels"][:, 1:].flatten()
        )
    else:
        found["loss"] = out.loss
    model.zero_grad()
    if gradients:
        found["loss"].backward()
    grads = {n: p.grad.numpy().copy() for n, p in model.named_parameters() if p.grad is not None}
    return {name: x.detach().numpy() for name, x in found.items()}, grads


def _shifted(ids: Any, mask: np.ndarray) -> Any:
    """Return labels for transformers, which shifts them itself: padding is no label, and predicts none."""
    before = np.pad(mask, ((0, 0), (1, 0)))[:, :-1]
    return ids.masked_fill(torch.from_numpy(mask * before) == 0, IGNORED)


def ours(
    case: Case, found: Checkpoint, batch: Arrays, *, gradients: bool = True, options: Any = None
) -> tuple[Arrays, Arrays]:
    """Return ({output: array}, {leaf: gradient}) of lmx, in the type of the parameters.

    An output is named as in `theirs` where no tap reads the attention, so that its weights are never made;
    and once more, with `tapped/` before its name, where taps do. options: for the compiler.
    """
    built = _build.model(found.config)
    dtype = jax.tree.leaves(found.params)[0].dtype
    arrays = {
        name: jnp.asarray(array, dtype if array.dtype == np.float32 else np.int32)
        for name, array in batch.items()
    }

    def mean(params: Any) -> tuple[Any, Outputs]:
        outputs: Outputs = {}

        def kept(*args: Any, **more: Any) -> Outputs:
            outputs.update(built.apply(*args, **more))
            return outputs

        if case.kind == "features":
            x = kept(params, arrays)
            mask = batch["attention_mask"]
            loss = _feature_loss(x["hidden"], x.get("pooled"), mask, lambda w: jnp.asarray(w, dtype))
        else:
            objective = _build.objective(found.config, dataclasses.replace(built, apply=kept))
            total, weight, _ = objective(params, arrays, None)
            loss = total / weight
        return loss, {name: x for name, x in outputs.items() if name != "head"}

    def everything(params: Any) -> Any:
        tapped = built.apply(params, {n: x for n, x in arrays.items() if "label" not in n}, taps=TAPS)
        if not gradients:
            return tapped, mean(params), {}
        value, gradient = jax.value_and_grad(mean, has_aux=True)(params)
        return tapped, value, gradient

    tapped, (loss, plain), gradient = jax.jit(everything, compiler_options=options)(found.params)
    taps = tapped.pop("taps")
    outputs = {**plain, "loss": loss, **{name: taps[name] for name in ("embed", "final")}}
    outputs |= {f"{name}/{i}": x for name in ("block", "attn/weights") for i, x in enumerate(taps[name])}
    outputs |= {f"tapped/{name}": x for name, x in tapped.items()}
    leaves = {path: np.asarray(leaf) for path, leaf in tree.flatten(gradient).items()}
    return {name: np.asarray(x) for name, x in outputs.items()}, leaves


def seen(case: Case, batch: Arrays, outputs: Arrays) -> Arrays:
    """Return the outputs that can be compared: of a GPT-2 those of real tokens.

    A padding token on the left of a GPT-2's row has no key that it may see; transformers then looks at all of
    them, lmx at the token itself.
    """
    if case.family == "bert":
        return outputs
    real = batch["attention_mask"] == 1

    def pick(name: str, x: np.ndarray) -> np.ndarray:
        if name.startswith("attn/"):
            return x.swapaxes(1, 2)[real]
        return x[real] if x.shape[:2] == real.shape else x

    return {name: pick(name, x) for name, x in outputs.items()}


class DiffersError(AssertionError):
    """What a gate says of two that are not the same function."""


def gate(mine: Arrays, other: Arrays, tolerance: float) -> float:
    """Return the largest difference, as a share of max(1, the output's largest value).

    Errors: DiffersError where an output is missing, of another shape or type, or further off than that.
    """
    plain = {name for name in mine if not name.startswith("tapped/")}
    if plain != other.keys():
        raise DiffersError(f"outputs {sorted(plain)}, expected {sorted(other)}")
    return _largest({n: _share(x, other[n.removeprefix("tapped/")], 1.0) for n, x in mine.items()}, tolerance)


def gate_gradients(mine: Arrays, other: Arrays, tolerance: float, exact: Arrays) -> float:
    """Return the largest difference, as a share of each tensor's largest gradient.

    exact: the gradients of `other` in f64. Where all of a tensor's are 0 there, as those of the keys' bias,
    which the softmax does not see, f32 gives rounding; that is held to a tenth of the largest of all tensors.
    Errors: as `gate`; tensors to which transformers gives no gradient must have one of 0.
    """
    extra = {name for name in mine.keys() - other.keys() if np.any(mine[name])}
    if extra or other.keys() - mine.keys():
        raise DiffersError(f"gradients of {sorted(mine)}, expected {sorted(other)}")
    most = {name: float(np.abs(x).max()) for name, x in exact.items()}
    top = max(most.values())
    least = {name: top / 10 if one < 1e-12 * top else 0.0 for name, one in most.items()}
    return _largest({name: _share(mine[name], x, least[name]) for name, x in other.items()}, tolerance)


def _largest(shares: Mapping[str, float], tolerance: float) -> float:
    wrong = {name: share for name, share in shares.items() if not share <= tolerance}
    if wrong:
        raise DiffersError(f"further off than {tolerance}: {wrong}")
    return max(shares.values())


def _share(mine: np.ndarray, other: np.ndarray, least: float) -> float:
    if (mine.shape, mine.dtype) != (other.shape, other.dtype):
        raise DiffersError(f"{mine.shape} of {mine.dtype}, expected {other.shape} of {other.dtype}")
    return float(np.abs(mine - other).max()) / max(least, float(np.abs(other).max()))


def in_tensors(found: Checkpoint, leaves: Arrays, names: set[str]) -> Arrays:
    """Return the leaves as stored tensors; of two names for one tensor, that which is among `names`."""
    model = found.config["model"]
    table, heads = _build.tables(model["name"])
    head = heads[found.config["task"]["name"]]
    tensors = {}
    for entry in convert.Layout(table, head, model["layers"], model["tie_embeddings"]).entries():
        if all(path in leaves for path in entry.leaves):
            name = entry.twin if entry.twin in names else entry.tensor
            tensors[name] = convert.join(entry, leaves)
    return tensors


def read(folder: Path, dtype: str = "float32") -> Checkpoint:
    """Return the checkpoint in a folder."""
    return _hf.read(folder, dtype=dtype).checkpoint


@contextmanager
def float64() -> Iterator[None]:
    """Turn 64 bits on, in every thread: `jax.enable_x64` would leave out those that read the tensors."""
    jax.config.update("jax_enable_x64", True)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", False)


def widen(model: Any) -> Any:
    """Return the model in f64; what `reorder_and_upcast_attn` makes in f32 otherwise, too."""
    for module in model.modules():
        if hasattr(module, "reorder_and_upcast_attn"):
            module.reorder_and_upcast_attn = False
    return model.double()
