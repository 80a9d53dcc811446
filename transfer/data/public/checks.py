"""Whether the annotations of a public data set can be read, and belong to images that are there.

In: the root folder. Out: problems, one sentence each, none for sound data. Light and without Detectron2: what a training would
refuse or repair is read by the doctor (tools/doctor.py), from the same folders.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

import defusedxml.ElementTree
from defusedxml.common import DefusedXmlException

Check = Callable[[Path], Iterator[str]]
CORNERS = ("xmin", "ymin", "xmax", "ymax")


def voc(folder: str, splits: Mapping[str, int]) -> Check:
    """splits: of ImageSets/Main -> number of images."""

    def check(root: Path) -> Iterator[str]:
        home = root / folder
        images = {path.stem for path in (home / "JPEGImages").glob("*.jpg")}
        annotated = set()
        for path in sorted((home / "Annotations").glob("*.xml")):
            annotated.add(path.stem)
            wrong = _voc_problem(path)
            if wrong is not None:
                yield f"{path}: {wrong}"
            if path.stem not in images:
                yield f"{path}: no image {home / 'JPEGImages' / path.stem}.jpg"
        for name in sorted(images - annotated):
            yield f"{home / 'JPEGImages' / name}.jpg: no annotation {home / 'Annotations' / name}.xml"
        for split, count in splits.items():
            yield from _split_problems(home / "ImageSets" / "Main" / f"{split}.txt", count, annotated)

    return check


def _split_problems(path: Path, count: int, annotated: set[str]) -> Iterator[str]:
    try:
        names = path.read_text("utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        yield f"{path}: cannot be read ({getattr(error, 'strerror', None) or 'not text'})"
        return
    if len(names) != count:
        yield f"{path}: expected {count:,} images, found {len(names):,}"
    for name in sorted(set(names) - annotated):
        yield f"{path}: names {name}, which has no annotation"


def _voc_problem(path: Path) -> str | None:
    try:
        tree: Element = defusedxml.ElementTree.parse(path, forbid_dtd=True).getroot()
    except (ParseError, DefusedXmlException, OSError, ValueError) as error:
        return f"cannot be parsed ({error})"
    if tree.tag != "annotation":
        return f"expected <annotation>, found <{tree.tag}>"
    for thing in tree.iter("object"):
        corners = [_number(thing.findtext(f"bndbox/{corner}")) for corner in CORNERS]
        if not thing.findtext("name") or any(corner is None for corner in corners):
            return "an object without a name or without four corners"
    return None


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None


def coco(folder: str, splits: Mapping[str, tuple[int, int]]) -> Check:
    """splits: name (val2017) -> number of images, number of annotations in instances_NAME.json."""

    def check(root: Path) -> Iterator[str]:
        for split, counts in splits.items():
            yield from _coco_problems(
                root / folder / "annotations" / f"instances_{split}.json", root / folder / split, counts
            )

    return check


def _coco_problems(path: Path, images: Path, counts: tuple[int, int]) -> Iterator[str]:
    try:
        content = json.loads(path.read_bytes())
        ids = {image["id"]: image["file_name"] for image in content["images"]}
        categories = {category["id"] for category in content["categories"]}
        things = [(thing["id"], thing["image_id"], thing["category_id"]) for thing in content["annotations"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        yield f"{path}: cannot be read as COCO instances ({type(error).__name__}: {error})"
        return
    for what, expected, found in (("images", counts[0], len(ids)), ("annotations", counts[1], len(things))):
        if expected != found:
            yield f"{path}: expected {expected:,} {what}, found {found:,}"
    there = {entry.name for entry in images.iterdir()} if images.is_dir() else set()
    for name in sorted(set(ids.values()) - there):
        yield f"{path}: no image {images / name}"
    for number, image, category in things:
        if image not in ids or category not in categories:
            yield f"{path}: annotation {number} is of an image or category that the file does not have"
