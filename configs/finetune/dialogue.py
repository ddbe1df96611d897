"""Replies in everyday conversations: XDailyDialog, a dialogue a line, its turns ended by __eou__, no header.

    lmx train --config finetune/dialogue --config.start=runs/small_mix --workdir runs/dialogue \
        --config.data.train=xdailydialog/en-train1k.tsv --config.data.validation=xdailydialog/en-dev.tsv

Reached, from pretrain/small_mix, seed 0, on the 995 dialogues of dev: loss 4.38 (4.54 after the first epoch),
BLEU 0.32, 98.9 % of the replies end by themselves. Untuned (small_mix of two epochs): 6.46, 0.05 and none.

For the Chinese files add --config.task.tokenize=zh; and any table with a column of turns will do:
--config.data.columns.turns=NAME --config.task.separator=TEXT. Lists of turns need no separator.
"""

from lmx.core.config import ConfigDict, inherit


def get_config() -> ConfigDict:
    """Every turn of the second speaker is trained, the last of them written at the end; rates as suit a
    model of some million parameters (divide by ten for GPT-2's 124 million)."""
    c = inherit("finetune/base")
    c.task = ConfigDict(
        {"name": "instruction", "template": "dialogue", "separator": "__eou__", "replies": "second"}
    )
    c.data.columns.turns = 0
    c.model.dropout_residual = 0.1
    c.batch.length = 256
    c.optim.rate = 5e-4
    c.total = "5 epochs"
    return c
