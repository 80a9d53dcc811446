"""What is wrong with a prepared data set: counts, annotations, bytes of the files, archives.

In: a data set of the table and its root. Out: every problem, one line each. Also for a folder that was laid out by hand: it has no
listing, so that instead of the checksums of its files the headers of its images are read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretrain.base.download import SHA256, Published, WrongContentError, check_file
from pretrain.base.errors import DataError
from pretrain.base.image_files import SUFFIXES, read_size
from pretrain.data.index import in_threads
from transfer.data.public.table import Archive, Folder, PublicDataset
from transfer.data.public.tree import read_listing


@dataclass(frozen=True)
class Places:
    """Where things of one data set are below a root.

    archives: what was fetched, of all data sets. prepared: listings of its files, where its archives came from, its lock.
    """

    root: Path
    name: str

    @property
    def archives(self) -> Path:
        return self.root / "archives"

    @property
    def prepared(self) -> Path:
        return self.root / "prepared" / self.name

    @property
    def origins(self) -> Path:
        return self.prepared / "archives.json"

    def listing(self, folder: Folder) -> Path:
        """Of its files, for `sha256sum -c` in the root."""
        return self.prepared / f"{folder.path.replace('/', '-')}.sha256"


def count_problems(folder: Folder, root: Path) -> Iterator[str]:
    """Of its files, by the published numbers."""
    home = root / folder.path
    if not home.is_dir():
        yield f"{home}: no such folder; prepare it first"
        return
    for pattern, expected in folder.counts.items():
        folders = pattern.endswith("/")
        found = sum(not folders or path.is_dir() for path in home.glob(pattern.rstrip("/")))
        if found != expected:
            yield f"{home}: expected {expected:,} {'folders' if folders else 'files'} {pattern}, found {found:,}"


def quick_problems(dataset: PublicDataset, root: Path) -> Iterator[str]:
    """Counts and annotations: what needs no reading of the images."""
    for folder in dataset.folders:
        yield from count_problems(folder, root)
    if dataset.check is not None:
        yield from dataset.check(root)


def find_problems(name: str, dataset: PublicDataset, root: Path) -> Iterator[str]:
    """All. Raises DataError where there is no root folder, or a listing is damaged."""
    if not root.is_dir():
        raise DataError(f"--root {root}: no such folder")
    places = Places(root, name)
    yield from quick_problems(dataset, root)
    for folder in dataset.folders:
        yield from _file_problems(folder, places)
    origins = read_origins(places.origins)
    for archive in dataset.archives:
        yield from _archive_problems(archive, places, origins.get(archive.name, {}))


def _file_problems(folder: Folder, places: Places) -> Iterator[str]:
    home = places.root / folder.path
    there = sorted(path for path in home.rglob("*") if path.is_file())
    listing = read_listing(places.listing(folder))
    if listing is None:
        images = [path for path in there if path.suffix.lower() in SUFFIXES]
        found = in_threads(_header_problem, images, what=f"reading headers of {folder.path}", show_progress=True)
        yield from filter(None, found)
        return
    expected = {places.root / name: digest for name, digest in listing.items()}
    for path in there:
        if path not in expected:
            yield f"{path}: not of the published archive"
    found = in_threads(
        lambda item: _digest_problem(*item), list(expected.items()), what=f"reading {folder.path}", show_progress=True
    )
    yield from filter(None, found)


def _header_problem(path: Path) -> str | None:
    try:
        read_size(path)
    except DataError as error:
        return str(error)
    return None


def _digest_problem(path: Path, digest: str) -> str | None:
    try:
        check_file(path, Published(checksums={SHA256: digest}))
    except FileNotFoundError:
        return f"{path}: missing"
    except WrongContentError:
        return f"{path}: not the bytes that were unpacked"
    except OSError as error:
        return f"{path}: cannot be read ({error.strerror or error})"
    return None


def _archive_problems(archive: Archive, places: Places, origin: dict[str, Any]) -> Iterator[str]:
    path = places.archives / archive.name
    if not path.is_file():
        return
    recorded = {SHA256: str(origin[SHA256])} if SHA256 in origin else {}
    try:
        check_file(path, Published(archive.published.size, {**archive.published.digests, **recorded}))
    except WrongContentError as error:
        yield str(error)


def read_origins(path: Path) -> dict[str, dict[str, Any]]:
    """Archive -> what was recorded of it; empty where nothing was, or it cannot be read."""
    try:
        found = json.loads(path.read_text())["archives"]
        return {str(name): dict(entry) for name, entry in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
