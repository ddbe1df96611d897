"""A pickle interpreted without running anything: a few opcodes, and names that are only compared.

Nothing is imported, looked up or called by a name of the file's: the caller says which names may stand in the
pickle, and what of its own each call comes to. The rest is refused where it is met.

Source: the opcodes as Python's `pickletools` documents them.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from lmx.core.errors import UserError

OPCODES = 1_000_000  # torch writes about 35 for a tensor
STACK = 10_000  # pickle sets at most 1,000 pairs at once
MEMO = 500_000
DEPTH = 20  # of tuples, dicts and open marks in one another
TEXT = 10_000  # bytes
ADVICE = "refused without running it; re-save the model as safetensors with a torch you trust"


@dataclass(frozen=True, slots=True)
class Name:
    """What the pickle calls by name. It is compared with the names known here, and nothing else."""

    module: str
    name: str


class Made:
    """What a call of the caller's made. kind: what a message calls it."""

    kind: ClassVar[str]


@dataclass(frozen=True, slots=True)
class Other:
    """A value that no tensor needs; only its kind is kept."""

    kind: str


@dataclass(frozen=True, slots=True)
class Tuple:
    """A tuple, and how deep it nests."""

    items: tuple[Value, ...]
    depth: int


@dataclass(eq=False, slots=True)
class Dict:
    """A dict, which takes no more items once it is inside another value: so no value can hold itself."""

    ordered: bool
    items: dict[str, Value] = field(default_factory=dict)
    depth: int = 1
    closed: bool = False


Value = Name | Made | Other | Tuple | Dict | str | int | None  # int: bool, too
Calls = Mapping[tuple[str, str], Callable[[tuple[Value, ...]], Value] | None]

_STEPS: dict[int, tuple[str, str]] = {  # opcode: its name, and how its argument is written
    0x80: ("PROTO", "<B"),
    0x95: ("FRAME", "<Q"),
    ord("."): ("STOP", ""),
    ord("("): ("MARK", ""),
    ord(")"): ("EMPTY_TUPLE", ""),
    ord("t"): ("TUPLE", ""),
    0x85: ("TUPLE1", ""),
    0x86: ("TUPLE2", ""),
    0x87: ("TUPLE3", ""),
    ord("}"): ("EMPTY_DICT", ""),
    ord("s"): ("SETITEM", ""),
    ord("u"): ("SETITEMS", ""),
    ord("]"): ("EMPTY_LIST", ""),
    ord("a"): ("APPEND", ""),
    ord("e"): ("APPENDS", ""),
    ord("N"): ("NONE", ""),
    0x88: ("NEWTRUE", ""),
    0x89: ("NEWFALSE", ""),
    ord("K"): ("BININT1", "<B"),
    ord("M"): ("BININT2", "<H"),
    ord("J"): ("BININT", "<i"),
    0x8A: ("LONG1", "number"),
    ord("G"): ("BINFLOAT", "<d"),
    ord("X"): ("BINUNICODE", "<I text"),
    0x8C: ("SHORT_BINUNICODE", "<B text"),
    ord("c"): ("GLOBAL", "lines"),
    0x93: ("STACK_GLOBAL", ""),
    ord("q"): ("BINPUT", "<B"),
    ord("r"): ("LONG_BINPUT", "<I"),
    0x94: ("MEMOIZE", ""),
    ord("h"): ("BINGET", "<B"),
    ord("j"): ("LONG_BINGET", "<I"),
    ord("Q"): ("BINPERSID", ""),
    ord("R"): ("REDUCE", ""),
    ord("b"): ("BUILD", ""),
}


_NAMES = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}


def said(text: str) -> str:
    """Return a name of the file's as a message shows it: quoted, on one line, not too long."""
    return repr(text if len(text) <= 100 else text[:97] + "...")


def run(data: bytes, calls: Calls, persistent: Callable[[Value], Value]) -> Value:
    """Return the value of a pickle.

    calls: {(module, name): what a call with these arguments comes to}, or None for a name that is not called.
    persistent: what a persistent id comes to. Errors: UserError naming what is refused.
    """
    return _Machine(calls, persistent).run(data)


def _broken(why: str) -> UserError:
    return UserError(f"its pickle is damaged or made by hand ({why}); {ADVICE}")


