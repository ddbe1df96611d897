"""Names of diseases in sentences: NCBI-disease, a token and its tag a line.

    lmx train --config finetune/ncbi --config.start=BERT --workdir runs/ncbi \
        --config.data.train=ncbi_disease/train.tsv --config.data.validation=ncbi_disease/devel.tsv

Reached, from all-MiniLM-L6-v2: entity F1 82.3 on devel (79.8 to 84.7 by bootstrap; seed 0), the best of four
epochs.
"""

from lmx.core.config import ConfigDict, inherit


def get_config() -> ConfigDict:
    """Four epochs at 1e-4, batches of 32; sentences beyond 128 tokens are read in windows."""
    c = inherit("finetune/base")
    c.task = ConfigDict({"name": "token_classification", "stride": 16})
    c.data.format = "conll"
    c.optim.rate = 1e-4
    c.total = "4 epochs"
    return c
