"""COCO annotation files as many tools write them, validated before any C code sees them.

In: an annotation file and its image folder. Out: `DetectionData`, and problem by problem what was repaired and what is in doubt
(`transfer.data.problems`). Rules: docs/specification.md 7.1.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from detectron2.structures import BoxMode

from pretrain.base.errors import DataError
from pretrain.base.image_files import MAX_PIXELS, read_size
from transfer.data.coco_json import load_annotations, missing_lists
from transfer.data.coco_masks import mask_kind, read_segmentation
from transfer.data.image_names import ImageNames
from transfer.data.problems import DEFAULTS, Doubt, Problem, Problems, ReadOptions, read_strictly
from transfer.data.records import MAX_ID, BoxRule, DetectionData, as_whole, is_number

MOST_PIXELS = 2**31 - 1  # of one image: the C code counts run lengths in 32 bits
# COCO's coordinates are rounded to 0.01. Boxes that leave their image by no more than this are clipped for training, but the
# user's own file is still evaluated against, so that an official file gives the official figures.
ROUNDING = 0.1
MAX_AREA = 1e10  # COCOeval leaves objects outside [0, 1e5 ** 2] out of "all"
# Share of the objects of a file that may be crowd regions without a question. COCO has 1.2 %; of a CVAT export it is the share
# of objects drawn with the brush.
MAX_CROWDS = 0.05


@dataclass
class _Image:
    """One entry of `images`, and what was found out about its file.

    exchanged: its file has this width as height and this height as width; None: its header was not read.
    """

    where: str
    path: str
    name: str
    width: int
    height: int
    exchanged: bool | None = None


def read_coco(annotations: Path, image_dir: Path, options: ReadOptions = DEFAULTS) -> DetectionData:
    """Read and validate one COCO instances file. Class order is by category id, as Detectron2 has it, or `options.class_names`.

    Image files are found by name; a header is read only where the annotations leave a doubt. Raises DataError.
    """
    data, notes = read_strictly(file_problems(annotations, image_dir=image_dir, options=options), str(annotations))
    return replace(data, notes=notes)


def file_problems(annotations: Path, *, image_dir: Path, options: ReadOptions) -> Problems[DetectionData]:
    """`problems` of a file. Raises DataError where it is not JSON."""
    content, encoding, doubts = load_annotations(annotations)
    if encoding is not None:
        yield Problem("text that is not plain UTF-8", "the whole file", encoding, "read as such", repaired=True)
    yield from doubts
    data = yield from problems(content, annotations=annotations, image_dir=image_dir, options=options)
    return data if encoding is None else replace(data, complete_coco=None)  # pycocotools reads plain text only


def problems(content: Any, *, annotations: Path, image_dir: Path, options: ReadOptions) -> Problems[DetectionData]:
    """What is wrong in the content of an annotation file, entry by entry; returns what could be read.

    annotations: where the content comes from (image names may be relative to its folder).
    """
    trouble = list(missing_lists(content))
    yield from trouble
    if trouble:
        return DetectionData((), ())
    return (yield from _Reader(annotations, image_dir, options).read(content))


class _Reader:
    """One pass over one file: images, annotations, and then what only the whole shows (crowds, masks, classes, duplicates)."""

    def __init__(self, annotations: Path, image_dir: Path, options: ReadOptions) -> None:
        self.annotations = annotations
        self.options = options
        self.names = ImageNames(image_dir, relative_to=annotations.parent)
        self.categories: dict[int, str] = {}
        self.parents: dict[int, Any] = {}  # supercategories
        self.images: dict[int | str, _Image] = {}
        self.unusable: set[int | str] = set()  # ids of images whose entry is in doubt
        self.things: dict[int | str, list[dict[str, Any]]] = {}
        self.seen: dict[int | str, Mapping[str, Any]] = {}  # annotations by id
        self.crowds: list[tuple[str, dict[str, Any]]] = []
        self.maskless: list[tuple[str, Any]] = []  # places and values; of no interest where no object has a mask
        self.rule = BoxRule()
        self.num_in_doubt = 0  # objects
        self.complete = True  # pycocotools reads the file as this reader does

    def _repaired(self, kind: str, where: str, found: str, remedy: str) -> Problem:
        """A repair that pycocotools does not make, so that the file is rewritten for it."""
        self.complete = False
        return Problem(kind, where, found, remedy, repaired=True)

    def read(self, content: Mapping[str, list[Any]]) -> Problems[DetectionData]:
        """Everything, in the order of the file."""
        for field, reader in (
            ("categories", self._category),
            ("images", self._image),
            ("annotations", self._annotation),
        ):
            for position, entry in enumerate(content[field]):
                try:
                    yield from reader(entry, position)
                except Doubt as doubt:
                    self.num_in_doubt += field == "annotations"
                    yield doubt.at(f"{field}[{position}]{self._image_of(field, entry)}")
        yield from self.rule.close()
        yield from self._decide_crowds()
        masks, bitmask = mask_kind(self.things)
        if masks != "none":
            for where, value in self.maskless:
                found = f"segmentation {value!r:.60}"
                yield Problem("objects without a mask", where, found, "kept with their box alone", repaired=True)
        yield from self._repeated_files()
        names, order = yield from self._classes()
        for things in self.things.values():
            for thing in things:
                thing["category_id"] = order.get(thing["category_id"], -1)  # -1: in doubt, and said so
        numbered = all(isinstance(identifier, int) for identifier in self.images)
        records = tuple(
            {
                "file_name": image.path,
                "image_id": identifier if numbered else position,
                "width": image.width,
                "height": image.height,
                "annotations": self.things[identifier],
            }
            for position, (identifier, image) in enumerate(self.images.items(), start=1)
        )
        complete = (self.annotations, tuple(sorted(order))) if self.complete else None
        return DetectionData(records, names, masks=masks, bitmask=bitmask, complete_coco=complete)

    def _image_of(self, field: str, entry: Any) -> str:
        """The image's name, for an offender's place."""
        if not isinstance(entry, dict):
            return ""
        if field == "images":
            return f" ({entry.get('file_name')!s:.80})"
        identifier = entry.get("image_id")
        image = self.images.get(identifier) if isinstance(identifier, (int, str)) else None
        return "" if image is None else f" ({image.name})"

    # The three lists

    def _category(self, entry: Any, position: int) -> Problems[None]:
        where = f"categories[{position}]"
        identifier = yield from self._whole(_fields(entry), "id", where)
        name = entry.get("name")
        if isinstance(name, int) and not isinstance(name, bool):
            yield Problem("class names that are numbers", where, str(name), "read as text", repaired=True)
            name = str(name)
        if not isinstance(name, str) or not name.strip() or not _encodable(name):
            raise Doubt("categories without a name", f"name expected text, found {name!r:.60}", "name each category")
        if name != name.strip():
            name = name.strip()
            yield Problem("class names with spaces around them", where, repr(name), "read without", repaired=True)
        if identifier in self.categories:
            found = f"id {identifier}: {self.categories[identifier]!r} and {name!r}"
            raise Doubt("category ids given twice", found, "give each category an id of its own")
        self.categories[identifier], self.parents[identifier] = name, entry.get("supercategory")

    def _image(self, entry: Any, position: int) -> Problems[None]:
        identifier = yield from self._identifier(_fields(entry), "id", f"images[{position}]", "images")
        if identifier in self.images:
            first = self.images[identifier]
            path = yield from self.names.find(str(entry.get("file_name")), first.where)
            if (path, entry.get("width"), entry.get("height")) == (first.path, first.width, first.height):
                yield self._repaired("images listed twice", first.where, f"id {identifier}", "read once")
                return
            found = f"id {identifier} is given twice, first at {first.where}"
            raise Doubt("image ids given twice for different images", found, "give each image an id of its own")
        self.unusable.add(identifier)
        name = entry.get("file_name")
        if not isinstance(name, str) or not name:
            found = f"file_name expected a path in the image folder, found {name!r:.60}"
            raise Doubt("images without a file name", found, "give each image its file_name")
        where = f"images[{position}] ({name})"
        path = yield from self.names.find(name, where)
        if path is None:
            return
        if entry.get("width") is None or entry.get("height") is None:
            width, height = yield from self._size_on_disk(path, where)
        else:
            width = yield from self._whole(entry, "width", where)
            height = yield from self._whole(entry, "height", where)
        if width < 1 or height < 1:
            found = f"width and height expected positive numbers, found {width} x {height}"
            raise Doubt("images without a size", found, "give the width and height of the image file, in pixels")
        if width * height > (MOST_PIXELS if self.options.large_images else MAX_PIXELS):
            remedy = "pass --large-images" if width * height <= MOST_PIXELS else "correct width and height"
            raise Doubt(
                f"images of more than {MAX_PIXELS // 1_000_000} megapixels",
                f"{width} x {height} = {width * height / 1e6:.0f} megapixels",
                f"{remedy}, or shrink the images with their annotations, or leave them out",
            )
        self.unusable.remove(identifier)
        self.images[identifier] = _Image(where, path, Path(path).name, width, height)
        self.things[identifier] = []

    def _annotation(self, entry: Any, position: int) -> Problems[None]:
        where = f"annotations[{position}]"
        identifier = _fields(entry).get("id")
        if type(identifier) is not int or not 0 < identifier <= MAX_ID:
            identifier = yield from self._annotation_id(entry, position)
        first = self.seen.setdefault(identifier, entry)
        if first is not entry:
            if first == entry:
                yield self._repaired("annotations given twice, alike in all", where, f"id {identifier}", "read once")
                return
            remedy = "give each annotation an id of its own"
            raise Doubt("annotation ids given twice for different objects", f"id {identifier} is given twice", remedy)
        image_id = entry.get("image_id")
        if type(image_id) is not int:
            image_id = yield from self._identifier(entry, "image_id", where, "annotations")
        image = self.images.get(image_id)
        if image is None:
            if image_id not in self.unusable:
                kind = "annotations of images that are not listed"
                yield self._repaired(kind, where, f"image_id {image_id}", "dropped")
            return
        where = f"{where} ({image.name})"
        category = entry.get("category_id")
        if type(category) is not int:
            category = yield from self._whole(entry, "category_id", where)
        if category not in self.categories:
            remedy = f"add the category, or correct the ids; those of the file are {sorted(self.categories)[:10]}"
            found = f"category_id {category} is not among the categories"
            raise Doubt("annotations of a category that is not listed", found, remedy)
        thing = yield from self._thing(entry, image, where)
        if thing is not None:
            thing["category_id"] = category
            self.things[image_id].append(thing)
            if thing["iscrowd"]:
                self.crowds.append((where, thing))

    # Fields

    def _whole(self, entry: Mapping[str, Any], field: str, where: str) -> Problems[int]:
        value = entry.get(field)
        if type(value) is int and abs(value) <= MAX_ID:
            return value
        number = as_whole(value)
        if number is None:
            found = f"{field} expected a whole number, found {value!r:.60}" if field in entry else f"{field} is missing"
            raise Doubt(f"{where.partition('[')[0]} whose {field} is not a whole number", found, f"correct {field}")
        yield self._number_repaired(value, field, where)
        return number

    def _identifier(self, entry: Mapping[str, Any], field: str, where: str, of: str) -> Problems[int | str]:
        """A whole number, or text that is none: some tools take the file's name."""
        value = entry.get(field)
        if isinstance(value, str) and value.strip() and as_whole(value) is None:
            if of == "images":
                yield self._repaired("image ids that are no numbers", where, repr(value)[:60], "numbered from 1")
            return value
        return (yield from self._whole(entry, field, where))

    def _annotation_id(self, entry: Mapping[str, Any], position: int) -> Problems[int | str]:
        """Ids of annotations tell entries apart and are of no other use: any will do."""
        where = f"annotations[{position}]"
        if entry.get("id") is None:
            yield self._repaired("annotations without an id", where, "none", "numbered")
            return f"position {position}"
        self.complete = False  # pycocotools takes id 0 for "no match"
        return (yield from self._identifier(entry, "id", where, "annotations"))

    def _number_repaired(self, value: Any, field: str, where: str) -> Problem:
        if isinstance(value, float):
            kind = "whole numbers written with a decimal point"
        else:
            what = "ids" if field.endswith("id") else "sizes" if field in ("width", "height") else field
            kind = f"{what} written as text"
        return self._repaired(kind, where, f"{field} {value!r:.60}", "read as whole numbers")

    def _size_on_disk(self, path: str, where: str) -> Problems[tuple[int, int]]:
        try:
            height, width = read_size(Path(path))
        except DataError as error:
            remedy = "give the width and height of the image files, in pixels"
            raise Doubt("images without a size", f"no width and height, and {error}", remedy) from None
        yield self._repaired("images without a size", where, f"{width} x {height}", "read from the image file")
        return width, height

    # One object

    def _thing(self, entry: Mapping[str, Any], image: _Image, where: str) -> Problems[dict[str, Any] | None]:
        """One annotation as a Detectron2 dict without its category; None where it is left out."""
        box = entry.get("bbox")
        if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
            found = f"bbox expected four finite numbers x, y, width, height; found {box!r:.80}"
            raise Doubt("annotations without a box", found, "give each object its bbox, or export the data with boxes")
        x, y, width, height = box
        if width < 0 or height < 0:
            remedy = "give x, y of the upper left corner and positive sizes"
            raise Doubt("boxes with a negative width or height", f"bbox {box}", remedy)
        crowd = entry.get("iscrowd", 0)
        if crowd not in (0, 1):
            crowd = yield from self._crowd_mark(crowd, where)
        right, bottom = x + width, y + height
        if right > image.width or bottom > image.height:
            yield from self._check_exchanged(image, right, bottom)
        if image.exchanged:
            return None
        corners = yield from self.rule.apply((x, y, right, bottom), image.width, image.height, where, sized=box)
        if corners is None:
            self.complete = False
            return None
        overhang = max(-x, -y, right - image.width, bottom - image.height)
        if overhang > ROUNDING:
            self.complete = False
        thing = {"bbox": corners, "bbox_mode": BoxMode.XYXY_ABS, "iscrowd": int(crowd)}
        thing["area"] = yield from self._area(entry, corners, where, clipped=overhang > ROUNDING)
        mask = yield from read_segmentation(
            entry.get("segmentation"), height=image.height, width=image.width, where=where
        )
        self.complete &= mask.as_given
        if mask.segmentation is not None:
            thing["segmentation"] = mask.segmentation
        elif not mask.explained:
            self.maskless.append((where, entry.get("segmentation")))
        if "iscrowd" not in entry:
            self.complete = False
        return thing

    def _crowd_mark(self, value: Any, where: str) -> Problems[int]:
        if value is None:
            return 0
        number = as_whole(value) if isinstance(value, str) else None
        if number not in (0, 1):
            found = f"iscrowd expected 0 or 1, found {value!r:.60}"
            raise Doubt("annotations whose iscrowd is neither 0 nor 1", found, "correct iscrowd")
        yield self._number_repaired(value, "iscrowd", where)
        return number

    def _area(
        self, entry: Mapping[str, Any], corners: Sequence[float], where: str, *, clipped: bool
    ) -> Problems[float]:
        """The area that decides between small, medium and large objects: the file's, and at most the box's where that was
        clipped."""
        value = entry.get("area")
        box_area = float((corners[2] - corners[0]) * (corners[3] - corners[1]))
        if value is None:
            self.complete = False
            return box_area
        if not is_number(value):
            raise Doubt("annotations whose area is not a number", f"area {value!r:.60}", "correct or remove area")
        if not 0 < value <= MAX_AREA:
            yield self._repaired(
                "areas that no object has", where, f"area {value:g}", "replaced by the area of the box"
            )
            return box_area
        return min(float(value), box_area) if clipped else float(value)

    def _check_exchanged(self, image: _Image, right: float, bottom: float) -> Problems[None]:
        """Whether a box leaves its image because the file has its width for its height. If one does, all images are looked at."""
        if image.exchanged is not None or right > image.height or bottom > image.width:
            return
        if not _exchanged_on_disk(image):
            image.exchanged = False
            return
        for other in self.images.values():
            other.exchanged = _exchanged_on_disk(other)
            if other.exchanged:
                yield Problem(
                    "width and height are exchanged",
                    other.where,
                    f"width {other.width}, height {other.height}; the file is {other.height} wide and {other.width} high",
                    "exchange width and height of these images in the annotation file; the boxes stay as they are",
                    repaired=False,
                )

    # What only the whole file shows

    def _decide_crowds(self) -> Problems[None]:
        total = sum(map(len, self.things.values())) + self.num_in_doubt
        count = len(self.crowds)
        crowds = [
            (where, thing, f"{self.categories[thing['category_id']]!r}, iscrowd 1") for where, thing in self.crowds
        ]
        remedy = (
            f"{count} of {total} objects: training leaves such regions out and AP ignores what is found there. CVAT writes "
            "iscrowd 1 for every mask drawn with the brush: if these are single objects, pass --crowd-as-objects"
        )
        if self.options.crowd_as_objects:
            for where, thing, found in crowds:
                thing["iscrowd"] = 0
                yield self._repaired("regions marked iscrowd", where, found, "counted as objects")
        elif count and count == total:
            for where, _, found in crowds:
                yield Problem("every object is marked iscrowd", where, found, remedy, repaired=False)
        elif self.options.keep_crowds or count <= MAX_CROWDS * total:
            for where, _, found in crowds:
                left_out = "left out of training and ignored in AP; --crowd-as-objects counts them"
                yield Problem("regions marked iscrowd", where, found, left_out, repaired=True)
        else:
            remedy += f"; if they are crowds, pass --keep-crowds (up to {MAX_CROWDS:.0%} are taken for crowds; COCO has 1.2 %)"
            for where, _, found in crowds:
                yield Problem("many objects are marked iscrowd", where, found, remedy, repaired=False)

    def _repeated_files(self) -> Problems[None]:
        identifiers = defaultdict(list)
        for identifier, image in self.images.items():
            identifiers[image.path].append(identifier)
        for members in identifiers.values():
            if len(members) == 1:
                continue
            contents = [
                sorted((thing["category_id"], *thing["bbox"]) for thing in self.things[member]) for member in members
            ]
            where, found = self.images[members[0]].where, f"ids {', '.join(map(str, members))}"
            if all(other == contents[0] for other in contents):
                kind = "image files listed under several ids with the same objects"
                yield Problem(kind, where, found, "kept: each counts as often as it is listed", repaired=True)
            else:
                kind = "image files listed under several ids with different objects"
                remedy = "make one entry of them: the objects of one would be background for the other"
                yield Problem(kind, where, found, remedy, repaired=False)

    def _classes(self) -> Problems[tuple[tuple[str, ...], dict[int, int]]]:
        """Class names, and the index of each category id."""
        used = {thing["category_id"] for things in self.things.values() for thing in things}
        categories = dict(sorted(self.categories.items()))
        yield from self._remove_groups(categories, used)
        names = self.options.class_names
        if names is None:
            names = tuple(dict.fromkeys(categories.values()))
        elif tuple(categories.values()) != names:
            self.complete = False  # COCOEvaluator names its figures by category id
        for identifier, name in list(categories.items()):
            if name in names:
                continue
            found = f"{name!r} (id {identifier})"
            del categories[identifier]
            if identifier in used:
                remedy = f"add them to --classes, which names {', '.join(names)}"
                yield Problem("classes that --classes does not name", "categories", found, remedy, repaired=False)
            else:
                kind = "categories without an object that --classes does not name"
                yield self._repaired(kind, "categories", found, "removed")
        present = {categories.get(identifier) for identifier in used}
        for name in names:
            if name not in present:
                yield Problem("classes without an object", "categories", repr(name), "kept as classes", repaired=True)
        return names, {identifier: names.index(name) for identifier, name in categories.items()}

    def _remove_groups(self, categories: dict[int, str], used: set[int]) -> Problems[None]:
        """Roboflow lists the project itself as category 0, the supercategory of all others; it may have the name of a class."""
        parents = {repr(parent) for identifier, parent in self.parents.items() if identifier != 0}
        if (
            0 in categories
            and 0 not in used
            and repr(categories[0]) in parents
            and self.parents[0] in (None, "", "none")
        ):
            yield self._repaired(
                "a category that groups the others", "categories", f"{categories[0]!r} (id 0)", "removed"
            )
            del categories[0]
        same = defaultdict(list)
        for identifier, name in categories.items():
            same[name].append(identifier)
        for name, members in same.items():
            labelled = [identifier for identifier in members if identifier in used]
            if len(labelled) > 1:
                found = f"{name!r} is given twice, as ids {', '.join(map(str, labelled))}"
                remedy = "give them different names, or all their annotations one category_id"
                yield Problem("several categories of one name", "categories", found, remedy, repaired=False)
            for identifier in members:
                if len(members) > 1 and identifier not in (labelled or members[:1]):
                    found = f"{name!r} (id {identifier})"
                    kind = "categories without an object that have the name of a class"
                    yield self._repaired(kind, "categories", found, "removed")
                    del categories[identifier]


def _fields(entry: Any) -> Mapping[str, Any]:
    if not isinstance(entry, dict):
        raise Doubt("entries that are not objects", f"expected an object, found {entry!r:.60}", "remove them")
    return entry


def _encodable(text: str) -> bool:
    """Half a surrogate pair can be written in JSON, and nowhere else."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _exchanged_on_disk(image: _Image) -> bool:
    if image.width == image.height:
        return False
    try:
        return read_size(Path(image.path)) == (image.width, image.height)
    except DataError:
        return False  # said by the check of the image files
