"""Archives and pickles as `torch.save` makes them, made by hand, and every kind that is hostile."""

from __future__ import annotations

import builtins
import codecs
import importlib
import io
import os
import pickle
import re
import shutil
import struct
import subprocess
import tarfile
import types
import warnings
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

CANARY = "canary"  # what every payload tries to make in its working folder


# ------------------------------------------------------------------------------- pickles, piece by piece


def text(said: str) -> bytes:
    return b"X" + struct.pack("<I", len(said.encode())) + said.encode()


def number(value: int) -> bytes:
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def several(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def by_stack(module: str, name: str) -> bytes:
    return text(module) + text(name) + b"\x93"


def called(module: str, name: str, *arguments: bytes) -> bytes:
    return named(module, name) + several(*arguments) + b"R"


ORDERED = called("collections", "OrderedDict")
LINE = text(f"touch {CANARY}")


def storage(count: int = 6, kind: str = "FloatStorage", key: str = "0") -> bytes:
    return several(text("storage"), named("torch", kind), text(key), text("cpu"), number(count)) + b"Q"


def tensor(
    size: Any = (2, 3), stride: Any = (3, 1), start: bytes = b"K\0", of: bytes = b"", more: bytes = b""
) -> bytes:
    def numbers(items: Any) -> bytes:
        return several(*(item if isinstance(item, bytes) else number(item) for item in items))

    arguments = (of or storage(), start, numbers(size), numbers(stride), b"\x89", ORDERED, more)
    return called("torch._utils", "_rebuild_tensor_v2", *arguments)


def state(**values: bytes) -> bytes:
    return b"\x80\x02}(" + b"".join(text(key) + value for key, value in values.items()) + b"u."


# ----------------------------------------------------------------------------------------- the archives

VALUES = np.arange(6, dtype=np.float32)
GOOD = state(w=tensor())


def archive(
    data: bytes = GOOD,
    members: dict[str, bytes] | None = None,
    *,
    change: Callable[[bytearray], Any] | None = None,
    compression: int = zipfile.ZIP_STORED,
    **more: bytes,
) -> bytes:
    buffer = io.BytesIO()
    members = {"data/0": VALUES.tobytes(), "version": b"3\n", **(members or {}), **more}
    with zipfile.ZipFile(buffer, "w", compression) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a duplicate name
        file.writestr("model/data.pkl", data)
        for name, content in members.items():
            file.writestr(name if name.startswith(("/", "other/")) else f"model/{name}", content)
    raw = bytearray(buffer.getvalue())
    if change is not None:
        change(raw)
    return bytes(raw)


def patched(form: str, at: int, *values: int, record: bytes = b"PK\x05\x06", nth: int = 0) -> bytes:
    """Return an archive with numbers written into the nth record of a kind."""

    def change(raw: bytearray) -> None:
        found = [match.start() for match in re.finditer(re.escape(record), raw)]
        struct.pack_into(form, raw, found[nth] + at, *values)

    return archive(change=change)


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as file:
        file.addfile(tarfile.TarInfo("storages"))
    return buffer.getvalue()


def overlapping() -> bytes:
    """Inside data/0 stands a whole member of its own, to which the directory points as well."""
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as file:
        file.writestr("model/data/1", b"12345678")
    hidden = inner.getvalue()[: 30 + 12 + 8]
    raw = archive(members={"data/0": hidden, "data/1": b"12345678"})
    at, central = raw.index(hidden), raw.rindex(b"PK\x01\x02")
    return raw[: central + 42] + struct.pack("<I", at) + raw[central + 46 :]


def repeated() -> bytes:
    raw = archive(members={"data/1": b"", "data/2": b""})
    return raw.replace(b"data/2", b"data/1")


def million() -> bytes:
    raw = archive()
    *_, length, start, _ = struct.unpack("<4s4H2IH", raw[-22:])
    wide = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, 10**6, 10**6, length, start)
    short = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 65535, 65535, length, start, 0)
    return raw[:-22] + wide + struct.pack("<4sIQI", b"PK\6\7", 0, len(raw) - 22, 1) + short


