"""Small detection data sets as annotation tools write them: what each kind is, and what reading it must give.

In: a folder to write into. Out: `Kind`s, each with the SPEC of what it wrote, the outcome (accepted without a word, repaired
with a counted note, refused with a cause) and the boxes to the pixel. Conventions are those of the tools' exporters and of
reports by their users, named in `source` (repository#number of the thread) where there is one; files are written here, none is
copied. All kinds describe the same three images (of different sizes, by which they are recognised) unless they say otherwise.
"""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from transfer.data.problems import ReadOptions

Size = tuple[int, int]  # width, height: names the image
Thing = tuple[str, float, float, float, float]  # class, x1, y1, x2, y2 in edges from 0
Boxes = Mapping[Size, tuple[Thing, ...]]
Outcome = Literal["accepted", "repaired", "refused"]

FIRST, SECOND, THIRD = (100, 80), (64, 96), (120, 90)
SIZES = {"1": FIRST, "2": SECOND, "3": THIRD}
TRUE: dict[Size, tuple[Thing, ...]] = {
    FIRST: (("cat", 10, 12, 40, 50), ("dog", 50, 20, 90, 60)),
    SECOND: (("dog", 5, 6, 60, 90),),
    THIRD: (("cat", 30, 8, 100, 72),),
}
NUM_OBJECTS = 4
CLASSES = ("cat", "dog")


@dataclass(frozen=True)
class Kind:
    """One way to write the data.

    source: tool and convention. write: folder -> SPEC.
    words: patterns, each of which a note (repaired) or the message (refused) must match.
    boxes: of the images that are left.
    """

    name: str
    source: str
    write: Callable[[Path], str]
    outcome: Outcome
    words: tuple[str, ...] = ()
    boxes: Boxes = field(default_factory=lambda: TRUE)
    options: ReadOptions = field(default_factory=ReadOptions)


KINDS: list[Kind] = []


def accepted(source: str, *, boxes: Boxes = TRUE, **options: Any) -> Callable[[Callable[[Path], str]], None]:
    """Register a writer whose data are read without a word."""
    return _register("accepted", source, (), boxes, options)


def repaired(source: str, *words: str, boxes: Boxes = TRUE, **options: Any) -> Callable[[Callable[[Path], str]], None]:
    """Register a writer whose data are read with notes."""
    return _register("repaired", source, words, boxes, options)


def refused(source: str, *words: str, **options: Any) -> Callable[[Callable[[Path], str]], None]:
    """Register a writer whose data are in doubt."""
    return _register("refused", source, words, TRUE, options)


def _register(outcome: Outcome, source: str, words: tuple[str, ...], boxes: Boxes, options: Mapping[str, Any]):
    def register(write: Callable[[Path], str]) -> None:
        KINDS.append(Kind(write.__name__, source, write, outcome, words, boxes, ReadOptions(**options)))

    return register


# Images


@functools.cache
def image_bytes(size: Size, kind: str = "JPEG", orientation: int = 1) -> bytes:
    """A picture with detail everywhere."""
    width, height = size
    pixels = np.random.default_rng(width).integers(256, size=(height, width, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **({"exif": exif} if orientation > 1 else {}))
    return buffer.getvalue()


def write_images(folder: Path, name: str = "{}.jpg", kind: str = "JPEG") -> None:
    """The three images, `name` formatted with 1, 2, 3."""
    for stem, size in SIZES.items():
        path = folder / name.format(stem)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image_bytes(size, kind))


def shifted(boxes: Boxes, *, image: Size, index: int = 0, box: tuple[float, float, float, float] | None) -> Boxes:
    """`boxes` with one of them replaced, or removed (None)."""
    things = list(boxes[image])
    if box is None:
        del things[index]
    else:
        things[index] = (things[index][0], *box)
    return {**boxes, image: tuple(things)}


# COCO


def coco(
    *,
    name: str = "{}.jpg",
    segmentation: Callable[[Thing, Size], Any] | None = None,
    first_category: int = 1,
    iscrowd: int = 0,
) -> dict[str, Any]:
    """An instances file of the three images."""
    images = [
        {"id": int(stem), "file_name": name.format(stem), "width": width, "height": height}
        for stem, (width, height) in SIZES.items()
    ]
    annotations: list[dict[str, Any]] = []
    for image, size in zip(images, SIZES.values(), strict=True):
        for thing in TRUE[size]:
            category, x1, y1, x2, y2 = thing
            entry = {
                "id": len(annotations) + 1,
                "image_id": image["id"],
                "category_id": first_category + CLASSES.index(category),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                "iscrowd": iscrowd,
            }
            entry["segmentation"] = (segmentation or polygon)(thing, size)
            annotations.append(entry)
    categories = [
        {"id": first_category + index, "name": category, "supercategory": ""} for index, category in enumerate(CLASSES)
    ]
    return {"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": categories}


def polygon(thing: Thing, size: Size) -> list[list[float]]:
    """The box's outline."""
    _, x1, y1, x2, y2 = thing
    return [[x1, y1, x2, y1, x2, y2, x1, y2]]


def nothing(thing: Thing, size: Size) -> list[Any]:
    """What tools write for a rectangle."""
    return []


def run_lengths(thing: Thing, size: Size) -> dict[str, Any]:
    """Uncompressed, down the columns."""
    _, x1, y1, x2, y2 = thing
    width, height = size
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[int(y1) : int(y2), int(x1) : int(x2)] = 1
    flat = mask.flatten(order="F")
    edges = np.flatnonzero(np.diff(flat, prepend=0, append=0))
    counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return {"counts": counts, "size": [height, width]}


