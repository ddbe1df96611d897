"""From stored tensors to leaves: whose memory they are in, and what is said of names and of many faults."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import lmx
from lmx.commands import _build
from lmx.core import tree
from lmx.core.hf_table import Entry
from lmx.hf import _safetensors, convert, transfer, types
from lmx.hf._open import open_folder
from lmx.hf.convert import Layout, Plan
from lmx.hf.stored import Spec

from . import _hf_folders as made

LONG = "x\n\x1b[2J" * 1000


def layout_of(model: str, task: str, *, layers: int = made.L, tied: bool = True) -> Layout:
    table, heads = _build.tables(model)
    return Layout(table, heads[task], layers, tied)


def plan_of(layout: Layout, specs: Mapping[str, Spec], **options: Any) -> Plan:
    """The plan for exactly the tensors of a file."""
    shapes: dict[str, tuple[int, ...]] = {}
    for entry in layout.entries():
        if entry.tensor in specs:
            shape = specs[entry.tensor].shape
            shape = shape[::-1] if entry.kind == "transpose" else shape
            shape = (*shape[:-1], shape[-1] // len(entry.leaves))
            shapes |= dict.fromkeys(entry.leaves, shape)
    return convert.plan(specs, shapes, layout, **options)


# ------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("model", ["gpt2", "bert"])
@pytest.mark.parametrize("limit", [2**26, 64])
def test_each_leaf_has_memory_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, dtype: str, limit: int
) -> None:
    """Laid out and aligned as a device takes it without a copy; on one thread, whose room is used again.

    GPT-2's joined biases lie in one tensor, side by side: as they lie, two of three are not aligned.
    """
    monkeypatch.setattr(transfer, "AHEAD", 1)
    monkeypatch.setattr(transfer, "ROOM", limit)
    tensors = made.gpt2("") if model == "gpt2" else made.bert("")
    folder = made.folder(tmp_path, {}, tensors)
    leaves: dict[str, np.ndarray] = {}

    def place(path: str, leaf: np.ndarray) -> np.ndarray:
        leaves[path] = leaf
        return leaf

    with open_folder(folder) as stored:
        plan = plan_of(layout_of(model, "features"), stored.specs)
        read = transfer.read(stored, plan, dtype=dtype, place=place)
    assert tree.flatten(read).keys() == leaves.keys()
    wanted = types.named_type(dtype)
    for path, expected in made.leaves(tensors).items():
        np.testing.assert_array_equal(leaves[path], expected.astype(wanted), err_msg=path, strict=True)
    for path, leaf in leaves.items():
        assert leaf.flags.c_contiguous, path
        assert leaf.flags.writeable, path
        assert leaf.ctypes.data % 64 == 0, path
    spans = sorted((leaf.ctypes.data, leaf.ctypes.data + leaf.nbytes, path) for path, leaf in leaves.items())
    for (_, end, one), (begin, _, other) in pairwise(spans):
        assert end <= begin, (one, other)


def test_rooms_are_bounded_and_go_with_their_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "ROOM", 256)
    room, byte = transfer._Room(), np.dtype(np.uint8)
    assert np.shares_memory(room(tmp_path, byte, (256,)), room(tmp_path, byte, (100,)))
    large = room(tmp_path, byte, (257,))
    assert not np.shares_memory(large, room(tmp_path, byte, (257,)))
    assert not np.shares_memory(large, room(tmp_path, byte, (256,)))

    def place(path: str, leaf: np.ndarray) -> np.ndarray:
        raise ValueError(path)

    before = set(threading.enumerate())
    with open_folder(made.folder(tmp_path, {}, made.gpt2(""))) as stored:
        plan = plan_of(layout_of("gpt2", "features"), stored.specs)
        with pytest.raises(ValueError, match="embed/token") as error:
            transfer.read(stored, plan, dtype="float32", place=place)
    assert set(threading.enumerate()) == before, error  # which would keep their rooms as long as the error


# -------------------------------------------------------------------------------------------- types


def test_which_types_cannot_hold_another() -> None:
    lossless = {
        "float16": {"float16", "float32", "float64"},
        "bfloat16": {"bfloat16", "float32", "float64"},
        "float32": {"float32", "float64"},
        "float64": {"float64"},
    }
    for kind, wider in lossless.items():
        assert {dtype for dtype in types.FLOATS if not types.narrower(kind, dtype)} == wider
        patterns = np.arange(65536, dtype=np.uint16)
        if types.named_type(kind).itemsize == 2:  # every value there is
            values = patterns.view(types.named_type(kind))
            for dtype in types.FLOATS:
                with np.errstate(over="ignore", invalid="ignore"):
                    back = values.astype(types.named_type(dtype)).astype(values.dtype)
                    kept = bool(np.all((back == values) | np.isnan(values)))
                assert kept is (dtype in wider), (kind, dtype)
    assert not types.narrower("int64", "float16")
    with pytest.raises(lmx.UserError):
        types.narrower("float32", "int8")


def test_values_beyond_a_type_of_the_same_width() -> None:
    fine = np.array([1, -65504, np.inf], ml_dtypes.bfloat16)
    assert types.cast(fine[:1], "float16", "w") == 1
    with pytest.raises(lmx.UserError) as error:
        types.cast(np.array([1, 1e30, np.inf], ml_dtypes.bfloat16), "float16", "w")
    assert str(error.value) == "w has values beyond float16; use bfloat16"
    assert np.isinf(types.cast(np.array([np.inf], ml_dtypes.bfloat16), "float16", "w"))


# ---------------------------------------------------------------------------------- names in messages


class Held:
    """Tensors that go by any name."""

    folder = Path("somewhere")
    files = ("model.safetensors",)

    def __init__(self, tensors: made.Tensors) -> None:
        self.tensors = tensors
        self.specs = {name: Spec(found.dtype.name, found.shape, "f") for name, found in tensors.items()}

    def read(self, name: str, room: Any = None) -> np.ndarray:
        return self.tensors[name]


@pytest.mark.parametrize("fault", ["tied", "finite", "range"])
def test_names_of_a_file_are_shown_on_one_line(fault: str) -> None:
    value = {"tied": 1.0, "finite": np.nan, "range": 1e30}[fault]
    stored: Any = Held({LONG: np.full(3, value, np.float32), LONG + "2": np.zeros(3, np.float32)})
    equal = ((LONG, LONG + "2"),) if fault == "tied" else ()
    plan = Plan((Entry("w", ("w",)),), {"w": LONG}, equal, {}, ())
    with pytest.raises(lmx.UserError) as error:
        transfer.read(stored, plan, dtype="float16", place=lambda path, leaf: leaf)
    said = str(error.value)
    assert said.isprintable()
    assert len(said) < 600
    assert said.startswith("somewhere: x\\n\\x1b[2J")


def complaint(specs: Mapping[str, Spec], shapes: convert.Shapes, layout: Layout, **options: Any) -> str:
    with pytest.raises(lmx.UserError) as error:
        convert.plan(specs, shapes, layout, **options)
    said = str(error.value)
    assert said.isprintable()
    return said


def specs_of(tensors: made.Tensors) -> dict[str, Spec]:
    return {name: Spec(found.dtype.name, found.shape, "f") for name, found in tensors.items()}


def test_one_tensor_by_two_names_that_are_no_text() -> None:
    """An old name's pattern holds for whatever stands before it."""
    layout = layout_of("bert", "features")
    specs = specs_of({f"{LONG}.LayerNorm.{kind}": np.zeros(1) for kind in ("gamma", "weight")})
    assert "are the same tensor" in complaint(specs, {}, layout)


