"""Whether a sentence is good English: CoLA, no header, the label in column 1 and the sentence in column 3.

    lmx train --config finetune/cola --config.start=BERT --workdir runs/cola \
        --config.data.train=cola/in_domain_train.tsv --config.data.validation=cola/in_domain_dev.tsv

Reached, from all-MiniLM-L6-v2, on the 527 sentences of dev, after four epochs, mean of the seeds 0, 1 and 2:
Matthews 0.330 (0.291 to 0.358) and accuracy 74.2; to call all of them good is right for 69.3 %.
"""

from lmx.core.config import ConfigDict, inherit


def get_config() -> ConfigDict:
    """Four epochs at 5e-5; seven in ten sentences are good, so Matthews correlation chooses."""
    c = inherit("finetune/base")
    c.data.columns = ConfigDict({"text": 3, "label": 1})
    c.batch.length = 64
    c.total = "4 epochs"
    c.metrics = ("matthews",)
    c.score = "matthews"
    return c
