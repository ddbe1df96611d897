"""What every pretraining run of a decoder starts from; a derived config names only its differences.

Durations (`total`, `log`, `evaluate`, `save`, `sample`, `optim.warmup`) take any unit: "500 steps",
"3 epochs", "2e9 tokens", and, but for `total`, "5%".
"""

from lmx.core.config import ConfigDict


def get_config() -> ConfigDict:
    """A small GPT-2 on text, byte-level BPE, AdamW with a cosine."""
    c = ConfigDict()
    c.seed = 0
    c.start = "scratch"  # or a run of lmx (FOLDER, FOLDER@best, FOLDER@STEP), or a Hugging Face folder

    c.model = ConfigDict()
    c.model.name = "gpt2"
    c.model.vocab_size = None  # None: as many as the tokenizer has
    c.model.positions = 128
    c.model.layers = 4
    c.model.width = 256
    c.model.heads = 4
    c.model.mlp_width = None  # None: 4 x width
    c.model.activation = "gelu_new"
    c.model.norm_epsilon = 1e-5
    c.model.dropout_embed = 0.0
    c.model.dropout_attention = 0.0
    c.model.dropout_residual = 0.0
    c.model.init_range = 0.02
    c.model.scale_attention = True
    c.model.scale_attention_by_layer = False
    c.model.upcast_attention = False
    c.model.tie_embeddings = True

    c.task = ConfigDict({"name": "causal_lm"})

    c.data = ConfigDict()
    c.data.name = "text"  # text: your files; stdlib: the reference texts and docstrings of the running Python
    c.data.path = None  # a file or a folder of txt, md, jsonl, each also as .gz
    c.data.field = "text"  # where a jsonl row holds its text
    c.data.code = False  # stdlib only: the library's source code as well
    c.data.holdout = 0.1  # share held out for validation
    c.data.split = "auto"  # document: by a hash of each document; tail: the end of each; auto: by their number
    c.data.boundary = True  # begin and end each document with the tokenizer's end symbol
    c.data.folder = None  # where prepared rows lie; None: WORKDIR/data

    c.tokenizer = ConfigDict()
    c.tokenizer.name = "bpe"  # bpe: trained on the text; characters; file: one that exists
    c.tokenizer.size = 4096  # bpe only
    c.tokenizer.path = None  # file only: tokenizer.json, or a folder with it or with vocab.json + merges.txt

    c.batch = ConfigDict({"size": 32, "length": 128})

    c.optim = ConfigDict()
    c.optim.name = "adamw"
    c.optim.rate = 1e-3
    c.optim.schedule = "cosine"
    c.optim.warmup = "5%"
    c.optim.end = 0.1  # the last rate, as a share of the highest
    c.optim.decay = 0.1
    c.optim.clip = 1.0
    c.optim.b1 = 0.9
    c.optim.b2 = 0.95
    c.optim.epsilon = 1e-8

    c.total = "1 epochs"
    c.log = "10 steps"
    c.evaluate = "10%"
    c.save = "10%"
    c.sample = "50%"
    c.keep = ConfigDict({"last": 2, "best": 1})
    c.samples = ConfigDict({"prompts": ("",), "tokens": 64, "temperature": 0.8, "top_k": 40})
    c.mesh = ConfigDict({"data": -1})  # devices that share a batch; -1: all
    c.export = True  # write WORKDIR/export, a Hugging Face folder, at the end
    return c
