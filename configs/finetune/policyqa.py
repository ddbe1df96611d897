"""Questions about privacy policies, answered with a part of the text: PolicyQA, in SQuAD's layout.

    lmx train --config finetune/policyqa --config.start=BERT --workdir runs/policyqa \
        --config.data.train=policyqa/dev.json

Reached: not measured yet.
"""

from lmx.core.config import ConfigDict, inherit


def get_config() -> ConfigDict:
    """Three epochs at 5e-5; a fifth of the policies is held out, whole."""
    c = inherit("finetune/base")
    c.task = ConfigDict({"name": "question_answering", "stride": 64, "max_answer": 100})
    c.data.format = "squad"
    c.data.validation = "20%"
    c.data.group = "title"
    c.batch.size = 16
    c.batch.length = 256
    return c
