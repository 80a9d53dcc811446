"""Shards on an http(s) server, and the cache into which they are fetched."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import hashlib
import io
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, TypeVar

from pretrain.base.errors import DataError
from pretrain.base.http_requests import ATTEMPTS, BLOCK, CutError, RequestError, request, version_of, with_patience
from pretrain.data.archives import CutOffError, tar_members
from pretrain.data.cache import VARIABLE, cache_dir
from pretrain.data.index import LostSourceError

READ_AHEAD = 32 * 1024  # of headers, which stand close together where images are small
CACHE_SIZE_VARIABLE, CACHE_GIGABYTES = "INFOMIN_CACHE_GB", 100.0
SUFFIXES = (".tar", ".part", ".lock")  # of a shard in the cache: whole, what has come of it, fetched by a process
T = TypeVar("T")


@dataclass(frozen=True)
class RemoteFile:
    """A shard on a server.

    size: in bytes, -1 where the server does not tell. version: its ETag or time of change, empty where the server gives none.
    ranges: whether parts can be had. asked: where there is no version, a word of the process that asked and of those that have
    this object from it; no other one takes the shard from the cache.
    """

    url: str
    size: int
    version: str
    ranges: bool
    asked: str = ""

    @property
    def name(self) -> str:
        """See `Container`."""
        return self.url

    def stamp(self) -> tuple[int, int]:
        """See `Container`."""
        if not self.version:
            return self.size, -1
        return self.size, int.from_bytes(hashlib.sha256(self.version.encode()).digest()[:7], "big")

    def require_unchanged(self, descriptor: int) -> None:
        """See `Container`: nothing writes to a shard in the cache."""

    def open_headers(self) -> BinaryIO:
        """See `Container`."""
        if self.ranges and self.size >= 0:
            return io.BufferedReader(_RangedFile(self), buffer_size=READ_AHEAD)
        return self.open()

    def open(self) -> BinaryIO:
        """The whole shard, from the cache or fetched into it."""
        folder = cache_dir("shards")
        try:
            for _ in range(ATTEMPTS):
                with contextlib.suppress(FileNotFoundError):  # somebody empties the cache at this moment
                    folder.mkdir(parents=True, exist_ok=True)
                    return self._open_cached(folder)
        except OSError as error:
            raise LostSourceError(
                f"{self.url}: cannot be kept in {folder} ({error.strerror or error}); pass another folder: {VARIABLE}=FOLDER"
            ) from error
        raise LostSourceError(
            f"{self.url}: {folder} was deleted {ATTEMPTS} times while a shard was to be kept there; end what deletes it, or pass another "
            f"folder: {VARIABLE}=FOLDER"
        )

    @property
    def _key(self) -> str:
        known = f"{self.url} {self.size} {self.version}{self.asked}"
        return hashlib.sha256(known.encode()).hexdigest()[:40]

    def _open_cached(self, folder: Path) -> BinaryIO:
        """Raises FileNotFoundError where the folder is emptied meanwhile."""
        path, part, lock = (folder / f"{self._key}{suffix}" for suffix in SUFFIXES)
        with contextlib.suppress(FileNotFoundError):
            return _used(path)
        with _alone(lock):  # one process fetches, the others wait for it
            with contextlib.suppress(FileNotFoundError):
                return _used(path)
            return self._fetched(part, path)

    def _fetched(self, part: Path, path: Path) -> BinaryIO:
        """Into `part`, then named `path`. What is returned stays readable whatever others delete meanwhile."""
        file = open(part, "a+b")  # noqa: SIM115
        try:
            _with_patience(self.url, lambda: self._receive(file))
            if _is_at(part, file):
                with contextlib.suppress(FileNotFoundError):
                    part.replace(path)
                    _drop_oldest(path.parent, kept=path)
            file.seek(0)
        except BaseException:
            file.close()
            raise
        return file

    def forget(self) -> None:
        """Delete what the cache has of it."""
        for suffix in SUFFIXES:
            with contextlib.suppress(OSError, DataError):
                (cache_dir("shards") / f"{self._key}{suffix}").unlink()

    def _receive(self, part: BinaryIO) -> None:
        """One attempt: to the end of `part`, from where the attempt before was cut off."""
        done = part.seek(0, io.SEEK_END) if self.ranges else 0
        if done >= self.size:  # of another size, or of an unknown one
            done = 0
        with request(self.url, {"Range": f"bytes={done}-"} if done else {}) as response:
            if version_of(response) != self.version:
                raise LostSourceError(
                    f"{self.url}: changed on the server since the run began; restore it, or start anew"
                )
            if not done or response.status != 206:
                part.truncate(0)
            while block := response.read(BLOCK):
                part.write(block)
        part.flush()
        found = part.seek(0, io.SEEK_END)
        if self.size >= 0 and found != self.size:
            raise CutError(f"the connection ended after {found} of {self.size} bytes")
        if self.size < 0:
            self._require_whole(part)

    def _require_whole(self, part: BinaryIO) -> None:
        """Raises CutError for a tar without its end, LostSourceError for anything else that is no tar; `part` is empty then."""
        found = part.tell()
        part.seek(0)
        try:
            tar_members(part, self.url)
        except DataError as error:
            part.truncate(0)
            if isinstance(error, CutOffError):
                raise CutError(f"the connection ended after {found} bytes, before the end of the tar") from error
            raise LostSourceError(str(error)) from error

    def range(self, start: int, stop: int) -> bytes:
        """Bytes `start` .. `stop` - 1."""

        def attempt() -> bytes:
            with request(self.url, {"Range": f"bytes={start}-{stop - 1}"}) as response:
                data = response.read()
            if response.status != 206 or len(data) != stop - start:
                raise CutError(f"{len(data)} bytes came for a part of {stop - start}")
            return data

        return _with_patience(self.url, attempt)


class _RangedFile(io.RawIOBase):
    """A file on a server, read by ranged requests."""

    def __init__(self, remote: RemoteFile) -> None:
        self._remote, self._position = remote, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._remote.size}[whence] + offset
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        stop = min(self._position + len(buffer), self._remote.size)
        if stop <= self._position:
            return 0
        data = self._remote.range(self._position, stop)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def ask_server(url: str) -> RemoteFile:
    """Size, version and abilities, by a request for the first byte. Raises DataError for a shard that is not there."""

    def attempt() -> RemoteFile:
        with request(url, {"Range": "bytes=0-0"}) as response:
            ranges = response.status == 206
            size = (
                response.headers.get("Content-Range", "").rpartition("/")[2]
                if ranges
                else response.headers.get("Content-Length")
            )
            version = version_of(response)
            asked = "" if version else secrets.token_hex(16)
            return RemoteFile(url, int(size) if size and size.isdigit() else -1, version, ranges, asked)

    return _with_patience(url, attempt)


def forget_at_exit(files: Sequence[RemoteFile]) -> None:
    """Delete at the end of this process what no later one may take from the cache."""
    process, passing = os.getpid(), [file for file in files if not file.version]

    def forget() -> None:
        if os.getpid() == process:  # not at the end of a fork
            for file in passing:
                file.forget()

    if passing:
        atexit.register(forget)


def _with_patience(url: str, attempt: Callable[[], T]) -> T:
    """`with_patience`; a server that fails for good is a lost source."""
    try:
        return with_patience(url, attempt, missing="pass the address of a shard that is there")
    except RequestError as error:
        raise LostSourceError(str(error)) from error


@contextlib.contextmanager
def _alone(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock file `path`, which is gone afterwards. True; without `wait` False where another process holds it."""
    while True:
        with open(path, "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            try:
                if _is_at(path, lock):  # not removed by the process before
                    yield True
                    return
            finally:
                if _is_at(path, lock):
                    path.unlink(missing_ok=True)
                # Closing the file is not enough: a process that was forked meanwhile (a loader's worker) has it open as well,
                # and whoever waits for the lock would wait for the end of that process.
                fcntl.flock(lock, fcntl.LOCK_UN)


def _is_at(path: Path, file: IO[Any]) -> bool:
    """Whether the open `file` is what has the name `path` now."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _used(path: Path) -> BinaryIO:
    """Opened, and marked as used now."""
    file = open(path, "rb")  # noqa: SIM115
    os.utime(path)
    return file


def cache_gigabytes() -> float:
    """How much the cache may hold. Raises DataError for an environment that does not name a number."""
    text = os.environ.get(CACHE_SIZE_VARIABLE) or str(CACHE_GIGABYTES)
    try:
        return float(text)
    except ValueError:
        raise DataError(f"{CACHE_SIZE_VARIABLE}={text}: expected a number of gigabytes, for example 100") from None


def _drop_oldest(folder: Path, *, kept: Path) -> None:
    """Shards above the limit, those longest unused; one that a process has open stays readable for it.

    Parts of shards that nobody is fetching count as shards do; lock files that a killed process has left go.
    """
    limit = cache_gigabytes() * 1e9
    entries = []
    for lock in folder.glob("*.lock"):
        with _alone(lock, wait=False):
            pass
    fetched = {lock.stem for lock in folder.glob("*.lock")}
    parts = [part for part in folder.glob("*.part") if part.stem not in fetched]
    for file in (*folder.glob("*.tar"), *parts):
        with contextlib.suppress(FileNotFoundError):  # another run has dropped it since
            status = file.stat()
            entries.append((status.st_mtime_ns, status.st_size, file))
    entries.sort()
    total = sum(size for _, size, _ in entries)
    for _, size, file in entries:
        if total > limit and file != kept:
            file.unlink(missing_ok=True)
            total -= size
