"""A folder on its way: files are written beside where it will be, then it gets its name, whole.

In: names and contents. Out: the folder, and a listing of what is in it in the format of `sha256sum`. Where a folder of that name
is there already, only what it lacks is moved into it; a file that differs is never overwritten.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from pretrain.base.atomic import atomic_file, sync_directory
from pretrain.base.download import Published, check_file
from pretrain.base.errors import DataError
from transfer.data.public.archives import Member

SHOWN = 3


class Tree:
    """The files of one folder, in `.NAME.extracting` beside it until `publish`. Used by the holder of the data set's lock.

    watch: gets the number of files after each. listing: name below the folder -> SHA-256.
    """

    def __init__(self, target: Path, watch: Callable[[int], None] = lambda files: None) -> None:
        self.target, self.watch = target, watch
        self.folder = target.with_name(f".{target.name}.extracting")
        self.listing: dict[str, str] = {}
        self._folders: set[Path] = set()
        self._new = target.with_name(f".{target.name}.member")  # beside the folder: no member can have its name
        self.remove()  # of a run that was killed
        self.folder.mkdir(parents=True)

    def add(self, name: str, member: Member) -> None:
        """Write a member as `name`. Raises DataError where it is shorter or longer than its archive announced."""
        digest = hashlib.sha256()
        with open(self._new, "wb") as file:
            for block in member.blocks():
                file.write(block)
                digest.update(block)
        self._put(name, digest.hexdigest(), member.where)

    def add_bytes(self, name: str, content: bytes, where: str) -> None:
        """Write a file that was made of a member. where: of what, for messages."""
        self._new.write_bytes(content)
        self._put(name, hashlib.sha256(content).hexdigest(), where)

    def _put(self, name: str, digest: str, where: str) -> None:
        """Two archives may hold the same file, not two different ones under one name (nor, on some disks, under a and A)."""
        final = self.folder / name
        try:
            if final.parent not in self._folders:
                final.parent.mkdir(parents=True, exist_ok=True)
                self._folders.add(final.parent)
            there = final.exists()
            if there and check_file(final, Published()) != digest:
                raise DataError(f"{where}: another member of this name has other bytes; the archive is damaged")
            self._new.replace(final)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            raise DataError(f"{where}: a file and a folder of one name; the archive is damaged") from None
        self.listing[name] = digest
        self.watch(len(self.listing))

    def publish(self) -> int:
        """Give the folder its name, or complete the one that has it; how many files are new. Raises DataError for files that differ."""
        os.sync()  # one for all files; what a power cut leaves otherwise has names and no bytes
        if not self.target.exists():
            self.folder.rename(self.target)
            sync_directory(self.target.parent)
            return len(self.listing)
        missing = self._missing()
        for name in missing:
            place = self.target / name
            place.parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).rename(place)
        self.remove()
        return len(missing)

    def _missing(self) -> list[str]:
        """What the target lacks. Raises DataError where it has something else under a name of ours."""
        missing, other = [], []
        for name, digest in self.listing.items():
            place = self.target / name
            if not os.path.lexists(place):
                missing.append(name)
            elif not place.is_file() or check_file(place, Published()) != digest:
                other.append(name)
        if other:
            raise DataError(
                f"{self.target} is there, and {len(other)} of its files are not those of the archive ({', '.join(other[:SHOWN])}"
                f"{', ...' if len(other) > SHOWN else ''}); nothing was changed. Move the folder away, or pass another --root"
            )
        return missing

    def remove(self) -> None:
        """What is left of the temporary folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._new.unlink(missing_ok=True)


def write_listing(path: Path, prefix: str, listing: Mapping[str, str]) -> None:
    """As `sha256sum` writes it, names with `prefix`/ before them: `sha256sum -c` in the root reads it too."""
    with atomic_file(path) as file:
        for name, digest in sorted(listing.items()):
            file.write(f"{digest}  {prefix}/{name}\n".encode("utf-8", "surrogateescape"))


def read_listing(path: Path) -> dict[str, str] | None:
    """Name with its prefix -> SHA-256; None where there is none. Raises DataError for one that is damaged."""
    try:
        lines = path.read_text("utf-8", "surrogateescape").splitlines()
    except FileNotFoundError:
        return None
    pairs = [line.split("  ", 1) for line in lines]
    if not all(len(pair) == 2 and len(pair[0]) == 64 for pair in pairs):
        raise DataError(f"{path}: not a listing of this command; remove it, and prepare the data set again")
    return {name: digest for digest, name in pairs}
