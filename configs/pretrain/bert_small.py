"""A BERT of 4 million parameters, for a laptop: hidden tokens and next sentences.

lmx train --config pretrain/bert_small --config.data.path=FILE_OR_FOLDER --workdir runs/bert
"""

from lmx.core.config import ConfigDict, inherit


def get_config() -> ConfigDict:
    """4 layers of width 256, 4,096 pieces: 4,096 x 256 + 4 x 12 x 256 x 256 = 4.2 million, and the heads.

    Made for a megabyte or two of text and a quarter of an hour: few pieces, so that each is met often; short
    rows; one epoch of four different pairings, of which nothing is learnt by heart, so that nothing is
    dropped out.
    """
    c = inherit("pretrain/encoder")
    c.model.layers, c.model.width, c.model.heads, c.model.mlp_width = 4, 256, 4, 1024
    c.model.positions = 128
    c.model.dropout_hidden = c.model.dropout_attention = 0.0
    c.tokenizer.size = 4096
    c.data.copies = 4
    c.batch.size, c.batch.length = 32, 64
    c.optim.rate, c.optim.b2 = 1.5e-3, 0.98
    c.total = "1 epochs"
    return c
