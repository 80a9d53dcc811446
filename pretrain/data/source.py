"""Image folders: what is listed, which files cannot be read, and folders of classes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from tqdm import tqdm

from pretrain.base.errors import DataError
from pretrain.base.image_files import SUFFIXES, CheckedImage, check_image
from pretrain.views.rng import ORDER_STREAM, sample_generator

SCAN_THREADS = 16
NAMED_UNREADABLE = 10  # files that a message names
# The words of pre-training, readout and detection for images that cannot be read, wholly or in part.
UNREADABLE = "images cannot be read"
TRUNCATED = "JPEGs lack their last bytes"
USED_AS_IT_IS = "used as they are, what is missing is grey"
T = TypeVar("T")


def leave_out(switch: str) -> str:
    """What to do about images that cannot be read, where `switch` leaves them out."""
    return f"repair or remove them, or pass {switch} to leave them out"


SKIP = "data.skip_unreadable=true"  # pre-training's switch
LEAVE_OUT = leave_out(SKIP)


def list_images(root: Path) -> list[Path]:
    """Every image file under `root` by suffix (SUFFIXES, any case), sorted by relative name, links followed.

    Names that begin with a dot are left out (`._x.jpg` of macOS archives holds no image). Raises DataError if `root` is
    no folder or holds no such file.
    """
    root = Path(root)
    if not root.is_dir():
        found = "a file" if root.exists() else "nothing"
        raise DataError(
            f"{root}: expected a folder of images, found {found}; pass one (data.root=FOLDER, or --data FOLDER)"
        )
    names = sorted(name.as_posix() for name in _walk(root))
    if not names:
        raise DataError(f"{root}: no image in this folder or below it; looked for {' '.join(sorted(SUFFIXES))}")
    return [root / name for name in names]


def _walk(root: Path) -> Iterator[Path]:
    """Relative paths of image files; a folder that links back to one of its parents is entered once."""
    seen: set[str] = set()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in files:
            path = Path(folder) / name
            if not name.startswith(".") and path.suffix.lower() in SUFFIXES:
                yield path.relative_to(root)


@dataclass(frozen=True)
class ImageSource:
    """A frozen listing of a folder: `ImageSource(root)`, then len and [index] -> path.

    names: relative to root; filled from the folder if not given. Raises DataError as `list_images` does.
    """

    root: Path
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", Path(self.root))
        if not self.names:
            paths = list_images(self.root)
            object.__setattr__(self, "names", tuple(path.relative_to(self.root).as_posix() for path in paths))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Path:
        return self.root / self.names[index]

    @property
    def paths(self) -> tuple[Path, ...]:
        """All paths, in order."""
        return tuple(self.root / name for name in self.names)

    def without(self, paths: Iterable[Path]) -> ImageSource:
        """The same listing less `paths`. Raises DataError if nothing is left."""
        dropped = {Path(path) for path in paths}
        names = tuple(name for name in self.names if self.root / name not in dropped)
        if not names:
            raise DataError(f"{self.root}: none of the {len(self)} images can be read")
        return replace(self, names=names)

    def fingerprint(self) -> str:
        """sha256 over relative names and sizes in bytes: changes when a file is added, lost, renamed or resized."""
        digest = hashlib.sha256()
        for name in self.names:
            digest.update(os.fsencode(f"{name}\0{_size(self.root / name)}\n"))  # a name need not be UTF-8
        return digest.hexdigest()


def _size(path: Path) -> int:
    """Bytes; -1 for a link that leads nowhere, which the check of the images names."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


