"""Text to ids and back: a tokenizer that is trained here, or one that a folder holds already.

    made = tokenizer.train_bpe(texts, 8192)      # or characters(texts), or make(name, texts, …)
    made = tokenizer.load("path/to/bert")        # a folder of lmx or of Hugging Face, or a tokenizer.json
    ids = made.encode("a text")                  # language modelling: no special tokens, all text is text
    arrays, cut = made.batch(texts, length=128)  # as transformers' tokenizer(...), in arrays
    rows = made.rows(texts, length=128)          # fine-tuning: each token knows its characters and its word

A folder that comes from outside is tried first in a process of its own: `probe(folder)`, then `load`.
"""

from lmx.tokenizer._load import exists, load
from lmx.tokenizer._make import characters, make, train_bpe
from lmx.tokenizer._probe import probe
from lmx.tokenizer._settings import END
from lmx.tokenizer._tokenizer import Tokenizer

__all__ = ["END", "Tokenizer", "characters", "exists", "load", "make", "probe", "train_bpe"]
