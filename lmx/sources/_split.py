"""The three splits: each from a place of its own, or a share that is cut from what is in train."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from lmx.core.errors import UserError, did_you_mean
from lmx.sources._checks import checked
from lmx.sources._columns import Plan, column_of
from lmx.sources._identity import asked, sha256
from lmx.sources._records import Held

SPLITS = ("train", "validation", "test")

_GROUP = "group of a share"  # no task has a field of this name

_SHARE = re.compile(r"\s*([+-]?\d+(?:\.\d*)?|[+-]?\.\d+)\s*%\s*")


def choose(
    split: str, places: Mapping[str, Any], plan: Plan, group: Any, load: Callable[[str, Any, Plan], Held]
) -> Held:
    """Return the rows of a split, checked.

    places: split -> where it is, None where there is none, and for validation and test possibly a share such
    as "10%" of the rows in train. load: (split, place, plan) -> rows. group: a column; rows equal in it are
    never parted by a share.

    Which side a row is on depends on nothing but what it asks (or its group): on the first 64 bits of the
    SHA-256, as a number from 0 to 1. Below the test share it is test, above 1 less the validation share it is
    validation, so that no question is on two sides, other rows change nothing, and a larger share holds the
    smaller one.

    Errors: UserError for an unknown split, one that has no place, a share that is none, and an empty split.
    """
    if split not in SPLITS:
        raise UserError(f"no split {split!r}{did_you_mean(split, SPLITS)}; there is: {', '.join(SPLITS)}")
    shares = _shares(places)
    if group is not None and not shares:
        raise UserError(
            f"group={group!r}, but neither validation nor test is a share of train; "
            "leave group out, or set such as validation='10%'"
        )
    place = places[split]
    if place is None:
        more = ", or a share of train such as '10%'" if split != "train" else ""
        raise UserError(f"{split} is None: there is no such split; set {split}{more}")
    if split not in shares and (split != "train" or not shares):
        return checked(load(split, place, plan))
    if places["train"] is None:
        raise UserError(f"{split}={place!r} is a share of train, but train is None; set train")
    if group is None:
        held = checked(load("train", places["train"], plan))
        keys = [asked(held[index]) for index in range(len(held))]
    else:
        held = checked(load("train", places["train"], plan.plus(_GROUP, column_of("group", group))))
        keys = [sha256(value) for value in held.values(_GROUP)]
        held = held.without(_GROUP)
    side = _sides(shares)
    chosen = held.only(index for index, key in enumerate(keys) if side(key) == split)
    if not len(chosen):
        cut = ", ".join(f"{name} {places[name]}" for name in shares)
        raise UserError(
            f"{split} is empty: none of the {len(held):,} rows of train falls into it ({cut}); "
            "take another share, or files of its own"
        )
    return chosen


def _sides(shares: Mapping[str, Fraction]) -> Callable[[bytes], str]:
    """Return what tells a key's split."""
    nothing = Fraction(0)
    test = math.ceil(shares.get("test", nothing) * (1 << 64))
    validation = math.ceil((1 - shares.get("validation", nothing)) * (1 << 64))

    def side(key: bytes) -> str:
        number = int.from_bytes(key[:8], "big")
        return "test" if number < test else "validation" if number >= validation else "train"

    return side


def _shares(places: Mapping[str, Any]) -> dict[str, Fraction]:
    """Return the splits that are a share of train, each more than 0 and together less than 1."""
    found = {}
    for split, place in places.items():
        match = _SHARE.fullmatch(place) if isinstance(place, str) else None
        if isinstance(place, int | float):
            raise UserError(f"{split}={place!r}; expected a place, or a share of train such as '10%'")
        if match:
            if split == "train":
                raise UserError(f"train={place!r}; only validation and test can be a share, namely of train")
            found[split] = Fraction(match[1]) / 100
            if not 0 < found[split] < 1:
                raise UserError(f"{split}={place!r}; expected more than 0% and less than 100% of train")
    if sum(found.values()) >= 1:
        cut = " and ".join(f"{split} {places[split]}" for split in found)
        raise UserError(f"{cut} leave nothing to train on; expected less than 100% together")
    return found
