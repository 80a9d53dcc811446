"""Annotation files of other tools that the readers do not read: recognised by their content, with what to export instead.

In: a file or folder that a SPEC named. Out: an `Export` (the tool, its format, what to do), or None for anything unknown. Menus
are those of the tools in 2026; only what a SPEC can name afterwards is proposed: COCO JSON, Pascal VOC, YOLO.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError

import defusedxml.ElementTree
from defusedxml.common import DefusedXmlException

from pretrain.base.image_files import SUFFIXES

HEAD_BYTES = 1 << 16  # enough to tell a format by its first lines
MAX_BYTES = 1 << 28  # of a file that is parsed to be recognised
MAX_ENTRIES = 50  # of a list that are looked at


@dataclass(frozen=True)
class Export:
    """tool: who writes such files. form: what the file is. instead: what to export, or which SPEC to pass."""

    tool: str
    form: str
    instead: str

    def sentence(self) -> str:
        """For a message."""
        return f"this is {self.form} ({self.tool})"


CVAT = "CVAT: Actions > Export task dataset > COCO 1.0 (or Ultralytics YOLO Detection 1.0); then coco:annotations/instances_default.json:images/default"
LABEL_STUDIO = "Label Studio: Export > COCO with images (or YOLO with images); then coco:result.json:FOLDER"
LABELME = (
    "labelme: examples/instance_segmentation/labelme2coco.py FOLDER OUT --labels labels.txt (in labelme's repository), "
    "then coco:OUT/annotations.json:OUT; or pip install labelme2coco"
)
ROBOFLOW = "Roboflow: Versions > Download Dataset > Format COCO (or YOLOv8, Pascal VOC); then coco:train/_annotations.coco.json:train"
VIA = "VGG Image Annotator: Annotation > Export Annotations (COCO format)"


def recognise(path: Path) -> Export | None:
    """What a file or a folder is, where it is another tool's. Never raises for its content."""
    try:
        if path.is_dir():
            return _folder(path)
        if not path.is_file() or path.stat().st_size > MAX_BYTES:
            return None
        content = path.read_bytes()
    except (OSError, ValueError):
        return None
    if content.startswith(b"PK\x03\x04") or content[257:262] == b"ustar" or content.startswith(b"\x1f\x8b"):
        return Export("an archive", "an archive", f"unpack {path} and pass the annotation file inside of it")
    text = content.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"<"):
        return _xml(content)
    if text[:1] in (b"{", b"["):
        try:
            return recognise_json(json.loads(content))
        except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
            return _json_lines(text)
    return _table(text[:HEAD_BYTES].decode("utf-8", "replace"), path)


def recognise_json(content: Any) -> Export | None:
    """The same for JSON that is read already, and is no COCO instances file."""
    if isinstance(content, Mapping):
        return _json_object(content)
    if isinstance(content, list):
        entries = [entry for entry in content[:MAX_ENTRIES] if isinstance(entry, Mapping)]
        return _json_list(entries) if entries else None
    return None


def _json_object(content: Mapping[str, Any]) -> Export | None:
    annotations = content.get("annotations")
    first = annotations[0] if isinstance(annotations, list) and annotations else None
    fields: Mapping[str, Any] = first if isinstance(first, Mapping) else {}
    rows: tuple[tuple[bool, Export], ...] = (
        ("shapes" in content and "imagePath" in content, Export("labelme", "the JSON of one image", LABELME)),
        (
            "_via_img_metadata" in content or "_via_settings" in content,
            Export("VGG Image Annotator", "a VIA project", VIA),
        ),
        (
            _some_value(content, lambda value: "regions" in value and "filename" in value),
            Export("VGG Image Annotator", "VIA annotations as JSON", VIA),
        ),
        (
            "items" in content and "categories" in content,
            Export("Datumaro", "Datumaro's own JSON", "datum convert -if datumaro -i FOLDER -f coco_instances -o OUT"),
        ),
        (
            isinstance(content.get("objects"), list) and "size" in content,
            Export("Supervisely", "the JSON of one image", "Supervisely: run the app Export to COCO"),
        ),
        (
            ("item" in content and "annotations" in content) or ("dataset" in content and "image" in content),
            Export("V7 Darwin", "the JSON of one image", "V7: Export Data > COCO"),
        ),
        (
            "asset" in content and "regions" in content,
            Export("VoTT", "the JSON of one asset", "VoTT: Export > Pascal VOC; then voc:FOLDER:SPLIT"),
        ),
        (
            "data" in content and "annotations" in content,
            Export("Label Studio", "one task as JSON", LABEL_STUDIO),
        ),
        (
            "samples" in content and isinstance(content["samples"], list),
            Export(
                "FiftyOne",
                "a FiftyOne dataset",
                "dataset.export(export_dir=OUT, dataset_type=fo.types.COCODetectionDataset); then coco:OUT/labels.json:OUT/data",
            ),
        ),
        (
            "segments_info" in fields,
            Export(
                "COCO", "panoptic COCO", "pass the instances file (instances_*.json), which has one entry an object"
            ),
        ),
        (
            "caption" in fields,
            Export("COCO", "captions of COCO", "pass the instances file (instances_*.json) of the same images"),
        ),
    )
    return next((export for matches, export in rows if matches), None)


def _some_value(content: Mapping[str, Any], test: Callable[[Mapping[str, Any]], bool]) -> bool:
    values = list(content.values())[:MAX_ENTRIES]
    return any(isinstance(value, Mapping) and test(value) for value in values)


