"""WebDataset shards: tar files of images, local or on an http(s) server.

Every image of a shard is a sample (`key.jpg`, `key.png`, ...); other members (`key.json`, `key.cls`, ...) are not read. Shards
are for reading one after the other: their order (order.ShardBatches) shuffles the shards and then the images of a few of them.

Start: the headers of each shard are read once and kept (cache.py), as long as the shard has its size and time of change (local)
or its size and ETag or Last-Modified (server; of one that gives neither nothing is kept, see remote.py). From a server that
answers ranged requests only the headers are fetched (one request an image or fewer: 10^7 images take hours once, many requests
at a time); from one that does not, each shard is fetched whole.

Run: a shard on a server is fetched whole into the cache when its first image is needed, once for all processes of a machine, and
the shards that come next are fetched meanwhile. The cache keeps at most INFOMIN_CACHE_GB (100) of shards, those used last, what
a killed run has fetched of one (NAME.part, taken up again) among them. All machines together fetch every shard once a machine
and epoch: that is the price of global batches that do not depend on the number of machines. A connection that breaks is taken up
again where it broke; after http_requests.ATTEMPTS the run ends with the address. Headers of images are not looked at before a
run that reads from a server. A name and password for it stand in ~/.netrc, never in the address, which is recorded.
"""

from __future__ import annotations

import contextlib
import fnmatch
import itertools
import re
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from pretrain.base.errors import DataError
from pretrain.data.archives import ArchiveSource, Members, nothing_in, tar_members
from pretrain.data.cache import keep_arrays, kept_arrays
from pretrain.data.containers import Container, LocalFile
from pretrain.data.index import Names, in_threads
from pretrain.data.remote import RemoteFile, ask_server, cache_gigabytes, forget_at_exit

MAX_SHARDS = 1_000_000
INDEX_VERSION = 2  # of kept indices; others are made anew
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def is_pattern(name: str) -> bool:
    """Whether a file name stands for several: {000..099}, {a,b}, *, ?."""
    return any(sign in name for sign in "{*?")


def expand_braces(text: str) -> list[str]:
    """a{08..10}b{x,y} -> a08bx a08by a09bx ... Raises DataError for braces that hold nothing of the kind."""
    parts = _BRACES.split(text)  # text, inside, text, ...
    choices = [[part] if position % 2 == 0 else _choices(part, text) for position, part in enumerate(parts)]
    count = int(np.prod([len(choice) for choice in choices], dtype=object))
    if count > MAX_SHARDS:
        raise DataError(f"{text}: stands for {count} files; expected at most {MAX_SHARDS}")
    return ["".join(chosen) for chosen in itertools.product(*choices)]


def _choices(inside: str, text: str) -> list[str]:
    bounds = _RANGE.fullmatch(inside)
    if bounds is None and "," in inside:
        return inside.split(",")
    if bounds is None or int(bounds[1]) > int(bounds[2]) or int(bounds[2]) - int(bounds[1]) >= MAX_SHARDS:
        raise DataError(f"{text}: expected {{FIRST..LAST}} with numbers or {{a,b}} in braces, found {{{inside}}}")
    return [str(number).zfill(len(bounds[1])) for number in range(int(bounds[1]), int(bounds[2]) + 1)]


def expand_local(pattern: Path) -> list[Path]:
    """The shards that a pattern in the file's name stands for. Raises DataError if there is none."""
    names = expand_braces(pattern.name)
    if any(sign in pattern.name for sign in "*?"):
        try:
            there = sorted(path.name for path in pattern.parent.iterdir())
        except OSError as error:
            raise DataError(f"{pattern}: {pattern.parent} cannot be listed ({error.strerror})") from error
        names = [name for name in there if name[0] != "." and any(fnmatch.fnmatchcase(name, one) for one in names)]
    if not names:
        raise DataError(
            f"{pattern}: no file fits; expected shards such as {pattern.parent}/train-{{000000..000099}}.tar"
        )
    return [pattern.parent / name for name in names]


def open_shards(root: Path, paths: Sequence[Path]) -> ArchiveSource:
    """Local shards. Raises DataError for shards that are not there, that are no tar files, or hold no image at all."""
    _require_tar_names(root, [path.name for path in paths])
    missing = [path for path in paths if not path.is_file()]
    if missing:
        shown = ", ".join(str(path) for path in missing[:5])
        raise DataError(f"{root}: {len(missing)} of {len(paths)} shards are not there: {shown}")
    return _sharded(root, [LocalFile.of(path.absolute()) for path in paths])


