"""What every source of images can do, and a compact store for the names of ten million of them.

A source is a frozen listing: `len`, `read(i) -> bytes`, `name(i)`, `fingerprint()`. It holds names, positions and sizes, never
an open file that would have to travel: worker processes get it by fork or by pickle and open what they read themselves.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, TypeVar, overload

import numpy as np
from tqdm import tqdm

from pretrain.base.errors import DataError

_CHUNK = 65536  # names that a bulk operation holds at a time


SCAN_THREADS = 16
T = TypeVar("T")
Item = TypeVar("Item")


def in_threads(
    check: Callable[[Item], T],
    items: Sequence[Item],
    *,
    what: str = "checking images",
    unit: str = "file",
    show_progress: bool = False,
) -> list[T]:
    """`check` of every item, in order: threads wait for the disk together, and decoders release Python's lock."""
    with ThreadPoolExecutor(min(SCAN_THREADS, 2 * (os.cpu_count() or 1))) as pool:
        try:
            results = pool.map(check, items)
            return list(tqdm(results, total=len(items), desc=what, unit=unit, delay=2, disable=not show_progress))
        except BaseException:  # a stop signal: without the items that no thread has begun
            pool.shutdown(wait=False, cancel_futures=True)
            raise


class LostSourceError(DataError):
    """The source itself fails (a server, an archive that shrank), not one image of it: no other image may stand in."""


class Names(Sequence[str]):
    """Names as one block of bytes and their ends: the bytes of the names and 4 to 8 more each.

    A tuple of str takes about 70 bytes more each, and forked workers come to own a copy of it, since Python counts references
    inside of the strings. Names need not be UTF-8 (`os.fsencode`).
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        blob, ends = bytearray(), [np.zeros(1, np.uint64)]
        coming = map(os.fsencode, names)
        while block := list(itertools.islice(coming, _CHUNK)):
            lengths = np.fromiter(map(len, block), np.uint64, len(block))
            ends.append(np.cumsum(lengths) + np.uint64(len(blob)))
            blob += b"".join(block)
        self._set(np.frombuffer(blob, dtype=np.uint8), np.concatenate(ends))

    @classmethod
    def from_arrays(cls, blob: np.ndarray, ends: np.ndarray) -> Names:
        """Inverse of `arrays`. Raises ValueError for arrays that no names have."""
        if len(ends) < 1 or ends[0] != 0 or ends[-1] != len(blob) or (ends[1:] < ends[:-1]).any():
            raise ValueError("ends do not fit the block of names")
        names = cls()
        names._set(blob, ends)
        return names

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """(uint8 block, uint32 or uint64 ends (N + 1,) beginning with 0)."""
        return self._blob, self._ends

    def _set(self, blob: np.ndarray, ends: np.ndarray) -> None:
        self._blob = blob
        self._ends = ends.astype(np.uint32 if len(blob) < 2**32 else np.uint64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def encoded(self) -> Iterator[bytes]:
        """The names' bytes, in order."""
        for start in range(0, len(self), _CHUNK):
            ends = self._ends[start : start + _CHUNK + 1].tolist()
            block = self._blob[ends[0] : ends[-1]].tobytes()
            for first, last in itertools.pairwise(ends):
                yield block[first - ends[0] : last - ends[0]]

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            return tuple(self[position] for position in range(*index.indices(len(self))))
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(index)
        return os.fsdecode(self._blob[int(self._ends[position]) : int(self._ends[position + 1])].tobytes())

    def __iter__(self) -> Iterator[str]:
        return map(os.fsdecode, self.encoded())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Names):
            return NotImplemented
        if not np.array_equal(self._ends, other._ends):
            return False
        part = 1 << 24  # a comparison of all at once would take as much memory again
        return all(
            np.array_equal(self._blob[start : start + part], other._blob[start : start + part])
            for start in range(0, len(self._blob), part)
        )

    def __hash__(self) -> int:
        return hash((self._ends.tobytes(), self._blob.tobytes()))

    def take(self, positions: np.ndarray) -> Names:
        """The names at these positions, in their order."""
        if len(positions) == len(self) and np.array_equal(positions, np.arange(len(self))):
            return self
        return Names(self[position] for position in positions.tolist())


class Source(ABC):
    """Images that can be read by their position.

    root: what the user passed.
    names: relative to the root, what records and messages call the images.
    shard_ends: ends of the shards in positions, (S + 1,) beginning with 0, where reading in any order would be slow; None where
        it would not (pretrain/data/order.py).
    scanned: whether the headers can be looked at before a run: not where that would fetch every image from a server.
    notes: what was left out of the listing, in words.
    """

    root: Path | str
    names: Names
    shard_ends: np.ndarray | None = None
    scanned: bool = True
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        """Relative to the root."""
        return self.names[index]

    def where(self, index: int) -> str:
        """What a message calls the image, so that the user finds it."""
        return f"{self.root}/{self.names[index]}"

    @abstractmethod
    def open(self, index: int) -> BinaryIO:
        """The image's bytes as a file that can seek. Raises DataError (`where` and reason) if it cannot be opened."""

    def read(self, index: int) -> bytes:
        """The image's bytes. Raises DataError as `open` does."""
        with self.open(index) as file:
            try:
                return file.read()
            except OSError as error:
                raise DataError(f"{self.where(index)}: cannot be read ({error.strerror})") from error

    @abstractmethod
    def stats(self) -> tuple[np.ndarray, np.ndarray]:
        """(sizes in bytes, times of change in ns), int64 (N,) each; -1 for what is not there."""

    @abstractmethod
    def take(self, positions: np.ndarray) -> Source:
        """The same source with the images at these ascending positions alone."""

    def less(self, names: Iterable[str]) -> Source:
        """Without `names`. Raises DataError if nothing is left."""
        dropped = set(names)
        if not dropped:
            return self
        kept = np.fromiter((position for position, name in enumerate(self.names) if name not in dropped), np.int64)
        if not len(kept):
            raise DataError(f"{self.root}: none of the {len(self)} images can be read")
        return self.take(kept)

    def fingerprint(self) -> str:
        """sha256 over names and sizes in bytes: changes when an image is added, lost, renamed or resized.

        The same for a folder and for an archive made of it, so that a run continues from either.
        """
        return fingerprint_of(self.names, self.stats()[0])


def fingerprint_of(names: Names, sizes: np.ndarray) -> str:
    """`Source.fingerprint`."""
    digest = hashlib.sha256()
    encoded = names.encoded()
    for start in range(0, len(names), _CHUNK):
        block = sizes[start : start + _CHUNK].tolist()
        digest.update(b"".join(b"%b\0%d\n" % (name, size) for size, name in zip(block, encoded, strict=False)))
    return digest.hexdigest()
