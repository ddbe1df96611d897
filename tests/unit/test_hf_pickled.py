"""`pytorch_model.bin` without torch: what torch writes comes back bit for bit, what is hostile never runs."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from lmx.core.errors import UserError
from lmx.hf import _opcodes, _pickled, _zip
from lmx.hf.stored import Spec
from tests.unit._archives import (
    CANARY,
    GOOD,
    HOSTILE,
    ORDERED,
    VALUES,
    archive,
    called,
    state,
    storage,
    tensor,
    text,
    whole,
)

# Opens each file named on its command line under an audit hook that notes every event of any kind.
CHILD = """
import json, os, sys
from pathlib import Path
from lmx.core.errors import UserError
from lmx.hf._pickled import File

events, watching = [], False

def hook(event, arguments):
    if watching:
        events.append(f"{event} {arguments!r}"[:200])

sys.addaudithook(hook)
results = {}
for path in map(Path, sys.argv[1:]):
    descriptor, events, said = os.open(path, os.O_RDONLY), [], None
    watching = True
    try:
        file = File(path, path.name, descriptor)
        said = f"read {[file.read(name).shape for name in file.specs]}"
    except UserError as error:
        said = f"UserError {error}"
    except Exception as error:
        said = f"{type(error).__name__} {error}"
    watching = False
    os.close(descriptor)
    results[path.name] = (said, events)
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def met(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, tuple[str, list[str]]]]:
    """What became of every hostile file, in a process of its own."""
    folder = tmp_path_factory.mktemp("hostile")
    for name, (make, _) in {"good": (archive, ""), **HOSTILE}.items():
        (folder / name).write_bytes(make())
    root = str(Path(_pickled.__file__).parents[2])
    names = ["good", *HOSTILE]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *names],
        cwd=folder, env={**os.environ, "PYTHONPATH": root}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_and_nothing_runs(name: str, met: Any) -> None:
    folder, results = met
    said, events = results[name]
    assert re.match(rf"UserError {re.escape(name)}: .*({HOSTILE[name][1]})", said), said
    assert said.isprintable()
    assert len(said) < 500
    assert not events
    assert not (folder / CANARY).exists()


def test_a_good_file_is_read_without_any_event(met: Any) -> None:
    assert met[1]["good"] == ["read [(2, 3)]", []]