def write_coco(
    root: Path,
    content: Any,
    *,
    file: str = "annotations.json",
    images: str = "images",
    image_dir: str | None = None,
    name: str = "{}.jpg",
    encoding: str = "utf-8",
) -> str:
    """Write file and images -> SPEC, with `image_dir` (default: `images`) as the image folder."""
    write_images(root / images, name)
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding=encoding)
    return f"coco:{path}:{root / (images if image_dir is None else image_dir)}"


@accepted("COCO 2017 itself")
def coco_official(root: Path) -> str:
    return write_coco(root, coco(name="00000000000{}.jpg"), file="annotations/instances_train2017.json", images="train2017",
                      name="00000000000{}.jpg")  # fmt: skip


@accepted("Detectron2's convert_to_coco_json: categories from 0, numbers rounded to 3 decimals")
def detectron2_coco(root: Path) -> str:
    content = coco(first_category=0)
    for entry in content["annotations"]:
        entry["bbox"] = [round(float(value), 3) for value in entry["bbox"]]
        entry["area"] = float(entry["area"])
    return write_coco(root, content)


@accepted("CVAT COCO 1.0: rectangles have segmentation [] and attributes")
def cvat_coco_boxes(root: Path) -> str:
    content = coco(segmentation=nothing)
    for entry in content["annotations"]:
        entry["attributes"] = {"occluded": False, "rotation": 0.0}
    return write_coco(root, content, file="annotations/instances_default.json", images="images/default")


@accepted("CVAT COCO 1.0: images of sub-folders")
def cvat_coco_subfolders(root: Path) -> str:
    return write_coco(root, coco(name="shelf {0}/{0}.jpg"), name="shelf {0}/{0}.jpg")


@repaired("CVAT COCO 1.0: polygons and rectangles mixed", r"objects without a mask: 1 ")
def cvat_coco_mixed(root: Path) -> str:
    content = coco()
    content["annotations"][0]["segmentation"] = []
    return write_coco(root, content)


def _brush(root: Path, which: Sequence[int]) -> str:
    content = coco()
    masks = coco(segmentation=run_lengths, iscrowd=1)
    for index in which:
        content["annotations"][index] = masks["annotations"][index]
    return write_coco(root, content, file="annotations/instances_default.json")


@refused("CVAT COCO 1.0: every mask drawn with the brush has iscrowd 1", r"every object is marked iscrowd: 4",
         "pass --crowd-as-objects")  # fmt: skip
def cvat_coco_brush(root: Path) -> str:
    return _brush(root, range(NUM_OBJECTS))


@repaired("the same with --crowd-as-objects", r"iscrowd: 4 \(counted as objects", crowd_as_objects=True)
def cvat_coco_brush_as_objects(root: Path) -> str:
    return _brush(root, range(NUM_OBJECTS))


@refused("CVAT COCO 1.0 and Datumaro: polygons and brush masks mixed", r"marked iscrowd: 2", "--crowd-as-objects")
def cvat_coco_brush_some(root: Path) -> str:
    return _brush(root, (0, 2))


@repaired("the same with --crowd-as-objects", r"iscrowd: 2 \(counted as objects", crowd_as_objects=True)
def cvat_coco_brush_some_as_objects(root: Path) -> str:
    return _brush(root, (0, 2))


@accepted("V7 Darwin: masks as uncompressed run lengths with iscrowd 0 (v7labs/darwin-py#1177)")
def darwin_coco_masks(root: Path) -> str:
    return write_coco(root, coco(segmentation=run_lengths))


@accepted("Label Studio on Linux: file_name images/1.jpg, IMAGE_DIR = export folder; categories from 0, `ignore`")
def label_studio_coco_linux(root: Path) -> str:
    content = coco(name="images/cb0618f6-{}.jpg", segmentation=nothing, first_category=0)
    for entry in content["annotations"]:
        entry["ignore"] = 0
    return write_coco(root, content, file="result.json", image_dir=".", name="cb0618f6-{}.jpg")


@repaired("the same with IMAGE_DIR = export folder/images", r"a path from another folder: 3 ")
def label_studio_coco_linux_images_folder(root: Path) -> str:
    return write_coco(root, coco(name="images/{}.jpg", segmentation=nothing), file="result.json")


@repaired(
    "Label Studio on Windows: file_name images\\1.jpg (HumanSignal/label-studio-converter#139)", r"backslashes: 3 "
)
def label_studio_coco_windows(root: Path) -> str:
    return write_coco(root, coco(name="images\\{}.jpg", segmentation=nothing), file="result.json", image_dir=".")


@refused("Label Studio 1.16 on Windows: the path on the server (HumanSignal/label-studio#7294)", "images are missing: 3|lead out of the image folder: 3")  # fmt: skip
def label_studio_coco_server_path(root: Path) -> str:
    name = "..\\..\\label-studio\\label-studio\\media\\upload\\4\\cb0618f6-{}.jpg"
    return write_coco(root, coco(name=name), file="result.json", name="cb0618f6-{}.jpg")


@repaired("Label Studio: names of uploads with spaces are URL-encoded", r"URL encoding.*: 3 ")
def label_studio_coco_url(root: Path) -> str:
    return write_coco(
        root, coco(name="images/my%20dog%20{}.jpg"), file="result.json", image_dir=".", name="my dog {}.jpg"
    )


