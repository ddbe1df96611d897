"""Batches: batch k is a function of (seed, k), whatever the number of processes.

Batches packs rows of one length as they come; Bucketed pads features of many lengths, alike with alike; Mixed
takes each batch from one of several tasks; Stages goes on with other rows from a step on.
"""

from lmx.batches._bucketed import Bucketed, padded, sorted_batches
from lmx.batches._mixed import Mixed
from lmx.batches._stages import Stages
from lmx.batches._stream import Arrays, Batches, Encode, Examples, Prefetch, Stream, whole

__all__ = [
    "Arrays",
    "Batches",
    "Bucketed",
    "Encode",
    "Examples",
    "Mixed",
    "Prefetch",
    "Stages",
    "Stream",
    "padded",
    "sorted_batches",
    "whole",
]
