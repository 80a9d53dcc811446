"""The image file that a name in an annotation file means.

In: the name as some tool wrote it. Out: the file in IMAGE_DIR; where the name had to be read differently to find it, a problem
that says how. Names that fit a file as they stand cost one look into a listing of their folder.

| written as                                    | read as                                                       |
|-----------------------------------------------|---------------------------------------------------------------|
| images\\1.jpg                                  | images/1.jpg                                                  |
| ../images/1.jpg, images/1.jpg                 | from IMAGE_DIR, its parent or the annotation file's folder; or without the ../ |
| /data/images/1.jpg                            | 1.jpg, where IMAGE_DIR is /data/images                        |
| my%20dog.jpg                                  | my dog.jpg (and the other way round)                          |
| 1.jpg                                         | 1.JPG, where no 1.jpg is there                                |
| e + combining accent                          | é (the two Unicode forms of one text)                         |

Only a file that lies in IMAGE_DIR once every link is followed is found in one of these ways; names that fit several are in doubt.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.parse import quote, unquote

from transfer.data.problems import Problem, Problems

BACKSLASHES = "backslashes"
URL_ENCODING = "URL encoding"
ABSOLUTE = "an absolute path"
ELSEWHERE = "a path from another folder"
SUFFIX_CASE = "another case of the suffix"
UNICODE_FORM = "another Unicode form"


class ImageNames:
    """Finds the files of one image folder by name.

    image_dir: IMAGE_DIR. relative_to: another folder that names may start from (the annotation file's).
    """

    def __init__(self, image_dir: Path, *, relative_to: Path | None = None) -> None:
        self.image_dir = image_dir
        self._root = os.path.realpath(image_dir)
        self._bases = [base for base in (relative_to, Path(self._root).parent) if base is not None]
        self._listings: dict[str, frozenset[str]] = {}
        self._indices: dict[str, dict[str, list[str]]] = {}

    def find(self, name: str, where: str) -> Problems[str | None]:
        """The path of the file that `name` means. None, with an unrepaired problem, where that is in doubt or leads out of the
        folder. A missing file's path is what `name` says: it is reported with all other missing files."""
        path = PurePosixPath(name)
        plain = not path.is_absolute() and ".." not in path.parts
        if plain and path.name in self._listing(os.path.join(self.image_dir, path.parent)):
            return str(self.image_dir / path)
        try:
            os.fsencode(name)
        except UnicodeEncodeError:
            sound = False
        else:
            sound = bool(name) and "\0" not in name
        if not sound:
            yield Problem("image names that no file can have", where, ascii(name)[:80], "correct them", False)
            return None
        found: dict[str, tuple[str, ...]] = {}
        for candidate, changes in self._candidates(name):
            for file, change in self._matches(candidate):
                place = os.path.realpath(file)
                if _inside(place, self._root) and place != self._root:
                    found.setdefault(place, changes if change is None else (*changes, change))
        if len(found) > 1:
            several = ", ".join(os.path.relpath(place, self._root) for place in found)
            yield Problem(
                "image names that fit several files",
                where,
                f"{name} ({several})",
                "write the name of one of them",
                False,
            )
            return None
        for place, changes in found.items():
            relative = os.path.relpath(place, self._root)
            changes = changes or (() if plain else (ELSEWHERE,))
            if changes:
                kind = f"image names with {' and '.join(changes)}"
                yield Problem(kind, where, f"{name} -> {relative}", "read as the file on disk", True)
            return str(self.image_dir / relative)
        if not plain or PureWindowsPath(name).drive:
            lexical = os.path.normpath(os.path.join(self._root, name))
            if PureWindowsPath(name).drive or not _inside(lexical, self._root):
                yield Problem(
                    "image names that lead out of the image folder",
                    where,
                    name,
                    f"write them relative to {self.image_dir}, or pass as IMAGE_DIR the folder that holds the images",
                    False,
                )
                return None
            return str(self.image_dir / os.path.relpath(lexical, self._root))
        return str(self.image_dir / path)

    def _candidates(self, name: str) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Full paths that `name` may stand for, each with what was changed to get there; the fewest changes first."""
        texts: dict[str, tuple[str, ...]] = {name: ()}
        if "\\" in name:
            texts[name.replace("\\", "/")] = (BACKSLASHES,)
        for text, changes in list(texts.items()):
            for other in (unquote(text), quote(text)):
                texts.setdefault(other, (*changes, URL_ENCODING))
        for text, changes in texts.items():
            if text.startswith("/"):
                yield text, (*changes, ABSOLUTE)
                continue
            yield os.path.join(self.image_dir, text), changes
            parts = [part for part in text.split("/") if part not in ("", ".")]
            rest = parts
            while rest and rest[0] == "..":
                rest = rest[1:]
            if rest and rest != parts:
                yield os.path.join(self.image_dir, *rest), (*changes, ELSEWHERE)
            for base in self._bases:
                yield os.path.join(base, text), (*changes, ELSEWHERE)

    def _matches(self, path: str) -> Iterator[tuple[str, str | None]]:
        """Files of this name, else those that differ from it in the suffix's case or the Unicode form alone."""
        directory, base = os.path.split(path)
        if base in self._listing(directory):
            yield path, None
            return
        for other in self._index(directory).get(_key(base), ()):
            same_form = other.rpartition(".")[0] == base.rpartition(".")[0]
            yield os.path.join(directory, other), SUFFIX_CASE if same_form else UNICODE_FORM

    def _listing(self, directory: str) -> frozenset[str]:
        names = self._listings.get(directory)
        if names is None:
            try:
                with os.scandir(directory) as entries:
                    names = frozenset(entry.name for entry in entries)
            except (OSError, ValueError):  # no such folder, or a name that none can have
                names = frozenset()
            self._listings[directory] = names
        return names

    def _index(self, directory: str) -> dict[str, list[str]]:
        if directory not in self._indices:
            index: dict[str, list[str]] = {}
            for name in self._listing(directory):
                index.setdefault(_key(name), []).append(name)
            self._indices[directory] = index
        return self._indices[directory]


def _key(name: str) -> str:
    """Equal for names that differ in the case of their suffix or in their Unicode form."""
    stem, dot, suffix = unicodedata.normalize("NFC", name).rpartition(".")
    return f"{stem}{dot}{suffix.lower()}"


def _inside(path: str, folder: str) -> bool:
    return os.path.commonpath([path, folder]) == folder
