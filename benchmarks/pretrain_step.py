"""One pretraining step of GPT-2: lmx against transformers' GPT2LMHeadModel on torch eager, same shapes, f32.

    python benchmarks/pretrain_step.py --case all --repeats 20

Both sides start from the same weights and must give the same first losses. Each side has a process of its own
(and so its own peak memory), held to the same cores; the rounds alternate, so that a busy machine slows both
sides alike, and medians are compared. Needs the parity extra (torch).
"""

from __future__ import annotations

from _steps import Comparison, lmx_side, peak_side, torch_side

if __name__ == "__main__":
    sides = {"lmx": lmx_side, "torch": torch_side, "peak": peak_side}
    Comparison(__file__, "torch", sides).main(__doc__, cases=("small", "124m"), default=("small", "124m"))
