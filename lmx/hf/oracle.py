"""transformers on torch as a judge: in a process of its own, for lmx itself never imports torch."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lmx.core.errors import UserError

SECONDS = 1800

PLACED = ("hidden", "start_logits", "end_logits")
"""Outputs with an axis of time, (B, T, ...); logits have one where they have three axes."""

# What runs in the other process: arguments are the folder, the class, the batch's file and the result's file.
# Attention is eager, the plain formula; the padding is found by the id that fills it. What a config.json says
# of how to call the model, or in how many pieces to compute, changes neither the weights nor the numbers.
_JUDGE = """
import sys
import numpy as np, torch, transformers
transformers.logging.set_verbosity_error()
folder, name, inputs, results = sys.argv[1:]
kind = getattr(transformers, name)
config = kind.config_class.from_pretrained(folder, local_files_only=True)
for key, value in {"return_dict": True, "torchscript": False, "output_hidden_states": False,
                   "output_attentions": False, "chunk_size_feed_forward": 0}.items():
    setattr(config, key, value)
model = kind.from_pretrained(
    folder, config=config, local_files_only=True, trust_remote_code=False, use_safetensors=True,
    attn_implementation="eager", dtype=torch.float32).eval()
batch = {key: torch.from_numpy(array).long() for key, array in np.load(inputs).items()}
model.config.pad_token_id = model.config.vocab_size - 1 or -1
with torch.no_grad():
    found = model(**batch, output_hidden_states=True, return_dict=True)
names = {"pooler_output": "pooled", "logits": "logits", "prediction_logits": "logits",
         "seq_relationship_logits": "next_logits", "start_logits": "start_logits", "end_logits": "end_logits"}
outputs = {ours: found[theirs].numpy() for theirs, ours in names.items() if found.get(theirs) is not None}
outputs["hidden"] = found["hidden_states"][-1].numpy()
np.savez(results, **outputs)
"""


def present() -> bool:
    """Tell whether torch and transformers are installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("torch", "transformers"))


def judge(
    folder: Path, architecture: str, batch: Mapping[str, np.ndarray], *, said: str | None = None
) -> dict[str, np.ndarray]:
    """Return the outputs of transformers' class on torch for the folder's weights in f32.

    said: what messages call the folder, where it is not the user's own but made for this.
    Errors: UserError where it cannot open the folder, with the last line it said.
    """
    shown = str(folder) if said is None else said
    with tempfile.TemporaryDirectory() as work:
        inputs, results = Path(work) / "inputs.npz", Path(work) / "results.npz"
        np.savez(inputs, **batch)  # type: ignore[arg-type]
        # -P and a working folder of its own: where lmx was called, a torch.py of somebody else's may lie.
        command = [
            sys.executable,
            "-P",
            "-c",
            _JUDGE,
            str(folder.resolve()),
            architecture,
            str(inputs),
            str(results),
        ]
        quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
        try:
            done = subprocess.run(
                command, cwd=work, env=_environment() | quiet, capture_output=True, text=True, timeout=SECONDS
            )
        except subprocess.TimeoutExpired as error:
            raise UserError(f"{shown}: transformers did not finish within {SECONDS} s") from error
        if done.returncode < 0:
            name = signal.Signals(-done.returncode).name
            raise UserError(
                f"{shown}: transformers was killed by {name} before it answered; it needs memory for the "
                "weights once more than lmx"
            )
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no word"])[-1]
            last = last.replace(str(folder.resolve()), shown)
            raise UserError(f"{shown}: transformers cannot open it as {architecture}: {last[:300]}")
        with np.load(results) as found:
            return {name: found[name] for name in found.files}


def _environment() -> dict[str, str]:
    """Return the environment without relative places to import from."""
    places = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    kept = os.pathsep.join(place for place in places if os.path.isabs(place))
    return {**os.environ, "PYTHONPATH": kept}


def differences(
    ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray], mask: np.ndarray
) -> dict[str, tuple[float, float]]:
    """Return {output: (largest absolute difference, the same by max(1, the largest value))}.

    Of the outputs that both have, at real tokens only (`mask`, (..., T)), for what a decoder makes of padding
    is nobody's business. A mismatch of shapes is infinite.
    """
    real = mask.reshape(-1, mask.shape[-1]) != 0
    found = {}
    for name in sorted(ours.keys() & theirs.keys()):
        one, two = ours[name], theirs[name]
        if one.shape != two.shape:
            found[name] = (float("inf"), float("inf"))
            continue
        if name in PLACED or (name == "logits" and one.ndim == 3):
            one, two = one[real], two[real]
        gap = float(np.max(np.abs(one.astype(np.float64) - two)))
        found[name] = (gap, gap / max(1.0, float(np.max(np.abs(two)))))
    return found
