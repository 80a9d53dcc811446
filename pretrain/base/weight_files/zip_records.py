"""The zip around a torch file, read strictly: every byte of the file belongs to exactly one record or to the index.

In: an open file. Out: `Records` (name -> where its bytes lie and their checksum), or a ZipError. Stricter than a zip needs to
be, since torch writes only one kind: nothing before, between or after the records, nothing compressed, no name twice, the
two headers of a record agree. So a file that is two things at once, or that unpacks to more than it is, is refused.
Source: APPNOTE 6.3.10 sections 4.3.7, 4.3.12, 4.3.14 to 4.3.16, 4.5.3.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

END, END_64, LOCATOR_64 = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
CENTRAL, LOCAL, DESCRIPTOR = b"PK\x01\x02", b"PK\x03\x04", b"PK\x07\x08"
MAX_INDEX = 16 << 20  # some 200 thousand records
FULL_16, FULL_32 = 0xFFFF, 0xFFFFFFFF
CENTRAL_CHECKSUM = 16  # where in an entry of the index
HAS_DESCRIPTOR, UTF_8 = 1 << 3, 1 << 11
CHUNK = 1 << 20


class ZipError(Exception):
    """What is wrong with the zip."""


@dataclass(frozen=True)
class Record:
    """Where the bytes of one member lie in the file. stated_at: where the index states their checksum (4 bytes)."""

    name: str
    offset: int
    size: int
    checksum: int
    stated_at: int


Records = dict[str, Record]


def read_records(file: BinaryIO) -> Records:
    """The records of a torch zip. Raises ZipError for every departure from what torch writes."""
    size = file.seek(0, 2)
    index_at, index_size, count = _find_index(file, size)
    index = _read(file, index_at, index_size)
    records: Records = {}
    at, expected = 0, 0
    for _ in range(count):
        stated_at = index_at + at + CENTRAL_CHECKSUM
        name, flags, start, checksum, length, at = _central_entry(index, at)
        if name in records:
            raise ZipError(f"the name {name:.60} stands in it twice")
        if start != expected:
            raise ZipError(f"{abs(start - expected)} bytes before {name:.60} belong to nothing, or to two records")
        offset = _check_local(file, start, name, flags, checksum, length)
        records[name] = Record(name, offset, length, checksum, stated_at)
        expected = offset + length + _descriptor_size(file, offset + length, flags, checksum, length)
    if at != index_size or expected != index_at:
        raise ZipError("its index and its records do not meet; it was damaged, or holds a second file")
    return records


def _read(file: BinaryIO, at: int, size: int) -> bytes:
    file.seek(at)
    data = file.read(size)
    if at < 0 or len(data) != size:
        raise ZipError("it is cut short")
    return data


def _find_index(file: BinaryIO, size: int) -> tuple[int, int, int]:
    """(where the index begins, its bytes, number of entries), from the last bytes of the file."""
    if size < 22:
        raise ZipError("it is cut short")
    end_at = size - 22
    signature, disk, first_disk, here, count, index_size, index_at, comment = struct.unpack(
        "<4s4H2LH", _read(file, end_at, 22)
    )
    if signature != END or comment or disk or first_disk:
        raise ZipError("it does not end with the end of a zip: cut short, or followed by something else")
    limit_at = end_at
    if end_at >= 20 + 56 and (locator := _read(file, end_at - 20, 20)).startswith(LOCATOR_64):
        _, disk, limit_at, disks = struct.unpack("<4sLQL", locator)
        if limit_at != end_at - 20 - 56 or disks != 1:
            raise ZipError("its two ends do not agree")
        long = struct.unpack("<4sQ2H2L4Q", _read(file, limit_at, 56))
        short = (here, count, index_size, index_at)
        if long[0] != END_64 or long[1] != 44:
            raise ZipError("its two ends do not agree")
        for narrow, wide, full in zip(short, long[6:], (FULL_16, FULL_16, FULL_32, FULL_32), strict=True):
            if narrow not in (wide, full):
                raise ZipError("its two ends do not agree")
        disk, first_disk, here, count, index_size, index_at = long[4:]
    if disk or first_disk or here != count or index_at + index_size != limit_at or index_size > MAX_INDEX:
        raise ZipError("its index is not where it says, or larger than that of any weights")
    if count * 46 > index_size:
        raise ZipError("its index is shorter than its entries")
    return index_at, index_size, count


def _central_entry(index: bytes, at: int) -> tuple[str, int, int, int, int, int]:
    """(name, flags, where the record begins, checksum, bytes, where the next entry begins)."""
    if len(index) < at + 46:
        raise ZipError("its index is cut short")
    (
        signature, _, _, flags, method, _, _, checksum, packed, length, name_size, extra_size, comment_size, disk, _, _, start,
    ) = struct.unpack("<4s6H3L5H2L", index[at : at + 46])  # fmt: skip
    end = at + 46 + name_size + extra_size + comment_size
    if signature != CENTRAL or end > len(index) or comment_size or disk:
        raise ZipError("its index is damaged")
    raw = index[at + 46 : at + 46 + name_size]
    wide = _wide_fields(index[at + 46 + name_size : end], (length, packed, start))
    length, packed, start = wide
    name = _safe_name(raw)
    if method != 0 or length != packed:
        raise ZipError(
            f"{name:.60} is compressed: a bomb, a TorchScript program, or weights to be saved with torch.save again"
        )
    if flags & ~(HAS_DESCRIPTOR | UTF_8):
        raise ZipError(f"{name:.60} is encrypted, or stored in an unknown way")
    return name, flags, start, checksum, length, end


def _wide_fields(extra: bytes, narrow: Iterable[int]) -> list[int]:
    """The three sizes, each from the zip64 field where the narrow one says so."""
    wide = b""
    while len(extra) >= 4:
        kind, size = struct.unpack("<HH", extra[:4])
        if kind == 1:
            wide = extra[4 : 4 + size]
        extra = extra[4 + size :]
    values = []
    for value in narrow:
        if value == FULL_32 and len(wide) >= 8:
            value, wide = int.from_bytes(wide[:8], "little"), wide[8:]
        values.append(value)
    return values


def _safe_name(raw: bytes) -> str:
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise ZipError("the name of a record is damaged") from None
    if name in ("", ".") or name.startswith("/") or ".." in name.split("/") or "\\" in name or not name.isprintable():
        raise ZipError(f"the name {name!r:.60} leads out of the file")
    return name


def _check_local(file: BinaryIO, start: int, name: str, flags: int, checksum: int, length: int) -> int:
    """Hold the header before the bytes against the index. Returns where the bytes begin."""
    signature, _, local_flags, method, _, _, crc, packed, size, name_size, extra_size = struct.unpack(
        "<4s5H3L2H", _read(file, start, 30)
    )
    tail = _read(file, start + 30, name_size + extra_size)
    told = _wide_fields(tail[name_size:], (size, packed))
    same = told == [length, length] and crc == checksum
    later = bool(flags & HAS_DESCRIPTOR) and told == [0, 0] and crc == 0
    if (
        signature != LOCAL
        or local_flags != flags
        or method != 0
        or tail[:name_size] != name.encode("utf-8")
        or not (same or later)
    ):
        raise ZipError(f"the two headers of {name:.60} do not agree")
    return start + 30 + name_size + extra_size


def _descriptor_size(file: BinaryIO, at: int, flags: int, checksum: int, length: int) -> int:
    """Bytes of the descriptor behind a record, which says its checksum and size again."""
    if not flags & HAS_DESCRIPTOR:
        return 0
    for layout in ("<4sLQQ", "<4sLLL"):
        size = struct.calcsize(layout)
        file.seek(at)
        data = file.read(size)
        if len(data) == size and struct.unpack(layout, data) == (DESCRIPTOR, checksum, length, length):
            return size
    return 0


def check_checksums(file: BinaryIO, records: Records) -> None:
    """Read every record once and hold it against its checksum (torch does not). Raises ZipError naming the damaged one."""
    for record in records.values():
        for _ in checked_chunks(file, record):
            pass


def checked_chunks(file: BinaryIO, record: Record) -> Iterator[memoryview]:
    """The bytes of a record, a MiB at a time in one buffer. Raises ZipError behind the last where the checksum does not match.

    Plain reads, not the memory map: pages that nobody uses afterwards do not stay in this process.
    """
    buffer = memoryview(bytearray(min(CHUNK, record.size)))
    file.seek(record.offset)
    left, checksum = record.size, 0
    while left:
        count = file.readinto(buffer[: min(left, CHUNK)])  # type: ignore[attr-defined]
        if not count:
            raise ZipError("it is cut short")
        checksum = zlib.crc32(buffer[:count], checksum)
        left -= count
        yield buffer[:count]
    if checksum != record.checksum:
        raise ZipError(
            f"it is damaged: the checksum of {record.name:.60} does not match its bytes (so it is, too, in a sound file that "
            "was saved after torch.serialization.set_crc32_options(False): save that one again without)"
        )