def kind_of(value: Value) -> str:
    """Return what a value is, without looking into it."""
    if isinstance(value, Other | Made):
        return value.kind
    if isinstance(value, Name):
        return f"the name {said(value.module + '.' + value.name)}"
    if value is None:
        return "None"
    kinds = {Tuple: "a tuple", Dict: "a dict", str: "text", bool: "a truth value"}
    return kinds.get(type(value), "a number")


def _steps(data: bytes) -> Iterator[tuple[str, Value]]:
    """Yield the opcodes up to STOP, which ends the pickle, each with its argument."""
    at = 0
    for done in range(OPCODES):
        if at >= len(data):
            raise _broken("it has no end")
        code = data[at]
        if code not in _STEPS:
            raise UserError(
                f"wants the pickle opcode {_NAMES.get(code, hex(code))}, which no tensor needs; {ADVICE}"
            )
        name, form = _STEPS[code]
        argument, at = _argument(data, at + 1, form) if form else (None, at + 1)
        if (name == "PROTO") != (done == 0) or (name == "PROTO" and argument not in (2, 3, 4, 5)):
            raise _broken("its protocol is not 2 to 5, said once")
        if name == "FRAME" and isinstance(argument, int) and argument > len(data) - at:
            raise _broken("a frame is longer than the file")
        yield name, argument
        if name == "STOP":
            if at != len(data):
                raise _broken("something follows its end")
            return
    raise UserError(f"its pickle has more than {OPCODES} opcodes; {ADVICE}")


def _argument(data: bytes, at: int, form: str) -> tuple[Value, int]:
    """Return the argument at an offset, and the offset after it."""
    if form == "lines":
        lines = []
        for _ in range(2):
            end = data.find(b"\n", at, at + 1_000)
            if end < 0:
                raise _broken("a name without end")
            lines.append(data[at:end].decode("utf-8", "backslashreplace"))
            at = end + 1
        return Name(*lines), at
    head, _, text = form.partition(" ")
    head = "<B" if form == "number" else head
    if at + struct.calcsize(head) > len(data):
        raise _broken("cut short")
    (value,) = struct.unpack_from(head, data, at)
    at += struct.calcsize(head)
    if form == "<d":
        return Other("a number"), at
    if not text and form != "number":
        return value, at
    if value > (TEXT if text else 8):
        raise UserError(f"its pickle holds a {'text' if text else 'number'} of {value} bytes; {ADVICE}")
    if at + value > len(data):
        raise _broken("cut short")
    raw = data[at : at + value]
    if not text:
        return int.from_bytes(raw, "little", signed=True), at + value
    try:
        return raw.decode(), at + value
    except UnicodeDecodeError as error:
        raise _broken("a text that is not UTF-8") from error


