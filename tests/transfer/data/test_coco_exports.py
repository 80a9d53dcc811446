"""COCO as exporters write it, kind by kind: boxes right to the pixel, one note with its count, and AP 100 for perfect predictions
through the product's own evaluator; or refused in the user's terms.

Every kind is a change of one clean export: three images of 80 x 60 with a cat at (5, 6) of 20 x 18 pixels and a dog at (40, 30)
of 25 x 22.
"""

from __future__ import annotations

import codecs
import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pycocotools.mask
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from PIL import Image

from pretrain.base.errors import DataError
from tests.cases import each
from transfer.data.coco import read_coco
from transfer.data.problems import ReadOptions
from transfer.data.records import DetectionData
from transfer.detect.trainer import DetectionTrainer

CAT, DOG = [5, 6, 25, 24], [40, 30, 65, 52]  # corners
CLEAN = [[CAT, DOG]] * 3


def outline(x: float, y: float, width: float, height: float) -> list[float]:
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def corners(x: float, y: float, width: float, height: float) -> list[float]:
    return [x, y, x + width, y + height]


def run_lengths(x: int, y: int, width: int, height: int) -> dict[str, Any]:
    """A box as CVAT writes a mask: uncompressed, down the columns of 80 x 60 pixels."""
    before, after = x * 60 + y, (80 - x - width) * 60 + 60 - y
    columns = [height, 60 - height] * (width - 1) + [height]
    return {"size": [60, 80], "counts": [before, *columns, after - height]}


def clean() -> dict[str, Any]:
    content: dict[str, Any] = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 80, "height": 60} for i in (1, 2, 3)],
        "categories": [{"id": 1, "name": "cat", "supercategory": ""}, {"id": 2, "name": "dog", "supercategory": ""}],
        "annotations": [],
    }
    for i in (1, 2, 3):
        for category, box in ((1, [5, 6, 20, 18]), (2, [40, 30, 25, 22])):
            entry = {"id": 2 * i + category - 2, "image_id": i, "category_id": category, "bbox": box, "iscrowd": 0}
            content["annotations"].append(entry | {"area": box[2] * box[3], "segmentation": [outline(*box)]})
    return content


Change = Callable[[dict[str, Any]], None]


def every(key: str, **values: Any) -> Change:
    """Set fields of every entry of a list; a function gets the entry."""

    def change(content: dict[str, Any]) -> None:
        for entry in content[key]:
            entry.update({name: value(entry) if callable(value) else value for name, value in values.items()})

    return change


def first(key: str, **values: Any) -> Change:
    return lambda content: content[key][0].update(values)


def without(key: str, *names: str) -> Change:
    def change(content: dict[str, Any]) -> None:
        for entry in content[key]:
            for name in names:
                del entry[name]

    return change


def also(key: str, *entries: dict[str, Any]) -> Change:
    return lambda content: content[key].extend(copy.deepcopy(entries))


def both(*changes: Change) -> Change:
    def change(content: dict[str, Any]) -> None:
        for one in changes:
            one(content)

    return change


def group(name: str) -> Change:
    """Roboflow's category 0."""
    return both(
        every("categories", supercategory=name), also("categories", {"id": 0, "name": name, "supercategory": "none"})
    )


@dataclass
class Kind:
    """note: what is said, with its count; "": nothing. boxes: of each image, in corners. masks: of the data. direct: the
    user's own file is evaluated against. shape: what becomes of the file's text."""

    change: Change
    note: str
    boxes: list[list[list[float]]] = field(default_factory=lambda: CLEAN)
    classes: tuple[str, ...] = ("cat", "dog")
    masks: str = "all"
    direct: bool = False
    options: ReadOptions = field(default_factory=ReadOptions)
    shape: Callable[[str], bytes] = str.encode
    folder: str = "images"  # IMAGE_DIR in the export


def nothing(content: dict[str, Any]) -> None:
    pass


ORPHAN = {"id": 99, "image_id": 77, "category_id": 1, "bbox": [1, 1, 5, 5], "area": 25, "iscrowd": 0}
HALF = [[[5.4, 6.4, 13.6, 14.6], DOG]] * 3
SMALL = every("annotations", bbox=lambda entry: [5.4, 6.4, 8.2, 8.2] if entry["category_id"] == 1 else entry["bbox"])