def test_many_surplus_tensors_do_not_hide_what_is_wrong() -> None:
    layout = layout_of("gpt2", "features")
    specs = specs_of(made.gpt2(""))
    plan = plan_of(layout, specs)
    shapes = {path: leaf.shape for path, leaf in made.leaves(made.gpt2("")).items()}
    assert not plan.fresh
    surplus = {f"a{i}{LONG}": Spec("float32", (1,) * 60, "f") for i in range(20_000)}
    del specs["ln_f.bias"]
    said = complaint({**specs, **surplus}, {**shapes, "final/scale": (9,)}, layout)
    assert len(said) < 4000
    assert "- ln_f.bias (8,)" in said
    assert "! ln_f.weight expected (9,), found (8,)" in said
    assert said.endswith("and 19,990 more")
    assert said.count("; +") == 9
    assert "(1, 1, 1, 1, 1, 1, 1, 1, ...)" in said


def test_layers_are_told_together() -> None:
    layers = 7
    layout = layout_of("bert", "features", layers=layers)
    kernel = "encoder.layer.{}.attention.self.query.weight"
    entries = list(layout.entries())
    shapes = {path: (8, 8) for entry in entries for path in entry.leaves}
    right = {entry.tensor: Spec("float32", (8, 8), "f") for entry in entries}
    wrong = {kernel.format(i): Spec("float32", (4, 4), "f") for i in range(layers)}
    found = {**right, **wrong}
    assumed = ("hidden_size is not in config.json; 8 was assumed",)
    said = complaint(found, shapes, layout, assumed=assumed)
    shown = "encoder.layer.{0..6}.attention.self.query.weight expected (8, 8), found (4, 4)"
    assert said.endswith(f"! other): ! {shown}; {assumed[0]}")
    for i in (1, 5):
        found[kernel.format(i)] = right[kernel.format(i)]
    assert "encoder.layer.{0,2..4,6}.attention" in complaint(found, shapes, layout)
    for i in (0, 2, 3, 4):
        found[kernel.format(i)] = right[kernel.format(i)]
    said = complaint(found, shapes, layout, assumed=assumed)
    assert "! encoder.layer.6.attention" in said
    del found[kernel.format(6)]  # the shapes of what is there are right: no size was assumed amiss
    assert complaint(found, shapes, layout, assumed=assumed).endswith(f"- {kernel.format(6)} (8, 8)")


