"""Safetensors files: what is read, bit for bit, and every fault of a file refused by name."""

from __future__ import annotations

import errno
import json
import os
import pickle
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save, save_file

from lmx.core.errors import UserError
from lmx.hf._open import open_folder
from lmx.hf._safetensors import TYPES
from lmx.hf.stored import Spec

NAME = "model.safetensors"
AGAIN = "fetch the file again"


def file_of(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def refused(folder: Path, fault: str, name: str = NAME) -> None:
    """Assert the whole message, and that no file stays open."""
    before = os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []
    with pytest.raises(UserError) as error:
        open_folder(folder)
    assert str(error.value) == f"{folder / name}: {fault}"
    assert before == (os.listdir("/proc/self/fd") if before else [])


def tensors_of_every_type() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    found = {
        f"{place}.{code}": rng.integers(0, 256, (3, 5, dtype.itemsize), np.uint8).view(dtype)[:, :, 0]
        for place, (code, dtype) in enumerate(TYPES.items())
        if code != "BOOL"
    }
    return {
        **found,
        "bool": rng.random((4, 3)) < 0.5,
        "scalar": np.array(0.1, np.float32),
        "empty": np.zeros((3, 0, 2), np.int16),
        'naïve "name"\n': np.arange(7, dtype=np.int8),
    }


def test_every_type_and_shape_comes_back(tmp_path: Path) -> None:
    tensors = tensors_of_every_type()
    save_file(tensors, tmp_path / NAME, metadata={"format": "pt"})
    with open_folder(tmp_path) as stored:
        assert stored.folder == tmp_path
        assert stored.files == (NAME,)
        assert stored.specs == {n: Spec(t.dtype.name, t.shape, NAME) for n, t in tensors.items()}
        for name, tensor in tensors.items():
            found = stored.read(name)
            assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
            assert found.tobytes() == tensor.tobytes()
            assert found.size == 0 or found.ctypes.data % 64 == 0
            assert found.flags.writeable
            assert not np.shares_memory(found, stored.read(name))


def test_a_file_without_tensors(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(save({}))
    with open_folder(tmp_path) as stored:
        assert stored.specs == {}


def exactly(patterns: np.ndarray, exponent_bits: int) -> np.ndarray:
    """Return what 16-bit floats stand for, worked out in float64 from their bits, without their type."""
    fraction_bits = 15 - exponent_bits
    bias = 2 ** (exponent_bits - 1) - 1
    sign = np.where(patterns >> 15, -1.0, 1.0)
    exponent = (patterns >> fraction_bits).astype(np.int64) & (2**exponent_bits - 1)
    fraction = (patterns & (2**fraction_bits - 1)).astype(np.float64) / 2**fraction_bits
    special = np.where(fraction == 0, np.inf, np.nan)
    finite = np.ldexp((exponent > 0) + fraction, np.maximum(exponent, 1) - bias)
    return sign * np.where(exponent == 2**exponent_bits - 1, special, finite)


def test_exact_reference_of_half_precision() -> None:
    """The reference above against Python's own reading of four patterns."""
    for pattern in (0x0001, 0x3555, 0x7BFF, 0x8400):
        (expected,) = struct.unpack("<e", struct.pack("<H", pattern))
        assert exactly(np.array([pattern], np.uint16), 5)[0] == expected


@pytest.mark.parametrize(("code", "exponent_bits"), [("F16", 5), ("BF16", 8)])
def test_all_patterns_of_half_precision_widen_exactly(tmp_path: Path, code: str, exponent_bits: int) -> None:
    patterns = np.arange(65536, dtype=np.uint16)
    header = {"all": entry(code, [256, 256], [0, 131072])}
    (tmp_path / NAME).write_bytes(file_of(header, patterns.tobytes()))
    with open_folder(tmp_path) as stored:
        found = stored.read("all")
    np.testing.assert_array_equal(found.reshape(-1).view(np.uint16), patterns)
    wide = found.astype(np.float32).reshape(-1)
    expected = exactly(patterns, exponent_bits).astype(np.float32)
    nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(wide), nan)
    np.testing.assert_array_equal(wide.view(np.uint32)[~nan], expected.view(np.uint32)[~nan])


ONE, DATA = entry(), bytes(8)
PARSED = "the header is not readable as JSON"
EXACTLY = "expected exactly dtype, shape and data_offsets"
# fmt: off
FAULTS: dict[str, tuple[bytes, str]] = {  # what a file holds, and the message up to "; fetch the file again"
    "empty": (b"", "holds 0 bytes, and a safetensors file at least 8"),
    "seven bytes": (bytes(7), "holds 7 bytes, and a safetensors file at least 8"),
    "header over 100 MB": ((100_000_001).to_bytes(8, "little") + b"{}",
        "announces a header of 100,000,001 bytes, at most 100,000,000 are allowed"),
    "header beyond the end": ((3).to_bytes(8, "little") + b"{}",
        "is truncated: its header alone takes 3 bytes, it has 10"),
    "no object": (file_of([]), "is not a safetensors file: its header does not begin with '{'"),
    "no header": (file_of(b"", b"{}"), "is not a safetensors file: its header does not begin with '{'"),
    "not UTF-8": (file_of(b'{"\xff":1}'),
        f"{PARSED} ('utf-8' codec can't decode byte 0xff in position 2: invalid start byte)"),
    "cut JSON": (file_of(b'{"a":'), f"{PARSED} (Expecting value: line 1 column 6 (char 5))"),
    "two objects": (file_of(b"{}{}"), f"{PARSED} (Extra data: line 1 column 3 (char 2))"),
    "NaN": (file_of(b'{"a":NaN}'), "the header holds NaN, which is not JSON"),
    "a key twice": (file_of(b'{"a\\n":1,"a\\n":2}'), "the header has the key 'a\\n' twice"),
    "a key of an entry twice": (
        file_of(b'{"a":{"dtype":"F32","shape":[2],"shape":[2],"data_offsets":[0,8]}}', DATA),
        "the header has the key 'shape' twice"),
    "metadata not an object": (file_of({"__metadata__": 3}),
        "__metadata__ is 3, expected an object of strings"),
    "metadata not of strings": (file_of({"__metadata__": {"a": 3}}),
        "__metadata__ is {'a': 3}, expected an object of strings"),
    "entry not an object": (file_of({"a": [1]}), f"tensor 'a' is [1], {EXACTLY}"),
    "entry without dtype": (file_of({"a": {"shape": [], "data_offsets": [0, 0]}}),
        f"tensor 'a' is {{'data_offsets': [0, 0], 'shape': []}}, {EXACTLY}"),
    "entry with more": (file_of({"a": {**ONE, "x": 1}}, DATA),
        f"tensor 'a' is {{'data_offsets': [0, 8], 'dtype': 'F32', 'shape': [2], 'x': 1}}, {EXACTLY}"),
    "a name not Unicode": (file_of(b'{"\\ud800":1}'),
        f"{PARSED} ('utf-8' codec can't encode character '\\ud800' in position 2: surrogates not allowed)"),
    "metadata not Unicode": (file_of(b'{"__metadata__":{"a":"\\ud800"}}'),
        f"{PARSED} ('utf-8' codec can't encode character '\\ud800' in position 24: surrogates not allowed)"),
    "unknown type": (file_of({"a": entry("f32")}, DATA),
        f"tensor 'a' has dtype 'f32', expected one of {', '.join(TYPES)}"),
    "type not a string": (file_of({"a": entry(["F32"])}, DATA),
        f"tensor 'a' has dtype ['F32'], expected one of {', '.join(TYPES)}"),
    "too many dimensions": (file_of({"a": entry(shape=[1] * 64 + [2])}, DATA),
        "tensor 'a' has 65 dimensions, at most 64 are possible"),
    "end before begin": (file_of({"a": entry(offsets=[8, 0])}, DATA),
        "tensor 'a' has data_offsets [8, 0], its end before its beginning"),
    "another size": (file_of({"a": entry(shape=[3])}, DATA),
        "tensor 'a' is F32 of shape [3], which is 12 bytes, but its data_offsets [0, 8] span 8"),
    "larger than memory": (file_of({"a": entry(shape=[2**40, 2**40], offsets=[0, 0])}),
        "tensor 'a' has shape [1099511627776, 1099511627776], larger than any memory"),
    "empty, and larger than memory": (file_of({"a": entry(shape=[2**40, 0, 2**40], offsets=[0, 0])}),
        "tensor 'a' has shape [1099511627776, 0, 1099511627776], larger than any memory"),
    "overlap": (file_of({"a": ONE, "b": entry(offsets=[4, 12])}, bytes(12)),
        "tensor 'b' overlaps tensor 'a'"),
    "the same bytes twice": (file_of({"b": ONE, "a": ONE}, DATA), "tensor 'b' overlaps tensor 'a'"),
    "an empty tensor within another": (file_of({"a": ONE, "b": entry(shape=[0], offsets=[4, 4])}, DATA),
        "tensor 'b' overlaps tensor 'a'"),
    "gap": (file_of({"a": ONE, "b": entry(offsets=[12, 20])}, bytes(20)),
        "tensor 'b' leaves 4 bytes unused after tensor 'a'"),
    "gap at the front": (file_of({"a": entry(offsets=[1, 9])}, bytes(9)),
        "tensor 'a' leaves 1 bytes unused after the header"),
    "truncated": (file_of({"a": ONE}, bytes(7)),
        "is truncated: its header announces 8 bytes of tensors, it has 7"),
    "over-long": (file_of({"a": ONE}, bytes(9)), "has 1 bytes too many after tensor 'a'"),
    "2**60 bytes": (file_of({"a": entry("U8", [2**60], [0, 2**60])}),
        "is truncated: its header announces 1,152,921,504,606,846,976 bytes of tensors, it has 0"),
}
PICKLE = "is a pickle, not a safetensors file, whatever its name says; lmx does not run it"
OTHERS: dict[str, tuple[bytes, str]] = {  # the same, where something else is to be done: the whole message
    "too many values": (file_of(b'{"a":[' + b"0," * 2_000_000 + b"0]}"),
        f"the header has more than 2,000,000 values; {AGAIN}, or split it into shards"),
    "eight-bit floats": (file_of({"a": entry("F8_E4M3", [8])}, DATA),
        "tensor 'a' is stored as F8_E4M3, which lmx does not read; convert it to BF16, F16 or F32 first"),
    "a pickle": (pickle.dumps({"a": 1}), PICKLE),
    "a short pickle": (b"\x80\x02N.", PICKLE),
    "a zip": (b"PK\x03\x04" + bytes(40),
        "is a zip archive, as torch.save writes them, not a safetensors file; lmx does not unpack it"),
    "a Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
        "is a Git LFS pointer: fetch the file itself (git lfs pull)"),
    "a web page": (b"<!DOCTYPE html><html>", "is a web page, not a safetensors file; fetch the file itself"),
}
# fmt: on


