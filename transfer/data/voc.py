"""Pascal VOC folders (Annotations/, ImageSets/Main/, JPEGImages/), validated.

In: the folder and a split's name. Out: `DetectionData` and the class names found, or a DataError that names file, object and
field. XML is read by defusedxml with document types forbidden (VOC needs none). Rules: docs/specification.md 7.1.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError

import defusedxml.ElementTree
from defusedxml.common import DefusedXmlException
from detectron2.structures import BoxMode

from pretrain.base.errors import DataError, did_you_mean
from transfer.data.problems import Problems, read_strictly
from transfer.data.records import BoxRule, DetectionData, is_number

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")
MAX_XML_BYTES = 1 << 20


def read_voc(root: Path, split: str) -> DetectionData:
    """Read and validate one split. Classes are the names found in the split's annotations, sorted (as the 20 of VOC are).

    Objects marked difficult are kept for training, as in Detectron2, and carry "difficult": 1 for the evaluator. Image files
    are named, not opened. Raises DataError.
    """
    data, notes = read_strictly(_problems(root, split), f"{root} {split}")
    return replace(data, notes=notes)


def _problems(root: Path, split: str) -> Problems[DetectionData]:
    rule = BoxRule()
    records = []
    for identifier in _split(root, split):
        records.append((yield from _record(root, identifier, rule)))
    yield from rule.close()
    names = sorted({thing["name"] for record in records for thing in record["annotations"]})
    for record in records:
        for thing in record["annotations"]:
            thing["category_id"] = names.index(thing.pop("name"))
    return DetectionData(tuple(records), tuple(names))


def _split(root: Path, split: str) -> list[str]:
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        if not (root / folder).is_dir():
            raise DataError(f"{root} is not a VOC folder: {folder}/ is missing")
    listing = root / "ImageSets" / "Main" / f"{split}.txt"
    if Path(split).name != split or not listing.is_file():  # ../trainval is no split's name
        there = sorted(path.stem for path in listing.parent.glob("*.txt"))
        raise DataError(
            f"no split {split!r} in {root}/ImageSets/Main{did_you_mean(split, there)} (there are: {', '.join(there[:8]) or 'none'})"
        )
    identifiers: list[str] = []
    for number, line in enumerate(listing.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        where = f"{listing}:{number}"
        if len(words) > 1:
            raise DataError(f"{where}: expected one image name a line, found {line!r}; name a split, not a class list")
        if Path(words[0]).name != words[0] or words[0] in (".", ".."):
            raise DataError(f"{where}: {words[0]!r} leaves the folder")
        identifiers.append(words[0])
    if not identifiers:
        raise DataError(f"{listing} is empty")
    twice = len(identifiers) - len(set(identifiers))
    if twice:
        raise DataError(f"{listing}: {twice} image names are given twice")
    return identifiers


def _record(root: Path, identifier: str, rule: BoxRule) -> Problems[dict[str, Any]]:
    path = root / "Annotations" / f"{identifier}.xml"
    tree = _parse(path)
    width, height = (_whole(tree, f"size/{side}", str(path)) for side in ("width", "height"))
    if width < 1 or height < 1:
        raise DataError(f"{path}: size expected positive numbers, found {width} x {height}")
    things = []
    for number, node in enumerate(tree.findall("object")):
        where = f"{path}: object {number}"
        name = _text(node, "name", where)
        x1, y1, x2, y2 = (_number(node, f"bndbox/{side}", where) for side in ("xmin", "ymin", "xmax", "ymax"))
        # VOC counts pixels from 1 and includes the last one; Detectron2's boxes are edges, from 0.
        box = yield from rule.apply((x1 - 1, y1 - 1, x2, y2), width, height, where)
        if box is None:
            continue
        difficult = _whole(node, "difficult", where) if node.find("difficult") is not None else 0
        thing = {"name": name, "bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "difficult": difficult}
        things.append(thing)
    image = _image_file(root, identifier, path)
    return {"file_name": str(image), "image_id": identifier, "width": width, "height": height, "annotations": things}


def _image_file(root: Path, identifier: str, annotation: Path) -> Path:
    for suffix in IMAGE_SUFFIXES:
        image = root / "JPEGImages" / f"{identifier}{suffix}"
        if image.is_file():
            return image
    return root / "JPEGImages" / f"{identifier}.jpg"  # reported with all the other missing files


def _parse(path: Path) -> Element:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"no annotation at {path}, which the split names") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error}") from None
    if len(content) > MAX_XML_BYTES:
        raise DataError(
            f"{path} has {len(content)} bytes; an annotation of one image is expected below {MAX_XML_BYTES}"
        )
    try:
        tree: Element = defusedxml.ElementTree.fromstring(content, forbid_dtd=True)
    except DefusedXmlException as error:
        raise DataError(
            f"{path} declares a document type or an entity, which an annotation does not need: {error}"
        ) from None
    except (ParseError, ValueError, LookupError) as error:  # LookupError: an encoding that Python does not know
        raise DataError(f"{path} is not XML: {error}") from None
    return tree


def _text(node: Element, name: str, where: str) -> str:
    text = (node.findtext(name) or "").strip()
    if not text:
        raise DataError(f"{where}: {name} is missing or empty")
    return text


def _number(node: Element, name: str, where: str) -> float:
    text = _text(node, name, where)
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not is_number(value):
        raise DataError(f"{where}: {name} expected a finite number, found {text!r:.60}")
    return value


def _whole(node: Element, name: str, where: str) -> int:
    value = _number(node, name, where)
    if value != int(value):
        raise DataError(f"{where}: {name} expected a whole number, found {value:g}")
    return int(value)
