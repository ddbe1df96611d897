"""The container of `pytorch_model.bin`: a zip archive whose members are stored as they are, read strictly.

Source: APPNOTE.TXT 6.3.10 (PKWARE), sections 4.3.6 to 4.5.3. Of these, torch.save uses: no compression, data
descriptors, and the zip64 records in every file.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lmx.core.errors import UserError

MEMBERS = 100_000
DIRECTORY = 64 * 2**20  # bytes of the central directory
NAME = 1_000  # bytes of a member's name
ADVICE = "refused; re-save the model as safetensors with a torch you trust"
DAMAGED = "damaged, or not written by torch.save; fetch it again, or re-save the model as safetensors"

_CHUNK = 16 * 2**20
_FULL, _WIDE = 0xFFFF, 0xFFFFFFFF  # "see the zip64 record"
_DESCRIBED, _UTF8 = 1 << 3, 1 << 11  # flags: sizes follow the data; names are UTF-8
_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_LOCAL = struct.Struct("<4s5H3I2H")

_OTHERS = (
    (0, b"\x80", "a bare pickle (torch.save before torch 1.6)"),
    (257, b"ustar", "a tar archive"),
    (0, b"\x93NUMPY", "a numpy array"),
    (0, b"version https://git-lfs", "a Git LFS pointer in the place of the file (git lfs pull fetches it)"),
    (8, b"{", "a safetensors file under another name"),
)


@dataclass(frozen=True)
class Member:
    """One file of the archive. offset, size: where its bytes lie, in bytes. crc: their CRC-32 as stored."""

    name: str
    offset: int
    size: int
    crc: int


@dataclass(frozen=True)
class _Entry:
    """One record of the central directory. at: offset of the local header."""

    name: bytes
    flags: int
    crc: int
    size: int
    at: int


def members(descriptor: int) -> dict[str, Member]:
    """Return what the archive holds, by name. Errors: UserError saying what is wrong with it.

    Refused: other containers, compression, encryption, comments, several disks, duplicate names, entries that
    overlap or leave the file, local headers that disagree with the directory, more members than MEMBERS.
    """
    size = os.fstat(descriptor).st_size
    _check_kind(os.pread(descriptor, 512, 0))
    start, length, count = _directory(descriptor, size)
    entries = sorted(_entries(_bytes(descriptor, length, start), count), key=lambda entry: entry.at)
    found: dict[str, Member] = {}
    free = 0  # first byte that no entry has claimed
    for entry in entries:
        name = _name(entry.name)
        if entry.at < free:
            raise UserError(f"zip member {name!r} overlaps another one; {ADVICE}")
        offset, free = _local(descriptor, entry, start)
        if name in found:
            raise UserError(f"zip member {name!r} stands in it twice; {ADVICE}")
        found[name] = Member(name, offset, entry.size, entry.crc)
    return found


def read(descriptor: int, member: Member, start: int = 0, count: int | None = None) -> np.ndarray:
    """Return `count` bytes of a member from `start` on (all by default) as uint8 in memory of its own."""
    count = member.size - start if count is None else count
    assert 0 <= start <= start + count <= member.size, (member, start, count)
    data = np.empty(count, np.uint8)
    view, done = data.data, 0
    while done < count:
        got = os.preadv(descriptor, [view[done : done + _CHUNK]], member.offset + start + done)
        if got == 0:
            raise UserError(f"zip member {member.name!r} ends too soon; {DAMAGED}")
        done += got
    return data


def check(member: Member, data: np.ndarray) -> None:
    """Compare the whole of a member's bytes with its CRC-32. Errors: UserError where they differ."""
    _compare(member, zlib.crc32(data.data))


def check_on_disk(descriptor: int, member: Member) -> None:
    """Do as `check` does, a piece at a time, for a member of which a part alone is wanted."""
    found = 0
    for start in range(0, member.size, _CHUNK):
        found = zlib.crc32(read(descriptor, member, start, min(_CHUNK, member.size - start)).data, found)
    _compare(member, found)


def _compare(member: Member, found: int) -> None:
    if found == member.crc:
        return
    hint = " (perhaps saved with torch's crc32 turned off)" if member.crc == 0 else ""
    raise UserError(
        f"zip member {member.name!r} has CRC-32 {found:#010x}, expected {member.crc:#010x}{hint}; {DAMAGED}"
    )


def _bytes(descriptor: int, count: int, at: int) -> bytes:
    """Return bytes of the file, all of them. Only for counts that have been bounded."""
    data = os.pread(descriptor, count, at) if at >= 0 else b""
    if len(data) != count:
        raise UserError(f"ends too soon: expected {count} bytes at {at}; {DAMAGED}")
    return data


def _check_kind(head: bytes) -> None:
    """Refuse by name what is no zip archive at its first byte."""
    if head.startswith(b"PK\x03\x04"):
        return
    for at, magic, kind in _OTHERS:
        if head[at:].startswith(magic):
            raise UserError(f"{kind}, expected the zip archive of torch.save; {ADVICE}")
    raise UserError(f"{'no' if head else 'empty; expected a'} zip archive of torch.save; {DAMAGED}")


