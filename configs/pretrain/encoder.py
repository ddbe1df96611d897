"""What every pretraining run of an encoder starts from; a derived config names only its differences.

Durations (`total`, `log`, `evaluate`, `save`, `optim.warmup`, `long.last`) take any unit: "500 steps",
"3 epochs", "2e9 tokens", and, but for `total`, "5%".
"""

from lmx.core.config import ConfigDict


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


def data() -> ConfigDict:
    """Where the text comes from and how rows are made of it."""
    c = ConfigDict()
    c.name = "text"  # text: your files; stdlib: the reference texts and docstrings of the running Python
    c.path = None  # a file or a folder of txt, md, jsonl, each also as .gz; a csv or tsv file
    c.field = "text"  # where a row of jsonl, csv or tsv holds its text
    c.code = False  # stdlib only: the library's source code as well
    c.holdout = 0.1  # share held out for validation
    c.split = "auto"  # document: by a hash of each document; tail: the end of each; auto: by their number
    c.seed = None  # chooses the documents held out and makes the pairs; None: the run's seed
    c.short = 0.1  # pairs only: share of rows cut to a random length
    c.copies = 1  # pairs only: how many times the text is made into pairs, each time other ones
    c.folder = None  # where prepared rows lie; None: WORKDIR/data
    return c


def optim() -> ConfigDict:
    """AdamW as BERT's authors had it: warmed up, then down in a straight line."""
    c = ConfigDict()
    c.name = "adamw"
    c.rate = 5e-4
    c.schedule = "linear"
    c.warmup = "10%"
    c.end = 0.0
    c.decay = 0.01
    c.clip = 1.0
    c.b1 = 0.9
    c.b2 = 0.999
    c.epsilon = 1e-6
    return c


def get_config() -> ConfigDict:
    """A small BERT on pairs of sentences: hidden tokens, and whether the second text follows the first."""
    c = ConfigDict()
    c.seed = 0
    c.start = "scratch"  # or a run of lmx (FOLDER, FOLDER@best, FOLDER@STEP), or a Hugging Face folder

    c.model = model()
    # bert_pretraining or masked_lm; share: of hidden tokens; unit: piece, word or span
    c.task = ConfigDict({"name": "bert_pretraining", "share": 0.15, "unit": "piece"})

    c.data = data()
    # wordpiece: trained on the text; file: one that exists (path); start: that of the start
    c.tokenizer = ConfigDict({"name": "wordpiece", "size": 8192, "lowercase": True, "path": None})
    c.batch = ConfigDict({"size": 32, "length": 128, "parts": 1})
    c.long = ConfigDict({"last": "0%", "length": 512})  # the run's end has longer rows; 0%: it has not

    c.optim = optim()
    c.total = "10 epochs"
    c.log = "10 steps"
    c.evaluate = "10%"
    c.save = "10%"
    # restore: what is given away at the end is the best checkpoint instead of the last
    c.keep = ConfigDict({"last": 2, "best": 1, "restore": False})
    c.stop = ConfigDict({"patience": 0, "least": 0.0})  # evaluations without a better score; 0: never
    c.plateau = ConfigDict({"factor": 1.0, "patience": 2, "least": 0.0, "floor": 0.0, "rest": 0})  # 1.0: off
    c.mesh = ConfigDict({"data": -1})  # devices that share a batch; -1: all
    c.export = True  # write WORKDIR/export, a Hugging Face folder, at the end
    return c
