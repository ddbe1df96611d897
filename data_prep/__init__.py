"""Raw text in, packed rows of ids out: read, clean, dedup, split, tokenize, pack, shards and a manifest."""

from data_prep.pipeline import prepare
from data_prep.read import Corpus, Document, Source, gathered, read

__all__ = ["Corpus", "Document", "Source", "gathered", "prepare", "read"]