ACCEPTED = {
    "clean": Kind(nothing, "", direct=True),
    "fractional boxes": Kind(SMALL, "", HALF, direct=True),
    "boxes only": Kind(without("annotations", "segmentation"), "", masks="none", direct=True),
    "Roboflow: empty segmentations": Kind(every("annotations", segmentation=[]), "", masks="none", direct=True),
    "no area, no iscrowd": Kind(without("annotations", "area", "iscrowd"), ""),
    "ids as text": Kind(
        both(
            every("images", id=lambda entry: str(entry["id"])),
            every(
                "annotations",
                image_id=lambda entry: str(entry["image_id"]),
                category_id=lambda e: str(e["category_id"]),
            ),
        ),
        "ids written as text: 15 (read as whole numbers)",
    ),
    "image ids that are names": Kind(
        both(
            every("images", id=lambda entry: entry["file_name"]),
            every("annotations", image_id=lambda entry: f"{entry['image_id']}.jpg"),
        ),
        "image ids that are no numbers: 3 (numbered from 1)",
    ),
    "one image id that is a name": Kind(
        both(
            first("images", id="a"),
            every("annotations", image_id=lambda entry: "a" if entry["image_id"] == 1 else entry["image_id"]),
        ),
        "image ids that are no numbers: 1",
    ),
    "whole numbers as 80.0": Kind(
        every("images", width=80.0, height=60.0),
        "whole numbers written with a decimal point: 6 (read as whole numbers)",
    ),
    "ids as 1.0": Kind(
        every("annotations", category_id=lambda entry: float(entry["category_id"])), "with a decimal point: 6"
    ),
    "sizes as text": Kind(every("images", width="80", height="60"), "sizes written as text: 6"),
    "no image sizes": Kind(without("images", "width", "height"), "images without a size: 3 (read from the image file)"),
    "annotation ids missing": Kind(without("annotations", "id"), "annotations without an id: 6 (numbered)"),
    "annotation id 0": Kind(every("annotations", id=lambda entry: entry["id"] - 1), ""),
    "Roboflow: grouping category": Kind(group("pets"), "a category that groups the others: 1 (removed)"),
    "Roboflow: group named as a class": Kind(group("cat"), "a category that groups the others: 1 (removed)"),
    "unused second category of one name": Kind(
        also("categories", {"id": 7, "name": "dog"}), "that have the name of a class: 1 (removed)"
    ),
    "a class without objects": Kind(
        also("categories", {"id": 3, "name": "cow"}),
        "without an object: 1 (kept",
        classes=("cat", "dog", "cow"),
        direct=True,
    ),
    "class names that are numbers": Kind(
        first("categories", name=7), "class names that are numbers: 1", classes=("7", "dog"), direct=True
    ),
    "--classes in another order, with one more": Kind(
        nothing,
        "classes without an object: 1",
        classes=("dog", "cow", "cat"),
        options=ReadOptions(class_names=("dog", "cow", "cat")),
    ),
    "orphan annotations": Kind(also("annotations", ORPHAN), "annotations of images that are not listed: 1 (dropped)"),
    "an annotation twice": Kind(
        lambda content: content["annotations"].append(content["annotations"][0]),
        "given twice, alike in all: 1 (read once)",
    ),
    "an image twice": Kind(
        lambda content: content["images"].append(content["images"][0]), "images listed twice: 1 (read once)"
    ),
    "absolute names": Kind(nothing, "an absolute path: 3 (read as the file on disk)", direct=True),  # see `write`
    "Label Studio: backslashes": Kind(
        every("images", file_name=lambda entry: f"images\\{entry['file_name']}"),
        "backslashes: 3",
        direct=True,
        folder=".",
    ),
    "../images/": Kind(
        every("images", file_name=lambda entry: f"../images/{entry['file_name']}"), "another folder: 3", direct=True
    ),
    "IMAGE_DIR's own name": Kind(
        every("images", file_name=lambda entry: f"images/{entry['file_name']}"), "another folder: 3", direct=True
    ),
    "URL-encoded names": Kind(
        every("images", file_name=lambda entry: f"my%20{entry['file_name']}"), "URL encoding: 3", direct=True
    ),
    "other case of the suffix": Kind(
        every("images", file_name=lambda entry: entry["file_name"].replace("jpg", "JPG")),
        "case of the suffix: 3",
        direct=True,
    ),
    "boxes far over the border": Kind(
        every("annotations", bbox=lambda e: [-10, 6, 40, 18] if e["category_id"] == 1 else [40, 30, 900, 22]),
        "boxes over the border of their image: 6 (clipped)",
        [[[0, 6, 30, 24], [40, 30, 80, 52]]] * 3,
    ),
    "boxes over the border by rounding": Kind(
        every("annotations", bbox=lambda e: [0, 6, 80.02, 18]),
        "image: 6 (clipped)",
        [[[0, 6, 80, 24]] * 2] * 3,
        direct=True,
    ),
    "a box of width 0": Kind(
        first("annotations", bbox=[5, 6, 0, 18]),
        "boxes without width or height: 1 (dropped)",
        [[DOG], [CAT, DOG], [CAT, DOG]],
    ),
    "a box outside": Kind(
        first("annotations", bbox=[90, 6, 5, 18]),
        "wholly outside their image: 1 (dropped)",
        [[DOG], [CAT, DOG], [CAT, DOG]],
    ),
    "an empty segmentation": Kind(
        first("annotations", segmentation=[]),
        "objects without a mask: 1 (kept with their box alone)",
        masks="some",
        direct=True,
    ),
    "an empty polygon": Kind(first("annotations", segmentation=[[]]), "objects without a mask: 1", masks="some"),
    "empty run lengths": Kind(
        first("annotations", segmentation={"size": [60, 80], "counts": [4800]}),
        "objects without a mask: 1",
        masks="some",
        direct=True,
    ),
    "segmentations of four numbers": Kind(
        every("annotations", segmentation=lambda entry: [entry["bbox"]]),
        "segmentations of four numbers or fewer: 6 (object kept without a mask)",
        masks="none",
    ),
    "four numbers without the list": Kind(
        every("annotations", segmentation=lambda entry: entry["bbox"]), "of four numbers or fewer: 6", masks="none"
    ),
    "polygons without the list": Kind(
        every("annotations", segmentation=lambda entry: entry["segmentation"][0]), "without the list around them: 6"
    ),
    "a line beside a polygon": Kind(
        every("annotations", segmentation=lambda entry: [[1, 1, 9, 9], *entry["segmentation"]]),
        "fewer than 3 points: 6",
    ),
    "areas of 0": Kind(every("annotations", area=0), "areas that no object has: 6 (replaced by the area of the box)"),
    "CVAT: brush masks, as objects": Kind(
        every("annotations", iscrowd=1, segmentation=lambda entry: run_lengths(*entry["bbox"])),
        "regions marked iscrowd: 6 (counted as objects)",
        options=ReadOptions(crowd_as_objects=True),
    ),
    "iscrowd as text": Kind(every("annotations", iscrowd="0"), "iscrowd written as text: 6"),
    "iscrowd null": Kind(every("annotations", iscrowd=None, area=None), ""),
    "UTF-8 with a mark": Kind(nothing, "text that is not plain UTF-8: 1", shape=lambda text: text.encode("utf-8-sig")),
    "UTF-16 with a mark": Kind(nothing, "UTF-16", shape=lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be")),
    "UTF-16 without one": Kind(nothing, "UTF-16-LE", shape=lambda text: text.encode("utf-16-le")),
    "CRLF": Kind(nothing, "", shape=lambda text: text.replace(", ", ",\r\n").encode(), direct=True),
}


def write(root: Path, kind: Kind, name: str = "") -> tuple[Path, Path]:
    """An export -> (annotation file, IMAGE_DIR)."""
    (root / "annotations").mkdir()
    (root / "images").mkdir()
    content = clean()
    kind.change(content)
    for i in (1, 2, 3):
        Image.new("RGB", (80, 60)).save(root / "images" / (f"my {i}.jpg" if "URL" in name else f"{i}.jpg"))
    if name == "absolute names":
        every("images", file_name=lambda entry: str(root / "images" / entry["file_name"]))(content)
    path = root / "annotations" / "instances.json"
    path.write_bytes(kind.shape(json.dumps(content)))
    return path, root / kind.folder


def average_precision(data: DetectionData, out: Path, boxes: list[list[list[float]]]) -> dict[str, float]:
    """AP of a detector that finds `boxes` and the masks of the data, by the evaluator that a run builds."""
    name = f"exports_{out}"
    DatasetCatalog.register(name, lambda: list(data.records))
    metadata = MetadataCatalog.get(name).set(thing_classes=list(data.class_names), evaluator_type="own_coco")
    metadata.set(can_evaluate_masks=data.can_evaluate_masks)
    if data.complete_coco is not None:
        path, ids = data.complete_coco
        metadata.set(json_file=str(path), thing_dataset_id_to_contiguous_id={key: i for i, key in enumerate(ids)})
    config = get_cfg()
    config.OUTPUT_DIR, config.MODEL.MASK_ON = str(out), data.can_evaluate_masks
    evaluator = DetectionTrainer.build_evaluator(config, name)
    evaluator.reset()
    for record, found in zip(data.records, boxes, strict=True):
        size = record["height"], record["width"]
        instances = Instances(size)
        instances.pred_boxes = Boxes(torch.tensor(found, dtype=torch.float32))
        instances.pred_classes = torch.tensor([thing["category_id"] for thing in record["annotations"]])
        instances.scores = torch.full((len(found),), 0.9)
        if config.MODEL.MASK_ON:
            instances.pred_masks = torch.stack(
                [decoded(thing["segmentation"], *size) for thing in record["annotations"]]
            )
        evaluator.process([{"image_id": record["image_id"]}], [{"instances": instances}])
    results = evaluator.evaluate()
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)
    return {task: metrics["AP"] for task, metrics in results.items()}


