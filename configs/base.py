"""What every pretraining run of a decoder starts from; a derived config names only its differences.

Durations (`total`, `log`, `evaluate`, `save`, `sample`, `optim.warmup`) take any unit: "500 steps",
"3 epochs", "2e9 tokens", and, but for `total`, "5%".
"""

from lmx.core.config import ConfigDict


def model() -> ConfigDict:
    """The fields of a GPT-2, and the name of its file in lmx/models."""
    c = ConfigDict()
    c.name = "gpt2"
    c.vocab_size = None  # None: as many as the tokenizer has
    c.positions = 128
    c.layers = 4
    c.width = 256
    c.heads = 4
    c.mlp_width = None  # None: 4 x width
    c.activation = "gelu_new"
    c.norm_epsilon = 1e-5
    c.dropout_embed = 0.0
    c.dropout_attention = 0.0
    c.dropout_residual = 0.0
    c.init_range = 0.02
    c.scale_attention = True
    c.scale_attention_by_layer = False
    c.upcast_attention = False
    c.tie_embeddings = True
    return c


def data() -> ConfigDict:
    """Where the text comes from and how it is cut into documents."""
    c = ConfigDict()
    c.name = "text"  # text: your files; stdlib: the reference texts and docstrings of the running Python
    c.path = None  # a file or a folder of txt, md, jsonl, each also as .gz
    c.field = "text"  # where a jsonl row holds its text
    c.code = False  # stdlib only: the library's source code as well
    c.holdout = 0.1  # share held out for validation
    c.split = "auto"  # document: by a hash of each document; tail: the end of each; auto: by their number
    c.seed = None  # chooses the documents held out; None: the run's seed
    c.boundary = True  # begin and end each document with the tokenizer's end symbol
    c.folder = None  # where prepared rows lie; None: WORKDIR/data
    return c


def tokenizer() -> ConfigDict:
    """How text becomes ids."""
    c = ConfigDict()
    c.name = "bpe"  # bpe: trained on the text; characters; file: one that exists
    c.size = 4096  # bpe only
    c.path = None  # file only: tokenizer.json, or a folder with it or with vocab.json + merges.txt
    return c


def optim() -> ConfigDict:
    """AdamW, warmed up and down a cosine."""
    c = ConfigDict()
    c.name = "adamw"
    c.rate = 1e-3
    c.schedule = "cosine"
    c.warmup = "5%"
    c.end = 0.1  # the last rate, as a share of the highest
    c.decay = 0.1
    c.clip = 1.0
    c.b1 = 0.9
    c.b2 = 0.95
    c.epsilon = 1e-8
    return c


def get_config() -> ConfigDict:
    """A small GPT-2 on text, byte-level BPE, AdamW with a cosine."""
    c = ConfigDict()
    c.seed = 0
    c.start = "scratch"  # or a run of lmx (FOLDER, FOLDER@best, FOLDER@STEP), or a Hugging Face folder

    c.model = model()
    c.task = ConfigDict({"name": "causal_lm"})

    c.data = data()
    c.tokenizer = tokenizer()
    c.batch = ConfigDict(
        {"size": 32, "length": 128, "parts": 1}
    )  # parts: taken one after the other, to save memory

    c.optim = optim()
    c.total = "1 epochs"
    c.log = "10 steps"
    c.evaluate = "10%"
    c.save = "10%"
    c.sample = "50%"
    # restore: what is given away at the end is the best checkpoint instead of the last
    c.keep = ConfigDict({"last": 2, "best": 1, "restore": False})
    c.stop = ConfigDict({"patience": 0, "least": 0.0})  # evaluations without a better score; 0: never
    c.plateau = ConfigDict({"factor": 1.0, "patience": 2, "least": 0.0, "floor": 0.0, "rest": 0})  # 1.0: off
    c.samples = ConfigDict({"prompts": ("",), "tokens": 64, "temperature": 0.8, "top_k": 40})
    # devices: data shares the batch, fsdp the batch and the state, tensor each layer; -1: all that are left
    # compute: the type of activations, auto for bfloat16 but on CPUs; remat: what the backward pass computes
    # again, none, dots (all but products) or block; layers: unrolled or scanned, which compiles one
    c.execution = ConfigDict({"compute": "auto", "remat": "none", "layers": "unrolled", "attention": "auto"})
    c.mesh = ConfigDict({"data": -1, "fsdp": 1, "tensor": 1})
    c.export = True  # write WORKDIR/export, a Hugging Face folder, at the end
    return c