@repaired("file_name ../images/1.jpg, relative to the annotation file", r"a path from another folder: 3 ")
def names_relative_to_the_file(root: Path) -> str:
    return write_coco(root, coco(name="../images/{}.jpg"), file="annotations/a.json")


def _roboflow(group: str) -> dict[str, Any]:
    content = coco(name="{}_jpg.rf.8c2f7d1e.jpg", segmentation=nothing)
    content["categories"] = [
        {"id": 0, "name": group, "supercategory": "none"},
        *({"id": index, "name": name, "supercategory": group} for index, name in enumerate(CLASSES, start=1)),
    ]
    for position, image in enumerate(content["images"]):
        image |= {
            "id": position,
            "license": 1,
            "date_captured": "2024-01-01T00:00:00+00:00",
            "extra": {"name": "1.jpg"},
        }
    for position, entry in enumerate(content["annotations"]):
        entry |= {"id": position, "image_id": entry["image_id"] - 1}
    return content


@repaired("Roboflow: category 0 groups the others (roboflow/roboflow-100-benchmark#45); ids from 0; images beside the file",
          r"a category that groups the others: 1 ")  # fmt: skip
def roboflow_coco(root: Path) -> str:
    file = "train/_annotations.coco.json"
    return write_coco(root, _roboflow("animals"), file=file, images="train", name="{}_jpg.rf.8c2f7d1e.jpg")


@repaired("Roboflow: the project has the name of a class (roboflow/rf-detr#1303)", r"categor.*: 1 .*'cat' \(id 0\)")
def roboflow_coco_same_name(root: Path) -> str:
    file = "train/_annotations.coco.json"
    return write_coco(root, _roboflow("cat"), file=file, images="train", name="{}_jpg.rf.8c2f7d1e.jpg")


@accepted("COCO Annotator: colours, paths and isbbox beside the fields (jsbroks/coco-annotator#75: no supercategory)")
def coco_annotator(root: Path) -> str:
    content = coco()
    for image in content["images"]:
        image |= {
            "path": f"/datasets/zoo/{image['file_name']}",
            "deleted": False,
            "dataset_id": 7,
            "num_annotations": 1,
        }
    for entry in content["annotations"]:
        entry |= {"isbbox": False, "color": "#1a2b3c", "metadata": {}}
    for category in content["categories"]:
        del category["supercategory"]
    return write_coco(root, content)


@repaired("COCO Annotator: an annotation whose drawing was deleted keeps an empty box", r"boxes without width or height: 1 ",
          r"objects without a mask|dropped")  # fmt: skip
def coco_annotator_deleted(root: Path) -> str:
    content = coco()
    empty = {"id": 9, "segmentation": [], "area": 0, "bbox": [0.0, 0.0, 0.0, 0.0]}
    content["annotations"].append({**content["annotations"][0], **empty})
    return write_coco(root, content)


@accepted("labelme2coco: JPEGImages/1.jpg relative to the export folder, categories from 0, license null")
def labelme_coco(root: Path) -> str:
    content = coco(name="JPEGImages/{}.jpg", first_category=0)
    for image in content["images"]:
        image |= {"license": 0, "url": None, "date_captured": None}
    return write_coco(root, content, images="JPEGImages", image_dir=".")


@repaired("labelme2coco on Windows", r"backslashes: 3 ")
def labelme_coco_windows(root: Path) -> str:
    return write_coco(root, coco(name="JPEGImages\\{}.jpg"), images="JPEGImages", image_dir=".")


@repaired(
    "VGG VIA 2: image ids as text, one flat polygon", r"ids written as text: 7 ", r"polygons without the list.*: 4 "
)
def via_coco(root: Path) -> str:
    content = coco(segmentation=lambda thing, size: polygon(thing, size)[0])
    for image in content["images"]:
        image["id"] = str(image["id"])
    for entry in content["annotations"]:
        entry["image_id"] = str(entry["image_id"])
    return write_coco(root, content)


@accepted("Supervisely: convert_to_coco; the supercategory is the class (supervisely/supervisely#1386: ids from 1)")
def supervisely_coco(root: Path) -> str:
    content = coco()
    for category in content["categories"]:
        category["supercategory"] = category["name"]
    for entry in content["annotations"]:
        entry["segmentation"] = [[float(value) for value in outline] for outline in entry["segmentation"]]
    return write_coco(root, content, file="train/annotations/instances.json", images="train/images")


@accepted(
    "FiftyOne COCODetectionDataset: data/ and labels.json, supercategory null, boxes with fractions, no segmentation"
)
def fiftyone_coco(root: Path) -> str:
    content = coco()
    for category in content["categories"]:
        category["supercategory"] = None
    for entry in content["annotations"]:
        del entry["segmentation"]
        entry["bbox"] = [float(value) for value in entry["bbox"]]
    return write_coco(root, content, file="labels.json", images="data")


@accepted("makesense.ai: image ids from 0, polygons, boxes with many decimals")
def makesense_coco(root: Path) -> str:
    content = coco()
    for image in content["images"]:
        image["id"] -= 1
    for entry in content["annotations"]:
        entry |= {"image_id": entry["image_id"] - 1, "id": entry["id"] - 1}
        entry["bbox"] = [value + 1e-11 for value in entry["bbox"]]
    return write_coco(root, content, file="labels_my-project_2024-01-01.json")


