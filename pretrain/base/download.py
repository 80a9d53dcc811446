"""One file from one of several addresses to the disk: resumable, checked while it comes, there whole or not at all.

In: addresses that hold the same file, where it goes, its published size and checksums. Out: the file, and its SHA-256.

NAME.part is what has come so far, NAME.part.json from where and which version. A later call goes on behind its last byte (Range,
If-Range), whatever ended the one before. It starts anew where the server has no ranges, where the version there is another one
(ETag or Last-Modified), and where nothing could tell versions apart: neither the server nor a published checksum.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import urllib.error
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pretrain.base.atomic import sync_directory, write_json
from pretrain.base.errors import DataError
from pretrain.base.http_requests import BLOCK, CutError, RequestError, request, version_of, with_patience

SHA256 = "sha256"
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
Watch = Callable[[int, int | None], None]  # bytes so far, bytes in all where they are known


@dataclass(frozen=True)
class Published:
    """What is known of a file from those who published it.

    size: in bytes; None where unknown. checksums: name in hashlib -> hexadecimal digest; empty where nobody published one.
    """

    size: int | None = None
    checksums: Mapping[str, str] | None = None

    @property
    def digests(self) -> dict[str, str]:
        """Name -> digest, in lower case."""
        return {name: value.lower() for name, value in (self.checksums or {}).items()}


@dataclass(frozen=True)
class Fetched:
    """sha256: hexadecimal. url: the address that had it."""

    sha256: str
    url: str


class WrongContentError(DataError):
    """A file is not the published one: what was expected, and what was found."""


class Digests:
    """Several checksums of one stream of bytes. position: how many have been seen."""

    def __init__(self, published: Published) -> None:
        self._states = {name: hashlib.new(name, usedforsecurity=False) for name in sorted({SHA256, *published.digests})}
        self.position = 0

    def update(self, block: bytes) -> None:
        """The next bytes."""
        for state in self._states.values():
            state.update(block)
        self.position += len(block)

    @property
    def found(self) -> dict[str, str]:
        """Name -> hexadecimal digest."""
        return {name: state.hexdigest() for name, state in self._states.items()}


def difference(published: Published, digests: Digests) -> str | None:
    """How a file differs from the published one; None where it is that."""
    if published.size is not None and digests.position != published.size:
        return f"expected {published.size:,} bytes, found {digests.position:,}"
    for name, expected in published.digests.items():
        if digests.found[name] != expected:
            return f"expected {name} {expected}, found {digests.found[name]}"
    return None


def check_file(path: Path, published: Published, *, watch: Watch = lambda done, size: None) -> str:
    """The SHA-256 of a file that is there. Raises WrongContentError where it is not the published one."""
    size = path.stat().st_size
    digests = Digests(published)
    if published.size in (None, size):  # else there is nothing to read for
        _read_into(digests, path, size, watch)
    else:
        raise WrongContentError(f"{path}: expected {published.size:,} bytes, found {size:,}")
    wrong = difference(published, digests)
    if wrong is not None:
        raise WrongContentError(f"{path}: {wrong}")
    return digests.found[SHA256]


def download(
    urls: Sequence[str], path: Path, published: Published, *, watch: Watch = lambda done, size: None
) -> Fetched:
    """Fetch `path` from the first of `urls` that has it. The folder exists.

    Raises DataError with what is wrong at each address. On any failure nothing is at `path`; what has come stays for the next
    call, unless it was wrong. OSError (a full disk) and KeyboardInterrupt go through.
    """
    part = _Part(path, published, watch)
    reasons = []
    for url in urls:
        try:
            return Fetched(part.fetch(url), url)
        except (RequestError, WrongContentError) as error:
            reasons.append(str(error))
    raise DataError("\n  ".join([f"{path.name} could not be fetched:", *reasons]))


class _Part:
    """A file on its way."""

    def __init__(self, path: Path, published: Published, watch: Watch) -> None:
        self.path, self.published, self.watch = path, published, watch
        self.part = path.with_name(f"{path.name}.part")
        self.state = path.with_name(f"{path.name}.part.json")
        self.digests = Digests(published)
        self.inherited = False  # whether the first bytes came before this pass

    def fetch(self, url: str) -> str:
        """From one address. Raises RequestError, WrongContentError."""
        while True:
            self.inherited = self._size() > 0
            with_patience(url, lambda: self._attempt(url), missing="is the address right?", progress=self._size)
            wrong = difference(self.published, self.digests)
            if wrong is None:
                return self._publish()
            inherited = self.inherited
            self._drop()
            if not inherited:  # else the first bytes were perhaps another version's
                raise WrongContentError(f"{url}: {wrong}; nothing of it is kept")

    def _attempt(self, url: str) -> None:
        done = self._bytes_to_keep(url)
        if done and done == self.published.size:  # killed before it was renamed
            self._catch_up(done)
            return
        try:
            with request(url, self._range(url, done)) as response:
                self._receive(url, response, done)
        except urllib.error.HTTPError as error:
            if error.code != 416:
                raise
            total = (error.headers.get("Content-Range") or "").rpartition("/")[2]
            error.close()
            if not total.isdigit() or int(total) != done:
                self._drop()
                raise CutError(f"the server has no byte {done:,}; from the beginning") from None
            self._catch_up(done)  # the whole of a file whose size nobody published

    def _receive(self, url: str, response: http.client.HTTPResponse, done: int) -> None:
        first, total = 0, response.headers.get("Content-Length")
        if response.status == 206:
            found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
            first, total = (int(found[1]), found[2]) if found else (-1, None)
            before = self._known(url)
            if first != done or (before and before != version_of(response)):  # a server that ignores If-Range
                self._drop()
                raise CutError("the server has another version by now; from the beginning")
        size = int(total) if total is not None and total.isdigit() else None
        expected = self.published.size
        if expected is not None and size is not None and size != expected:
            raise RequestError(
                f"{url}: expected {expected:,} bytes, and the server has {size:,}: not the published file"
            )
        if first == 0:
            self._drop()
            write_json(self.state, {"url": url, "version": version_of(response)})
        self._catch_up(first)
        with open(self.part, "ab") as file:
            while block := response.read1(BLOCK):  # what is there: nothing that came is lost with the connection
                file.write(block)
                self.digests.update(block)
                self.watch(self.digests.position, size or expected)
        whole = size if size is not None else expected
        if whole is not None and self._size() != whole:
            if self._size() > whole:
                self._drop()
            raise CutError(f"the connection ended after {self._size():,} of {whole:,} bytes")

    def _range(self, url: str, done: int) -> dict[str, str]:
        if not done:
            return {}
        known = self._known(url)
        strong = known and not known.startswith("W/")  # a weak ETag may stand for other bytes
        return {"Range": f"bytes={done}-", **({"If-Range": known} if strong else {})}

    def _bytes_to_keep(self, url: str) -> int:
        """How many of the bytes that are there can be gone on from."""
        done = self._size()
        too_many = self.published.size is not None and done > self.published.size
        if done and (too_many or not (self._known(url) or self.published.digests)):
            self._drop()
            return 0
        return done

    def _known(self, url: str) -> str:
        """The version that the bytes are of, where they are from this address; else empty."""
        try:
            state = json.loads(self.state.read_text())
            return str(state["version"]) if state["url"] == url else ""
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def _catch_up(self, done: int) -> None:
        """Checksums of the first `done` bytes."""
        if self.digests.position != done:
            self.digests = Digests(self.published)
            if done:
                _read_into(self.digests, self.part, done, lambda position, size: None)

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _drop(self) -> None:
        self.inherited = False
        self.part.unlink(missing_ok=True)
        self.state.unlink(missing_ok=True)

    def _publish(self) -> str:
        with open(self.part, "rb+") as file:
            os.fsync(file.fileno())
        self.part.replace(self.path)
        self.state.unlink(missing_ok=True)
        sync_directory(self.path.parent)
        return self.digests.found[SHA256]


def _read_into(digests: Digests, path: Path, size: int, watch: Watch) -> None:
    with open(path, "rb") as file:
        while block := file.read(min(BLOCK, size - digests.position)):
            digests.update(block)
            watch(digests.position, size)