class _Machine:
    """The stack, the marks in it and the memo; one method for each group of opcodes."""

    def __init__(self, calls: Calls, persistent: Callable[[Value], Value]) -> None:
        self.calls = calls
        self.persistent = persistent
        self.stack: list[Value] = []
        self.marks: list[int] = []
        self.memo: dict[int, Value] = {}

    def run(self, data: bytes) -> Value:
        """Return the value that the pickle leaves."""
        for name, argument in _steps(data):
            if name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name])
            elif name in _PUSHED:
                self.push(argument)
            elif name in _ACTIONS:
                _ACTIONS[name](self)
            elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
                self.put(len(self.memo) if name == "MEMOIZE" else argument)
            elif name in ("BINGET", "LONG_BINGET"):
                if not isinstance(argument, int) or argument not in self.memo:
                    raise _broken(f"memo {argument} was never set")
                self.stack.append(self.memo[argument])
            if len(self.stack) > STACK:
                raise UserError(f"its pickle stacks more than {STACK} values; {ADVICE}")
        if self.marks or len(self.stack) != 1:
            raise _broken("its end leaves other than one value")
        return self.stack[0]

    def push(self, value: Value) -> None:
        if isinstance(value, Name) and (value.module, value.name) not in self.calls:
            name = said(f"{value.module}.{value.name}")[1:-1]
            raise UserError(f"wants {name}: not a tensor that lmx reads; {ADVICE}")
        self.stack.append(value)

    def pop(self) -> Value:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise _broken("a value is taken that is not there")
        return self.stack.pop()

    def popped(self, count: int) -> list[Value]:
        return [self.pop() for _ in range(count)][::-1]

    def mark(self) -> None:
        if len(self.marks) >= DEPTH:
            raise UserError(f"its pickle nests deeper than {DEPTH}; {ADVICE}")
        self.marks.append(len(self.stack))

    def since_mark(self) -> list[Value]:
        if not self.marks:
            raise _broken("a mark is taken that is not there")
        at = self.marks.pop()
        items = self.stack[at:]
        del self.stack[at:]
        return items

    def put(self, index: Value) -> None:
        if not isinstance(index, int) or index >= MEMO:
            raise UserError(f"its pickle remembers more than {MEMO} values; {ADVICE}")
        value = self.pop()
        self.stack.append(value)
        self.memo[index] = value

    def tuple_of(self, items: list[Value]) -> None:
        self.stack.append(Tuple(tuple(items), _inside(items)))

    def dict_(self) -> None:
        self.stack.append(Dict(ordered=False))

    def list_(self) -> None:
        self.stack.append(Other("a list"))

    def append(self, items: list[Value]) -> None:
        """Drop what a list takes: no tensor needs it."""
        target = self.pop()
        self.stack.append(target)
        if target != Other("a list"):
            raise _broken(f"items for {kind_of(target)}")

    def set_items(self, items: list[Value]) -> None:
        target = self.pop()
        self.stack.append(target)
        if not isinstance(target, Dict) or target.closed or len(items) % 2:
            raise _broken(f"items for {kind_of(target)}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str):
                raise UserError(
                    f"a dict in it has {kind_of(key)} for a key, expected a tensor's name; {ADVICE}"
                )
            if key in target.items:
                raise UserError(f"{said(key)} stands in it twice; {ADVICE}")
            target.depth = max(target.depth, _inside([value]))
            if target.closed:
                raise _broken("a dict that holds itself")
            target.items[key] = value

    def stack_global(self) -> None:
        module, name = self.popped(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise _broken("a name that is no text")
        self.push(Name(module, name))

    def persist(self) -> None:
        self.stack.append(self.persistent(self.pop()))

    def reduce(self) -> None:
        called, arguments = self.popped(2)
        if not isinstance(called, Name) or not isinstance(arguments, Tuple):
            raise UserError(f"wants to call {kind_of(called)} with {kind_of(arguments)}; {ADVICE}")
        rule = self.calls.get((called.module, called.name))
        if rule is None:
            raise UserError(f"wants to call {called.module}.{called.name}: not a function; {ADVICE}")
        self.stack.append(rule(arguments.items))

    def build(self) -> None:
        """Drop `_metadata`, the one attribute that a state dict has."""
        target, state = self.popped(2)
        named = sorted(state.items) if isinstance(state, Dict) else [kind_of(state)]
        if not isinstance(target, Dict) or not target.ordered or target.closed or named != ["_metadata"]:
            what = ", ".join(said(name) for name in named[:3])
            raise UserError(f"wants to set {what or 'nothing'} on {kind_of(target)}: not a tensor; {ADVICE}")
        self.stack.append(target)


def _inside(items: list[Value]) -> int:
    """Return the depth of a value that holds these, and let the dicts among them take no more items."""
    depth = 1
    for item in items:
        if isinstance(item, Dict):
            item.closed = True
        if isinstance(item, Dict | Tuple):
            depth = max(depth, item.depth + 1)
    if depth > DEPTH:
        raise UserError(f"its pickle nests deeper than {DEPTH}; {ADVICE}")
    return depth


_CONSTANTS: dict[str, Value] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_PUSHED = set("BININT1 BININT2 BININT LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE GLOBAL".split())
_ACTIONS: dict[str, Callable[[_Machine], None]] = {
    "MARK": _Machine.mark,
    "EMPTY_TUPLE": lambda machine: machine.tuple_of([]),
    "TUPLE": lambda machine: machine.tuple_of(machine.since_mark()),
    "TUPLE1": lambda machine: machine.tuple_of(machine.popped(1)),
    "TUPLE2": lambda machine: machine.tuple_of(machine.popped(2)),
    "TUPLE3": lambda machine: machine.tuple_of(machine.popped(3)),
    "EMPTY_DICT": _Machine.dict_,
    "SETITEM": lambda machine: machine.set_items(machine.popped(2)),
    "SETITEMS": lambda machine: machine.set_items(machine.since_mark()),
    "EMPTY_LIST": _Machine.list_,
    "APPEND": lambda machine: machine.append(machine.popped(1)),
    "APPENDS": lambda machine: machine.append(machine.since_mark()),
    "STACK_GLOBAL": _Machine.stack_global,
    "BINPERSID": _Machine.persist,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
}
