"""Pascal VOC folders (Annotations/, ImageSets/Main/, JPEGImages/), validated.

In: the folder and a split's name. Out: `DetectionData` and the class names found, or a DataError that names file, object and
field. XML is read by defusedxml with document types forbidden (VOC needs none). Rules: docs/specification.md 7.1.

VOC counts pixels from 1 and its boxes include the last one; Detectron2's boxes are edges, from 0. Whole corners are read that
way: (xmin - 1, ymin - 1, xmax, ymax), as Detectron2 does. Where more than half of a split's boxes have fractions, a program
wrote them that knows edges only (CVAT and Datumaro write x, y, x + width, y + height; so does VoTT): all boxes of the split
are read as edges, as they are. (VOC 2012 itself has a few boxes with fractions, which stay under VOC's own rule.)
"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import Element, ParseError

import defusedxml.ElementTree
from defusedxml.common import DefusedXmlException
from detectron2.structures import BoxMode

from pretrain.base.errors import DataError, did_you_mean
from pretrain.base.image_files import SUFFIXES, read_size
from transfer.data.exports import recognise_xml
from transfer.data.image_checks import file_problem, is_there, pixel_limit
from transfer.data.problems import DEFAULTS, Problem, Problems, ReadOptions, read_strictly
from transfer.data.records import BoxRule, DetectionData, is_number
from transfer.data.text_files import read_lines

FOLDERS = ("Annotations", "ImageSets/Main", "JPEGImages")
MAX_XML_BYTES = 1 << 20
CLASS_LIST_LINE = re.compile(r"(.+\S)\s+(?:-1|0|1)$|(\S)\s+(?:-1|0|1)$")  # of aeroplane_train.txt: image name, label
DIFFICULT = {"": 0, "0": 0, "false": 0, "1": 1, "true": 1}


@dataclass(frozen=True)
class _Object:
    """One labelled object as its file has it. where: file and number. corners: xmin, ymin, xmax, ymax."""

    where: str
    name: str
    corners: tuple[float, float, float, float]
    difficult: int


@dataclass(frozen=True)
class _Image:
    """One annotated image as its file has it."""

    identifier: str
    path: Path
    width: int
    height: int
    objects: tuple[_Object, ...]


class _FieldError(Exception):
    """A field that cannot be read; the text says what was expected and found."""


def read_voc(root: Path, split: str, options: ReadOptions = DEFAULTS) -> DetectionData:
    """Read and validate one split. Classes are `options.class_names`, else the names found in the split's annotations, sorted
    (as the 20 of VOC are).

    Objects marked difficult are kept for training, as in Detectron2, and carry "difficult": 1 for the evaluator. Image files
    are named, and opened only where the annotation has no size. Raises DataError.
    """
    data, notes = read_strictly(problems(root, split, options=options), f"{root} {split}")
    return replace(data, notes=notes)


def problems(root: Path, split: str, *, options: ReadOptions) -> Problems[DetectionData]:
    """The same, problem by problem. Raises DataError where there is no split to read."""
    listing = _listing(root, split)
    identifiers = yield from _identifiers(root, listing)
    folders: dict[Path, dict[str, list[str]]] = {}
    images = []
    for identifier in identifiers:
        image = yield from _image(root, identifier, folders, options)
        if image is not None:
            images.append(image)
    found = sorted({thing.name for image in images for thing in image.objects})
    names = options.class_names or tuple(found)
    yield from _class_problems(images, names)
    as_edges = yield from _corner_convention(images)
    rule = BoxRule()
    records = []
    for image in images:
        things = []
        for thing in image.objects:
            x1, y1, x2, y2 = thing.corners
            corners = (x1, y1, x2, y2) if as_edges else (x1 - 1, y1 - 1, x2, y2)
            box = yield from rule.apply(corners, image.width, image.height, thing.where)
            if box is None or thing.name not in names:
                continue
            category = names.index(thing.name)
            things.append(
                {
                    "category_id": category,
                    "bbox": box,
                    "bbox_mode": BoxMode.XYXY_ABS,
                    "difficult": thing.difficult,
                }
            )
        record = {"file_name": str(image.path), "image_id": image.identifier}
        records.append({**record, "width": image.width, "height": image.height, "annotations": things})
    yield from rule.close()
    return DetectionData(tuple(records), names)


def _listing(root: Path, split: str) -> Path:
    for folder in FOLDERS:
        if not (root / folder).is_dir():
            raise DataError(f"{root} is not a VOC folder: {folder}/ is missing{_nearby(root) or _flat(root)}")
    listing = root / "ImageSets" / "Main" / f"{split}.txt"
    if Path(split).name != split or not listing.is_file():  # ../trainval is no split's name
        there = sorted(path.stem for path in listing.parent.glob("*.txt"))
        raise DataError(
            f"no split {split!r} in {root}/ImageSets/Main{did_you_mean(split, there)} (there are: {', '.join(there[:8]) or 'none'})"
        )
    return listing


def _nearby(root: Path) -> str:
    """The VOC folder one or two levels away, where a wrong level was given."""
    places = (*root.absolute().parents[:2], *sorted(root.glob("*/")), *sorted(root.glob("*/*/")))
    found = [str(place) for place in places if all(is_there(place / folder) for folder in FOLDERS)]
    return f"; did you mean {' or '.join(found[:8])}?" if found else ""


def _flat(root: Path) -> str:
    """What to do with the flat folders of Roboflow and LabelImg: XML files beside their images."""
    if not any(path.suffix == ".xml" for folder in (root, *root.glob("*/")) for path in folder.glob("*.xml")):
        return ""
    return (
        ". Put the XML files into Annotations/, the images into JPEGImages/, and the names without suffix, one a line, into "
        "ImageSets/Main/train.txt (and test.txt)"
    )


def _identifiers(root: Path, listing: Path) -> Problems[list[str]]:
    """The image names of a split, each a path below Annotations/ without its suffix."""
    identifiers: dict[str, str] = {}
    for number, line in read_lines(listing):
        where = f"{listing}:{number}"
        name = line.replace("\\", "/")
        if PurePosixPath(name).is_absolute() or not name.strip("./") or ".." in PurePosixPath(name).parts:
            remedy = "write names relative to Annotations/, without their suffix"
            yield Problem("image names leave the folder", where, repr(line), remedy, repaired=False)
            continue
        identifier = _annotated(root, line) or _annotated(root, name) or _annotated(root, _without_suffix(name))
        if identifier is None:
            if CLASS_LIST_LINE.match(line):
                raise DataError(f"{where}: {_class_list(listing, line)}")
            found = f"no annotation at {root / 'Annotations' / f'{name}.xml'}, which the split names"
            remedy = (
                "add the files, or take the names out of the split (a name is a path below Annotations/ without .xml)"
            )
            yield Problem("annotations are missing", where, found, remedy, repaired=False)
        elif identifier in identifiers:
            found = f"{line!r}, first at {identifiers[identifier]}"
            yield Problem("images listed twice", where, found, "read once", repaired=True)
        else:
            if identifier != line:
                kind = "image names in the split have a suffix or backslashes"
                yield Problem(kind, where, repr(line), f"taken for {identifier!r} and the like", repaired=True)
            identifiers[identifier] = where
    if not identifiers and not read_lines(listing):
        raise DataError(f"{listing} is empty")
    return list(identifiers)


def _annotated(root: Path, name: str) -> str | None:
    try:
        return name if (root / "Annotations" / f"{name}.xml").is_file() else None
    except (OSError, ValueError):  # longer than a file name can be
        return None


def _without_suffix(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in SUFFIXES else name


def _class_list(listing: Path, line: str) -> str:
    """Why a file with two columns is refused, and what to do instead."""
    parts = listing.stem.split("_")
    beside = [part for part in (parts[0], parts[-1]) if part != listing.stem and listing.with_stem(part).is_file()]
    instead = (
        f"name the split {beside[0]!r}"
        if beside
        else "write a split beside it that has the image names alone, one a line"
    )
    return (
        f"expected one image name a line, found {line!r:.80}; {listing.name} is a list for one class (-1, 0, 1: absent, "
        f"difficult, present), not a split: {instead}"
    )


def _image(
    root: Path, identifier: str, folders: dict[Path, dict[str, list[str]]], options: ReadOptions
) -> Problems[_Image | None]:
    """One annotation file; None where it cannot be used."""
    path = root / "Annotations" / f"{identifier}.xml"
    try:
        tree = _parse(path)
    except _FieldError as error:
        remedy = "export or repair the files, or take their names out of the split"
        yield Problem("annotations cannot be read", str(path), str(error), remedy, repaired=False)
        return None
    image = yield from _image_file(root, identifier, tree, folders)
    size = yield from _size(tree, path, image, options)
    objects = []
    for number, node in enumerate(tree.findall("object")):
        where = f"{path}: object {number}"
        try:
            thing = _Object(where, _text(node, "name"), _corners(node), _difficult(node))
        except _FieldError as error:
            yield _field_problem(where, error)
            continue
        text = node.findtext("difficult", "0").strip()
        if text.lower() in ("", "true", "false"):
            found = f"difficult {text!r}"
            yield Problem("objects have `difficult` empty or in words", where, found, "read as 0 or 1", repaired=True)
        objects.append(thing)
    return None if size is None else _Image(identifier, image, *size, tuple(objects))


def _image_file(
    root: Path, identifier: str, tree: Element, folders: dict[Path, dict[str, list[str]]]
) -> Problems[Path]:
    """The image of an annotation: the file of its name with any suffix that the reader knows. Among several of one name
    <filename> decides, then VOC's own suffix; without one, the file that <filename> names."""
    folder = (root / "JPEGImages" / identifier).parent
    stem = Path(identifier).name
    if folder not in folders:
        folders[folder] = _images_by_stem(folder)
    there = folders[folder].get(stem, [])
    named = PurePosixPath((tree.findtext("filename") or "").strip().replace("\\", "/")).name
    usual = f"{stem}.jpg"
    if len(there) == 1:
        return folder / there[0]
    if there:
        chosen = named if named in there else usual if usual in there else None
        if chosen is None:
            remedy = "keep one of them, or name it in <filename>"
            yield Problem(
                "images share one annotation", str(folder / there[0]), ", ".join(there), remedy, repaired=False
            )
        return folder / (chosen or there[0])
    if named in folders[folder].get(_without_suffix(named), []):
        where = str(root / "Annotations" / f"{identifier}.xml")
        found = f"no image {stem!r}, but {named!r}"
        yield Problem("images are found by <filename> alone", where, found, "taken from there", repaired=True)
        return folder / named
    return folder / usual  # reported with all the other missing files