@accepted("Hasty: dataset names and attributes beside the fields, order of objects free")
def hasty_coco(root: Path) -> str:
    content = coco()
    content["annotations"].reverse()
    for image in content["images"]:
        image |= {"dataset_name": "Default", "image_status": "DONE", "tags": []}
    return write_coco(root, content)


@repaired("Scale and others: identifiers of a data base as image ids", r"image ids that are no numbers: 3 ")
def scale_coco_uuid(root: Path) -> str:
    content = coco()
    for image in content["images"]:
        image["id"] = f"5f3c-{image['id']}"
    for entry in content["annotations"]:
        entry |= {"image_id": f"5f3c-{entry['image_id']}", "id": f"task-{entry['id']}"}
    return write_coco(root, content)


@accepted("RectLabel: boxes without the key segmentation (ryouchinsa/Rectlabel-support#250)")
def rectlabel_coco(root: Path) -> str:
    content = coco()
    for entry in content["annotations"]:
        del entry["segmentation"]
    return write_coco(root, content, file="annotations.json")


@repaired("BlenderProc: an object of which one column shows has width 0 (DLR-RM/BlenderProc#34)",
          r"boxes without width or height: 1 ", boxes=shifted(TRUE, image=FIRST, box=None))  # fmt: skip
def blenderproc_coco(root: Path) -> str:
    content = coco(name="images/{}.jpg")
    content["annotations"][0]["bbox"] = [10, 12, 0, 38]
    return write_coco(root, content, file="coco_annotations.json", image_dir=".")


@repaired("CrowdHuman: whole bodies reach over the border (open-mmlab/mmdetection#2382)", r"boxes over the border.*: 2 ",
          boxes=shifted(shifted(TRUE, image=FIRST, box=(0, 0, 40, 50)), image=THIRD, box=(30, 8, 120, 90)))  # fmt: skip
def crowdhuman_coco(root: Path) -> str:
    content = coco(segmentation=nothing)
    content["annotations"][0]["bbox"] = [-30, -10, 70, 60]
    content["annotations"][3]["bbox"] = [30, 8, 130, 122]
    return write_coco(root, content)


@repaired("boxes wholly outside an image that was cropped later", r"boxes wholly outside their image: 1 ",
          boxes=shifted(TRUE, image=FIRST, box=None))  # fmt: skip
def cropped_coco(root: Path) -> str:
    content = coco(segmentation=nothing)
    content["annotations"][0]["bbox"] = [110, 12, 30, 38]
    return write_coco(root, content)


@repaired("MATLAB and pandas: whole numbers as 100.0", r"whole numbers written with a decimal point: 6 ")
def pandas_coco(root: Path) -> str:
    content = coco()
    for image in content["images"]:
        image |= {"width": float(image["width"]), "height": float(image["height"])}
    return write_coco(root, content)


@repaired("an image was deleted, its annotations were not", r"annotations of images that are not listed: 1 ")
def orphan_coco(root: Path) -> str:
    content = coco()
    content["annotations"].append({**content["annotations"][0], "id": 99, "image_id": 77})
    return write_coco(root, content)


@repaired("absolute names inside IMAGE_DIR", r"an absolute path: 3 ")
def absolute_names(root: Path) -> str:
    return write_coco(root, coco(name=f"{root}/images/{{}}.jpg"))


@refused("absolute names of another machine", r"lead out of the image folder: 3\n")
def absolute_names_of_another_machine(root: Path) -> str:
    return write_coco(root, coco(name="/home/annotator/zoo/{}.jpg"))


@refused("names that leave the image folder for another file", r"lead out of the image folder: 3\n")
def names_outside(root: Path) -> str:
    write_images(root / "elsewhere")
    return write_coco(root, coco(name="../../elsewhere/{}.jpg"), images="data/images", name="other{}.jpg")


@repaired("cameras write IMG.JPG, the tool img.jpg", r"another case of the suffix: 3 ")
def suffix_case(root: Path) -> str:
    return write_coco(root, coco(), name="{}.JPG")


@repaired("JSON saved by an editor with a byte-order mark", r"byte-order mark")
def bom_json(root: Path) -> str:
    return write_coco(root, coco(), encoding="utf-8-sig")


@repaired("JSON redirected by PowerShell: UTF-16", r"UTF-16")
def utf16_json(root: Path) -> str:
    return write_coco(root, coco(), encoding="utf-16")


@refused(
    "width and height exchanged in the file (facebookresearch/detectron2#2463)",
    r"width and height are exchanged.*: 3\n",
)
def exchanged_sizes(root: Path) -> str:
    content = coco(segmentation=nothing)
    for image in content["images"]:
        image |= {"width": image["height"], "height": image["width"]}
    return write_coco(root, content)


@refused("annotated as stored: the tool ignores the EXIF orientation", r"exchanged.*: 1\n", "EXIF orientation")
def exif_ignored(root: Path) -> str:
    spec = write_coco(root, coco(segmentation=nothing))
    (root / "images" / "1.jpg").write_bytes(image_bytes(FIRST, "JPEG", 6))
    return spec


@accepted("annotated as shown: the EXIF orientation turns the stored image")
def exif_respected(root: Path) -> str:
    spec = write_coco(root, coco(segmentation=nothing))
    (root / "images" / "1.jpg").write_bytes(image_bytes(FIRST[::-1], "JPEG", 6))
    return spec


@refused("images were resized after they were annotated", r"another size than their annotation says: 1\n", "100 x 80")
def resized_images(root: Path) -> str:
    spec = write_coco(root, coco(segmentation=nothing))
    (root / "images" / "1.jpg").write_bytes(image_bytes((50, 40)))
    return spec


