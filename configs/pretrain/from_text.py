"""Your own text: a file or a folder of txt, md or jsonl (also .gz).

    lmx train --config pretrain/from_text --config.data.path=FILE_OR_FOLDER --workdir runs/mine

Sized for about 1 to 20 MB on a laptop; for more text raise model.layers, model.width and tokenizer.size.
"""

from lmx.core.config import ConfigDict, inherit


def get_config() -> ConfigDict:
    """Differs from base in the number of epochs."""
    c = inherit("base")
    c.total = "5 epochs"
    return c