@pytest.mark.parametrize("fault", [*FAULTS, *OTHERS])
def test_faults_of_a_file(tmp_path: Path, fault: str) -> None:
    content, message = FAULTS.get(fault) or OTHERS[fault]
    (tmp_path / NAME).write_bytes(content)
    refused(tmp_path, message if fault in OTHERS else f"{message}; {AGAIN}")


@pytest.mark.parametrize(
    "shape", [3, None, {"0": 2}, [True], [2.0], ["2"], [-1, -2], [None], [[2]], [2**63, 0]]
)
def test_shapes_that_are_none(tmp_path: Path, shape: Any) -> None:
    (tmp_path / NAME).write_bytes(file_of({"a": entry(shape=shape)}, DATA))
    refused(tmp_path, f"tensor 'a' has shape {shape}, expected whole numbers from 0 on; {AGAIN}")


@pytest.mark.parametrize(
    "offsets", [8, None, [], [8], [0, 4, 8], [False, 8], [0, 8.0], [-8, 0], [0, "8"], [0, 2**63]]
)
def test_offsets_that_are_none(tmp_path: Path, offsets: Any) -> None:
    (tmp_path / NAME).write_bytes(file_of({"a": entry(offsets=offsets)}, DATA))
    refused(tmp_path, f"tensor 'a' has data_offsets {offsets}, expected two whole numbers; {AGAIN}")


