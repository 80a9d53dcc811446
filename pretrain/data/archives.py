"""Images inside zip and tar archives, read in place: nothing is unpacked.

The index (names, offsets, sizes) is made when the archive is opened, a few numbers an image; an image is one read at its offset
(`os.pread`, so that processes and threads share no position). The listing has the order that the unpacked folder would have.

Members that are links, devices or encrypted, whose names are absolute or climb out of the archive (..), or begin with a dot are
never read; how many there were is a note. Of members of one name the last counts, as it does in unpacking. tar: uncompressed;
zip: stored or deflated.
"""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
import zlib
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np

from pretrain.base.errors import DataError
from pretrain.base.image_files import MAX_PIXELS, SUFFIXES
from pretrain.data.containers import Container, Handle, LocalFile, Part
from pretrain.data.index import LostSourceError, Names, Source

MAX_OPEN = 64  # archives that a process keeps open
MAX_BYTES = 10 * MAX_PIXELS  # of a member: uncompressed, four channels of 16 bits take 8 a pixel
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_BLOCK = 512
_PIECE = 1 << 20  # bytes that are looked at in one go
_ZIP_HEADER, _ZIP_MAGIC = 30, b"PK\x03\x04"  # of a member; its name and extra field follow
_STORED, _DEFLATED = 0, 8
_MAX_RATIO = 1032  # of what deflate can compress
_ENCRYPTED = 0x1


class CutOffError(DataError):
    """An archive whose end is missing: the whole one can perhaps be had."""


def is_image_name(name: str) -> bool:
    """Whether a file of this name is listed: by suffix (any case), not hidden (`._x.jpg` of macOS archives holds no image)."""
    return not name.startswith(".") and f".{name.rpartition('.')[2].lower()}" in SUFFIXES


@dataclass(frozen=True)
class Members:
    """The images of one archive, in its order.

    offsets: of the bytes in a tar, of the member's header in a zip.
    sizes: of the image.
    packed, deflated, crcs: of a zip: the size in the archive, whether it is compressed, the checksum; None in a tar.
    ignored: reason -> how many members are not read.
    """

    names: Names
    offsets: np.ndarray
    sizes: np.ndarray
    packed: np.ndarray | None = None
    deflated: np.ndarray | None = None
    crcs: np.ndarray | None = None
    ignored: tuple[tuple[str, int], ...] = ()


