"""Sources of examples, each a file with `source(split, **kw)`: a sequence with `len` and `[index]`."""