def _images_by_stem(folder: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix.lower() in SUFFIXES:
            found.setdefault(path.stem, []).append(path.name)
    return found


def _size(tree: Element, path: Path, image: Path, options: ReadOptions) -> Problems[tuple[int, int] | None]:
    """(width, height) of the annotation; of the image file where the annotation has none; None where neither is known."""
    texts = [(tree.findtext(f"size/{side}") or "").strip() for side in ("width", "height")]
    try:
        width, height = (_whole(f"size/{s}", t or "0") for s, t in zip(("width", "height"), texts, strict=True))
        if min(width, height) < 0:
            raise _FieldError(f"size expected positive numbers, found {width} x {height}")
    except _FieldError as error:
        yield _field_problem(str(path), error)
        return None
    if width and height:
        return width, height
    try:
        rows, columns = read_size(image, max_pixels=pixel_limit(options))
    except DataError as error:
        yield file_problem(image, error, options)
        return None
    found = f"size {texts[0] or 'missing'} x {texts[1] or 'missing'}"
    yield Problem("annotations without the size of their image", str(path), found, "read from the image", repaired=True)
    return columns, rows


def _class_problems(images: Sequence[_Image], names: Sequence[str]) -> Generator[Problem, None, None]:
    present = {thing.name for image in images for thing in image.objects}
    for thing in (thing for image in images for thing in image.objects if thing.name not in names):
        remedy = f"add them to --classes (now {', '.join(names)}), or correct the names"
        yield Problem("objects of a class that --classes does not name", thing.where, repr(thing.name), remedy, False)
    for name in names:
        if name not in present:
            yield Problem("classes without an object", name, "none in this split", "kept as classes", repaired=True)


def _corner_convention(images: Sequence[_Image]) -> Problems[bool]:
    """Whether the corners are edges from 0; see the module. Of whole corners nothing is said."""
    things = [thing for image in images for thing in image.objects]
    fractional = [thing for thing in things if any(value != int(value) for value in thing.corners)]
    if 2 * len(fractional) <= len(things):
        return False
    for thing in fractional:
        remedy = "read as edges counted from 0, as CVAT and VoTT write them, not as VOC's pixels counted from 1"
        found = "({:g}, {:g}, {:g}, {:g})".format(*thing.corners)
        yield Problem("boxes with fractions of a pixel", thing.where, found, remedy, repaired=True)
    return True


def _parse(path: Path) -> Element:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _FieldError(f"cannot be opened: {error.strerror}") from None
    if len(content) > MAX_XML_BYTES:
        raise _FieldError(f"has {len(content)} bytes; an annotation of one image is expected below {MAX_XML_BYTES}")
    try:
        tree: Element = defusedxml.ElementTree.fromstring(content, forbid_dtd=True)
    except DefusedXmlException as error:
        raise _FieldError(
            f"declares a document type or an entity, which an annotation does not need: {error}"
        ) from None
    except (ParseError, ValueError, LookupError) as error:  # LookupError: an encoding that Python does not know
        raise _FieldError(f"is not XML: {error}") from None
    export = recognise_xml(tree)
    if export is not None:
        raise _FieldError(f"{export.sentence()}, expected the annotation of one image; {export.instead}")
    return tree


def _field_problem(where: str, error: _FieldError) -> Problem:
    remedy = "correct these fields in the XML files"
    return Problem("annotations with a field that cannot be read", where, str(error), remedy, repaired=False)


def _text(node: Element, name: str) -> str:
    text = (node.findtext(name) or "").strip()
    if not text:
        raise _FieldError(f"{name} is missing or empty")
    return text


def _corners(node: Element) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (
        _number(f"bndbox/{side}", _text(node, f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")
    )
    return x1, y1, x2, y2


def _difficult(node: Element) -> int:
    text = (node.findtext("difficult") or "").strip()
    known = DIFFICULT.get(text.lower())
    if known is not None:
        return known
    value = _whole("difficult", text)
    if value not in (0, 1):
        raise _FieldError(f"difficult expected 0 or 1, found {text!r:.60}")
    return value


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not is_number(value):
        raise _FieldError(f"{name} expected a finite number, found {text!r:.60}")
    return value


def _whole(name: str, text: str) -> int:
    value = _number(name, text)
    if value != int(value):
        raise _FieldError(f"{name} expected a whole number, found {value:g}")
    return int(value)