class ArchiveSource(Source):
    """Images in one archive or in many shards, one after the other.

    containers: the archives; `ends` (C + 1,) says which positions each holds. members: of all of them together.
    """

    def __init__(
        self, root: Path | str, containers: Sequence[Container], ends: np.ndarray, members: Members, *, sharded: bool
    ) -> None:
        self.root = root
        self.containers = tuple(containers)
        self.ends = ends
        self.members = members
        self.names = members.names
        self.shard_ends = ends if sharded else None
        self.notes = tuple(f"{root}: {count} members are not read: {reason}" for reason, count in members.ignored)
        self._files: OrderedDict[int, Handle] = OrderedDict()
        self._process = os.getpid()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_files": OrderedDict()}

    def where(self, index: int) -> str:
        """ARCHIVE/MEMBER; the names of shards begin with the shard's."""
        if self.shard_ends is None:
            return super().where(index)
        return f"{self.containers[self.container_of(index)].name}/{self.name(index).partition('/')[2]}"

    def container_of(self, index: int) -> int:
        """Which of `containers` holds the image."""
        return int(np.searchsorted(self.ends, index, side="right")) - 1

    def read(self, index: int) -> bytes:
        """See `Source`. Raises LostSourceError where the archive is gone or no longer the one that was listed."""
        file = self._file(self.container_of(index))
        offset, size = int(self.members.offsets[index]), self._size(index)
        if self.members.packed is None:
            return self._bytes(file, index, offset, size)
        offset, packed = self._zip_place(file, index, offset)
        data = self._bytes(file, index, offset, packed)
        assert self.members.crcs is not None and self.members.deflated is not None
        if self.members.deflated[index]:
            data = self._inflated(data, index, size)
        if zlib.crc32(data) != int(self.members.crcs[index]):
            raise DataError(f"{self.where(index)}: damaged in the archive (its checksum differs)")
        return data

    def open(self, index: int) -> BinaryIO:
        """See `Source`. Of a tar only what is asked for is read."""
        if self.members.packed is not None:
            return io.BytesIO(self.read(index))
        file = self._file(self.container_of(index))
        part = Part(file, int(self.members.offsets[index]), self._size(index))
        return io.BufferedReader(part, buffer_size=4096)

    def _size(self, index: int) -> int:
        """In bytes. Raises DataError for a member that would fill the memory, whatever is in it."""
        size = int(self.members.sizes[index])
        if size > MAX_BYTES:
            raise DataError(f"{self.where(index)}: {size:,} bytes; an image has at most {MAX_BYTES:,}")
        return size

    def _zip_place(self, file: Handle, index: int, offset: int) -> tuple[int, int]:
        header = self._bytes(file, index, offset, _ZIP_HEADER)
        if not header.startswith(_ZIP_MAGIC):
            raise DataError(f"{self.where(index)}: damaged in the archive (no member begins at byte {offset})")
        variable = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        assert self.members.packed is not None
        return offset + _ZIP_HEADER + variable, int(self.members.packed[index])

    def _inflated(self, data: bytes, index: int, size: int) -> bytes:
        """At most the size that the directory names, so that a small member cannot fill the memory."""
        try:
            inflater = zlib.decompressobj(-zlib.MAX_WBITS)
            found = inflater.decompress(data, size + 1)
        except zlib.error as error:
            raise DataError(f"{self.where(index)}: damaged in the archive ({error})") from error
        if len(found) != size:
            raise DataError(f"{self.where(index)}: damaged in the archive (its size differs)")
        return found

    def _bytes(self, file: Handle, index: int, offset: int, size: int) -> bytes:
        try:
            data = os.pread(file.fileno(), size, offset)
        except OSError as error:
            raise LostSourceError(f"{self.where(index)}: cannot be read ({error.strerror})") from error
        if len(data) != size:
            raise LostSourceError(
                f"{self.where(index)}: the archive ends before it ({len(data)} of {size} bytes); it is not the file that was "
                "listed, or was cut off: restore it"
            )
        return data

    def _file(self, container: int) -> Handle:
        """Open, in this process. Files are dropped, not closed: a thread may be reading; the last reference closes them."""
        if self._process != os.getpid():  # a fork: its own files
            self._files, self._process = OrderedDict(), os.getpid()
        file = self._files.get(container)
        if file is not None:
            self.containers[container].require_unchanged(file.fileno())
        else:
            file = self._files[container] = Handle(self.containers[container].open())
            if len(self._files) > MAX_OPEN:
                self._files.popitem(last=False)
        return file

    def stats(self) -> tuple[np.ndarray, np.ndarray]:
        """The time is the archive's own."""
        times = np.array([container.stamp()[1] for container in self.containers], dtype=np.int64)
        return self.members.sizes.astype(np.int64), np.repeat(times, np.diff(self.ends))

    def take(self, positions: np.ndarray) -> ArchiveSource:
        """See `Source`."""
        found = self.members
        columns: dict[str, Any] = {
            field: None if (column := getattr(found, field)) is None else column[positions]
            for field in ("offsets", "sizes", "packed", "deflated", "crcs")
        }
        members = replace(found, names=found.names.take(positions), **columns)
        less = ArchiveSource(
            self.root,
            self.containers,
            np.searchsorted(positions, self.ends),
            members,
            sharded=self.shard_ends is not None,
        )
        less.scanned = self.scanned
        return less


def open_tar(path: Path) -> ArchiveSource:
    """Raises DataError for what is no uncompressed tar, is damaged, or holds no image."""
    archive = LocalFile.of(path)
    with archive.open() as file:
        members = tar_members(file, str(path))
    return _one_archive(archive, members)


def open_zip(path: Path) -> ArchiveSource:
    """Raises DataError for what is no zip, is damaged, holds encrypted images or an unknown compression, or no image."""
    archive = LocalFile.of(path)
    with archive.open() as file:
        members = _zip_members(file, path)
    return _one_archive(archive, members)


def _one_archive(archive: LocalFile, members: Members) -> ArchiveSource:
    path = archive.path
    if not len(members.names):
        raise DataError(f"{path}: {nothing_in(members)}")
    listed = list(members.names)
    order = np.array(sorted(range(len(listed)), key=listed.__getitem__))
    del listed
    unsorted = ArchiveSource(path, (archive,), np.array([0, len(order)]), members, sharded=False)
    return unsorted.take(order) if (np.diff(order) != 1).any() else unsorted


def nothing_in(members: Members) -> str:
    """Of archives without an image."""
    ignored = "".join(f"; {count} members are not read: {reason}" for reason, count in members.ignored)
    return f"no image in this archive; looked for {' '.join(sorted(SUFFIXES))}{ignored}"