def test_headers_nested_without_end(tmp_path: Path) -> None:
    for text in (b'{"a":' * 100_000, b'{"a":' + b"[" * 100_000):
        (tmp_path / NAME).write_bytes(file_of(text))
        with pytest.raises(UserError, match=rf"{PARSED} \(maximum recursion depth exceeded"):
            open_folder(tmp_path)


def test_numbers_of_any_length(tmp_path: Path) -> None:
    """Python refuses to print, or to read, whole numbers of more than 4,300 digits."""
    nines = "9" * 4300
    text = f'{{"a":{{"dtype":"U8","shape":[{nines},{nines}],"data_offsets":[0,{nines}]}}}}'
    (tmp_path / NAME).write_bytes(file_of(text.encode()))
    with pytest.raises(UserError, match=r"tensor 'a' has shape \[9+\.\.\.9+, 9+\.\.\.9+\], expected whole"):
        open_folder(tmp_path)
    (tmp_path / NAME).write_bytes(file_of(b'{"a":' + b"9" * 5000 + b"}"))
    with pytest.raises(UserError, match=rf"{PARSED} \(Exceeds the limit"):
        open_folder(tmp_path)


def test_long_names_stay_short_in_messages(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(file_of({"a\n" * 1_000_000: 1}))
    with pytest.raises(UserError) as error:
        open_folder(tmp_path)
    said = str(error.value).removeprefix(f"{tmp_path / NAME}: ")
    assert len(said) < 250
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("fault", ["2**60 bytes", "header over 100 MB", "another size", "larger than memory"])
def test_absurd_headers_cost_no_memory(tmp_path: Path, fault: str) -> None:
    (tmp_path / NAME).write_bytes(FAULTS[fault][0])
    tracemalloc.start()
    try:
        with pytest.raises(UserError):
            open_folder(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 200_000
    finally:
        tracemalloc.stop()


def test_opening_reads_no_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 2**36
    (tmp_path / NAME).write_bytes(file_of({"a": entry("U8", [size], [0, size])}))
    os.truncate(
        tmp_path / NAME, (tmp_path / NAME).stat().st_size + size
    )  # sparse: no block of a disk is used

    def short(*args: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("lmx.hf._safetensors.np.empty", short)
    with (
        open_folder(tmp_path) as stored,
        pytest.raises(
            UserError, match=rf"{NAME}: a tensor of 68,719,476,736 bytes is more than memory holds"
        ),
    ):
        stored.read("a")


def test_bool_bytes_other_than_0_and_1(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(file_of({"a": entry("BOOL", [3], [0, 3])}, b"\0\1\2"))
    with (
        open_folder(tmp_path) as stored,
        pytest.raises(UserError, match=r"'a' is BOOL and holds a byte of 2"),
    ):
        stored.read("a")


def test_the_file_opened_is_the_file_read(tmp_path: Path) -> None:
    ones, twos = ({"a": np.full(1000, value, np.float32)} for value in (1, 2))
    save_file(ones, tmp_path / NAME)
    save_file(twos, tmp_path / "other")
    with open_folder(tmp_path) as stored:
        os.replace(tmp_path / "other", tmp_path / NAME)
        np.testing.assert_array_equal(stored.read("a"), ones["a"])
    with open_folder(tmp_path) as stored:
        np.testing.assert_array_equal(stored.read("a"), twos["a"])
        size = os.path.getsize(tmp_path / NAME)
        os.truncate(tmp_path / NAME, size - 10)
        with pytest.raises(
            UserError, match=rf"{NAME}: ends at byte {size - 10:,}, expected 10 bytes more; it has"
        ):
            stored.read("a")
    stored.close()
    with pytest.raises(AssertionError, match="read after close"):
        stored.read("a")


def test_reads_in_pieces_and_a_failing_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = np.arange(1000, dtype=np.int32)
    save_file({"a": tensor}, tmp_path / NAME)
    whole = os.preadv

    def piece(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        return whole(descriptor, [buffers[0][:333]], offset)

    def broken(*args: Any) -> int:
        raise OSError(errno.EIO, "Input/output error")

    with open_folder(tmp_path) as stored:
        monkeypatch.setattr(os, "preadv", piece)
        np.testing.assert_array_equal(stored.read("a"), tensor)
        monkeypatch.setattr(os, "preadv", broken)
        with pytest.raises(UserError, match=rf"{NAME}: cannot be read \(Input/output error\)"):
            stored.read("a")