def test_the_payloads_are_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is refused above would have run: pickle itself makes the canary."""
    monkeypatch.chdir(tmp_path)
    for name in ("os.system", "exec", "nested"):
        data = zipfile.ZipFile(io.BytesIO(HOSTILE[name][0]())).read("model/data.pkl")
        pickle.loads(data)
        assert (tmp_path / CANARY).exists(), name
        (tmp_path / CANARY).unlink()


def opened(path: Path, raw: bytes | None = None) -> _pickled.File:
    if raw is not None:
        path.write_bytes(raw)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return _pickled.File(path, path.name, descriptor)
    except BaseException:
        os.close(descriptor)
        raise


def refuses(file: _pickled.File, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        file.read(name)
    assert "\n" not in str(error.value)


# -------------------------------------------------------------------------------------- without torch


def test_a_file_made_by_hand(tmp_path: Path) -> None:
    """Views of one storage, out of order, with what torch adds to a state dict and to a parameter."""
    made = called("torch._utils", "_rebuild_parameter", tensor((2,), (2,), b"K\1"), b"\x88", ORDERED)
    pairs = text("t") + tensor((3, 2), (1, 3)) + text("p") + made + text("none") + tensor((0, 4), (4, 1))
    metadata = b"}" + text("_metadata") + ORDERED + text("") + b"}" + text("version") + b"K\1sss"
    file = opened(tmp_path / "x.bin", whole(ORDERED + b"(" + pairs + b"u" + metadata + b"b."))
    assert file.specs == {
        "t": Spec("float32", (3, 2), "x.bin"),
        "p": Spec("float32", (2,), "x.bin"),
        "none": Spec("float32", (0, 4), "x.bin"),
    }
    np.testing.assert_array_equal(file.read("p"), [1, 3])
    np.testing.assert_array_equal(file.read("t"), VALUES.reshape(2, 3).T)
    assert file.read("none").shape == (0, 4)
    first = file.read("t")
    first[:] = 0
    np.testing.assert_array_equal(file.read("t"), VALUES.reshape(2, 3).T)
    file.close()
    file.close()
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(file._descriptor)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_protocols(protocol: int, tmp_path: Path) -> None:
    """What `pickle` writes for a plain dict; of its values, only the name is told."""
    raw = archive(pickle.dumps({"w": {"deep": (1, 2**40, None, True, 2.5, ["x"])}}, protocol))
    with pytest.raises(UserError, match="'w' holds a dict, expected a tensor"):
        opened(tmp_path / "x.bin", raw)


def test_no_bit_can_flip_unseen(tmp_path: Path) -> None:
    """Every byte in turn: the file is refused, or what is read is what was written."""
    raw, refused = archive(change=None), 0
    for at in range(len(raw)):
        changed = bytearray(raw)
        changed[at] ^= 1 << at % 8
        try:
            file = opened(tmp_path / "x.bin", bytes(changed))
        except UserError:
            refused += 1
            continue
        try:
            np.testing.assert_array_equal(file.read("w"), VALUES.reshape(2, 3))
        except UserError as error:
            assert "has CRC-32" in str(error)  # noqa: PT017
            refused += 1
        finally:
            file.close()
    assert refused > 0.7 * len(raw)  # the rest: dates, versions, and the contents of unread members
    for size in range(len(raw)):
        with pytest.raises(UserError):
            opened(tmp_path / "x.bin", raw[:size])


def test_damage_is_seen_in_the_part_that_is_not_asked_for(tmp_path: Path) -> None:
    raw = archive(state(part=tensor((1,), (1,)), all=tensor()))
    file = opened(tmp_path / "x.bin", raw.replace(VALUES.tobytes(), VALUES.tobytes()[:-1] + b"!"))
    refuses(file, "part", r"x\.bin: zip member 'model/data/0' has CRC-32 .*; damaged")
    refuses(file, "all", "has CRC-32")
    file.close()


def test_truth_values(tmp_path: Path) -> None:
    of = storage(6, "BoolStorage")
    file = opened(tmp_path / "x.bin", archive(state(w=tensor(of=of)), {"data/0": b"\0\1\0\1\0\1"}))
    np.testing.assert_array_equal(file.read("w"), np.array([[0, 1, 0], [1, 0, 1]], bool))
    file.close()
    file = opened(tmp_path / "x.bin", archive(state(w=tensor(of=of)), {"data/0": b"\0\1\0\1\0\7"}))
    refuses(file, "w", "'w' holds truth values other than 0 and 1")
    file.close()


def test_a_file_that_shrinks_while_open(tmp_path: Path) -> None:
    file = opened(tmp_path / "x.bin", archive())
    os.truncate(tmp_path / "x.bin", 40)
    refuses(file, "w", "ends too soon")
    file.close()


def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value, message in (
        (_zip, "MEMBERS", 2, "announces 3 zip members, expected 1 to 2"),
        (_pickled, "PICKLE", 99, r"data\.pkl has \d+ bytes, expected at most 99"),
        (_opcodes, "OPCODES", 20, "more than 20 opcodes"),
        (_zip, "DIRECTORY", 99, "a zip directory of"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, value)
            with pytest.raises(UserError, match=message):
                opened(tmp_path / "x.bin", archive())


@pytest.mark.parametrize("kind", ["alike", "turned", "parts"])
def test_a_storage_is_read_a_few_times_at_most(tmp_path: Path, kind: str) -> None:
    """Tied weights share a storage; a thousand tensors of one would fill the memory from a small file."""

    def views(count: int) -> bytes:
        made = {}
        for i in range(count):
            shapes = {"alike": ((2, 3), (3, 1)), "turned": ((1 + i % 6,), (1,)), "parts": ((6,), (1,))}
            made[f"w{i}"] = tensor(*shapes[kind])
        return archive(state(**made))

    most = {"alike": 4, "turned": 7, "parts": 4}[kind]  # 1 + 2 + ... + 6 + 1 <= 24
    opened(tmp_path / "x.bin", views(most)).close()
    taken = {"alike": 30, "turned": 25, "parts": 30}[kind]
    more = {"alike": 1, "turned": 3, "parts": 1}[kind]  # 22 + 2, then + 3
    message = rf"^.*x\.bin: 'w\d+' and those before it take {taken if kind != 'turned' else 27} elements of "
    with pytest.raises(UserError, match=message + r"storage '0', which has 6; expected at most 4 times"):
        opened(tmp_path / "x.bin", views(most + more - (kind == "turned")))


def test_zip64_and_descriptors_of_another_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """zipfile, told that every size is large, and that it cannot seek back to a header."""

    class Forward(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *_: Any) -> int:
            raise OSError

    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", -1)
    for made in (Forward(), io.BytesIO()):
        with zipfile.ZipFile(made, "w") as file:
            for name, data in (("m/data.pkl", GOOD), ("m/data/0", VALUES.tobytes())):
                with file.open(zipfile.ZipInfo(name), "w", force_zip64=True) as member:
                    member.write(data)
        raw = made.getvalue()
        assert raw.count(b"PK\6\6") == 1
        read = opened(tmp_path / "x.bin", raw)
        np.testing.assert_array_equal(read.read("w"), VALUES.reshape(2, 3))
        read.close()
        at = raw.index(b"PK\6\6")
        for offset in (0, 4, 16, 20, 24, 32, 40, 48):  # each field but the versions
            changed = bytearray(raw)
            changed[at + offset] ^= 1
            with pytest.raises(UserError, match="zip64 record and the end record disagree"):
                opened(tmp_path / "x.bin", bytes(changed))


# ----------------------------------------------------------------------------------- torch as the oracle


def test_what_torch_writes_comes_back(tmp_path: Path) -> None:
    """Every type over all the patterns of 16 bits, views, shared storages, 0-d and empty tensors."""
    torch = pytest.importorskip("torch")
    patterns = torch.arange(-(2**15), 2**15, dtype=torch.int16)
    base = torch.arange(60, dtype=torch.float32).reshape(3, 4, 5)
    made = {
        "f16": patterns.view(torch.float16),
        "bf16": patterns.clone().view(torch.bfloat16),
        "f32": torch.tensor([0.0, -0.0, 1e-45, float("inf"), float("nan"), 3.4e38]),
        "f64": torch.linspace(-1, 1, 7, dtype=torch.float64),
        "i64": torch.tensor([[-(2**63), 2**63 - 1]]),
        "i32": torch.tensor([[-(2**31), 2**31 - 1]], dtype=torch.int32),
        "i8": torch.tensor([-128, 127], dtype=torch.int8),
        "u8": torch.tensor([0, 255], dtype=torch.uint8),
        "bool": torch.tensor([[True], [False]]),
        "scalar": torch.tensor(7.0),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(base[0] * 2),
        "base": base,
        "tied": base,
        "turned": base.permute(2, 0, 1),
        "slice": base[1:, ::2, 3],
        "last": base[2, 3, 4],
        "broadcast": torch.arange(5).expand(1, 5),
    }
    made["f16"] = made["f16"].clone()
    for options in ({}, {"pickle_protocol": 4}, {"pickle_protocol": 5}):
        torch.save(made, tmp_path / "x.bin", **options)
        theirs = torch.load(tmp_path / "x.bin", weights_only=False)
        file = opened(tmp_path / "x.bin")
        assert list(file.specs) == list(made)
        for name, value in theirs.items():
            value, own = value.detach().contiguous(), file.read(name)
            assert (own.dtype.name, own.shape) == (file.specs[name].dtype, file.specs[name].shape)
            assert (str(value.dtype), tuple(value.shape)) == (f"torch.{own.dtype}", own.shape)
            assert own.flags.c_contiguous
            assert own.flags.writeable
            assert own.tobytes() == value.reshape(-1).view(torch.uint8).numpy().tobytes(), name
        assert file.read("bf16").dtype == ml_dtypes.bfloat16
        file.close()


def test_state_dicts_of_modules(tmp_path: Path) -> None:
    """With `_metadata`, buffers, and weights that two modules share."""
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(3, 4))
    module[2].weight = module[0].weight
    torch.save(module.state_dict(), tmp_path / "pytorch_model.bin")
    file = opened(tmp_path / "pytorch_model.bin")
    assert set(file.specs) == set(module.state_dict())
    for name, value in module.state_dict().items():
        np.testing.assert_array_equal(file.read(name), value.numpy())
    file.close()


def test_what_torch_writes_and_lmx_refuses(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    path = tmp_path / "x.bin"
    linear = torch.nn.Linear(2, 2)
    for value, message, options in (
        (linear.state_dict(), "a bare pickle", {"_use_new_zipfile_serialization": False}),
        (linear, r"wants torch\.nn\.modules\.linear\.Linear", {}),
        ({"model": linear.state_dict(), "epoch": 3}, "'model' holds a dict", {}),
        ({"w": torch.ones(1).expand(2, 1000)}, "2000 elements that end at 1 of storage '0', which has 1", {}),
        ({"w": torch.ones(2, dtype=torch.float8_e4m3fn)}, "_rebuild_tensor_v3: not a tensor that lmx", {}),
        ({"w": torch.ones(2, dtype=torch.complex64)}, "ComplexFloatStorage: not a tensor that lmx", {}),
        ({"w": torch.ones(2, 2).to_sparse()}, "wants torch._utils._rebuild_sparse_tensor", {}),
    ):
        torch.save(value, path, **options)
        with pytest.raises(UserError, match=message):
            opened(path)


def test_more_than_four_gigabytes(tmp_path: Path) -> None:
    """A sparse file of torch's own, whose zip64 records count; its last tensor lies beyond 4 GiB."""
    torch = pytest.importorskip("torch")
    path = tmp_path / "x.bin"
    with torch.serialization.skip_data():
        torch.save({"big": torch.empty(5 * 10**9, dtype=torch.uint8), "w": torch.empty(6)}, path)
    descriptor = os.open(path, os.O_RDWR)
    member = _zip.members(descriptor)["x/data/1"]
    assert member.offset > 5 * 10**9
    crc = struct.pack("<I", zlib.crc32(VALUES.tobytes()))  # torch leaves it to who fills the storages in
    tail = os.pread(descriptor, 10**5, member.offset)
    os.pwrite(descriptor, VALUES.tobytes(), member.offset)
    os.pwrite(descriptor, crc, member.offset + member.size + 4)
    os.pwrite(descriptor, crc, member.offset + tail.rindex(b"x/data/1") - 46 + 16)
    os.close(descriptor)
    file = opened(path)
    assert file.specs["big"] == Spec("uint8", (5 * 10**9,), "x.bin")
    np.testing.assert_array_equal(file.read("w"), VALUES)
    file.close()
