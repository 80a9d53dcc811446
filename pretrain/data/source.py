"""Where images come from: folders, lists and archives by one name (`open_source`), which files cannot be read, and folders of
classes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np

from pretrain.base.errors import DataError
from pretrain.base.image_files import SUFFIXES, CheckedImage, check_image, check_open_image, open_file
from pretrain.data.archives import is_image_name, open_tar, open_zip
from pretrain.data.index import LostSourceError, Names, Source, in_threads
from pretrain.data.shards import expand_local, is_pattern, open_remote_shards, open_shards
from pretrain.views.rng import ORDER_STREAM, sample_generator

STAT_THREADS, STAT_CHUNK = 8, 4096
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
    """The paths of `list_names`."""
    return [Path(root) / name for name in list_names(root)]


def list_names(root: Path) -> list[str]:
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
    names = sorted(_walk(root))
    if not names:
        raise DataError(f"{root}: no image in this folder or below it; looked for {' '.join(sorted(SUFFIXES))}")
    return names


def _walk(root: Path) -> Iterator[str]:
    """Relative names of image files. Every folder is entered once: by its own name, or by a link from elsewhere.

    Raises DataError for a folder that cannot be listed: otherwise its images would be left out silently.
    """
    seen: set[str] = set()
    starts = [os.fspath(root)]
    for start in starts:  # links are followed when all that lies there itself has been seen
        for folder, subfolders, files in os.walk(start, onerror=_refuse_folder):
            real = os.path.realpath(folder)
            if real in seen:
                subfolders.clear()
                continue
            seen.add(real)
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            links = [path for name in subfolders if os.path.islink(path := os.path.join(folder, name))]  # noqa: PTH114
            starts += links
            inside = os.path.relpath(folder, root)
            for name in files:
                if is_image_name(name):
                    yield name if inside == "." else f"{inside}/{name}"


def _refuse_folder(error: OSError) -> None:
    raise DataError(
        f"{error.filename}: this folder cannot be listed ({error.strerror}); make it readable, or move it away from the images"
    )


class ImageSource(Source):
    """Files: those of a folder (`ImageSource(root)`), or `names` relative to `root`. [index] is a path.

    Raises DataError as `list_images` does.
    """

    root: Path

    def __init__(self, root: Path, names: Sequence[str] = ()) -> None:
        self.root = Path(root)
        self.names = names if isinstance(names, Names) else Names(names or list_names(self.root))

    def __getitem__(self, index: int) -> Path:
        return self.root / self.names[index]

    @property
    def paths(self) -> tuple[Path, ...]:
        """All paths, in order."""
        return tuple(self.root / name for name in self.names)

    def where(self, index: int) -> str:
        """The path."""
        return str(self[index])

    def open(self, index: int) -> BinaryIO:
        """See `Source`."""
        return open_file(self[index])

    def stats(self) -> tuple[np.ndarray, np.ndarray]:
        """-1 for a link that leads nowhere, which the check of the images names."""
        found = np.full((len(self), 2), -1, dtype=np.int64)
        root = str(self.root)

        def look(start: int) -> None:
            for index in range(start, min(start + STAT_CHUNK, len(self))):
                try:
                    status = os.stat(os.path.join(root, self.names[index]))  # noqa: PTH116  # ten million times
                except OSError:
                    continue
                found[index] = status.st_size, status.st_mtime_ns

        with ThreadPoolExecutor(STAT_THREADS) as pool:
            list(pool.map(look, range(0, len(self), STAT_CHUNK)))
        return found[:, 0], found[:, 1]

    def take(self, positions: np.ndarray) -> ImageSource:
        """See `Source`."""
        return ImageSource(self.root, self.names.take(positions))


def open_source(root: Path | str) -> Source:
    """The images that `root` names (a leading ~ is the home folder):

    | root                                              | images                                                          |
    |---------------------------------------------------|-----------------------------------------------------------------|
    | a folder                                          | every image in it and below, whatever folders they lie in        |
    | FILE.txt                                          | a list, one path a line (`read_list`)                           |
    | FILE.zip, FILE.tar                                | every image in the archive, read in place (archives.py)         |
    | a folder of .tar files without an image           | WebDataset shards (shards.py)                                   |
    | DIR/train-{000000..000099}.tar, DIR/*.tar         | the same, by name                                               |
    | http(s)://SERVER/train-{000000..000099}.tar       | the same, fetched from a server                                 |

    Raises DataError for anything else, with what to pass.
    """
    text = os.fspath(root)
    if "://" in text:
        return open_remote_shards(text)
    try:
        return _open_local(Path(text).expanduser())
    except OSError as error:  # a name too long for a file, a folder above it that is closed
        raise DataError(f"{text:.200}: cannot be looked at ({error.strerror}); expected {ACCEPTED}") from error
    except RuntimeError as error:  # of `expanduser`
        raise DataError(f"{text:.200}: {error}; pass the whole path") from error


def _open_local(path: Path) -> Source:
    if not path.exists() and is_pattern(path.name):
        return open_shards(path, expand_local(path))
    if path.is_dir():
        shards = sorted(file for file in path.glob("*.tar") if file.is_file() and file.name[0] != ".")
        if shards and next(_walk(path), None) is None:
            return open_shards(path, shards)
        return ImageSource(path)
    suffix = path.suffix.lower()
    if not path.exists() or suffix not in (".txt", ".zip", ".tar"):
        raise DataError(_not_a_source(path))
    if suffix == ".txt":
        return read_list(path)
    return open_zip(path) if suffix == ".zip" else open_tar(path)


ACCEPTED = "a folder of images, a list of files (.txt), a .zip or .tar archive, or shards DIR/NAME-{000..099}.tar"


def _not_a_source(path: Path) -> str:
    if not path.exists():
        return f"{path}: expected {ACCEPTED}; found nothing there; pass one (data.root=FOLDER, or --data FOLDER)"
    name = path.name.lower()
    if path.suffix.lower() in SUFFIXES:
        return f"{path}: a single image; pass the folder that holds the images (data.root={path.parent})"
    if name.endswith((".tgz", ".gz", ".bz2", ".xz", ".zst", ".tbz2", ".txz")):
        return (
            f"{path}: a compressed archive cannot be read at any place of it; decompress it once (gunzip, or tar with "
            "--file) and pass the .tar"
        )
    return f"{path}: a file that holds no list of images; expected {ACCEPTED} (data.root=FOLDER)"


def read_list(path: Path) -> ImageSource:
    """A list file: one path a line, relative to the list's folder or absolute, in the order of the list.

    Lines that are empty or begin with # are left out; a byte order mark and Windows line ends are allowed. Raises DataError,
    with line numbers, for a file named twice, a file that is not there, and lines that are no text; for an empty list.
    """
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot be opened ({error.strerror})") from error
    if lines and lines[0].startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path}: UTF-16 text, as PowerShell's > writes it; expected UTF-8 (Out-File -Encoding utf8)")
    first_line: dict[str, int] = {}
    problems: list[str] = []
    for number, line in enumerate(lines, start=1):
        if b"\0" in line:
            raise DataError(f"{path}: line {number} holds a zero byte; expected a text file with one path a line")
        name = os.fsdecode(line.strip())
        if not name or name.startswith("#"):
            continue
        name = os.path.normpath(name)
        if name in first_line:
            problems.append(f"line {number}: {name} stands in line {first_line[name]}, too")
        elif not os.path.isfile(os.path.join(path.parent, name)):  # noqa: PTH113  Path.is_file raises for a name too long
            problems.append(f"line {number}: {name}: no such file in {path.parent}")
        first_line.setdefault(name, number)
    if problems:
        shown = [f"  {text}" for text in problems[:NAMED_UNREADABLE]]
        more = [f"  ... and {len(problems) - len(shown)} more"] if len(problems) > len(shown) else []
        raise DataError("\n".join([f"{path}: {len(problems)} of its lines cannot be used:", *shown, *more]))
    if not first_line:
        raise DataError(f"{path}: the list is empty; expected one path a line, relative to {path.parent}")
    return ImageSource(path.parent, Names(first_line))


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
    bad: tuple[tuple[Path | str, str], ...]
    truncated: tuple[tuple[Path | str, str], ...] = ()

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


def _named(title: str, entries: Sequence[tuple[Path | str, str]], advice: str) -> str:
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


def look_at(source: Source, index: int, *, decode: bool = False) -> CheckedImage | str:
    """What `check_image` finds in an image of any source, or why it cannot be read. Raises LostSourceError."""
    where = source.where(index)
    try:
        with source.open(index) as file:
            return check_open_image(file, name=where, decode=decode)
    except LostSourceError:  # not this image's fault: all of a shard would be left out
        raise
    except DataError as error:
        return str(error).removeprefix(f"{where}: ")


def _checked(path: Path, *, decode: bool) -> CheckedImage | str:
    """What `check_image` finds, or why the file cannot be read."""
    try:
        return check_image(path, decode=decode)
    except DataError as error:
        return str(error).removeprefix(f"{path}: ")


def some_of_each_class(labels: Sequence[int], count: int | float, *, seed: int) -> list[int]:
    """The images whose labels a seed may see: positions of `count` of every class (all of a smaller one), ascending.

    count: a float is a share of each class, rounded, at least one image. A smaller draw is part of a larger one.
    """
    known = np.asarray(labels)
    chosen: list[int] = []
    for label in np.unique(known).tolist():
        members = np.flatnonzero(known == label)
        order = sample_generator(seed=seed, epoch=0, index=label, stream=ORDER_STREAM).permutation(len(members))
        taken = max(1, round(count * len(members))) if isinstance(count, float) else count
        chosen += members[order[:taken]].tolist()
    return sorted(chosen)
