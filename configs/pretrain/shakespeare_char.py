"""Characters of tiny Shakespeare, in the size that nanoGPT trains on a laptop.

Reaches a validation loss of at most 1.88 nats per character on the last tenth of the text.

    lmx train --config pretrain/shakespeare_char --config.data.path=train.txt --workdir runs/shakespeare
"""

from lmx.core.config import ConfigDict, inherit


def get_config() -> ConfigDict:
    """4 layers, width 128, context 64, batch 12 x 64 = 768 characters a step, 2,000 steps, no dropout."""
    c = inherit("base")
    c.model.width = 128
    c.model.positions = 64
    c.data.split = "tail"
    c.data.boundary = False
    c.tokenizer.name = "characters"
    c.batch.size, c.batch.length = 12, 64
    c.optim.b2 = 0.99  # few tokens a step: a longer memory of the squared gradient
    c.total = "2000 steps"
    c.evaluate = "250 steps"
    c.samples.prompts = ("\n", "ROMEO:")
    c.samples.tokens = 56
    return c
