"""Which of 77 things a customer of a bank wants: banking77, columns `text` and `category`.

    lmx train --config finetune/banking77 --config.start=BERT --workdir runs/banking77 \
        --config.data.train=banking77/train.csv

Reached: not measured yet.
"""

from lmx.core.config import ConfigDict, inherit


def get_config() -> ConfigDict:
    """Six epochs at 1e-4, for there are many labels and a new head; a tenth is held out."""
    c = inherit("finetune/base")
    c.data.columns.label = "category"
    c.data.validation = "10%"
    c.batch.length = 64
    c.optim.rate = 1e-4
    c.total = "6 epochs"
    return c