@refused("drawn from right to left: a negative width", r"negative width or height: 1\n")
def negative_width(root: Path) -> str:
    content = coco()
    content["annotations"][0]["bbox"] = [40, 12, -30, 38]
    return write_coco(root, content)


@repaired("a label set larger than this split's", r"classes without an object.*: 1 .*'rabbit'")
def unused_class(root: Path) -> str:
    content = coco()
    content["categories"].append({"id": 3, "name": "rabbit"})
    return write_coco(root, content)


@refused("two exports merged without new ids", r"image ids given twice.*: 1\n")
def merged_exports(root: Path) -> str:
    content = coco()
    content["images"][2]["id"] = 1
    return write_coco(root, content)


@refused("an image was not copied", r"images are missing: 1\n", r"3\.jpg: no such file")
def missing_image(root: Path) -> str:
    spec = write_coco(root, coco())
    (root / "images" / "3.jpg").unlink()
    return spec


def _unreadable(root: Path) -> str:
    spec = write_coco(root, coco())
    (root / "images" / "3.jpg").write_text("<html>404</html>")
    return spec


@refused("a download failed", r"images cannot be read: 1\n", r"a page of HTML", "pass --skip-unreadable")
def unreadable_image(root: Path) -> str:
    return _unreadable(root)


@repaired("the same with --skip-unreadable", r"images cannot be read: 1 \(left out", skip_unreadable=True,
          boxes={FIRST: TRUE[FIRST], SECOND: TRUE[SECOND]})  # fmt: skip
def unreadable_image_left_out(root: Path) -> str:
    return _unreadable(root)


@repaired("a JPEG that lacks its last 20 bytes", r"JPEGs lack their last bytes: 1 ")
def truncated_image(root: Path) -> str:
    content = coco()
    content["images"][2] |= {"width": 120, "height": 90}
    spec = write_coco(root, content)
    path = root / "images" / "3.jpg"
    path.write_bytes(path.read_bytes()[:-20])
    return spec


@repaired("the box repeated as segmentation", r"segmentations of four numbers or fewer: 4 ")
def box_as_segmentation(root: Path) -> str:
    content = coco()
    for entry in content["annotations"]:
        entry["segmentation"] = [list(entry["bbox"])]
    return write_coco(root, content)


@accepted("--classes gives another order", class_names=("dog", "cat"))
def classes_in_another_order(root: Path) -> str:
    return write_coco(root, coco())


@refused("--classes does not name all", r"--classes", r"'dog'", class_names=("cat",))
def classes_that_lack_one(root: Path) -> str:
    return write_coco(root, coco())


@refused("Python's json writes NaN for an unknown area", "NaN is not a JSON number")
def nan_area(root: Path) -> str:
    content = coco()
    content["annotations"][0]["area"] = float("nan")
    return write_coco(root, content)


@refused("CreateML JSON, not COCO", "COCO instances file|expected an object")
def createml_json(root: Path) -> str:
    return write_coco(root, [{"image": "1.jpg", "annotations": [{"label": "cat", "coordinates": {"x": 25, "y": 31}}]}])


@refused("VGG VIA project JSON, not COCO", "COCO instances file")
def via_project_json(root: Path) -> str:
    return write_coco(
        root, {"_via_settings": {}, "_via_img_metadata": {"1.jpg1234": {"filename": "1.jpg", "regions": []}}}
    )


@refused("an export without a box", "`annotations` is empty|no labelled object")
def empty_export(root: Path) -> str:
    return write_coco(root, {**coco(), "annotations": []})


@refused(
    "boxes as fractions of the image", r"boxes in fractions of their image, not in pixels: 1\n", "multiply x and width"
)
def boxes_in_fractions(root: Path) -> str:
    content = coco(segmentation=nothing)
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    for entry in content["annotations"]:
        entry["bbox"] = [value / side for value, side in zip(entry["bbox"], sizes[entry["image_id"]] * 2, strict=True)]
    return write_coco(root, content)


# VOC


def voc_corners(thing: Thing) -> tuple[float, ...]:
    """VOC's own: pixels counted from 1, the last one included."""
    _, x1, y1, x2, y2 = thing
    return (x1 + 1, y1 + 1, x2, y2)


def edges(thing: Thing) -> tuple[float, ...]:
    """x, y, x + width, y + height, as programs write that know edges only."""
    return thing[1:]


def fractional(boxes: Boxes) -> Boxes:
    """Every corner a quarter of a pixel on."""
    return {size: tuple((name, *(v + 0.25 for v in box)) for name, *box in things) for size, things in boxes.items()}  # type: ignore[misc]


def voc_xml(
    size: Size,
    things: Sequence[Thing],
    *,
    corners: Callable[[Thing], Sequence[Any]] = voc_corners,
    filename: str = "1.jpg",
    sizes: str | None = None,
    difficult: str | None = "0",
    head: str = "",
    extra: str = "",
) -> str:
    """One annotation file."""
    width, height = size
    sizes = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>" if sizes is None else sizes
    mark = "" if difficult is None else f"<difficult>{difficult}</difficult>"
    objects = "".join(
        f"<object><name>{thing[0]}</name><pose>Unspecified</pose><truncated>0</truncated>{mark}<bndbox>"
        + "".join(f"<{side}>{value}</{side}>" for side, value in zip(("xmin", "ymin", "xmax", "ymax"), corners(thing), strict=True))
        + f"</bndbox>{extra}</object>"
        for thing in things
    )  # fmt: skip
    return f"{head}<annotation><folder>x</folder><filename>{filename}</filename>{sizes}<segmented>0</segmented>{objects}</annotation>"


