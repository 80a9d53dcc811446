"""A public data set into its folder: fetch, compare, unpack, publish. Read `prepare` first.

In: a data set of the table, a root folder, perhaps archives that are there already or a server of one's own. Out: the folders of the
table below the root, each whole or not at all; what is there already is left as it is. Whatever ends a run, the same command goes
on: with the byte after the last one of a download, with the folder after the last one that was published.

Below the root: archives/ (what was fetched), prepared/ (SHA-256 of every file and of the archives, and the lock).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from pretrain.base.atomic import LOCK, lock_folder, remove_temporaries, write_json
from pretrain.base.download import SHA256, Fetched, WrongContentError, check_file, download
from pretrain.base.errors import ConfigError, DataError
from transfer.data.public.archives import Allowance
from transfer.data.public.progress import Announce, Progress, bytes_text
from transfer.data.public.table import Archive, Folder, PublicDataset
from transfer.data.public.tree import Tree, write_listing
from transfer.data.public.verify import Places, count_problems, quick_problems, read_origins

# What may come out of the archives, against those that unfold without end: some are read twice, and hold others.
MOST_SIZE, MOST_FILES = 4, 4
SPARE_SIZE, SPARE_FILES = 1_000_000_000, 10_000


@dataclass(frozen=True)
class Sources:
    """Where archives come from.

    own: a folder of the user's, searched first and never written to. base_url: a server that has all files by their names, in place of
    the publishers'. Neither is trusted more than the publisher: checksums are compared all the same. Raises ConfigError.
    """

    own: Path | None = None
    base_url: str | None = None

    def __post_init__(self) -> None:
        if self.own is not None and not self.own.is_dir():
            raise ConfigError(f"--archives {self.own}: no such folder; expected the one with the archives")
        if self.base_url is not None:
            parts = _address(self.base_url)
            if parts is None:
                raise ConfigError(
                    f"--base-url {self.base_url}: expected http://SERVER/FOLDER or https://SERVER/FOLDER; for archives on a disk "
                    "pass --archives DIR"
                )
            if "@" in parts.netloc:
                raise ConfigError(
                    "--base-url: found a name or password in the address, which would be recorded; put it into ~/.netrc (machine "
                    f"{parts.hostname} login NAME password WORD)"
                )

    def urls(self, archive: Archive) -> tuple[str, ...]:
        """Of one archive, in the order in which they are tried."""
        return archive.urls if self.base_url is None else (f"{self.base_url.rstrip('/')}/{archive.name}",)


def _address(url: str) -> SplitResult | None:
    """None where it is none of a server."""
    try:
        parts = urlsplit(url)
        return parts if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 else None
    except ValueError:
        return None


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    ready: folders that are there. todo: those that are not. local: archives that are on the disk. fetch: the others.
    """

    dataset: PublicDataset
    ready: tuple[Folder, ...]
    todo: tuple[Folder, ...]
    local: Mapping[str, Path]
    fetch: tuple[Archive, ...]
    kept: Mapping[str, int] = field(default_factory=dict)  # bytes of a download that was stopped

    def remaining(self, archive: Archive) -> int:
        """Bytes to be fetched."""
        return max(0, (archive.published.size or 0) - self.kept.get(archive.name, 0))

    def needed(self, *, delete_archives: bool) -> int:
        """Free bytes on the disk, at the worst moment."""
        fetched = {archive.name for archive in self.fetch}
        now = most = 0
        for folder in self.todo:
            archives = sum(self.remaining(archive) for archive in folder.archives if archive.name in fetched)
            most = max(most, now + archives + folder.unpacked)
            now += folder.unpacked + (0 if delete_archives else archives)
        return most


def make_plan(name: str, dataset: PublicDataset, root: Path, sources: Sources) -> Plan:
    """Nothing is read but names and sizes. Raises DataError where an archive is behind a login and not on the disk."""
    places = Places(root, name)
    ready = tuple(
        folder
        for folder in dataset.folders
        if places.listing(folder).is_file() and not any(count_problems(folder, root))
    )
    todo = tuple(folder for folder in dataset.folders if folder not in ready)
    local, fetch, kept = {}, [], {}
    for archive in (archive for folder in todo for archive in folder.archives):
        homes = [home for home in (sources.own, places.archives) if home is not None]
        there = next((home / archive.name for home in homes if (home / archive.name).is_file()), None)
        if there is not None:
            local[archive.name] = there
            continue
        fetch.append(archive)
        part = places.archives / f"{archive.name}.part"
        kept[archive.name] = part.stat().st_size if part.is_file() else 0
    missing = [archive.name for archive in fetch if not sources.urls(archive)]
    if missing:
        where = "pass their folder as --archives DIR" if sources.own is None else f"put them into {sources.own}"
        raise DataError(
            f"{', '.join(missing)}: to be had only with a login. Fetch them at {dataset.login_page} (an account and its terms), {where}; "
            "downloads in a browser that fail can go on with `curl -C - -O ADDRESS`"
        )
    return Plan(dataset, ready, todo, local, tuple(fetch), kept)


