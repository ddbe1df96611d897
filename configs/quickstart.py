"""A small GPT-2 on the texts of the Python that runs it: no network, two to three minutes on two cores.

    lmx train --config quickstart --workdir runs/quickstart

Reaches about 4.5 nats per token and 2.2 bits per byte on held-out documents (1.1 million parameters, not two
epochs of 2 MB: the sentences have the sound of documentation, not the sense). Took 141 s on two cores.
"""

from lmx.core.config import ConfigDict, inherit


def get_config() -> ConfigDict:
    """Differs from base in its corpus, and in sizes and a rate for little text and little time."""
    c = inherit("base")
    c.data.name = "stdlib"
    c.tokenizer.size = 2048
    c.model.width = 128
    c.batch.size = 8
    c.optim.rate = 2e-3
    c.total = "1.2e6 tokens"
    c.samples.prompts = ("", "The", "Return a new", "If the argument is")  # a word begins with its space
    return c