def write_voc(
    root: Path,
    *,
    boxes: Boxes = TRUE,
    name: str = "{}",
    suffix: str = ".jpg",
    kind: str = "JPEG",
    listing: bytes | None = None,
    split: str = "train",
    **options: Any,
) -> str:
    """Write a VOC folder -> SPEC. listing: the split file, other than one name a line."""
    write_images(root / "JPEGImages", f"{name}{suffix}", kind)
    for stem, size in SIZES.items():
        path = root / "Annotations" / f"{name.format(stem)}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        filename = options.pop("filename", None) or Path(f"{name.format(stem)}{suffix}").name
        path.write_text(voc_xml(size, boxes[size], filename=filename, **options))
    (root / "ImageSets" / "Main").mkdir(parents=True)
    names = "".join(f"{name.format(stem)}\n" for stem in SIZES).encode() if listing is None else listing
    (root / "ImageSets" / "Main" / f"{split}.txt").write_bytes(names)
    return f"voc:{root}:{split}"


@accepted("PASCAL VOC itself")
def voc_official(root: Path) -> str:
    return write_voc(root)


@accepted("PASCAL VOC with the metric of 2007")
def voc_2007(root: Path) -> str:
    return write_voc(root).replace("voc:", "voc07:", 1)


@accepted("VOC 2007: parts of a person have a box and a name of their own, and are no objects")
def voc_parts(root: Path) -> str:
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></part>"
    return write_voc(root, extra=part)


_ONE_FRACTION = shifted(TRUE, image=SECOND, box=(5, 5.70000076293945, 60, 90))


@accepted(
    "VOC 2012 has a few corners with fractions (Tony607/voc2coco#5): VOC's own rule holds for them too",
    boxes=_ONE_FRACTION,
)
def voc_2012_fraction(root: Path) -> str:
    return write_voc(root, boxes=_ONE_FRACTION)


@accepted("LabelImg: absolute path of a Windows machine beside the name")
def labelimg_voc(root: Path) -> str:
    return write_voc(root, extra="", head="", sizes=None, filename="C:\\Users\\me\\1.jpg")


@repaired("LabelImg: width and height 0 where the suffix is wrong (HumanSignal/labelImg#59, #160)",
          r"annotations without the size of their image: 3 ")  # fmt: skip
def labelimg_voc_size_zero(root: Path) -> str:
    return write_voc(root, sizes="<size><width>0</width><height>0</height><depth>3</depth></size>")


@repaired("annotations without <size>", r"annotations without the size of their image: 3 ")
def voc_without_size(root: Path) -> str:
    return write_voc(root, sizes="")


@repaired("CVAT and Datumaro VOC: x, y, x + width, y + height with fractions (cvat-ai/cvat#942)",
          r"boxes with fractions of a pixel: 4 ", boxes=fractional(TRUE))  # fmt: skip
def cvat_voc(root: Path) -> str:
    return write_voc(root, boxes=fractional(TRUE), corners=edges, difficult=None)


@accepted("CVAT VOC: sub-folders")
def cvat_voc_subfolders(root: Path) -> str:
    return write_voc(root, name="shelf {0}/{0}")


@refused("Label Studio VOC export: Annotations/ and images/, no split", "is not a VOC folder")
def label_studio_voc_raw(root: Path) -> str:
    write_images(root / "images")
    (root / "Annotations").mkdir()
    for stem, size in SIZES.items():
        (root / "Annotations" / f"{stem}.xml").write_text(voc_xml(size, TRUE[size], filename=stem))
    return f"voc:{root}:train"


@accepted(
    "Label Studio VOC, split and folders made by the user; names without suffix (HumanSignal/label-studio-converter#106)"
)
def label_studio_voc(root: Path) -> str:
    return write_voc(root, filename="cb0618f6-1")


@refused("Roboflow VOC export: XML beside the images", "is not a VOC folder")
def roboflow_voc_raw(root: Path) -> str:
    write_images(root / "train")
    for stem, size in SIZES.items():
        (root / "train" / f"{stem}.xml").write_text(voc_xml(size, TRUE[size]))
    return f"voc:{root}:train"


@refused("VoTT and VOC: the list of one class is no split", r"expected one image name a line", "list for one class")
def vott_voc_class_list(root: Path) -> str:
    listing = b"1.jpg 1\n2.jpg -1\n3.jpg 1\n"
    return write_voc(root, boxes=fractional(TRUE), corners=edges, listing=listing, split="cat_train")


@repaired("VoTT: fractions; split with suffixes", r"boxes with fractions of a pixel: 4 ", r"have a suffix or backslashes: 3 ",
          boxes=fractional(TRUE))  # fmt: skip
def vott_voc(root: Path) -> str:
    return write_voc(root, boxes=fractional(TRUE), corners=edges, listing=b"1.jpg\n2.jpg\n3.jpg\n")


@refused("VoTT 2.1: ymax repeats xmin (microsoft/VoTT#760)", r"exchanged corners: \d")
def vott_voc_bug(root: Path) -> str:
    return write_voc(root, corners=lambda thing: (*voc_corners(thing)[:3], thing[1] + 1))


