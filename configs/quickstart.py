"""A small GPT-2 on the texts of the Python that runs it: no network, a few minutes on two cores.

lmx train --config quickstart --workdir runs/quickstart
"""

from lmx.core.config import ConfigDict, inherit


def get_config() -> ConfigDict:
    """Differs from base in its corpus and length."""
    c = inherit("base")
    c.data.name = "stdlib"
    c.total = "6 epochs"
    c.samples.prompts = ("", "The ", "Return a new ", "If the argument is ")
    return c