def test_a_summary_of_nothing_and_of_names_alike() -> None:
    assert tree.summary([]) == []
    same = ["+ " + "y" * 99 + " (1,)"] * 30
    assert tree.summary(same) == same[:1]
    mixed = [f"+ a{i} (1,)" for i in range(20)] + [f"- b{i} (1,)" for i in range(20)] + ["! c x"]
    shown = tree.summary(mixed, 12)
    assert [line[0] for line in shown] == ["+"] * 7 + ["-"] * 4 + ["!", "a"]
    assert shown[-1] == "and 29 more"
    assert tree.summary([f"+ h.{2 * i}.w (1,)" for i in range(50)]) == ["+ h.{0,2,4,6,8,10,12,14,...}.w (1,)"]


# ----------------------------------------------------------------------------------------- JSON


@pytest.mark.parametrize("letter", ["\U0001f600", "\\ud83d\\ude00", "é"])
def test_text_beyond_ascii_is_bounded(letter: str) -> None:
    """Each letter of a text takes as much memory as the widest: the format's 100 MB would be 1 GB."""
    most = _safetensors.WIDE

    def of_size(size: int) -> bytes:
        raw = f'{{"{letter}": "'.encode()
        return raw + b"x" * (size - len(raw) - 2) + b'"}'

    raw = of_size(most + 1)
    tracemalloc.start()
    try:
        with pytest.raises(lmx.UserError) as error:
            _safetensors.parse_object(raw, "f: the header")
        assert tracemalloc.get_traced_memory()[1] < 100_000
        assert str(error.value) == (
            "f: the header has 10,000,001 bytes with letters outside ASCII, at most 10,000,000 are allowed; "
            "fetch the file again"
        )
        assert len(_safetensors.parse_object(of_size(most), "f")) == 1
        assert tracemalloc.get_traced_memory()[1] < 25 * most
    finally:
        tracemalloc.stop()
    plain = b'{"a": "' + b"x" * most + b'"}'
    assert len(_safetensors.parse_object(plain, "f")["a"]) == most


def test_numbers_that_no_float_holds() -> None:
    for text in ("1e999", "-1e999", "1" + "0" * 400 + ".0"):
        with pytest.raises(lmx.UserError) as error:
            _safetensors.parse_object(f'{{"a": [{text}]}}'.encode(), "f")
        said = str(error.value)
        assert said.startswith("f holds the number '")
        assert said.endswith("', too large for any float; correct it")
        assert len(said) < 200
    assert _safetensors.parse_object(b'{"a": 1.7e308, "b": 1e-999}', "f") == {"a": 1.7e308, "b": 0.0}