@accepted("X-AnyLabeling: 10.0 (CVHub520/X-AnyLabeling#224)")
def x_anylabeling_voc(root: Path) -> str:
    return write_voc(root, corners=lambda thing: [f"{value:.1f}" for value in voc_corners(thing)])


@accepted("DIOR and Datumaro: no <difficult> (open-mmlab/mmdetection#4729, open-edge-platform/datumaro#37)")
def voc_without_difficult(root: Path) -> str:
    return write_voc(root, difficult=None)


@repaired("<difficult/> empty", r"`difficult` empty or in words: 4 ")
def voc_difficult_empty(root: Path) -> str:
    return write_voc(root, difficult="")


@repaired("<difficult>False</difficult>", r"`difficult` empty or in words: 4 ")
def voc_difficult_false(root: Path) -> str:
    return write_voc(root, difficult="False")


@accepted("names with spaces (zylo117/Yet-Another-EfficientDet-Pytorch#16)")
def voc_spaces(root: Path) -> str:
    return write_voc(root, name="IMG ({})")


@accepted("images are .webp")
def voc_webp(root: Path) -> str:
    return write_voc(root, suffix=".webp", kind="WEBP")


@accepted("images are .JPG and .Bmp")
def voc_suffixes_of_cameras(root: Path) -> str:
    spec = write_voc(root, suffix=".JPG")
    (root / "JPEGImages" / "2.JPG").unlink()
    (root / "JPEGImages" / "2.Bmp").write_bytes(image_bytes(SECOND, "BMP"))
    return spec


@accepted("split saved by Notepad: byte-order mark")
def voc_split_bom(root: Path) -> str:
    return write_voc(root, listing="1\n2\n3\n".encode("utf-8-sig"))


@accepted("split written by PowerShell: UTF-16, CRLF")
def voc_split_utf16(root: Path) -> str:
    return write_voc(root, listing="1\r\n2\r\n3\r\n".encode("utf-16"))


@accepted("split with blank lines and CRLF (open-edge-platform/datumaro#583)")
def voc_split_blank_lines(root: Path) -> str:
    return write_voc(root, listing=b"1\r\n\r\n2\r\n3\r\n\r\n")


@repaired("low-shot split: one of two classes, with --classes", r"classes without an object.*: 1 .*cat", boxes={SECOND: TRUE[SECOND]}, class_names=CLASSES)  # fmt: skip
def voc_low_shot(root: Path) -> str:
    return write_voc(root, listing=b"2\n")


@repaired("boxes over the border", r"boxes over the border.*: 1 ", boxes=shifted(TRUE, image=FIRST, index=1, box=(50, 20, 100, 80)))  # fmt: skip
def voc_over_the_border(root: Path) -> str:
    return write_voc(root, boxes=shifted(TRUE, image=FIRST, index=1, box=(50, 20, 103, 200)))


@refused("an entity declared in a document type", "document type")
def voc_document_type(root: Path) -> str:
    return write_voc(root, head='<!DOCTYPE a [<!ENTITY b "c">]>')


@refused("a name in the split without annotation", r"annotations are missing: 1\n", "no annotation at")
def voc_missing_annotation(root: Path) -> str:
    return write_voc(root, listing=b"1\n2\n3\n4\n")


@repaired("a name twice in the split", r"images listed twice: 1 ")
def voc_name_twice(root: Path) -> str:
    return write_voc(root, listing=b"1\n2\n3\n1\n")


@accepted("two VOC folders read as one (VOC 07+12)")
def voc_joined(root: Path) -> str:
    return "+".join((write_voc(root / "A", listing=b"1\n"), write_voc(root / "B", listing=b"2\n3\n")))


# YOLO


def yolo_line(thing: Thing, size: Size, *, digits: int = 10) -> str:
    """class cx cy w h."""
    name, x1, y1, x2, y2 = thing
    values = ((x1 + x2) / 2 / size[0], (y1 + y2) / 2 / size[1], (x2 - x1) / size[0], (y2 - y1) / size[1])
    return " ".join([str(CLASSES.index(name)), *(f"{value:.{digits}f}" for value in values)])


def yolo_polygon(thing: Thing, size: Size) -> str:
    """class x1 y1 x2 y2 x3 y3 x4 y4."""
    values = [v / size[i % 2] for i, v in enumerate(polygon(thing, size)[0])]
    return " ".join([str(CLASSES.index(thing[0])), *(f"{value:.10f}" for value in values)])


def write_yolo(
    root: Path,
    description: str,
    *,
    images: str = "images/train",
    labels: str = "labels/train",
    file: str = "data.yaml",
    split: str = "train",
    line: Callable[[Thing, Size], str] = yolo_line,
) -> str:
    """Write images, labels and the data file -> SPEC."""
    write_images(root / images)
    (root / labels).mkdir(parents=True, exist_ok=True)
    for stem, size in SIZES.items():
        (root / labels / f"{stem}.txt").write_text("".join(f"{line(thing, size)}\n" for thing in TRUE[size]))
    (root / file).write_text(description)
    return f"yolo:{root / file}:{split}"


ULTRALYTICS = "path: .\ntrain: images/train\nval: images/val\nnames:\n  0: cat\n  1: dog\n"


@accepted("Ultralytics")
def ultralytics_yolo(root: Path) -> str:
    return write_yolo(root, ULTRALYTICS)


@accepted("Ultralytics, segmentation")
def ultralytics_yolo_polygons(root: Path) -> str:
    return write_yolo(root, ULTRALYTICS, line=yolo_polygon)


