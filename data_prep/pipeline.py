"""Prepare: from documents to a folder of shards, a tokenizer and a manifest, in one process.

The texts of the whole corpus are held in memory; ids and rows pass through in pieces.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_prep import layouts, manifest
from data_prep.read import Corpus, Document, gathered
from data_prep.shards import ShardWriter
from data_prep.staging import staged, sweep
from data_prep.steps.clean import clean
from data_prep.steps.dedup import dedup
from data_prep.steps.split import choose, split
from data_prep.steps.tokenize import TextTokenizer
from lmx.core.errors import UserError
from lmx.core.rows import encode_row, token_bytes

_split = split  # `prepare` has an argument of this name


def prepare(
    documents: Corpus | Iterable[Document],
    *,
    folder: str | Path,
    make_tokenizer: Callable[[Sequence[str]], TextTokenizer],
    length: int,
    seed: int = 0,
    holdout: float = 0.1,
    split: str = "auto",
    boundary: bool = True,
    layout: str = "packed",
    short: float = 0.1,
    copies: int = 1,
    shard_rows: int = 16_384,
    settings: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Clean, dedup, split, tokenize and lay the documents out in rows in `folder`; return its manifest.

    folder: gets {train,validation}-*.array_record, tokenizer/ and manifest.json, all at once at the end.
    make_tokenizer: the texts of the train split -> the tokenizer, which never sees what is held out.
    length: T; packed rows have T + 1 tokens. layout: what a row holds, see `data_prep.layouts`. holdout: the
    share held out. split: "document" chooses whole documents by a hash of (seed, text), "tail" takes the last
    part of each, "auto" is "document" from 100 documents on. boundary: put the end token before and after
    each document, where they are packed. short, copies: those of pairs, see `data_prep.steps.pairs`; what is
    held out is laid out once. shard_rows: of each file. settings: more that decides the rows (such as the
    tokenizer's name and size), JSON values, recorded and compared; say: takes lines of progress.

    The same documents and arguments give the same bytes. A folder prepared from the same settings and sources
    is returned as it is. Raises UserError, leaving no folder behind, for a folder that holds anything else,
    for texts that are blank, and for a split that does not fill one row.
    """
    folder = Path(folder)
    corpus = documents if isinstance(documents, Corpus) else gathered(documents)
    own = {"length": length, "seed": seed, "holdout": holdout, "split": split, "shard_rows": shard_rows}
    own |= layouts.settings(layout, boundary=boundary, short=short, copies=copies)
    wanted = _settings(settings, own)
    for left in sweep(folder):
        say(f"removed what an earlier, killed preparation left: {left.name}")
    found = manifest.earlier(folder, wanted, corpus.sources)
    if found is not None:
        say(f"prepared already: {folder}")
        return found
    kept, counts = _sift(corpus, say)
    chosen = choose(split, len(kept))
    train, validation = _split(kept, mode=chosen, holdout=holdout, seed=seed)
    del kept
    _check_split(train, holdout, chosen, say)
    tokenizer = make_tokenizer([document.text for document in train])
    say(f"tokenizer: {tokenizer.kind}, {tokenizer.vocab_size:,} ids")
    with staged(folder) as out:
        parts = {}
        for name, part in (("train", train), ("validation", validation)):
            own = wanted if name == "train" else layouts.judged(wanted)
            parts[name] = _write(out, name, part, tokenizer, own)
            say(f"{name}: {_told(parts[name], wanted)}")
        tokenizer.save(out / "tokenizer")
        built = manifest.build(wanted, corpus.sources, counts, chosen, tokenizer, parts)
        manifest.write(out, built)
    return built


def _check_split(train: Sequence[Document], holdout: float, chosen: str, say: Callable[[str], None]) -> None:
    """Say what is held out; raise UserError where nothing is left."""
    held = "documents, by their hash" if chosen == "document" else "end of each document"
    say(f"held out: {holdout:g} of the {held} (split: {chosen})")
    if not train:
        raise UserError("no document is left to train on; give more text, or lower data.holdout")


