"""BERT base, uncased, as its authors trained it: 128 tokens for nine tenths of the steps, then 512.

    lmx train --config pretrain/bert_base --config.data.path=FOLDER --workdir runs/bert_base

The text is to be in documents (a txt file or a jsonl row each), gigabytes of it, for accelerators; a step
reads 256 x 128 = 64 x 512 = 32,768 tokens in each of the two stages. AdamW at 1e-4; pretrain/bert_base_lamb
has the recipe for large batches.
"""

from lmx.core.config import ConfigDict, inherit


def get_config() -> ConfigDict:
    """12 layers of width 768, 30,522 pieces, a million steps."""
    c = inherit("pretrain/encoder")
    c.model.layers, c.model.width, c.model.heads, c.model.mlp_width = 12, 768, 12, 3072
    c.tokenizer.size = 30_522
    c.data.copies = 5  # other pairs of the same text
    c.batch.size = 256
    c.long.last, c.long.length = "10%", 512
    c.optim.rate, c.optim.warmup = 1e-4, "10000 steps"
    c.total = "1000000 steps"
    c.log, c.evaluate, c.save = "100 steps", "1%", "1%"
    return c