def describe(plan: Plan, root: Path, sources: Sources, *, delete_archives: bool = False) -> Iterator[str]:
    """The plan in lines, for --dry-run."""
    yield plan.dataset.title
    for folder in plan.ready:
        yield f"  there: {root / folder.path}"
    for archive in plan.fetch:
        size = bytes_text(archive.published.size) if archive.published.size is not None else "size not published"
        kept = f", {bytes_text(plan.kept[archive.name])} of it are here" if plan.kept.get(archive.name) else ""
        yield f"  fetch: {archive.name} ({size}{kept}; checksum of {archive.checksum_from}) from {', then '.join(sources.urls(archive))}"
    for name, path in plan.local.items():
        yield f"  use:   {name} at {path}"
    for folder in plan.todo:
        yield f"  write: {root / folder.path} (about {bytes_text(folder.unpacked)})"
    needed = plan.needed(delete_archives=delete_archives)
    short = " (not enough)" if needed > _free(root) else ""
    yield f"  disk:  {bytes_text(needed)} needed, {bytes_text(_free(root))} free at {root}{short}"


def prepare(
    name: str,
    dataset: PublicDataset,
    root: Path,
    sources: Sources,
    *,
    delete_archives: bool = False,
    announce: Announce = lambda line: None,
) -> list[str]:
    """Bring the data set to `root`; what its counts and annotations say against it, empty for a sound one.

    delete_archives: those below the root, once their folder is there. Raises ConfigError, DataError; OSError (a full
    disk) and KeyboardInterrupt go through. What is published already stays, of the rest only downloads.
    """
    plan = make_plan(name, dataset, root, sources)
    _require_room(plan, root, delete_archives=delete_archives)
    places = Places(root, name)
    with lock_folder(places.prepared, LOCK):
        plan = make_plan(name, dataset, root, sources)  # another run may have gone on meanwhile
        remove_temporaries(places.prepared)
        for folder in plan.ready:
            announce(f"{root / folder.path}: there already; --verify reads all of it")
        for folder in plan.todo:
            try:
                _prepare_folder(folder, places, sources, plan, announce)
            except KeyboardInterrupt:
                raise KeyboardInterrupt("what has been fetched is kept; the same command goes on with it") from None
            if delete_archives:
                _delete(folder, places, sources)
    return list(quick_problems(dataset, root))


def _delete(folder: Folder, places: Places, sources: Sources) -> None:
    """The archives of a folder that is there, never those of the user's own folder."""
    if sources.own is not None and places.archives.is_dir() and sources.own.samefile(places.archives):
        return
    for archive in folder.archives:
        (places.archives / archive.name).unlink(missing_ok=True)


def _require_room(plan: Plan, root: Path, *, delete_archives: bool) -> None:
    needed, free = plan.needed(delete_archives=delete_archives), _free(root)
    if needed > free:
        less = "" if delete_archives or not plan.fetch else ", or pass --delete-archives"
        raise DataError(
            f"--root {root}: {bytes_text(needed)} needed, {bytes_text(free)} free; pass a folder on another disk{less}"
        )


def _free(root: Path) -> int:
    place = next(parent for parent in (root.absolute(), *root.absolute().parents) if parent.exists())
    return shutil.disk_usage(place).free


def _prepare_folder(folder: Folder, places: Places, sources: Sources, plan: Plan, announce: Announce) -> None:
    paths = []
    for archive in folder.archives:
        local = plan.local.get(archive.name)
        if local is None:
            path, found = places.archives / archive.name, _fetch(archive, places, sources, announce)
        else:
            path, found = local, _compare(archive, local, announce)
        _record(places, archive, path, found)
        paths.append(path)
    target = places.root / folder.path
    allowance = Allowance(
        files=MOST_FILES * sum(folder.counts.values()) + SPARE_FILES, size=MOST_SIZE * folder.unpacked + SPARE_SIZE
    )
    with Progress(f"unpacking {folder.path}", "file", announce) as progress:
        target.parent.mkdir(parents=True, exist_ok=True)
        tree = Tree(target, lambda files: progress(files))
        try:
            folder.layout(paths, tree, allowance)
            new = tree.publish()
            write_listing(places.listing(folder), folder.path, tree.listing)
        finally:
            tree.remove()
    announce(
        f"{target}: {new:,} files" + (f", {len(tree.listing) - new:,} were there" if new < len(tree.listing) else "")
    )


def _compare(archive: Archive, path: Path, announce: Announce) -> Fetched:
    """An archive that is there. Raises DataError where it is not the published one."""
    with Progress(f"reading {archive.name}", "B", announce) as progress:
        try:
            return Fetched(check_file(path, archive.published, watch=progress), str(path))
        except WrongContentError as error:
            raise DataError(
                f"{error} (checksum of {archive.checksum_from}). It is not the published archive, or was cut off: remove it, and "
                "give the same command again"
            ) from None


def _fetch(archive: Archive, places: Places, sources: Sources, announce: Announce) -> Fetched:
    path = places.archives / archive.name
    path.parent.mkdir(parents=True, exist_ok=True)
    announce(f"{archive.name}: fetching from {sources.urls(archive)[0]}")
    with Progress(archive.name, "B", announce) as progress:
        found = download(sources.urls(archive), path, archive.published, watch=progress)
    compared = "as published" if archive.published.digests else "no checksum is published"
    announce(f"{archive.name}: {bytes_text(path.stat().st_size)}, {compared}")
    return found


def _record(places: Places, archive: Archive, path: Path, found: Fetched) -> None:
    """What an archive was, for --verify after it is gone."""
    known = read_origins(places.origins)
    if known.get(archive.name, {}).get(SHA256) != found.sha256:
        entry = {
            "size": path.stat().st_size,
            SHA256: found.sha256,
            "from": found.url,
            "published": archive.published.digests,
        }
        write_json(places.origins, {"archives": {**known, archive.name: entry}})
