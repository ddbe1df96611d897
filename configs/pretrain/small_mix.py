"""A small GPT-2 to fine-tune on dialogues, summaries and translations: a folder of English texts.

Meant for tiny Shakespeare and the Brown corpus together (6.0 MB), both laid into one folder:

    mkdir mix && cp tinyshakespeare/train.txt brown/train.jsonl.gz mix/
    lmx train --config pretrain/small_mix --config.data.path=mix --workdir runs/small_mix

7.0 million parameters; rows of 512 tokens, for a summary reads a whole abstract.
Reached, seed 0, with --config.total="2 epochs": 5.42 nats a held-out token, 2.07 bits a byte.
"""

from lmx.core.config import ConfigDict, inherit


def get_config() -> ConfigDict:
    """6 layers, width 256, 8,192 ids of byte-level BPE, 512 positions; the end of each text is held out."""
    c = inherit("base")
    c.model.layers = 6
    c.model.positions = 512
    c.data.split = "tail"  # one document is a sixth of the text: held out or not, whole, it would decide
    c.tokenizer.size = 8192
    c.batch.size, c.batch.length = 8, 512
    c.total = "4 epochs"
    c.samples.prompts = ("The", "She said", "KING:\n")
    return c
