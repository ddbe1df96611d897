"""Damaged weight files by the thousand: each opens and reads whole, or is refused in one line; nothing else.

Run as a program, `python test_hf_fuzz.py FIRST COUNT FOLDER` tries COUNT inputs and prints what came of them;
input k depends on k alone, so that a finding is repeated by `python test_hf_fuzz.py k 1 FOLDER`.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from lmx.core.errors import UserError
from lmx.hf import _pickled  # noqa: F401 - so that nothing is imported while the files opened are watched
from lmx.hf._open import open_folder
from lmx.hf._safetensors import TYPES

Files = dict[str, bytes]
OUTSIDE = "outside.safetensors"
INDEX = "model.safetensors.index.json"
PICKLED = "pytorch_model.bin"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
FILES = (
    FIRST,
    SECOND,
    "link.safetensors",
    "../" + OUTSIDE,
    "..\\" + OUTSIDE,
    "a\n.safetensors",
    "",
    ".",
    "..",
    "/etc",
)
HARMLESS = {"open", "os.listdir", "object.__getattr__", "object.__setattr__", "array.__new__"}

# ------------------------------------------------------------------------------------------ sound inputs


def pickled(tensors: dict[str, np.ndarray]) -> bytes:
    """Return what torch.save writes of float32 tensors, without torch: opcodes by hand, protocol 2."""

    def text(value: str) -> bytes:
        return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(b"J" + value.to_bytes(4, "little") for value in values) + b"t"

    items = b""
    for key, (name, tensor) in enumerate(tensors.items()):
        storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(f"{key}") + text("cpu")
        strides = tuple(stride // 4 for stride in tensor.strides)
        items += text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage
        items += (
            b"J" + tensor.size.to_bytes(4, "little") + b"tQK\0" + numbers(tensor.shape) + numbers(strides)
        )
        items += b"\x89ccollections\nOrderedDict\n)RtR"
    members = {"data.pkl": b"\x80\x02}(" + items + b"u.", "byteorder": b"little"}
    return zipped(members | {f"data/{key}": tensor.tobytes() for key, tensor in enumerate(tensors.values())})


def zipped(members: Files) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), content)
    return out.getvalue()


def sound() -> list[Files]:
    """Return one whole folder of each kind."""
    rng = np.random.default_rng(0)
    one = {"wte.weight": rng.random((3, 4), np.float32), "mask": rng.random((2, 2)) < 0.5, "s": np.array(3)}
    two = {
        "h.0.attn.c_attn.weight": rng.random((2, 5)).astype(np.float16),
        "empty": np.zeros((0, 3), np.int8),
    }
    floats = {name: np.ones(shape, np.float32) for name, shape in (("a", (2, 3)), ("b", (4,)), ("c", ()))}
    places = {**dict.fromkeys(one, FIRST), **dict.fromkeys(two, SECOND)}
    index = {"metadata": {"total_size": 103}, "weight_map": places}
    return [
        {"model.safetensors": save({**one, **two}, metadata={"format": "pt"})},
        {FIRST: save(one), SECOND: save(two), INDEX: json.dumps(index).encode()},
        {PICKLED: pickled(floats)},
    ]


# --------------------------------------------------------------------------------------------- mutations

Random = np.random.Generator


def flipped(content: bytes, rng: Random) -> bytes:
    bits = np.frombuffer(content, np.uint8).copy()
    if len(bits):
        places = rng.integers(0, len(bits), rng.integers(1, 9))
        np.bitwise_xor.at(bits, places, (1 << rng.integers(0, 8, len(places))).astype(np.uint8))
    return bits.tobytes()


def cut(content: bytes, rng: Random) -> bytes:
    return content[: rng.integers(0, len(content) + 1)]


def spliced(content: bytes, rng: Random) -> bytes:
    """Put a part of the content somewhere else, over or between what is there; or leave a part out."""
    begin, end, at = sorted(rng.integers(0, len(content) + 1, 3))
    part, over = content[begin:end], rng.integers(0, 2)
    choices = (
        content[:at] + part + content[at + over * len(part) :],
        content[:begin] + content[end:],
        content + part,
        part + content,
    )
    return choices[rng.integers(0, len(choices))]


def nasty(rng: Random) -> Any:
    """Return a value that a file should not hold, or might."""
    values = (
        None, True, False, 0, 1, -1, 3, 4, 1.0, 1e400, float("nan"), 2**31, 2**32, 2**60, 2**63 - 1, 2**63,
        2**64, -(2**63), 10**400, "", "a", "\ud800", "\0", "a\nb", "x" * 300, "__metadata__", "mask",
        "F32", "F16", "BF16", "I64", "BOOL", "U8", "F8_E4M3", "C64", *FILES, [], [0, 0], [0, 48], [2**40, 0],
        [1] * 70, {}, [[]], {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]},
    )  # fmt: skip
    return values[rng.integers(0, len(values))]


def retold(value: Any, rng: Random) -> Any:
    """Return a JSON value with one change somewhere in it."""
    if not isinstance(value, dict | list) or not value or rng.random() < 0.15:
        return nasty(rng)
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = keys[rng.integers(0, len(keys))]
    change = rng.integers(0, 6)
    if change == 0:
        del value[key]
    elif change == 1 and isinstance(value, dict):
        value[str(nasty(rng))] = value.pop(key)
    elif change == 2:
        other = keys[rng.integers(0, len(keys))]
        value[key], value[other] = value[other], value[key]
    elif change == 3 and isinstance(value[key], int):
        value[key] += int(rng.integers(-2, 3))
    else:
        value[key] = retold(value[key], rng)
    return value


def remapped(index: Any, rng: Random) -> Any:
    """Return an index in which tensors are elsewhere, gone or new."""
    places: dict[str, Any] = index["weight_map"]
    names = list(places)
    name, file = names[rng.integers(0, len(names))], FILES[rng.integers(0, len(FILES))]
    match rng.integers(0, 4):
        case 0:
            places[name] = file
        case 1:
            del places[name]
        case 2:
            places["new"] = file
        case 3:
            index["weight_map"] = {
                tensor: file if place == FIRST else place for tensor, place in places.items()
            }
    return index


def relaid(header: Any, rng: Random) -> Any:
    """Return a header in which a tensor lies elsewhere, or is of another type or shape, plausibly."""
    names = [name for name in header if name != "__metadata__"]
    one, two = (header[names[place]] for place in rng.integers(0, len(names), 2))
    shapes = (
        [2**40, 0, 2**40],
        [0] * 65,
        [1] * 65,
        [*one["shape"], True],
        [*one["shape"], 1],
        one["shape"][::-1],
    )
    begin, end = one["data_offsets"]
    match rng.integers(0, 6):
        case 0:
            one["data_offsets"], two["data_offsets"] = two["data_offsets"], one["data_offsets"]
        case 1:
            one["shape"] = shapes[rng.integers(0, len(shapes))]
        case 2:
            one["data_offsets"] = [end, begin]
        case 3:
            one["dtype"] = list(TYPES)[rng.integers(0, len(TYPES))]
        case 4:  # an empty tensor, anywhere
            at = (0, begin, end, int(rng.integers(0, 100)))[rng.integers(0, 4)]
            header["new"] = {"dtype": "F32", "shape": shapes[rng.integers(0, 2)], "data_offsets": [at, at]}
            header["new"] = header["new"] | ({"shape": [0]} if rng.random() < 0.5 else {})
        case 5:  # more bytes, on one side or on both
            begin, end = begin - int(rng.integers(0, 9)), end + int(rng.integers(0, 2))
            one.update(dtype="BOOL", shape=[end - begin], data_offsets=[begin, end])
    return header


def rejson(text: bytes, rng: Random) -> bytes:
    """Change a JSON text by one to three values, and now and then in its letters too."""
    value = json.loads(text)
    fitting = remapped if "weight_map" in value else relaid
    value = fitting(value, rng) if rng.random() < 0.6 else retold(value, rng)
    while rng.random() < 0.3:
        value = retold(value, rng)
    changed = json.dumps(value, separators=(",", ":")).encode()
    if rng.random() < 0.1:  # a key twice
        changed = changed.replace(b"{", b'{"dtype":"F32","dtype":"F32",', 1)
    return (flipped, cut, spliced)[rng.integers(0, 3)](changed, rng) if rng.random() < 0.1 else changed


def reheaded(content: bytes, rng: Random) -> bytes:
    """Change a safetensors file's header, and now and then its data to suit, its length kept right."""
    length = int.from_bytes(content[:8], "little")
    header, data = rejson(content[8 : 8 + length], rng), content[8 + length :]
    if rng.random() < 0.1:
        data = data[: rng.integers(0, len(data) + 1)] + bytes(rng.integers(0, 9))
    return len(header).to_bytes(8, "little") + header + data


