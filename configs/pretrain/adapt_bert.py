"""Continued pretraining of a BERT on more text: of a domain (DAPT), or that of the task itself (TAPT).

    lmx train --config pretrain/adapt_bert --config.start=BERT --config.data.path=TEXT --workdir runs/dapt

Source: Gururangan et al. 2020, "Don't Stop Pretraining". For a domain's text one pass, as here; for the
few texts of a task --config.total='100 epochs', and leave the task's test texts out. Then fine-tune with
--config.start=runs/dapt.
"""

from lmx.core.config import ConfigDict, inherit


def get_config() -> ConfigDict:
    """The start's model and tokenizer; hidden tokens only, for the text need not come in documents."""
    c = inherit("pretrain/encoder")
    c.start = None
    c.model = ConfigDict()  # fields of the start's model to change, such as dropout_hidden
    c.task.name = "masked_lm"
    c.tokenizer.name = "start"
    c.optim.rate = 1e-4
    c.optim.warmup = "6%"
    c.total = "1 epochs"
    return c
