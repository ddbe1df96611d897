"""Sources of examples, each a file with `source(split, **kw)`: a sequence with `len` and `[index]`."""

from lmx.sources._identity import fingerprint, overlap

__all__ = ["fingerprint", "overlap"]