def repacked(content: bytes, rng: Random) -> bytes:
    """Change a member of a zip archive, its checksum kept right."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name.removeprefix("archive/"): archive.read(name) for name in archive.namelist()}
    name = "data.pkl" if rng.random() < 0.8 else list(members)[rng.integers(0, len(members))]
    members[name] = (flipped, flipped, cut, spliced)[rng.integers(0, 4)](members[name], rng)
    if rng.random() < 0.1:
        del members[list(members)[rng.integers(0, len(members))]]
    return zipped(members)


def mutated(rng: Random, kinds: list[Files]) -> Files:
    """Return the files of a folder, one of them damaged, now and then twice."""
    files = dict(kinds[rng.integers(0, len(kinds))])
    for _ in range(1 + (rng.random() < 0.1)):
        name = list(files)[rng.integers(0, len(files))]
        plain: list[Callable[[bytes, Random], bytes]] = [flipped, cut, spliced]
        fitting = {".json": rejson, ".bin": repacked}.get(Path(name).suffix, reheaded)
        try:
            files[name] = [*plain, fitting, fitting, fitting][rng.integers(0, 6)](files[name], rng)
        except (ValueError, TypeError, AttributeError, LookupError, NotImplementedError, zipfile.BadZipFile):
            files[name] = flipped(files[name], rng)  # damaged beyond the second mutation's understanding
        if rng.random() < 0.03:
            everything = [content for kind in kinds for content in kind.values()]
            files[name] = everything[rng.integers(0, len(everything))]
    return files


# ------------------------------------------------------------------------------------------------ verdicts


def read_whole(folder: Path, files: Files) -> str:
    """Open and read all; assert types and shapes, and that the safetensors library reads the same bytes."""
    with open_folder(folder) as stored:
        arrays = {name: stored.read(name) for name in stored.specs}
    for name, spec in stored.specs.items():
        assert (arrays[name].dtype.name, arrays[name].shape) == (spec.dtype, spec.shape)
    if "model.safetensors" not in files and PICKLED not in files:
        places = {name: spec.file for name, spec in stored.specs.items()}
        assert places == json.loads(files[INDEX])["weight_map"]
    for file in stored.files:
        if file.endswith(".safetensors"):
            theirs = dict(deserialize(files[file]))
            assert theirs.keys() == {name for name, spec in stored.specs.items() if spec.file == file}
            for name, entry in theirs.items():
                assert TYPES[entry["dtype"]].name == stored.specs[name].dtype
                assert (tuple(entry["shape"]), bytes(entry["data"])) == (
                    arrays[name].shape,
                    arrays[name].tobytes(),
                )
    return f"read {Path(stored.files[0]).suffix}"


def verdict(folder: Path, files: Files) -> str:
    """Return `read KIND`, `refused KIND`, or what is wrong."""
    try:
        return read_whole(folder, files)
    except UserError as error:
        said = str(error)
        sound = said.startswith(str(folder)) and said.isprintable() and len(said) < len(str(folder)) + 500
        return (
            f"refused {'.bin' if PICKLED in files else '.safetensors'}" if sound else f"badly said: {said!r}"
        )
    except (Exception, SafetensorError):
        return traceback.format_exc()


def fuzz(first: int, count: int, folder: Path) -> dict[str, Any]:
    """Try the inputs from `first` on; return {"outcomes": {verdict: count}, "findings": {input: verdict}}."""
    seen: list[tuple[str, str]] = []
    watching = False

    def watch(event: str, values: tuple[Any, ...]) -> None:
        if watching:
            seen.append((event, str(values[0]) if values else ""))

    sys.addaudithook(watch)
    case = folder / "case"
    kinds = sound()
    (folder / OUTSIDE).write_bytes(save({"a": np.ones(3)}))
    outcomes: Counter[str] = Counter()
    findings: dict[int, str] = {}
    for number in range(first, first + count):
        files = mutated(np.random.default_rng(number), kinds)
        shutil.rmtree(case, ignore_errors=True)
        case.mkdir()
        for name, content in files.items():
            (case / name).write_bytes(content)
        (case / "link.safetensors").symlink_to(folder / OUTSIDE)
        descriptors = len(os.listdir("/proc/self/fd"))
        watching = True
        found = verdict(case, files)
        watching = False
        strange = [(event, path) for event, path in seen if event not in HARMLESS]
        strange += [(event, path) for event, path in seen if event == "open" and Path(path).parent != case]
        seen.clear()
        if strange and not found.startswith("Traceback"):
            found = f"strange events: {strange}"
        if len(os.listdir("/proc/self/fd")) != descriptors:
            found = f"a file stays open after: {found}"
        if found.split()[0] in ("read", "refused"):
            outcomes[found] += 1
        else:
            findings[number] = found
    return {"outcomes": dict(sorted(outcomes.items())), "findings": findings}


def run(first: int, count: int, folder: Path, environment: dict[str, str]) -> dict[str, Any]:
    command = [sys.executable, __file__, str(first), str(count), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def check(found: dict[str, Any], count: int) -> None:
    assert found["findings"] == {}
    assert found["outcomes"].keys() == {
        "read .bin",
        "read .safetensors",
        "refused .bin",
        "refused .safetensors",
    }
    assert sum(found["outcomes"].values()) == count


def test_sound_inputs_are_read(tmp_path: Path) -> None:
    for files in sound():
        (tmp_path / "case").mkdir()
        for name, content in files.items():
            (tmp_path / "case" / name).write_bytes(content)
        assert verdict(tmp_path / "case", files).startswith("read ")
        shutil.rmtree(tmp_path / "case")


def test_damaged_inputs(tmp_path: Path, lmx_environment: dict[str, str]) -> None:
    check(run(0, 300, tmp_path, lmx_environment), 300)


@pytest.mark.slow
def test_ten_thousand_damaged_inputs(tmp_path: Path, lmx_environment: dict[str, str]) -> None:
    check(run(0, 10_000, tmp_path, lmx_environment), 10_000)


if __name__ == "__main__":
    print(json.dumps(fuzz(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])), indent=1))
