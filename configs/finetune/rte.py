"""Whether a text entails a sentence: RTE, trained on the first two challenges and tried on the third.

    lmx train --config finetune/rte --config.start=BERT --workdir runs/rte \
        --config.data.train="('rte/rte1_dev.tsv', 'rte/rte2_dev.tsv')" \
        --config.data.validation=rte/rte3_dev.tsv

Reached: not measured yet.
"""

from lmx.core.config import ConfigDict, inherit


def get_config() -> ConfigDict:
    """Ten epochs at 3e-5 on fewer than a thousand pairs; ids begin anew in each file and are not read."""
    c = inherit("finetune/base")
    c.data.columns = ConfigDict({"id": None, "text": "sentence1", "text_pair": "sentence2"})
    c.batch.length = 256
    c.optim.rate = 3e-5
    c.total = "10 epochs"
    return c
