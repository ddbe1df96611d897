"""What devices send one another in a compiled step, read from its optimised HLO.

Source: Thakur et al. 2005, "Optimization of Collective Communication Operations in MPICH", section 4 (what
each device sends in a ring).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
BITS = {"pred": 8, "token": 0, "opaque": 0}
"""Bits of the types whose names do not end in them."""

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (.*?) ([a-z][\w\-]*)\((.*)$")
_ARRAY = re.compile(r"([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]")
_CALLED = re.compile(r"(?:body|condition|to_apply|calls)=%?([\w.\-]+)")
_SEVERAL = re.compile(r"(?:branch_computations|called_computations|calls)=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\s*\{"n":"?(\d+)')
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_INTEGER = re.compile(r"= s32\[\]\S* constant\((\d+)\)")


@dataclass(frozen=True)
class Message:
    """One collective. count: how often it runs in a step; size: bytes of the whole value; group: devices that
    take part; sent: bytes that each sends, in all its runs."""

    kind: str
    count: int
    size: int
    group: int

    @property
    def sent(self) -> float:
        """Bytes that each device sends, over all runs, in a ring."""
        share = (self.group - 1) / self.group if self.group else 1.0
        factor = {"all-reduce": 2 * share, "collective-permute": 1.0}.get(self.kind, share)
        return self.count * self.size * factor


def found(hlo: str, devices: int) -> list[Message]:
    """Return the collectives of a module's text, those in loops as often as these run.

    devices: how many there are, which a group without a list means. Ones among a single device are left out.
    """
    computations, entry = _read(hlo)
    messages: dict[tuple[str, int, int], int] = {}
    for name, times in _runs(computations, entry).items():
        for line in computations.get(name, ()):
            match = _INSTRUCTION.match(line)
            if match is None:
                continue
            result, operation, rest = match.groups()
            kind = operation.removesuffix("-start")
            if kind not in KINDS:
                continue
            group = _group(rest, devices)
            if group > 1:
                size = _size(kind, result, group, operation != kind)
                # The TPU compiler writes a reduce-scatter as a fusion of that name around an all-reduce.
                key = "reduce-scatter" if name.startswith("all-reduce-scatter") else kind, size, group
                messages[key] = messages.get(key, 0) + times
    return [Message(kind, count, size, group) for (kind, size, group), count in sorted(messages.items())]


def _read(hlo: str) -> tuple[dict[str, list[str]], str]:
    """Return ({computation: its lines}, the name of the entry)."""
    computations: dict[str, list[str]] = {}
    entry = name = ""
    for line in hlo.splitlines():
        match = _COMPUTATION.match(line)
        if match is not None:
            name = match[2]
            computations[name] = []
            entry = name if match[1] else entry
        elif name:
            computations[name].append(line)
    return computations, entry


def _runs(computations: Mapping[str, list[str]], entry: str) -> dict[str, int]:
    """Return how often each computation runs in one run of the entry."""
    runs: dict[str, int] = {}

    def visit(name: str, times: int) -> None:
        runs[name] = runs.get(name, 0) + times
        for line in computations.get(name, ()):
            trips = _trips(line, computations)
            for called in _called(line):
                visit(called, times * trips)

    visit(entry, 1)
    return runs


def _trips(line: str, computations: Mapping[str, list[str]]) -> int:
    """Return how often what an instruction calls runs: a loop's number of rounds, else 1.

    That number is written at the loop, or else it is what the loop's condition compares its counter with: the
    one integer in it.
    """
    written, condition = _TRIPS.search(line), _CONDITION.search(line)
    if written is not None:
        return int(written[1])
    if condition is None:
        return 1
    told = {int(one[1]) for row in computations.get(condition[1], ()) for one in _INTEGER.finditer(row)}
    return told.pop() if len(told) == 1 else 1


def _called(line: str) -> Iterator[str]:
    for match in (*_CALLED.finditer(line), *_SEVERAL.finditer(line)):
        for name in match[1].split(","):
            yield name.strip().lstrip("%")


def _group(rest: str, devices: int) -> int:
    """Return how many devices take part."""
    iota = re.search(r"replica_groups=\[(\d+),(\d+)\]", rest)
    if iota is not None:
        return int(iota[2])
    named = re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", rest)
    if named is not None:
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", named[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", named[2]))
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", rest)
    if listed is not None:
        return len(listed[1].split(","))
    return devices


def _size(kind: str, result: str, group: int, started: bool) -> int:
    """Return the bytes of the whole value, from the type of the result: of a started collective, that is
    (operands, results, ...)."""
    if started and kind in ("all-gather", "collective-permute") and result.startswith("("):
        parts = _top(result)
        result = parts[1] if len(parts) > 1 else result
    size = sum(_bytes(*match.groups()) for match in _ARRAY.finditer(result))
    return size * group if kind == "reduce-scatter" else size


def _top(result: str) -> list[str]:
    """Return the members of a tuple's type."""
    parts, depth, last = [], 0, 1
    for place, sign in enumerate(result):
        depth += (sign in "([{") - (sign in ")]}")
        if (sign == "," and depth == 1) or (sign == ")" and depth == 0):
            parts.append(result[last:place])
            last = place + 1
    return parts


def _bytes(kind: str, shape: str) -> int:
    digits = re.search(r"\d+", kind)
    bits = BITS[kind] if kind in BITS else int(digits[0]) if digits else 0
    return math.prod(int(size) for size in shape.split(",") if size) * bits // 8
