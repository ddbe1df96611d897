"""BERT large, uncased, as its authors trained it: as pretrain/bert_base but for its size.

    lmx train --config pretrain/bert_large --config.data.path=FOLDER --workdir runs/bert_large

340 million parameters; blocks are compiled once and computed again in the backward pass.
"""

from lmx.core.config import ConfigDict, inherit


def get_config() -> ConfigDict:
    """24 layers of width 1024, 16 heads."""
    c = inherit("pretrain/bert_base")
    c.model.layers, c.model.width, c.model.heads, c.model.mlp_width = 24, 1024, 16, 4096
    c.execution.remat, c.execution.layers = "block", "scanned"
    return c
