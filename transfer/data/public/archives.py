"""The members of a tar or zip one after the other, none of them dangerous, never more than was announced.

In: an archive (also one inside another) and limits. Out: names and open files, or a DataError that names the member. Nothing is
written here. Refused, with the whole archive: absolute names, "..", backslashes and control characters in names, links, devices,
encrypted members, sizes and counts above the limits, and checksums (zip) or lengths that differ from what the archive says.
Python's own tar filters are not enough: their bypasses (CVE-2025-4517, CVE-2025-4330) are open in the Pythons people have.
"""

from __future__ import annotations

import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from lzma import LZMAError
from pathlib import Path
from typing import BinaryIO, cast

from pretrain.base.errors import DataError

BLOCK = 1 << 20  # bytes that are read and written at a time
LONGEST_PART = 255  # bytes of one name between slashes, on the file systems of today
_NOT_IN_NAMES = re.compile(r"[\x00-\x1f\x7f\\]|^[A-Za-z]:")
_ENCRYPTED = 0x1
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, LZMAError, EOFError, ValueError, NotImplementedError)


class Allowance:
    """What may still come out of the archives of one folder, nested ones included.

    files: members. size: bytes, by what the archives announce and by what is read.
    """

    def __init__(self, *, files: int, size: int) -> None:
        self.files, self.size = files, size

    def take(self, where: str, size: int) -> None:
        """One member. Raises DataError where it is one too many."""
        self.files -= 1
        self.size -= size
        if self.files < 0 or self.size < 0 or size < 0:
            raise DataError(
                f"{where}: more than this data set can hold ({'members' if self.files < 0 else 'bytes'}); nothing was written. "
                "This is not the published archive"
            )


@dataclass(frozen=True)
class Member:
    """A file in an archive.

    name: relative, with slashes, safe. size: in bytes, as announced. file: its content, until the next member is asked for.
    where: ARCHIVE/NAME for messages.
    """

    name: str
    size: int
    file: BinaryIO
    where: str

    def blocks(self) -> Iterator[bytes]:
        """Its bytes. Raises DataError where they cannot be read, or are fewer or more than announced."""
        size = 0
        with explained(self.where):
            while block := self.file.read(BLOCK):
                size += len(block)
                if size > self.size:
                    break
                yield block
        if size != self.size:
            raise DataError(
                f"{self.where}: announced as {self.size:,} bytes, and is not that long; the archive is damaged"
            )

    def read(self) -> bytes:
        """All of it; raises as `blocks`."""
        return b"".join(self.blocks())


def safe_name(name: str, where: str) -> str:
    """`name` without "./" and "//". Raises DataError for one that is, or could become, a path out of its folder."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or _NOT_IN_NAMES.search(name):
        raise DataError(f"{where}: the member {name!r:.200} leads out of its folder; nothing was written")
    if any(len(part.encode("utf-8", "surrogateescape")) > LONGEST_PART for part in parts):
        raise DataError(f"{where}: the member {name!r:.200} has a name that no file can have; nothing was written")
    return "/".join(parts)


def members(path: Path, allowance: Allowance) -> Iterator[Member]:
    """Of a .zip, or of a tar with whatever compression Python knows. Raises DataError."""
    with explained(str(path)), open(path, "rb") as file:
        if path.suffix.lower() == ".zip":
            yield from zip_members(file, str(path), allowance)
        else:
            yield from tar_members(file, str(path), allowance)


def tar_members(file: BinaryIO, where: str, allowance: Allowance) -> Iterator[Member]:
    """Of an open tar, read once from its beginning to its end: also one inside another."""
    with explained(where), tarfile.open(fileobj=file, mode="r|*") as archive:
        while (entry := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # or they add up to a kilobyte a member
            name = safe_name(entry.name, where)
            allowance.take(f"{where}/{name}", entry.size if entry.isreg() else 0)
            if entry.isdir():
                continue
            if not entry.isreg() or entry.issparse():
                raise DataError(
                    f"{where}: the member {name!r:.200} is a link, a device or a sparse file, not a plain one; nothing was written"
                )
            content = archive.extractfile(entry)
            assert content is not None
            yield Member(name, entry.size, cast(BinaryIO, content), f"{where}/{name}")


def zip_members(file: BinaryIO, where: str, allowance: Allowance) -> Iterator[Member]:
    """Of an open zip."""
    with explained(where), zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            name = safe_name(entry.filename, where)
            allowance.take(f"{where}/{name}", entry.file_size)
            if entry.is_dir():
                continue
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if kind not in (0, stat.S_IFREG):
                raise DataError(
                    f"{where}: the member {name!r:.200} is a link or a device, not a plain file; nothing was written"
                )
            if entry.flag_bits & _ENCRYPTED:
                raise DataError(f"{where}: the member {name!r:.200} is encrypted")
            with ExitStack() as stack:
                content = stack.enter_context(archive.open(entry))
                yield Member(name, entry.file_size, cast(BinaryIO, content), f"{where}/{name}")


@contextmanager
def explained(where: str) -> Iterator[None]:
    """What the readers of archives raise, as a DataError."""
    try:
        yield
    except _DAMAGED as error:
        raise DataError(f"{where}: not a readable archive, or a damaged one ({error})") from error