def _directory(descriptor: int, size: int) -> tuple[int, int, int]:
    """Return offset, length and number of entries of the central directory.

    The end record is the file's last 22 bytes, so that no comment can hide another one.
    """
    end = size - _END.size
    magic, disk, first, here, count, length, start, comment = _END.unpack(_bytes(descriptor, _END.size, end))
    if magic != b"PK\x05\x06" or comment:
        raise UserError(f"no zip end record in its last bytes (a comment, or cut short); {DAMAGED}")
    if end >= _LOCATOR.size:
        magic, where, at, disks = _LOCATOR.unpack(_bytes(descriptor, _LOCATOR.size, end - _LOCATOR.size))
        if magic == b"PK\x06\x07":
            end -= _LOCATOR.size + _END64.size
            if at != end or where or disks > 1:
                raise UserError(f"the zip64 record is not where it should be; {DAMAGED}")
            short = (disk, first, here, count, length, start)
            wide = _END64.unpack(_bytes(descriptor, _END64.size, end))
            magic, rest, _, _, disk, first, here, count, length, start = wide
            full = (_FULL, _FULL, _FULL, _FULL, _WIDE, _WIDE)
            agree = zip(short, wide[4:], full, strict=True)
            if (
                magic != b"PK\x06\x06"
                or rest != _END64.size - 12
                or any(a not in (b, c) for a, b, c in agree)
            ):
                raise UserError(f"the zip64 record and the end record disagree; {DAMAGED}")
    if disk or first or here != count:
        raise UserError(f"a zip archive in several parts; {ADVICE}")
    if not 0 < count <= MEMBERS:
        raise UserError(f"announces {count} zip members, expected 1 to {MEMBERS}; {ADVICE}")
    if start + length != end or length > DIRECTORY:
        raise UserError(f"a zip directory of {length} bytes at {start} cannot end at {end}; {DAMAGED}")
    return start, length, count


def _entries(data: bytes, count: int) -> Iterator[_Entry]:
    """Yield the records of the central directory, which are `count` and nothing else."""
    at = 0
    for _ in range(count):
        if at + _CENTRAL.size > len(data):
            raise UserError(f"the zip directory holds fewer than the {count} members announced; {DAMAGED}")
        fields = _CENTRAL.unpack_from(data, at)
        magic, _, _, flags, method, _, _, crc, packed, size, named, extra, comment, disk, _, _, local = fields
        at += _CENTRAL.size
        name, more = data[at : at + named], data[at + named : at + named + extra]
        at += named + extra + comment
        if magic != b"PK\x01\x02" or at > len(data) or not 0 < named <= NAME or comment:
            raise UserError(f"the zip directory is not well formed at byte {at}; {DAMAGED}")
        said = _said(name)
        if method or flags & ~(_DESCRIBED | _UTF8):
            raise UserError(
                f"zip member {said} is compressed or encrypted (method {method}, flags {flags:#x}); {ADVICE}"
            )
        size, packed, local = _widen(more, said, size, packed, local)
        if disk or size != packed:
            raise UserError(f"zip member {said} has {packed} bytes stored for {size}; {ADVICE}")
        yield _Entry(name, flags, crc, size, local)
    if at != len(data):
        raise UserError(f"the zip directory holds more than the {count} members announced; {DAMAGED}")


def _local(descriptor: int, entry: _Entry, limit: int) -> tuple[int, int]:
    """Return where an entry's bytes begin, and the first byte after all that belongs to it.

    limit: offset of the central directory, before which all of it has to end.
    """
    said = _said(entry.name)
    if entry.at + _LOCAL.size + len(entry.name) + entry.size > limit:
        raise UserError(f"zip member {said} does not lie within the file; {DAMAGED}")
    head = _bytes(descriptor, _LOCAL.size, entry.at)
    magic, _, flags, method, _, _, crc, packed, size, named, extra = _LOCAL.unpack(head)
    rest = _bytes(descriptor, named + extra, entry.at + _LOCAL.size)
    if magic != b"PK\x03\x04" or rest[:named] != entry.name or (flags, method) != (entry.flags, 0):
        raise UserError(f"zip member {said} and its local header disagree; {DAMAGED}")
    size, packed = _widen(rest[named:], said, size, packed)
    later = bool(flags & _DESCRIBED)
    if (crc, size, packed) != (entry.crc, entry.size, entry.size) and not (
        later and crc == size == packed == 0
    ):
        raise UserError(f"zip member {said} and its local header disagree on the size; {DAMAGED}")
    offset = entry.at + _LOCAL.size + named + extra
    end = offset + entry.size
    if later:
        data = os.pread(descriptor, 24, end)
        forms = [struct.pack("<4sIQQ", b"PK\x07\x08", entry.crc, entry.size, entry.size)]
        if entry.size < _WIDE:
            forms.append(struct.pack("<4sIII", b"PK\x07\x08", entry.crc, entry.size, entry.size))
        found = [form for form in forms if data.startswith(form)]
        if not found:
            raise UserError(f"zip member {said} and the descriptor after it disagree; {DAMAGED}")
        end += len(found[0])
    if end > limit:
        raise UserError(f"zip member {said} does not lie within the file; {DAMAGED}")
    return offset, end


def _widen(extra: bytes, said: str, *fields: int) -> list[int]:
    """Return sizes and offsets, those of the value _WIDE taken from the zip64 part of the extra field."""
    if _WIDE not in fields:
        return list(fields)
    part, at = None, 0
    while part is None and at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        part = extra[at + 4 : at + 4 + length] if kind == 1 else None
        at += 4 + length
    wanted = sum(field == _WIDE for field in fields)
    if part is None or len(part) < 8 * wanted:
        raise UserError(f"zip member {said} announces a zip64 size that is not there; {DAMAGED}")
    wide = iter(struct.unpack_from(f"<{wanted}Q", part))
    return [next(wide) if field == _WIDE else field for field in fields]


def _name(raw: bytes) -> str:
    """Return a member's name: relative, with plain parts, beneath one folder."""
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        name = ""
    parts = name.removesuffix("/").split("/")
    if not name.isprintable() or "\\" in name or any(part in ("", ".", "..") for part in parts):
        raise UserError(f"zip member {_said(raw)} is no plain name; {ADVICE}")
    return name


def _said(raw: bytes) -> str:
    """Return a member's name as a message shows it."""
    return repr(raw[:100].decode(errors="backslashreplace"))