def decoded(segmentation: Any, height: int, width: int) -> torch.Tensor:
    if isinstance(segmentation, list):
        segmentation = pycocotools.mask.merge(pycocotools.mask.frPyObjects(segmentation, height, width))
    return torch.from_numpy(pycocotools.mask.decode(segmentation)).bool()


def boxes_of(data: DetectionData) -> list[list[list[float]]]:
    return [[thing["bbox"] for thing in record["annotations"]] for record in data.records]


@each("name", ACCEPTED)
def test_kind_is_read_to_the_pixel_said_in_one_line_and_scores_one_hundred(tmp_path: Path, name: str) -> None:
    kind = ACCEPTED[name]
    path, image_dir = write(tmp_path, kind, name)
    data = read_coco(path, image_dir, kind.options)
    for found, expected in zip(boxes_of(data), kind.boxes, strict=True):
        assert len(found) == len(expected)
        assert [value for box in found for value in box] == pytest.approx([value for box in expected for value in box])
    assert len(data.notes) == bool(kind.note) and all(kind.note in note for note in data.notes)
    assert (data.class_names, data.masks) == (kind.classes, kind.masks)
    assert all(Path(record["file_name"]).is_file() and isinstance(record["image_id"], int) for record in data.records)
    assert not any(thing["iscrowd"] for record in data.records for thing in record["annotations"])
    assert (data.complete_coco is not None) == kind.direct
    assert average_precision(data, tmp_path / "out", kind.boxes) == {
        task: pytest.approx(100) for task in (("bbox", "segm") if data.can_evaluate_masks else ("bbox",))
    }