def open_remote_shards(pattern: str) -> ArchiveSource:
    """Shards on a server. Raises DataError for addresses of other kinds, shards that are not there, a server that fails."""
    scheme, _, rest = pattern.partition("://")
    if "@" in rest.partition("/")[0]:
        raise DataError(
            f"{scheme}://{rest.rpartition('@')[2]}: found a name or password in the address, which would stand in the records of the "
            "run; put it into ~/.netrc (machine SERVER login NAME password WORD)"
        )
    if scheme not in ("http", "https"):
        raise DataError(
            f"{pattern}: expected http:// or https://, or a folder, found {scheme}://; mount or copy the files"
        )
    if any(sign in rest for sign in "*?"):
        raise DataError(
            f"{pattern}: a server cannot be asked for all names that fit; name them: train-{{000000..000099}}.tar"
        )
    cache_gigabytes()  # refused now, not after the first shard
    urls = expand_braces(pattern)
    _require_tar_names(pattern, [url.rpartition("/")[2] for url in urls])
    containers = in_threads(ask_server, urls, what="asking for shards", unit="shard", show_progress=True)
    forget_at_exit(containers)
    source = _sharded(pattern, containers)
    source.scanned = False
    return source


def _require_tar_names(root: Path | str, names: Sequence[str]) -> None:
    other = [name for name in names if not name.lower().endswith(".tar")]
    if other:
        raise DataError(
            f"{root}: shards are uncompressed .tar files, found {other[0]}; decompress it once, or name .tar files"
        )
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"{root}: names {twice[0]} twice")


def _sharded(root: Path | str, containers: Sequence[Container]) -> ArchiveSource:
    found = in_threads(_members, containers, what="reading shards", unit="shard", show_progress=True)
    ignored: Counter[str] = Counter()
    for members in found:
        ignored.update(dict(members.ignored))
    names = Names(
        f"{container.name.rpartition('/')[2]}/{name}"
        for container, members in zip(containers, found, strict=True)
        for name in members.names
    )
    joined = Members(
        names,
        np.concatenate([members.offsets for members in found]),
        np.concatenate([members.sizes for members in found]),
        ignored=tuple(sorted(ignored.items())),
    )
    if not len(names):
        raise DataError(f"{root}: {nothing_in(joined)}")
    ends = np.concatenate([[0], np.cumsum([len(members.names) for members in found])])
    return ArchiveSource(root, containers, ends, joined, sharded=True)


def _members(container: Container) -> Members:
    """From the cache, or from the shard's headers. Not kept where nothing would tell that the shard has changed."""
    size, change = container.stamp()
    stamp = np.array([INDEX_VERSION, size, change])
    kept = kept_arrays("indices", container.name) if change != -1 else None
    with contextlib.suppress(KeyError, ValueError, TypeError):
        if kept is not None and np.array_equal(kept["stamp"], stamp):
            names = Names.from_arrays(kept["blob"], kept["ends"])
            ignored = tuple(zip(kept["reasons"].tolist(), kept["counts"].tolist(), strict=True))
            return Members(names, kept["offsets"], kept["sizes"], ignored=ignored)
    with container.open_headers() as file:
        found = tar_members(file, container.name)
    if change == -1:
        return found
    blob, ends = found.names.arrays
    reasons = np.array([reason for reason, _ in found.ignored], dtype=np.str_)
    counts = np.array([count for _, count in found.ignored], dtype=np.int64)
    keep_arrays(
        "indices",
        container.name,
        stamp=stamp,
        blob=blob,
        ends=ends,
        offsets=found.offsets,
        sizes=found.sizes,
        reasons=reasons,
        counts=counts,
    )
    return found


class ShardOrder(Protocol):
    """What the fetcher asks of order.ShardBatches."""

    def ahead(self, step: int) -> tuple[int, ...]:
        """Shards that come after those of this step."""
        ...


class Fetcher:
    """Fetches the shards that come next while those of now are read. Errors are left to whoever reads them."""

    def __init__(self, source: ArchiveSource, order: ShardOrder) -> None:
        self._containers = source.containers if any(isinstance(one, RemoteFile) for one in source.containers) else ()
        self._order = order
        self._last: tuple[int, ...] = ()
        self._thread: threading.Thread | None = None

    def at(self, step: int) -> None:
        """Told of every step."""
        if not self._containers or (self._thread is not None and self._thread.is_alive()):
            return
        coming = self._order.ahead(step)
        if coming != self._last:
            self._last = coming
            self._thread = threading.Thread(target=self._fetch, args=(coming,), daemon=True)
            self._thread.start()

    def _fetch(self, shards: Sequence[int]) -> None:
        for shard in shards:
            with contextlib.suppress(DataError):
                self._containers[shard].open().close()
