"""Files that hold images: what a source asks of them, those of this machine, and parts of an open one.

remote.py has those on a server.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from pretrain.base.errors import DataError
from pretrain.base.image_files import open_file
from pretrain.data.index import LostSourceError


class Container(Protocol):
    """A file that holds images, local or fetched when it is needed. Travels to workers by pickle."""

    @property
    def name(self) -> str:
        """For messages."""
        ...

    def open(self) -> BinaryIO:
        """Its bytes. Raises LostSourceError if they cannot be had."""
        ...

    def open_headers(self) -> BinaryIO:
        """The same bytes, opened for short reads at scattered places."""
        ...

    def stamp(self) -> tuple[int, int]:
        """(size, a number that changes with the content: the time of change in ns); -1 where unknown."""
        ...

    def require_unchanged(self, descriptor: int) -> None:
        """Raises LostSourceError where what was opened before is by now another content than what was listed."""
        ...


@dataclass(frozen=True)
class LocalFile:
    """An archive on this machine's file systems.

    size, changed: in bytes and ns, when it was listed (`of`); -1 where nothing was there. What has others by now holds other
    images at the places that were listed. The inode is no sign: some network file systems number anew what they open again.
    """

    path: Path
    size: int
    changed: int

    @classmethod
    def of(cls, path: Path) -> LocalFile:
        """As it is now: before it is read, so that a change from then on is seen."""
        try:
            status = path.stat()
        except OSError:
            return cls(path, -1, -1)
        return cls(path, status.st_size, status.st_mtime_ns)

    @property
    def name(self) -> str:
        """See `Container`."""
        return str(self.path)

    def open(self) -> BinaryIO:
        """See `Container`."""
        try:
            file = open_file(self.path)
        except DataError as error:
            raise LostSourceError(str(error)) from error
        try:
            self.require_unchanged(file.fileno())
        except DataError:
            file.close()
            raise
        return file

    def open_headers(self) -> BinaryIO:
        """See `Container`."""
        return self.open()

    def stamp(self) -> tuple[int, int]:
        """See `Container`."""
        return self.size, self.changed

    def require_unchanged(self, descriptor: int) -> None:
        """See `Container`."""
        status = os.fstat(descriptor)
        found = status.st_size, status.st_mtime_ns
        if found != self.stamp():
            what = (
                f"expected {self.size:,} bytes, found {found[0]:,}"
                if found[0] != self.size
                else "its time of change is another one"
            )
            raise LostSourceError(
                f"{self.path}: changed since it was listed ({what}), so that other images stand at the places that were listed; "
                "put the file back if its content is another one, then give the same command again"
            )


class Handle:
    """A file of its own descriptor, closed with the last reference to it."""

    def __init__(self, file: BinaryIO) -> None:
        with file:
            self._number = os.dup(file.fileno())

    def fileno(self) -> int:
        """For os.pread."""
        return self._number

    def __del__(self) -> None:
        os.close(self._number)


class Part(io.RawIOBase):
    """A part of an open file, as a file."""

    def __init__(self, file: Handle, start: int, size: int) -> None:
        self._file, self._start, self._size, self._position = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise OSError(22, "negative position")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = max(0, min(len(buffer), self._size - self._position))
        data = os.pread(self._file.fileno(), count, self._start + self._position)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
