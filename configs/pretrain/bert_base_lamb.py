"""BERT base with LAMB, which keeps large batches stable: You et al. 2019, "Large Batch Optimization for Deep
Learning: Training BERT in 76 minutes".

    lmx train --config pretrain/bert_base_lamb --config.data.path=FOLDER --workdir runs/bert_lamb

A step reads 4,096 x 128 = 1,024 x 512 = 524,288 tokens; set batch.parts for what the accelerators hold.
"""

from lmx.core.config import ConfigDict, inherit


def get_config() -> ConfigDict:
    """1,000,000 x 256 / 4,096 = 62,500 steps read what the authors' run read; the last tenth is long."""
    c = inherit("pretrain/bert_base")
    c.batch.size = 4096
    c.optim = ConfigDict({"name": "lamb", "rate": 2e-3, "schedule": "linear", "warmup": "6%"})
    c.optim.decay, c.optim.clip = 0.01, 1.0
    c.total = "62500 steps"
    return c