def test_the_evaluator_of_these_tests_sees_a_box_that_is_half_a_pixel_off(tmp_path: Path) -> None:
    path, image_dir = write(tmp_path, ACCEPTED["fractional boxes"])
    data = read_coco(path, image_dir)
    shifted = [[[value + 0.5 for value in box] for box in boxes] for boxes in HALF]
    assert average_precision(data, tmp_path / "out", shifted)["bbox"] < 95


def test_half_of_the_cats_are_not_counted_where_they_are_kept_as_crowds(tmp_path: Path) -> None:
    brush = Kind(lambda content: [entry.update(iscrowd=1) for entry in content["annotations"][::2]], "")
    path, image_dir = write(tmp_path, brush)
    data = read_coco(path, image_dir, ReadOptions(keep_crowds=True))
    assert data.num_objects == 3 and "regions marked iscrowd: 3 (left out of training" in data.notes[0]
    assert read_coco(path, image_dir, ReadOptions(crowd_as_objects=True)).num_objects == 6


REFUSED = {
    "CVAT: every object is a brush mask": (
        every("annotations", iscrowd=1),
        ("every object is marked iscrowd: 6", "annotations[0] (1.jpg): 'cat', iscrowd 1", "pass --crowd-as-objects"),
    ),
    "CVAT: half of them": (
        lambda content: [entry.update(iscrowd=1) for entry in content["annotations"][::2]],
        ("many objects are marked iscrowd: 3", "3 of 6 objects", "--crowd-as-objects", "--keep-crowds"),
    ),
    "width and height exchanged": (
        every("images", width=60, height=80),
        (
            "width and height are exchanged: 3",
            "images[0] (1.jpg): width 60, height 80; the file is 80 wide and 60 high",
        ),
    ),
    "negative width": (
        first("annotations", bbox=[25, 6, -20, 18]),
        (
            "boxes with a negative width or height: 1",
            "annotations[0] (1.jpg): bbox [25, 6, -20, 18]",
            "upper left corner",
        ),
    ),
    "corners instead of sizes": (
        every("annotations", bbox=lambda entry: corners(*entry["bbox"])),
        (
            "all boxes of the file may be corners instead of a point and a size: 3",
            "(40, 30, 105, 82) in 80 x 60 pixels",
        ),
    ),
    "fractions of the image": (
        every("annotations", bbox=[0.1, 0.2, 0.3, 0.4]),
        ("boxes in fractions of their image, not in pixels: 1", "of 6 boxes is above 0.6", "multiply x and width"),
    ),
    "a used category of the same name": (
        both(also("categories", {"id": 9, "name": "cat"}), first("annotations", category_id=9)),
        ("several categories of one name: 1", "'cat' is given twice, as ids 1, 9", "one category_id"),
    ),
    "names that leave the folder": (
        every("images", file_name=lambda entry: f"/home/me/{entry['file_name']}"),
        ("image names that lead out of the image folder: 3", "write them relative to"),
    ),
    "most boxes without area": (
        every("annotations", bbox=[200, 200, 5, 5]),
        ("more than 50% of the boxes have no area in their image: 1", "6 of 6"),
    ),
    "one file under two ids with different objects": (
        first("images", file_name="2.jpg"),
        ("image files listed under several ids with different objects: 1", "make one entry of them"),
    ),
    "a class that --classes lacks": (nothing, ("classes that --classes does not name: 1", "'dog' (id 2)")),
    "images over 50 megapixels": (first("images", width=10_000, height=6_000), ("pass --large-images",)),
}


