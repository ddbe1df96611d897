"""What every fine-tuning run starts from; a derived config names only its differences.

Durations (`total`, `log`, `evaluate`, `save`, `optim.warmup`) are "3 epochs", "500 steps", or, but for
`total`, "10%". The sections `model`, `task`, `data` and `optim` take further fields: those of the model, the
task, the source and the optimizer that they name, each of which refuses what it does not know.
"""

from lmx.core.config import ConfigDict


def optim() -> ConfigDict:
    """AdamW with the recipe of BERT's authors: a short warm-up, then down in a straight line."""
    c = ConfigDict()
    c.name = "adamw"
    c.rate = 5e-5
    c.schedule = "linear"
    c.warmup = "10%"
    c.end = 0.0
    c.decay = 0.01
    c.clip = 1.0
    c.b1 = 0.9
    c.b2 = 0.999
    c.epsilon = 1e-8
    return c


def get_config() -> ConfigDict:
    """A classifier of sentences in a table with the columns `text` and `label`."""
    c = ConfigDict()
    c.seed = 0
    c.start = None  # a Hugging Face folder, hf://ORG/NAME@REVISION, or a run of lmx (FOLDER, FOLDER@best)

    c.model = ConfigDict()  # fields of the start's model to change, such as dropout_hidden
    c.task = ConfigDict({"name": "sequence_classification"})
    # table: files (train, validation, test; columns: field -> column). Also tfds, datasets; see docs.
    c.data = ConfigDict({"name": "table", "columns": ConfigDict()})
    # multiple: rows are filled up to one of these lengths; window: batches sorted by length together
    c.batch = ConfigDict({"size": 32, "length": 128, "multiple": 16, "window": 32, "parts": 1})

    c.optim = optim()
    # figures besides the task's own, such as ("matthews",), or dicts of a name and options; score: the figure
    # by which the best checkpoint is chosen, None for the task's own
    c.metrics = ()
    c.score = None
    c.total = "3 epochs"
    c.log = "10 steps"
    c.evaluate = "1 epochs"
    c.save = "1 epochs"
    # restore: what is given away at the end is the best checkpoint instead of the last
    c.keep = ConfigDict({"last": 1, "best": 1, "restore": True})
    c.stop = ConfigDict({"patience": 0, "least": 0.0})  # evaluations without a better score; 0: never
    c.plateau = ConfigDict({"factor": 1.0, "patience": 2, "least": 0.0, "floor": 0.0, "rest": 0})  # 1.0: off
    # devices: data shares the batch, fsdp the batch and the state, tensor each layer; -1: all that are left
    # compute: the type of activations, auto for bfloat16 but on CPUs; remat: what the backward pass computes
    # again, none, dots (all but products) or block; layers: unrolled or scanned, which compiles one
    c.execution = ConfigDict({"compute": "auto", "remat": "none", "layers": "unrolled", "attention": "xla"})
    c.mesh = ConfigDict({"data": -1, "fsdp": 1, "tensor": 1})
    c.export = True  # write WORKDIR/export, a Hugging Face folder, at the end
    return c