def _settings(more: Mapping[str, Any] | None, own: Mapping[str, Any]) -> dict[str, Any]:
    """Return all settings as the manifest has them, after refusing what cannot be."""
    for name in ("length", "shard_rows"):
        if own[name] < 1:
            raise UserError(f"{'batch.' * (name == 'length')}{name}={own[name]}; expected at least 1")
    choose(own["split"], 0)
    _split([], mode=own["split"], holdout=own["holdout"])
    assert not own.keys() & (more or {}).keys(), "a passed setting may not shadow an argument"
    return {**own, **(more or {})}


def _told(part: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """Return a line about the rows of a split."""
    extra = " + 1" if settings["layout"] == "packed" else ""
    line = f"{part['tokens']:,} tokens in {part['rows']:,} rows of {settings['length']}{extra}"
    if settings["layout"] != "pairs":
        return line
    found = part["pairs"]
    return (
        f"{line}; {found['random']:,} of the pairs with a random second text, {found['short']:,} short, "
        f"{found['cut']:,} tokens without room"
    )


def _sift(corpus: Corpus, say: Callable[[str], None]) -> tuple[list[Document], dict[str, Any]]:
    """Clean, drop the blank and the repeated, and count: in = kept + dropped, for documents, by reason."""
    for note in corpus.notes:
        say(note)
    documents, blank, before, after = [], 0, [0, 0], [0, 0]
    for document in corpus:
        text = clean(document.text)
        for sums, value in ((before, document.text), (after, text)):
            sums[0] += len(value)
            sums[1] += len(value.encode())
        if text.strip():
            documents.append(replace(document, text=text))
        else:
            blank += 1
    kept, repeated = dedup(documents)
    counts: dict[str, Any] = {
        "documents": {
            "in": len(kept) + len(repeated) + blank,
            "kept": len(kept),
            "dropped": {"blank": blank, "duplicate": len(repeated)},
        },
        # NFC may lengthen a text, so what cleaning removed can be less than nothing.
        "characters": {"in": before[0], "removed_by_cleaning": before[0] - after[0]},
        "bytes": {
            "in": before[1],
            "removed_by_cleaning": before[1] - after[1],
            "kept": sum(len(document.text.encode()) for document in kept),
        },
    }
    if not kept:
        raise UserError(f"no text: all of the {blank} documents are blank")
    count, size = counts["documents"]["in"], counts["bytes"]["kept"]
    say(f"read {count:,} document{'s' * (count != 1)}, kept {len(kept):,} ({size:,} bytes of text)")
    return kept, counts


def _write(
    out: Path, name: str, documents: Sequence[Document], tokenizer: TextTokenizer, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Write the shards of one split and return what the manifest says of it.

    `bytes` is the text that the labels predict: all of it with boundaries; without, a document's first token
    is never predicted, so its bytes do not count.
    """
    length, layout = settings["length"], settings["layout"]
    tally: Counter[str] = Counter()
    digest = hashlib.sha256()

    def texts() -> Iterator[str]:
        for document in documents:
            data = document.text.encode()
            digest.update(f"{len(data)}\0".encode())
            digest.update(data)
            yield document.text

    writer = ShardWriter(out, name, settings["shard_rows"])
    itemsize, rows = token_bytes(tokenizer.vocab_size), 0
    try:
        for tokens, lengths, label in layouts.LAYOUTS[layout](texts(), tokenizer, settings, tally):
            writer.write(encode_row(tokens, lengths, itemsize, label))
            rows += 1
    finally:
        writer.close()
    if not rows or (layout == "packed" and tally["tokens"] <= length):
        raise UserError(
            f"too little text: the {name} split has {tally['tokens']} tokens, and one row of "
            f"batch.length={length} takes {length + 1}; give more text, or lower batch.length"
            + (", or raise data.holdout" if name == "validation" else "")
        )
    shards = writer.finish()
    size = sum(len(document.text.encode()) for document in documents)
    return {
        "documents": len(documents),
        "text_bytes": size,
        "text_sha256": digest.hexdigest(),
        "tokens": tally["tokens"],
        "labels": tally["labels"],
        "bytes": size - tally["unpredicted"],
        "rows": rows,
        "shards": shards,
        **(
            {"pairs": {name: tally[name] for name in ("random", "short", "cut")}} if layout == "pairs" else {}
        ),
    }
