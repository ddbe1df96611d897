"""Continued pretraining of a GPT-2 on more text: of a domain (DAPT), or that of the task itself (TAPT).

    lmx train --config pretrain/adapt_gpt2 --config.start=GPT2 --config.data.path=TEXT --workdir runs/dapt

Source: Gururangan et al. 2020, "Don't Stop Pretraining". For a domain's text one pass, as here; for the
few texts of a task --config.total='100 epochs', and leave the task's test texts out. Then fine-tune with
--config.start=runs/dapt.
"""

from lmx.core.config import ConfigDict, inherit


def get_config() -> ConfigDict:
    """The start's model and tokenizer, a tenth of the usual rate."""
    c = inherit("base")
    c.start = None
    c.model = ConfigDict()  # fields of the start's model to change, such as dropout_residual
    c.tokenizer.name = "start"
    c.optim.rate = 1e-4
    c.optim.warmup = "6%"
    return c
