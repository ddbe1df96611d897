"""Sentiment of sentences of film reviews: SST-2, columns `sentence` and `label`.

    lmx train --config finetune/sst2 --config.start=BERT --workdir runs/sst2 \
        --config.data.train=sst2/train.tsv --config.data.validation=sst2/dev.tsv

Reached: not measured yet.
"""

from lmx.core.config import ConfigDict, inherit


def get_config() -> ConfigDict:
    """Three epochs at 5e-5, batches of 32."""
    c = inherit("finetune/base")
    c.data.columns.text = "sentence"
    c.batch.length = 64
    return c