@dataclass(frozen=True)
class ClassFolders:
    """Labelled images: one folder a class. labels[i] is the position of paths[i]'s class in `classes` (sorted)."""

    classes: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: tuple[int, ...]

    @classmethod
    def load(cls, root: Path) -> ClassFolders:
        """Read root/CLASS/**/IMAGE. Raises DataError if there is no class folder or one of them holds no image."""
        root = Path(root)
        if not root.is_dir():
            found = "a file" if root.exists() else "nothing"
            raise DataError(f"{root}: expected a folder with one folder a class, found {found}")
        classes = tuple(sorted(path.name for path in root.iterdir() if path.is_dir() and path.name[0] != "."))
        if not classes:
            raise DataError(f"{root}: expected one folder a class ({root}/CLASS/IMAGE.jpg), found no folder in it")
        listed = [list_images(root / name) for name in classes]
        return cls(
            classes=classes,
            paths=tuple(path for paths in listed for path in paths),
            labels=tuple(label for label, paths in enumerate(listed) for _ in paths),
        )


@dataclass(frozen=True)
class ScanReport:
    """What a look at all files found.

    num_ok: images that can be read.
    bad: (path, reason) of the others, in the order given.
    truncated: (path, what is missing) of the JPEGs among those that can be read that lack their last bytes.
    """

    num_ok: int
    bad: tuple[tuple[Path, str], ...]
    truncated: tuple[tuple[Path, str], ...] = ()

    @property
    def num_files(self) -> int:
        """All files looked at."""
        return self.num_ok + len(self.bad)

    def describe(self, *, advice: str = LEAVE_OUT) -> str:
        """How many cannot be read, the first ones by name, and what to do or what was done (`advice`)."""
        return _named(f"{len(self.bad)} of {self.num_files} {UNREADABLE}", self.bad, advice)

    def describe_truncated(self) -> str:
        """How many lack their last bytes, the first ones by name."""
        return _named(f"{len(self.truncated)} of {self.num_files} {TRUNCATED}", self.truncated, USED_AS_IT_IS)


def _named(title: str, entries: Sequence[tuple[Path, str]], advice: str) -> str:
    lines = [f"{title}:", *(f"  {path}: {reason}" for path, reason in entries[:NAMED_UNREADABLE])]
    if len(entries) > NAMED_UNREADABLE:
        lines.append(f"  ... and {len(entries) - NAMED_UNREADABLE} more")
    return "\n".join([*lines, advice])


def scan_images(paths: Sequence[Path], *, decode: bool = False, show_progress: bool = False) -> ScanReport:
    """Look at the header and the end of every file; what looks whole is not decoded unless `decode` (`check_image`)."""
    found = in_threads(partial(_checked, decode=decode), paths, show_progress=show_progress)
    results = list(zip(paths, found, strict=True))
    bad = tuple((path, result) for path, result in results if isinstance(result, str))
    truncated = tuple(
        (path, result.incomplete) for path, result in results if not isinstance(result, str) and result.incomplete
    )
    return ScanReport(num_ok=len(paths) - len(bad), bad=bad, truncated=truncated)


def in_threads(check: Callable[[Path], T], paths: Sequence[Path], *, show_progress: bool = False) -> list[T]:
    """`check` of every path, in order: threads wait for the disk together, and decoders release Python's lock."""
    with ThreadPoolExecutor(min(SCAN_THREADS, 2 * (os.cpu_count() or 1))) as pool:
        results = pool.map(check, paths)
        bar = tqdm(results, total=len(paths), desc="checking images", unit="file", delay=2, disable=not show_progress)
        return list(bar)


def _checked(path: Path, *, decode: bool) -> CheckedImage | str:
    """What `check_image` finds, or why the file cannot be read."""
    try:
        return check_image(path, decode=decode)
    except DataError as error:
        return str(error).removeprefix(f"{path}: ")


def some_of_each_class(labels: Sequence[int], count: int, *, seed: int) -> list[int]:
    """The images whose labels a seed may see: positions of `count` of every class (all of a smaller one), ascending."""
    known = np.asarray(labels)
    chosen: list[int] = []
    for label in np.unique(known).tolist():
        members = np.flatnonzero(known == label)
        order = sample_generator(seed=seed, epoch=0, index=label, stream=ORDER_STREAM).permutation(len(members))
        chosen += members[order[:count]].tolist()
    return sorted(chosen)
