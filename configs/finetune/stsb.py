"""How alike two sentences are, from 0 to 5, as the regression of a pair: STS-B without a header.

    lmx train --config finetune/stsb --config.start=BERT --workdir runs/stsb \
        --config.data.train=stsb/en-train.csv --config.data.validation=stsb/en-dev.csv

Reached: not measured yet.
"""

from lmx.core.config import ConfigDict, inherit


def get_config() -> ConfigDict:
    """Four epochs at 5e-5, batches of 32."""
    c = inherit("finetune/base")
    c.task = ConfigDict({"name": "sequence_regression"})
    c.data.columns = ConfigDict({"text": 0, "text_pair": 1, "value": 2})
    c.total = "4 epochs"
    return c
