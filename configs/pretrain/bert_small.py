"""A BERT of 4 million parameters, for a laptop: hidden tokens and next sentences.

lmx train --config pretrain/bert_small --config.data.path=FILE_OR_FOLDER --workdir runs/bert
"""

from lmx.core.config import ConfigDict, inherit


def get_config() -> ConfigDict:
    """5 layers of width 192, 8,192 pieces: 8,192 x 192 + 5 x 12 x 192 x 192 = 3.8 million, and the heads."""
    c = inherit("pretrain/encoder")
    c.model.layers, c.model.width, c.model.heads, c.model.mlp_width = 5, 192, 4, 768
    c.model.positions = 128
    return c
