"""One fine-tuning step of BERT base: lmx against transformers' BertForSequenceClassification on torch eager.

    python benchmarks/finetune_step.py --repeats 10

16 full rows of 128 tokens with a label each, f32, from the same random weights; both sides must give the same
first losses. As in pretrain_step.py each side has a process of its own and the rounds alternate. `bert-small`
shows within seconds that the script works. Needs the parity extra (torch).
"""

from __future__ import annotations

from _steps import Comparison, lmx_side, peak_side, torch_side

if __name__ == "__main__":
    sides = {"lmx": lmx_side, "torch": torch_side, "peak": peak_side}
    Comparison(__file__, "torch", sides).main(__doc__, cases=("bert-small", "bert"), default=("bert",))
