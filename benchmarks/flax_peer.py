"""One step of GPT-2 and of BERT: lmx against the Flax classes that transformers had until its version 5.

    python benchmarks/flax_peer.py --venv ~/.cache/lmx/flax-peer --repeats 10

The other side is transformers 4.57.6, the last release with FlaxGPT2LMHeadModel and
FlaxBertForSequenceClassification, in an environment of its own (--venv, made on the first call, with the jax,
flax and optax that this environment has), in the step that its examples make: cross-entropy of whole labels,
clipping, optax's AdamW, jitted, the state donated. Both sides start from the same weights and must give the
same first losses; each has a process of its own, and the rounds alternate.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

from _cases import B1, CLIP, EPSILON, Case
from _processes import versions
from _steps import Comparison, Run, lmx_side, peak_side

PEER = "transformers==4.57.6"
SAME = ("jax", "jaxlib", "flax", "optax")
"""Packages of which the peer has the very versions of this environment."""


def flax_side(case: Case, weights: Path) -> Run:
    """The step of transformers' own Flax examples, jitted once, the state donated."""
    import jax
    import jax.numpy as jnp
    import optax
    import transformers
    from flax.training.train_state import TrainState

    transformers.logging.set_verbosity_error()
    config = transformers.AutoConfig.from_pretrained(weights)
    model = getattr(transformers, f"Flax{config.architectures[0]}").from_pretrained(weights)
    optimizer = optax.chain(
        optax.clip_by_global_norm(CLIP),
        optax.adamw(
            case.rate,
            b1=B1,
            b2=case.b2,
            eps=EPSILON,
            weight_decay=case.decay,
            mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim >= 2, params),
        ),
    )
    state = TrainState.create(apply_fn=model, params=model.params, tx=optimizer)

    def loss_of(params: Any, batch: dict[str, Any], key: Any) -> Any:
        batch = dict(batch)
        labels = batch.pop("labels", None)
        logits = state.apply_fn(**batch, params=params, dropout_rng=key, train=True).logits
        if labels is None:
            logits, labels = logits[:, :-1], batch["input_ids"][:, 1:]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def step(state: TrainState, batch: dict[str, Any], key: Any) -> tuple[TrainState, Any]:
        loss, gradients = jax.value_and_grad(loss_of)(state.params, batch, key)
        return state.apply_gradients(grads=gradients), loss

    made, key = jax.jit(step, donate_argnums=0), jax.random.key(0)

    def run(number: int) -> float:
        nonlocal state
        batch = {name: jnp.asarray(rows) for name, rows in case.batch(number).items()}
        state, loss = made(state, batch, jax.random.fold_in(key, number))
        return float(loss)

    return run


def interpreter(venv: Path) -> Path:
    """Return the Python of the peer's environment, making it first where there is none."""
    folder = "Scripts" if sys.platform == "win32" else "bin"
    python = venv / folder / ("python.exe" if sys.platform == "win32" else "python")
    ready = venv / "installed.txt"
    if not ready.exists():
        wanted = [PEER, *(f"{name}=={number}" for name, number in versions(SAME).items())]
        print(f"making {venv} with {', '.join(wanted)}", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *wanted], check=True)
        ready.write_text("\n".join(wanted) + "\n")
    return python


class AgainstFlax(Comparison):
    """The comparison, whose peer runs in an environment of its own."""

    def more(self, parser: argparse.ArgumentParser) -> None:
        """Declare --venv."""
        own = Path.home() / ".cache" / "lmx" / "flax-peer"
        parser.add_argument("--venv", type=Path, default=own, help=f"the peer's environment (default: {own})")

    def ready(self, options: argparse.Namespace) -> None:
        """Make the peer's environment."""
        self.python["flax"] = str(interpreter(options.venv.absolute()))


if __name__ == "__main__":
    cases = ("small", "124m", "bert-small", "bert")
    AgainstFlax(__file__, "flax", {"lmx": lmx_side, "flax": flax_side, "peak": peak_side}).main(
        __doc__, cases=cases, default=("124m", "bert")
    )
