"""What every pretraining run of an encoder starts from; a derived config names only its differences.

Durations (`total`, `log`, `evaluate`, `save`, `optim.warmup`, `long.last`) take any unit: "500 steps",
"3 epochs", "2e9 tokens", and, but for `total`, "5%". What is not named here is as in base.
"""

from lmx.core.config import ConfigDict, inherit


def model() -> ConfigDict:
    """The fields of a BERT, and the name of its file in lmx/models."""
    c = ConfigDict()
    c.name = "bert"
    c.vocab_size = None  # None: as many as the tokenizer has
    c.positions = 512
    c.layers = 4
    c.width = 256
    c.heads = 4
    c.mlp_width = 1024
    c.types = 2
    c.activation = "gelu"
    c.norm_epsilon = 1e-12
    c.dropout_hidden = 0.1
    c.dropout_attention = 0.1
    c.init_range = 0.02
    c.tie_embeddings = True
    return c


def get_config() -> ConfigDict:
    """A small BERT on pairs of sentences: hidden tokens, and whether the second text follows the first."""
    c = inherit("base")
    del (
        c.samples,
        c.sample,
        c.data.boundary,
    )  # these models write no text, and their rows have marks of their own

    c.model = model()
    # bert_pretraining or masked_lm; share: of hidden tokens; unit: piece, word or span
    c.task = ConfigDict({"name": "bert_pretraining", "share": 0.15, "unit": "piece"})

    c.data.short = 0.1  # pairs only: share of rows cut to a random length
    c.data.copies = 1  # pairs only: how many times the training text is made into pairs, each time other ones
    # wordpiece: trained on the text; file: one that exists (path); start: that of the start
    c.tokenizer = ConfigDict({"name": "wordpiece", "size": 8192, "lowercase": True, "path": None})
    c.long = ConfigDict({"last": "0%", "length": 512})  # the run's end has longer rows; 0%: it has not

    # As BERT's authors had it: warmed up, then down in a straight line.
    c.optim.rate, c.optim.schedule, c.optim.warmup, c.optim.end = 5e-4, "linear", "10%", 0.0
    c.optim.decay, c.optim.b2, c.optim.epsilon = 0.01, 0.999, 1e-6
    c.total = "10 epochs"
    return c