class Call:
    """Pickles as a call of anything."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.what = function, arguments

    def __reduce__(self) -> Any:
        return self.what


def dumped(value: Any, protocol: int = 2) -> bytes:
    return archive(pickle.dumps({"w": value}, protocol))


def whole(body: bytes) -> bytes:
    return archive(b"\x80\x02" + body)


def laughs() -> bytes:
    body = text("ha") + b"q\0"
    for level in range(30):
        body += several(*[b"h" + bytes([level])] * 10) + b"q" + bytes([level + 1])
    return whole(body + b".")


SHELL = f"touch {CANARY}"
CODE = f"open({CANARY!r}, 'w').close()"
NUMBERS = "not up to 16 numbers from 0 on"
HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    # calls
    "os.system": (lambda: dumped(Call(os.system, SHELL)), r"wants (posix|nt)\.system: not a tensor"),
    "protocol 4": (lambda: dumped(Call(os.system, SHELL), 4), r"wants (posix|nt)\.system"),
    "eval": (lambda: dumped(Call(builtins.eval, CODE)), r"wants __builtin__\.eval"),
    "exec": (lambda: dumped(Call(builtins.exec, CODE)), r"wants __builtin__\.exec"),
    "compile": (lambda: dumped(Call(builtins.compile, CODE, "x", "exec")), r"wants __builtin__\.compile"),
    "Popen": (lambda: dumped(Call(subprocess.Popen, ["touch", CANARY]), 4), r"wants subprocess\.Popen"),
    "import": (lambda: dumped(Call(importlib.import_module, "this")), r"wants importlib\.import_module"),
    "rmtree": (lambda: dumped(Call(shutil.rmtree, CANARY)), r"wants shutil\.rmtree"),
    "getattr": (lambda: dumped(Call(getattr, Call(importlib.import_module, "os"), "system")), "getattr"),
    "nested": (lambda: dumped(Call(pickle.loads, pickle.dumps(Call(os.system, SHELL), 0))), "pickle.loads"),
    "codecs": (lambda: dumped(Call(codecs.encode, CODE, "rot13")), r"wants _codecs\.encode"),
    "object array": (lambda: dumped(np.array([Call(os.system, SHELL)], object)), r"wants numpy\..*reconstr"),
    "partial": (lambda: dumped(types.SimpleNamespace(run=1), 4), r"wants types\.SimpleNamespace"),
    "INST": (lambda: whole(b"(" + LINE + b"iposix\nsystem\n."), "opcode INST"),
    "OBJ": (lambda: whole(b"(" + named("collections", "OrderedDict") + LINE + b"o."), "opcode OBJ"),
    "OBJ of os": (lambda: whole(b"(" + named("posix", "system") + LINE + b"o."), r"wants posix\.system"),
    "NEWOBJ": (lambda: whole(named("collections", "OrderedDict") + b")\x81."), "opcode NEWOBJ"),
    "NEWOBJ_EX": (lambda: whole(named("collections", "OrderedDict") + b")}\x92."), "opcode NEWOBJ_EX"),
    "EXT1": (lambda: whole(b"\x82\x01."), "opcode EXT1"),
    "EXT4": (lambda: whole(b"\x84\x01\0\0\0."), "opcode EXT4"),
    "unknown opcode": (lambda: whole(b"\xff."), "opcode 0xff"),
    "text ids": (lambda: whole(b"Pposix.system\n."), "opcode PERSID"),
    "stack names": (lambda: whole(text("posix") + b"q\0" + text("system") + b"\x93."), r"posix\.system"),
    "no text": (lambda: whole(b"K\1K\2\x93."), "a name that is no text"),
    "torch.os.system": (lambda: whole(by_stack("torch", "os.system") + b"."), r"wants torch\.os\.system"),
    "lookalike": (lambda: whole(by_stack("torch", "_utils._rebuild_tensor_v2") + b"."), "wants torch._utils"),
    "shadow": (lambda: whole(named("torch._utils", "_rebuild_tensor_v2.__globals__") + b"."), "__globals__"),
    "lines": (lambda: whole(by_stack("posix\n\x1b[2Jok", "system") + b"."), r"wants posix\\n\\x1b"),
    "storage called": (lambda: whole(called("torch", "FloatStorage", LINE) + b"."), "call torch.FloatStor"),
    "tensor called": (lambda: whole(tensor() + b")R."), "wants to call a tensor"),
    "OrderedDict of": (lambda: whole(called("collections", "OrderedDict", LINE) + b"."), "Dict of text"),
    "torch.load": (lambda: whole(called("torch.serialization", "load", LINE) + b"."), r"serialization\.load"),
    "setstate": (lambda: whole(ORDERED + b"}" + text("__setstate__") + LINE + b"sb."), "set '__setstate__'"),
    "dict": (lambda: whole(ORDERED + b"}" + text("__dict__") + b"}sb."), "set '__dict__' on a dict"),
    "slots": (lambda: whole(ORDERED + several(b"N", b"}") + b"b."), "set 'a tuple' on a dict"),
    "BUILD of a name": (lambda: whole(named("torch", "FloatStorage") + b"}b."), "set nothing on the name"),
    "reducing hooks": (
        lambda: archive(state(w=tensor().replace(ORDERED, b"}" + LINE + b"K\1s"))),
        "unknown arguments",
    ),
    # machines
    "laughs": (laughs, "nests deeper than 20"),
    "marks": (lambda: whole(b"(" * 1000 + b"t" * 1000 + b"."), "nests deeper than 20"),
    "deep": (lambda: whole(b")" + b"\x85" * 1000 + b"."), "nests deeper than 20"),
    "itself": (lambda: whole(b"}q\0" + text("a") + b"h\0s."), "holds itself"),
    "in a tuple": (lambda: whole(b"}q\0" + text("a") + b"h\0\x85s."), "items for a dict"),
    "LONG4": (lambda: whole(b"\x8b" + struct.pack("<I", 2**31 - 1) + b"."), "opcode LONG4"),
    "LONG1": (lambda: whole(b"\x8a\xff" + b"\x7f" * 255 + b"."), "a number of 255 bytes"),
    "long text": (lambda: whole(b"X" + struct.pack("<I", 2**32 - 1) + b"."), "a text of 4294967295 bytes"),
    "no UTF-8": (lambda: whole(b"X\1\0\0\0\xff."), "not UTF-8"),
    "GET": (lambda: whole(b"h\7."), "memo 7 was never set"),
    "PUT": (lambda: whole(b"Nr" + struct.pack("<I", 2**32 - 1) + b"."), "remembers more than"),
    "PUT of nothing": (lambda: whole(b"q\0."), "a value is taken that is not there"),
    "no mark": (lambda: whole(b"N)u."), "a mark is taken"),
    "open mark": (lambda: whole(b"N(."), "other than one value"),
    "under a mark": (lambda: whole(b"N(\x85."), "a value is taken"),
    "odd items": (lambda: whole(b"}(" + text("a") + b"u."), "items for a dict"),
    "two values": (lambda: whole(b"NN."), "other than one value"),
    "truncated": (lambda: archive(GOOD[:-9]), "no end|without end|cut short"),
    "cut in a number": (lambda: whole(b"J\1"), "cut short"),
    "cut in a name": (lambda: whole(b"cposix\nsystem"), "a name without end"),
    "appended": (lambda: archive(GOOD + GOOD), "something follows its end"),
    "protocol 0": (lambda: archive(b"cposix\nsystem\n(S'x'\ntR."), "protocol"),
    "protocol 9": (lambda: archive(b"\x80\x09N."), "protocol"),
    "frame": (lambda: archive(b"\x80\x04\x95" + b"\xff" * 8 + b"N."), "a frame is longer"),
    "stack": (lambda: whole(b"N" * 20_000 + b"."), "stacks more than 10000"),
    # what is no state dict
    "a call of nothing": (lambda: whole(b"N)R."), "wants to call None with a tuple"),
    "a tensor": (lambda: whole(tensor() + b"."), "holds a tensor, expected a flat dict"),
    "nested dicts": (lambda: archive(state(model=GOOD[2:-1])), "'model' holds a dict, expected a tensor"),
    "a list": (lambda: dumped([1.5, "x"]), "'w' holds a list, expected a tensor"),
    "a number": (lambda: dumped(3), "'w' holds a number"),
    "a whole module": (lambda: whole(named("transformers", "BertModel") + b"."), "transformers.BertModel"),
    "numbered": (lambda: archive(pickle.dumps({1: 2}, 2)), "has a number for a key"),
    "twice": (lambda: whole(b"}" + (text("w") + tensor() + b"s") * 2 + b"."), "'w' stands in it twice"),
    # tensors
    "beyond": (lambda: archive(state(w=tensor(start=b"K\1"))), "6 elements that end at 7 of storage '0'"),
    "strides": (lambda: archive(state(w=tensor(stride=(4, 1)))), "end at 7"),
    "expanded": (lambda: archive(state(w=tensor((2**20, 2**18), (0, 0)))), "elements that end at 1 of"),
    "huge": (lambda: archive(state(w=tensor((2**62, 2**62), (0, 0)))), "1099511627776 elements or more"),
    "huge and empty": (lambda: archive(state(w=tensor((0, 2**62), (1, 1)))), "elements or more"),
    "negative": (lambda: archive(state(w=tensor((-2, -3)))), NUMBERS),
    "negative start": (lambda: archive(state(w=tensor(start=number(-1)))), NUMBERS),
    "bool": (lambda: archive(state(w=tensor((b"\x88", 3)))), NUMBERS),
    "rank": (lambda: archive(state(w=tensor([1] * 99, [1] * 99))), NUMBERS),
    "unequal": (lambda: archive(state(w=tensor((6,), (1, 1)))), NUMBERS),
    "conjugate": (
        lambda: archive(state(w=tensor(more=b"}" + text("conj") + b"\x88s"))),
        "unknown arguments",
    ),
    "no storage": (lambda: archive(state(w=tensor(of=storage(key="7")))), "storage '7' is not there, exp"),
    "upwards": (lambda: archive(state(w=tensor(of=storage(key="../version")))), "is not there"),
    "wrong size": (lambda: archive(state(w=tensor(of=storage(9)))), "is of 24 bytes, expected 36 bytes"),
    "two types": (
        lambda: archive(state(w=tensor(), v=tensor(of=storage(6, "IntStorage")))),
        "described in two ways",
    ),
    "other id": (lambda: whole(several(text("module"), LINE) + b"Q."), "no tensor's storage"),
    "bool id": (
        lambda: archive(state(w=tensor(of=storage().replace(number(6), b"\x88")))),
        "no tensor's storage",
    ),
    "complex": (lambda: archive(state(w=tensor(of=storage(3, "ComplexFloatStorage")))), "ComplexFloatSto"),
    # containers
    "empty": (lambda: b"", "empty; expected a zip"),
    "noise": (lambda: b"noise" * 99, "no zip archive"),
    "legacy": (lambda: pickle.dumps(0x1950A86A20F9469CFC6C, 2), "a bare pickle"),
    "tar": (tarred, "a tar archive"),
    "npy": (lambda: b"\x93NUMPY\1\0", "a numpy array"),
    "LFS": (lambda: b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
    "deflated": (lambda: archive(compression=zipfile.ZIP_DEFLATED), "is compressed or encrypted"),
    "encrypted": (lambda: patched("<H", 8, 1, record=b"PK\1\2"), "is compressed or encrypted"),
    "overlap": (overlapping, "'model/data/1' overlaps"),
    "same name": (repeated, "'model/data/1' stands in it twice"),
    "million": (million, "announces 1000000 zip members, expected 1 to 100000"),
    "more": (lambda: patched("<HH", 8, 65535, 65535), "holds fewer than the 65535"),
    "fewer": (lambda: patched("<HH", 8, 2, 2), "holds more than the 2"),
    "none": (lambda: patched("<HH", 8, 0, 0), "announces 0 zip members"),
    "several parts": (lambda: patched("<H", 4, 1), "in several parts"),
    "beyond the end": (lambda: patched("<II", 20, 99999, 99999, record=b"PK\1\2", nth=1), "within the file"),
    "offset": (lambda: patched("<I", 42, 2**31, record=b"PK\1\2", nth=1), "within the file"),
    "ratio": (lambda: patched("<I", 20, 3, record=b"PK\1\2", nth=1), "3 bytes stored for 24"),
    "zip64 missing": (lambda: patched("<I", 24, 2**32 - 1, record=b"PK\1\2"), "zip64 size that is not there"),
    "local name": (lambda: patched("<B", 30, 88, record=b"PK\3\4", nth=1), "local header disagree"),
    "local size": (lambda: patched("<I", 22, 4, record=b"PK\3\4", nth=1), "disagree on the size"),
    "descriptor": (lambda: patched("<H", 6, 8, record=b"PK\3\4", nth=1), "local header disagree"),
    "no name": (lambda: patched("<H", 28, 0, record=b"PK\1\2"), "not well formed"),
    "cut short": (lambda: archive()[:-1], "no zip end record"),
    "comment": (lambda: patched("<H", 20, 2) + b"hi", "no zip end record"),
    "two ends": (lambda: patched("<H", 20, 22) + b"PK\5\6" + b"\0" * 18, "announces 0 zip members"),
    "before": (lambda: b"#!/bin/sh\n" + archive(), "no zip archive"),
    "dots": (lambda: archive(members={"../x": b""}), "is no plain name"),
    "absolute": (lambda: archive(members={"/etc/x": b""}), "is no plain name"),
    "two folders": (lambda: archive(members={"other/data.pkl": GOOD}), "without one FOLDER"),
    "no data.pkl": (lambda: archive().replace(b"data.pkl", b"data.pki"), "without one FOLDER"),
    "TorchScript": (lambda: archive(members={"constants.pkl": b""}), "TorchScript"),
    "big-endian": (lambda: archive(byteorder=b"big"), "byte order is 'big', expected 'little'"),
    "flipped pickle": (lambda: archive().replace(b"\x80\x02}(", b"\x80\x02]("), "has CRC-32"),
}  # fmt: skip