def _json_list(entries: list[Mapping[str, Any]]) -> Export | None:
    first = entries[0]
    if "score" in first and "image_id" in first:
        return Export("a detector", "COCO results, not annotations", "pass the annotation file that they were made for")
    if "annotations" in first and "image" in first:
        return Export("CreateML, Roboflow", "CreateML JSON", ROBOFLOW)
    if "completions" in first or ("data" in first and "annotations" in first):
        return Export("Label Studio", "a list of tasks (JSON)", LABEL_STUDIO)
    if any(isinstance(value, list) and _has_percent_box(value) for value in first.values()):
        return Export("Label Studio", "a list of tasks (JSON-MIN)", LABEL_STUDIO)
    if "data_row" in first or "Labeled Data" in first:
        return Export("Labelbox", "a Labelbox export", "convert it: COCOConverter of the labelbox package")
    if "shapes" in first and "imagePath" in first:
        return Export("labelme", "a list of labelme images", LABELME)
    return None


def _has_percent_box(value: list[Any]) -> bool:
    return any(isinstance(item, Mapping) and {"x", "y", "width", "height"} <= set(item) for item in value[:1])


def _json_lines(text: bytes) -> Export | None:
    """Several JSON values, one a line."""
    try:
        first = json.loads(text.partition(b"\n")[0])
    except (ValueError, RecursionError):
        return None
    return recognise_json([first])


def _xml(content: bytes) -> Export | None:
    try:
        root: Element = defusedxml.ElementTree.fromstring(content, forbid_dtd=True)
    except (DefusedXmlException, ParseError, ValueError, LookupError):
        return None
    if root.tag == "annotation" and root.find("object/bndbox") is not None:
        instead = "pass the folder and a split: voc:ROOT:SPLIT (this file is ROOT/Annotations/NAME.xml)"
        return Export("Pascal VOC", "the annotation of one image", instead)
    return recognise_xml(root)


def recognise_xml(root: Element) -> Export | None:
    """The same for XML that is read already, and is not the annotation of one image as VOC has it."""
    if root.tag == "annotations" and root.find("track") is not None:
        return Export("CVAT", "CVAT for video 1.1", CVAT)
    if root.tag == "annotations" and (root.find("image") is not None or root.find("meta") is not None):
        return Export("CVAT", "CVAT for images 1.1", CVAT)
    if root.tag == "dataset" and root.find("images") is not None:
        return Export("dlib's imglab", "imglab XML", "imglab --export or a converter to COCO")
    if root.tag == "annotation" and root.find("object/polygon") is not None and root.find("object/bndbox") is None:
        return Export("LabelMe (web)", "polygons of the LabelMe web tool", "convert the polygons to COCO JSON")
    return None


CSV_COLUMNS = (  # that a header must have -> what it is
    ({"imageid", "labelname", "xmin"}, Export("Open Images", "Open Images CSV", "convert it with FiftyOne to COCO")),
    ({"filename", "class", "xmin", "ymax"}, Export("Roboflow, TensorFlow", "boxes as CSV", ROBOFLOW)),
    ({"filename", "region_shape_attributes"}, Export("VGG Image Annotator", "VIA annotations as CSV", VIA)),
    (
        {"image", "xmin", "ymin", "label"},
        Export("VoTT", "boxes as CSV", "VoTT: Export > Pascal VOC; then voc:FOLDER:SPLIT"),
    ),
)


def _table(head: str, path: Path) -> Export | None:
    lines = head.splitlines()
    columns = {name.strip().strip("\"'#").lower() for name in lines[0].split(",")} if lines else set()
    for wanted, export in CSV_COLUMNS:
        if wanted <= columns:
            return export
    words = lines[0].split() if lines else []
    if path.suffix == ".txt" and len(words) >= 5 and all(_is_fraction(word) for word in words[1:5]):
        return Export("YOLO", "the labels of one image", "pass the data file and a split: yolo:data.yaml:train")
    return None


def _is_fraction(word: str) -> bool:
    try:
        return 0 <= float(word) <= 1
    except ValueError:
        return False


def _folder(path: Path) -> Export | None:
    """A folder where a file was expected, or the other layout: the SPEC of what lies in it."""
    names = sorted(entry.name for entry in path.iterdir())
    if {"Annotations", "ImageSets", "JPEGImages"} <= set(names):
        return Export("Pascal VOC", "a VOC folder", f"pass voc:{path}:SPLIT (a file of ImageSets/Main)")
    for name, tool, images in (
        ("_annotations.coco.json", "Roboflow COCO", "."),
        ("annotations/instances_default.json", "CVAT COCO 1.0", "images/default"),
        ("result.json", "Label Studio COCO", "."),
        ("labels.json", "FiftyOne COCO", "data"),
    ):
        if (path / name).is_file():
            place = path if images == "." else path / images
            return Export(tool, "the folder of a COCO export", f"pass coco:{path / name}:{place}")
    for name in ("data.yaml", "dataset.yaml", "obj.data"):
        if (path / name).is_file():
            return Export("YOLO", "the folder of a YOLO export", f"pass yolo:{path / name}:train")
    if "labels" in names and "images" in names:
        lines = "`train: images`, `names: [...]` in the order of classes.txt"
        return Export(
            "YOLO", "images/ and labels/ without a data file", f"write {path / 'data.yaml'} with the lines {lines}"
        )
    suffixes = {Path(name).suffix.lower() for name in names}
    if ".xml" in suffixes and suffixes & SUFFIXES:
        instead = (
            "put the XML files into Annotations/, the images into JPEGImages/, and the names without suffix, one a line, into "
            "ImageSets/Main/train.txt; then voc:ROOT:train"
        )
        return Export("LabelImg, Roboflow VOC", "XML files beside their images", instead)
    if ".json" in suffixes:
        return recognise(path / next(name for name in names if name.lower().endswith(".json")))
    return None