@each("name", REFUSED)
def test_kind_in_doubt_is_refused_with_its_count_the_offender_and_the_remedy(tmp_path: Path, name: str) -> None:
    change, said = REFUSED[name]
    if name.startswith("one file"):
        change = both(change, lambda content: content["annotations"].pop(0))
    path, image_dir = write(tmp_path, Kind(change, ""), name)
    options = ReadOptions(class_names=("cat",)) if "--classes" in name else ReadOptions()
    with pytest.raises(DataError) as caught:
        read_coco(path, image_dir, options)
    assert all(part in str(caught.value) for part in said), str(caught.value)


def test_boxes_far_over_the_border_are_clipped_where_one_box_can_be_no_pair_of_corners(tmp_path: Path) -> None:
    change = both(every("annotations", bbox=[40, 30, 65, 52]), first("annotations", bbox=[40, 30, 25, 22]))
    path, image_dir = write(tmp_path, Kind(change, ""))
    data = read_coco(path, image_dir)
    assert "boxes over the border of their image: 5 (clipped)" in data.notes[0] and data.num_objects == 6


def test_a_large_image_is_read_when_it_is_asked_for(tmp_path: Path) -> None:
    path, image_dir = write(tmp_path, Kind(every("images", width=10_000, height=6_000), ""))
    data = read_coco(path, image_dir, ReadOptions(large_images=True))
    assert data.records[0]["width"] == 10_000 and boxes_of(data) == CLEAN


@pytest.mark.parametrize("why", ["it has an object", "it has a supercategory of its own"])
def test_a_category_0_named_as_supercategory_of_the_others_is_a_class_where(tmp_path: Path, why: str) -> None:
    own = "life" if "supercategory" in why else "none"
    change = both(
        every("categories", supercategory="pets"), also("categories", {"id": 0, "name": "pets", "supercategory": own})
    )
    if "object" in why:
        change = both(change, first("annotations", category_id=0))
    path, image_dir = write(tmp_path, Kind(change, ""))
    data = read_coco(path, image_dir)
    assert data.class_names == ("pets", "cat", "dog")
    assert data.records[0]["annotations"][0]["category_id"] == (0 if "object" in why else 1)


def test_the_area_of_a_clipped_object_is_no_larger_than_what_is_left_of_its_box(tmp_path: Path) -> None:
    path, image_dir = write(tmp_path, Kind(first("annotations", bbox=[70, 6, 20, 18], area=360), ""))
    assert [thing["area"] for thing in read_coco(path, image_dir).records[0]["annotations"]] == [180, 550]


def test_an_unused_category_0_that_groups_nothing_is_a_class(tmp_path: Path) -> None:
    path, image_dir = write(tmp_path, Kind(also("categories", {"id": 0, "name": "cow", "supercategory": "none"}), ""))
    assert read_coco(path, image_dir).class_names == ("cow", "cat", "dog")
