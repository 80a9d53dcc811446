"""The images that a command line names: files, folders and lists.

In: words, each an image, a folder (every image in it and below) or a FILE.txt with one path a line. Out: an `ImageList`: one folder
that holds them all and their names in it, each once, in the order given.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pretrain.base.errors import DataError
from pretrain.data.source import ImageSource, list_images, read_list


@dataclass(frozen=True)
class ImageList:
    """root: absolute. names: relative to it, with slashes; no two are equal. num_repeated: further mentions, left out."""

    root: Path
    names: tuple[str, ...]
    num_repeated: int = 0

    def fingerprint(self) -> str:
        """Of names and file sizes."""
        return ImageSource(self.root, self.names).fingerprint()


def list_inputs(words: Sequence[str]) -> ImageList:
    """Find the images. Raises DataError for a word that names nothing, a folder without an image, a list that cannot be used."""
    missing = [word for word in words if not Path(word).expanduser().exists()]
    if missing or not words:
        shown = f"; found nothing at {', '.join(missing[:3])}" if missing else ""
        raise DataError(f"expected image files, folders of images, or lists of files (.txt){shown}")
    paths: list[Path] = []
    for word in words:
        path = Path(word).expanduser()
        if path.is_dir():
            paths += list_images(path)
        else:
            paths += read_list(path).paths if path.suffix.lower() == ".txt" else [path]
    absolute = [os.path.abspath(path) for path in paths]  # noqa: PTH100  links are not followed: their names count
    once = list(dict.fromkeys(absolute))
    root = _root(words, once)
    names = tuple(Path(os.path.relpath(path, root)).as_posix() for path in once)
    return ImageList(root, names, len(absolute) - len(once))


def _root(words: Sequence[str], paths: Sequence[str]) -> Path:
    """A folder alone is the root of its images; else the deepest folder that holds them all."""
    alone = Path(words[0]).expanduser()
    if len(words) == 1 and alone.is_dir():
        return Path(os.path.abspath(alone))  # noqa: PTH100
    return Path(os.path.commonpath([os.path.dirname(path) for path in paths]))  # noqa: PTH120


def image_ids(names: Sequence[str]) -> tuple[int, ...]:
    """COCO's numbers where every name is one (val2017/000000000139.jpg is 139) and no two are equal; else 1, 2, ..."""
    stems = [Path(name).stem for name in names]
    if all(stem.isascii() and stem.isdecimal() and len(stem) < 19 for stem in stems):
        numbers = tuple(map(int, stems))
        if len(set(numbers)) == len(numbers):
            return numbers
    return tuple(range(1, len(names) + 1))