@accepted("Ultralytics: six decimals, a box from border to border rounded outside",
          boxes=shifted(TRUE, image=THIRD, box=(0, 0, 120, 90)))  # fmt: skip
def ultralytics_yolo_rounding(root: Path) -> str:
    spec = write_yolo(root, ULTRALYTICS, line=functools.partial(yolo_line, digits=6))
    (root / "labels" / "train" / "3.txt").write_text("0 0.5 0.5 1.000002 1.000002\n")
    return spec


@repaired("Ultralytics: an image without a label file is background", r"images without a label file: 1 ",
          boxes={**TRUE, SECOND: ()})  # fmt: skip
def ultralytics_yolo_background(root: Path) -> str:
    spec = write_yolo(root, ULTRALYTICS)
    (root / "labels" / "train" / "2.txt").unlink()
    return spec


@accepted("Ultralytics: an empty label file is background", boxes={**TRUE, SECOND: ()})
def ultralytics_yolo_empty_label(root: Path) -> str:
    spec = write_yolo(root, ULTRALYTICS)
    (root / "labels" / "train" / "2.txt").write_text("")
    return spec


@repaired("Roboflow YOLOv5/v8: ../train/images that is train/images (ultralytics/ultralytics#1027, ultralytics/yolov5#5107)",
          r"paths of the YAML file lead elsewhere: 1 ")  # fmt: skip
def roboflow_yolo(root: Path) -> str:
    text = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 2\nnames: ['cat', 'dog']\n\nroboflow:\n  workspace: me\n  version: 1\n"
    return write_yolo(root, text, images="train/images", labels="train/labels")


@repaired("CVAT YOLO 1.1: obj.data, names and lists under data/, labels beside the images", r"lead elsewhere: ")
def cvat_yolo(root: Path) -> str:
    data = "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n"
    spec = write_yolo(root, data, images="obj_train_data", labels="obj_train_data", file="obj.data")
    (root / "obj.names").write_text("cat\ndog\n")
    (root / "train.txt").write_text("".join(f"data/obj_train_data/{stem}.jpg\n" for stem in SIZES))
    return spec


@accepted("CVAT Ultralytics YOLO: train.txt with images/train/1.jpg, path ./")
def cvat_ultralytics_yolo(root: Path) -> str:
    spec = write_yolo(root, "path: ./\ntrain: train.txt\nnames:\n  0: cat\n  1: dog\n")
    (root / "train.txt").write_text("".join(f"images/train/{stem}.jpg\n" for stem in SIZES))
    return spec


@accepted("Darknet: .data and .names files")
def darknet_yolo(root: Path) -> str:
    data = f"classes= 2\ntrain  = {root}/train.txt\nvalid  = {root}/test.txt\nnames = voc.names\nbackup = backup\n"
    spec = write_yolo(root, data, file="voc.data")
    (root / "voc.names").write_text("cat\ndog\n")
    (root / "train.txt").write_text("".join(f"{root}/images/train/{stem}.jpg\n" for stem in SIZES))
    return spec


@accepted("Label Studio YOLO: images/, labels/, classes.txt; YAML by the user, Windows line ends")
def label_studio_yolo(root: Path) -> str:
    spec = write_yolo(root, "train: images\r\nnames: [cat, dog]\r\n", images="images", labels="labels")
    (root / "classes.txt").write_text("cat\ndog\n")
    (root / "notes.json").write_text("{}")
    return spec


@accepted("makesense.ai: labels beside the images, one image folder")
def makesense_yolo(root: Path) -> str:
    return write_yolo(root, "train: photos\nnames: [cat, dog]\n", images="photos", labels="photos")


@repaired(
    "FiftyOne and others: `path` of the machine that wrote the file", r"paths of the YAML file lead elsewhere: 1 "
)
def fiftyone_yolo(root: Path) -> str:
    return write_yolo(root, ULTRALYTICS.replace("path: .", "path: /home/other/zoo"), file="dataset.yaml")


@accepted("classes called no and 1e3, which YAML would turn into False and 1000", boxes={
    size: tuple(({"cat": "no", "dog": "1e3"}[name], *box) for name, *box in things) for size, things in TRUE.items()})  # type: ignore[misc]  # fmt: skip
def yolo_names_that_are_values(root: Path) -> str:
    return write_yolo(root, "path: .\ntrain: images/train\nnames: [no, 1e3]\n")


@refused("labels in pixels", r"no fractions of the image: \d", "divide x and width")
def yolo_pixels(root: Path) -> str:
    return write_yolo(root, ULTRALYTICS, line=lambda thing, size: " ".join(["0", *map(str, thing[1:])]))


@refused("a class number beyond the names", r"class that names does not have: 2\n")
def yolo_class_beyond(root: Path) -> str:
    return write_yolo(root, ULTRALYTICS.replace("  1: dog\n", ""))


@refused("predictions with their confidence as labels", "wrong number of values: 4\n", "confidence")
def yolo_predictions(root: Path) -> str:
    return write_yolo(root, ULTRALYTICS, line=lambda thing, size: f"{yolo_line(thing, size)} 0.9")


@refused("nc says another number than names", "nc says '3' classes, names has 2")
def yolo_count(root: Path) -> str:
    return write_yolo(root, ULTRALYTICS + "nc: 3\n")


@refused("no such split", r"no split 'training'.*train")
def yolo_split(root: Path) -> str:
    return write_yolo(root, ULTRALYTICS, split="training")