class _Collected:
    """Members as they come, the last of each name."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[int, ...]] = {}
        self.ignored: Counter[str] = Counter()

    def wanted(self, name: str) -> str | None:
        """The name of an image to be listed, None for other files and, counted, for names that leave the archive."""
        path = PurePosixPath(name)
        if not is_image_name(path.name) or any(part[0] == "." and part not in (".", "..") for part in path.parts):
            return None
        if path.is_absolute() or ".." in path.parts:
            self.ignored["their names lead out of the archive"] += 1
            return None
        return path.as_posix()

    def add(self, name: str, *row: int) -> None:
        """Offset and sizes."""
        if name in self.rows:
            self.ignored["a later one has the same name"] += 1
            del self.rows[name]
        self.rows[name] = row

    def columns(self, count: int) -> Iterable[np.ndarray]:
        """Of the rows, unsigned 64 bits."""
        table = np.array(list(self.rows.values()), dtype=np.uint64).reshape(-1, count)
        return [table[:, column].copy() for column in range(count)]


def tar_members(file: BinaryIO, name: str) -> Members:
    """The images of an open uncompressed tar, by its headers alone. Raises DataError where it is none or is damaged."""
    head = file.read(8)
    for magic, kind in COMPRESSED.items():
        if head.startswith(magic):
            raise DataError(
                f"{name}: a tar compressed with {kind} cannot be read at any place of it; decompress it once"
            )
    length = file.seek(0, io.SEEK_END)
    file.seek(0)
    found = _Collected()
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # or they add up to a kilobyte a member
                if archive.offset > length:
                    raise CutOffError(f"{name}: cut off in {member.name}; fetch or write it again")
                kept = found.wanted(member.name)
                if kept is None or member.isdir():
                    continue
                if not member.isreg() or member.issparse():
                    found.ignored["they are links, devices or sparse files"] += 1
                else:
                    found.add(kept, member.offset_data, member.size)
            end = archive.offset
    except (tarfile.TarError, ValueError, EOFError, OverflowError) as error:
        reason = f"{name}: not a tar archive, or a damaged one ({error})"
        raise (CutOffError if file.tell() >= length else DataError)(reason) from error
    _require_end(file, end, name)
    offsets, sizes = found.columns(2)
    return Members(Names(found.rows), offsets, sizes, ignored=tuple(sorted(found.ignored.items())))


def _require_end(file: BinaryIO, end: int, name: str) -> None:
    """Raises DataError unless the mark of a tar's end stands at `end`, two blocks of zeros, and only zeros follow.

    tarfile takes the end of the file, a damaged header and any block of zeros for the end as well. All programs write the mark;
    how many zeros follow depends on the program.
    """
    file.seek(end)
    first = file.read(_BLOCK)
    if len(first) == _BLOCK and first.strip(b"\0"):
        raise DataError(
            f"{name}: a damaged header at byte {end}; what follows it would be lost: write the archive again"
        )
    position = end + len(first)
    while piece := file.read(_PIECE):
        if rest := piece.lstrip(b"\0"):
            raise DataError(
                f"{name}: the archive ends at byte {end:,}, and more than zeros follows at byte "
                f"{position + len(piece) - len(rest):,}, which would be lost; tars joined by cat are joined by tar "
                "--concatenate instead, one with a gap is fetched or written again"
            )
        position += len(piece)
    if position < end + 2 * _BLOCK:
        raise CutOffError(
            f"{name}: expected {2 * _BLOCK:,} zero bytes at the end of the archive, found the end of the file at byte "
            f"{position:,}: cut off, or not yet written to its end; fetch or write it again"
        )


def _zip_members(file: BinaryIO, path: Path) -> Members:
    found = _Collected()
    try:
        with zipfile.ZipFile(file) as archive:
            length = file.seek(0, io.SEEK_END)
            for member in archive.infolist():
                # Some programs on Windows write backslashes, which no name in a zip may hold.
                kept = None if member.is_dir() else found.wanted(member.filename.replace("\\", "/"))
                if kept is None:
                    continue
                if stat.S_ISLNK(member.external_attr >> 16):
                    found.ignored["they are links, devices or sparse files"] += 1
                    continue
                if member.flag_bits & _ENCRYPTED:
                    raise DataError(f"{path}: {kept} is encrypted; write the archive again without a password")
                if member.compress_type not in (_STORED, _DEFLATED):
                    raise DataError(
                        f"{path}: {kept} is compressed by method {member.compress_type}; write the archive stored or deflated"
                    )
                inside = 0 <= member.header_offset <= length - member.compress_size
                most = member.compress_size * (1 if member.compress_type == _STORED else _MAX_RATIO)
                if not inside or member.file_size > most:
                    raise DataError(
                        f"{path}: {kept} has a place or size that cannot be; the archive is damaged or cut off"
                    )
                found.add(
                    kept,
                    member.header_offset,
                    member.file_size,
                    member.compress_size,
                    member.CRC,
                    int(member.compress_type == _DEFLATED),
                )
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a zip archive, or a damaged one ({error})") from error
    offsets, sizes, packed, crcs, deflated = found.columns(5)
    return Members(
        Names(found.rows),
        offsets,
        sizes,
        packed,
        deflated.astype(bool),
        crcs.astype(np.uint32),
        tuple(sorted(found.ignored.items())),
    )
